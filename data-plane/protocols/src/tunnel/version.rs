//! Which version two peers speak.

/// The highest version of the messages that this build speaks.
pub const VERSION: u32 = 2;

/// The lowest.
pub const VERSION_MIN: u32 = 1;

/// The version to speak with a peer that knows `min` to `max` (`min` 0: only `max`): the highest that both know.
#[must_use]
pub fn agree(min: u32, max: u32) -> Option<u32> {
    let min = if min == 0 { max } else { min };
    let common = max.min(VERSION);
    (min <= max && common >= min.max(VERSION_MIN)).then_some(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_that_both_know() {
        // Of before there were ranges.
        assert_eq!(agree(0, 1), Some(1));
        assert_eq!(agree(1, VERSION), Some(VERSION));
        // Of the next version, still knowing this one.
        assert_eq!(agree(VERSION, VERSION + 1), Some(VERSION));
        assert_eq!(agree(1, 9), Some(VERSION));
        // No longer knowing it.
        assert_eq!(agree(VERSION + 1, VERSION + 1), None);
        assert_eq!(agree(0, VERSION + 1), None);
        for nonsense in [(0, 0), (2, 1), (u32::MAX, 1)] {
            assert_eq!(agree(nonsense.0, nonsense.1), None, "{nonsense:?}");
        }
    }
}
