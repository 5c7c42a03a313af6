//! How many lines are logged of what others bring about: whoever can do so must not fill the disk with them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many lines are logged in such a time; what there is more of is counted, and not told.
const LINES: u32 = 20;
const LINES_IN: Duration = Duration::from_secs(10);

/// A bound on lines of one kind.
#[derive(Debug, Default)]
pub struct Lines(Mutex<Option<(Instant, u32)>>);

impl Lines {
    /// Whether one more may be logged.
    #[must_use]
    pub fn may(&self) -> bool {
        self.may_at(Instant::now())
    }

    fn may_at(&self, now: Instant) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, lines) = match *logged {
            Some((since, lines)) if now.saturating_duration_since(since) < LINES_IN => (since, lines.saturating_add(1)),
            _ => (now, 1),
        };
        *logged = Some((since, lines));
        lines <= LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_do_not_fill_the_log() {
        let bound = Lines::default();
        let now = Instant::now();
        let lines = |at| (0..10_000).filter(|_| bound.may_at(at)).count();
        assert_eq!(lines(now), 20);
        assert_eq!(lines(now + Duration::from_secs(5)), 0);
        assert_eq!(lines(now + Duration::from_secs(11)), 20);
    }
}
