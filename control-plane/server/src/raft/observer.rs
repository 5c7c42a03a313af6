//! Who is told what the log changes here.

use postern_state::{Effect, State};

/// Is told, in order, of each entry that changes the state here. Runs on the driver's thread: must not block.
pub trait Observer: Send + 'static {
    /// The entry at `index` was applied; `effects` are of it alone, and may be none.
    fn applied(&mut self, state: &State, index: u64, effects: &[Effect]);

    /// The state is another: as loaded at the start, or from a leader's snapshot. What lies between is not told one by one.
    fn restored(&mut self, state: &State);
}

impl Observer for () {
    fn applied(&mut self, _: &State, _: u64, _: &[Effect]) {}

    fn restored(&mut self, _: &State) {}
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn applied(&mut self, state: &State, index: u64, effects: &[Effect]) {
        self.0.applied(state, index, effects);
        self.1.applied(state, index, effects);
    }

    fn restored(&mut self, state: &State) {
        self.0.restored(state);
        self.1.restored(state);
    }
}
