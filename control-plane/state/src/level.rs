//! Which feature levels this process knows.

use std::sync::OnceLock;

use crate::entry::FEATURE_LEVEL;

/// Set once, by a process that is to be a member of the next release.
static NEXT: OnceLock<()> = OnceLock::new();

/// Has this process know one feature level more, as a build of the next release will: for tests of members of one release beside those of
/// the next. Nothing that is configured leads here.
#[doc(hidden)]
pub fn know_as_the_next() {
    // Twice is as good as once.
    let _ = NEXT.set(());
}

/// The newest feature level that this process knows: [`FEATURE_LEVEL`].
#[must_use]
pub fn known_level() -> u32 {
    FEATURE_LEVEL.saturating_add(u32::from(NEXT.get().is_some()))
}
