//! Which version two peers speak.

use std::sync::OnceLock;

/// The highest version of the messages that this build speaks.
pub const VERSION: u32 = 2;

/// The lowest.
pub const VERSION_MIN: u32 = 1;

/// The only version of what gateways say to each other.
const RELAY_VERSION: u32 = 1;

/// Set once, by a process that is to be a node of the next release.
static NEXT: OnceLock<()> = OnceLock::new();

/// What the next version adds to each message, as far as this one can know: a field that it does not know (number 2000, six bytes).
const FURTHER: &[u8] = &[0x82, 0x7d, 6, b'f', b'u', b't', b'u', b'r', b'e'];

/// Has this process speak as a build of the next version will: for tests of one release beside the next. Nothing that is configured leads here.
#[doc(hidden)]
pub fn speak_as_the_next() {
    // Twice is as good as once.
    let _ = NEXT.set(());
}

fn ahead() -> u32 {
    u32::from(NEXT.get().is_some())
}

/// The lowest and the highest version of the messages between gateways and agents that this process speaks.
#[must_use]
pub fn versions() -> (u32, u32) {
    match ahead() {
        0 => (VERSION_MIN, VERSION),
        ahead => (VERSION, VERSION.saturating_add(ahead)),
    }
}

/// The same between two gateways.
#[must_use]
pub fn relay_versions() -> (u32, u32) {
    (RELAY_VERSION, RELAY_VERSION.saturating_add(ahead()))
}

/// The version that two gateways speak.
#[must_use]
pub fn agree_relay(min: u32, max: u32) -> Option<u32> {
    common((min, max), relay_versions())
}

/// What is added to each message.
pub(super) fn further() -> &'static [u8] {
    if ahead() == 0 { &[] } else { FURTHER }
}

fn common((min, max): (u32, u32), (lowest, highest): (u32, u32)) -> Option<u32> {
    let min = if min == 0 { max } else { min };
    let common = max.min(highest);
    (min <= max && common >= min.max(lowest)).then_some(common)
}

/// The version to speak with a peer that knows `min` to `max` (`min` 0: only `max`): the highest that both know.
#[must_use]
pub fn agree(min: u32, max: u32) -> Option<u32> {
    common((min, max), versions())
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
