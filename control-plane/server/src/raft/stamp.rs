//! The time that entries bear.
//!
//! What is written stays, and the cluster's time never goes back: one entry from a leader whose clock has jumped by two hours would end
//! every approval and join token at once, and keep new ones from being made for as long. So a leader's clock counts only as far as it
//! moves with the time that passes, or as the other members' clocks bear it out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postern_core::Timestamp;
use postern_runtime::clock;

/// A clock that moved by more than this against the time that passed has jumped. Clocks that are set right slowly stay below it.
const JUMP_MILLIS: u64 = 5_000;
/// What is known of the others' clocks may be older than a jump by so long.
const SETTLE: Duration = Duration::from_secs(2);

/// What the other members' clocks say of this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is nobody to ask: the node's own clock counts.
    Alone,
    /// They do not agree with it, and nobody can tell which is wrong.
    Divided,
    /// It is near enough to the middle of all of them.
    Right,
    /// It is so many milliseconds ahead of the middle of all of them, and too far.
    Off(i64),
}

/// Gives entries their time. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct StampClock(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// The last time that counted, and when that was.
    at: Timestamp,
    since: Instant,
    /// How far the node's clock is ahead of the others'.
    ahead: i64,
    /// Others have vouched for `at`.
    vouched: bool,
    jumped: Option<Instant>,
}

impl Default for StampClock {
    fn default() -> Self {
        Self::at(clock::now(), Instant::now())
    }
}

impl StampClock {
    fn at(at: Timestamp, since: Instant) -> Self {
        Self(Arc::new(Mutex::new(Inner { at, since, ahead: 0, vouched: false, jumped: None })))
    }

    /// The time for an entry.
    pub(crate) fn now(&self) -> Timestamp {
        self.lock().read(clock::now(), Instant::now())
    }

    /// Takes in what the others' clocks say, and tells whether they have vouched for the time that is given. To be called every few
    /// seconds.
    pub(crate) fn judge(&self, verdict: Verdict) -> bool {
        let mut inner = self.lock();
        inner.judge(verdict, clock::now(), Instant::now());
        inner.vouched
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn read(&mut self, wall: Timestamp, now: Instant) -> Timestamp {
        let passed = self.at.plus(now.saturating_duration_since(self.since));
        let shown = back(wall, self.ahead);
        if self.vouched && passed.millis().abs_diff(shown.millis()) > JUMP_MILLIS {
            if self.jumped.is_none() {
                self.jumped = Some(now);
                tracing::warn!(%wall, expected = %passed, "this node's clock has jumped: writes go by the time that passed until others' clocks bear it out");
            }
            return passed;
        }
        (self.at, self.since, self.jumped) = (shown, now, None);
        shown
    }

    fn judge(&mut self, verdict: Verdict, wall: Timestamp, now: Instant) {
        // A jump may have gone unseen.
        self.read(wall, now);
        let ahead = match verdict {
            Verdict::Alone => {
                (self.ahead, self.vouched) = (0, false);
                return;
            }
            Verdict::Divided => return,
            Verdict::Right => 0,
            Verdict::Off(ahead) => ahead,
        };
        if self.jumped.is_some_and(|at| now.saturating_duration_since(at) < SETTLE) {
            return;
        }
        self.ahead = ahead;
        (self.at, self.since, self.vouched, self.jumped) = (back(wall, ahead), now, true, None);
    }
}

fn back(at: Timestamp, millis: i64) -> Timestamp {
    Timestamp::from_millis(at.millis().saturating_add_signed(millis.saturating_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURS: u64 = 7_200_000;

    /// A clock that is vouched for, and what the wall shows after some seconds, with an offset.
    fn scene() -> (Inner, impl Fn(u64, u64) -> (Timestamp, Instant)) {
        let (start, began) = (Timestamp::from_millis(1_000_000_000), Instant::now());
        let mut inner = Inner { at: start, since: began, ahead: 0, vouched: false, jumped: None };
        inner.judge(Verdict::Right, start, began);
        (inner, move |secs, offset| {
            (Timestamp::from_millis(start.millis() + secs * 1_000 + offset), began + Duration::from_secs(secs))
        })
    }

    #[test]
    fn a_jump_counts_once_others_bear_it_out() {
        let (mut clock, at) = scene();
        let read = |clock: &mut Inner, secs, offset| {
            let (wall, now) = at(secs, offset);
            clock.read(wall, now).millis() - at(secs, 0).0.millis()
        };
        let judge = |clock: &mut Inner, verdict, secs, offset| {
            let (wall, now) = at(secs, offset);
            clock.judge(verdict, wall, now);
        };
        assert_eq!(read(&mut clock, 10, 900), 900, "set right by a little");
        assert!(read(&mut clock, 20, HOURS) <= 900, "a jump does not count");
        judge(&mut clock, Verdict::Right, 21, HOURS);
        assert!(read(&mut clock, 21, HOURS) <= 900, "that may be from before the jump");
        // All machines were asleep.
        judge(&mut clock, Verdict::Right, 23, HOURS);
        assert_eq!(read(&mut clock, 24, HOURS), HOURS);
    }

    #[test]
    fn a_wrong_clock_is_put_right_by_the_others() {
        let (mut clock, at) = scene();
        let off = Verdict::Off(i64::try_from(HOURS).unwrap());
        for secs in (2..20).step_by(2) {
            let (wall, now) = at(secs, HOURS);
            clock.judge(off, wall, now);
            assert_eq!(clock.read(wall, now), at(secs, 0).0, "after {secs} s");
        }
        // And set right by its operator: a jump back.
        let (wall, now) = at(30, 0);
        assert_eq!(clock.read(wall, now), wall);
        let (wall, now) = at(33, 0);
        clock.judge(Verdict::Right, wall, now);
        assert_eq!(clock.read(wall, now), wall);
        // Of two nobody can tell: the time that passes.
        let (wall, now) = at(40, HOURS);
        clock.judge(Verdict::Divided, wall, now);
        assert_eq!(clock.read(wall, now), at(40, 0).0);
        clock.judge(Verdict::Alone, wall, now);
        assert_eq!(clock.read(wall, now), wall);
    }
}
