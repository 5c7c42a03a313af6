//! A node's idea of the time: it drifts, and it is set forward and back.

use std::time::Duration;

use postern_core::Timestamp;

use super::{MS, Time};

/// 2026-01-01, in milliseconds: when simulation begins.
const EPOCH: u64 = 1_767_225_600_000;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Parts in a million by which it is too fast (or, negative, too slow).
    drift: i64,
    /// By how much it was set, in milliseconds.
    set: i64,
}

impl Clock {
    /// One that drifts by so many parts in a million.
    #[must_use]
    pub const fn new(drift: i64) -> Self {
        Self { drift, set: 0 }
    }

    /// Someone sets it, by so many milliseconds.
    pub const fn jump(&mut self, by: i64) {
        self.set = self.set.saturating_add(by);
    }

    /// It is right again.
    pub const fn correct(&mut self) {
        (self.drift, self.set) = (0, 0);
    }

    /// What it shows at `now`.
    #[must_use]
    pub fn read(&self, now: Time) -> Timestamp {
        let millis = i64::try_from(now / MS).unwrap_or(i64::MAX);
        let drifted = millis.saturating_add(millis.saturating_mul(self.drift) / 1_000_000);
        Timestamp::from_millis(EPOCH.saturating_add_signed(drifted.saturating_add(self.set)))
    }

    /// How long `time` of its own is in true time.
    #[must_use]
    pub fn stretch(&self, time: Duration) -> Time {
        let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let slower = micros.saturating_sub(micros.saturating_mul(self.drift) / 1_000_000);
        u64::try_from(slower).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drifts_jumps_and_is_corrected() {
        let mut clock = Clock::new(100_000);
        assert_eq!(clock.read(10_000 * MS).millis(), EPOCH + 11_000);
        assert_eq!(clock.stretch(Duration::from_millis(50)), 45 * MS);
        clock.jump(-7_200_000);
        assert_eq!(clock.read(0).millis(), EPOCH - 7_200_000);
        clock.correct();
        assert_eq!(clock.read(5 * MS).millis(), EPOCH + 5);
    }
}
