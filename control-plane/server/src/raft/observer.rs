//! Who is told of what this node has applied.

use postern_state::{Effect, State};

/// Told of each entry that was applied, in order, on the driver's thread: it must not block, and be quick.
pub trait Observer: Send + 'static {
    /// The entry at `index` was applied: `state` is right after it, `effects` say what changed.
    fn applied(&mut self, state: &State, index: u64, effects: &[Effect]);

    /// The state is another, of which the entries are not known: after a start, or by a snapshot of the leader's.
    fn restored(&mut self, state: &State);
}

/// Tells nobody.
impl Observer for () {
    fn applied(&mut self, _: &State, _: u64, _: &[Effect]) {}
    fn restored(&mut self, _: &State) {}
}
