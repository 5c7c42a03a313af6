//! Watches: who follows changes gets each one exactly once and in order, or is told to begin anew (I8).
//!
//! The raft driver fills a bounded [`ring`]; followers hold a cursor into it and nothing else, so that ten thousand of them cost next to
//! nothing, and a slow one cannot make memory grow: it falls off the ring's tail, and learns it.

mod change;
mod hub;
mod ring;
#[cfg(test)]
pub(crate) mod testing;

pub use change::{Change, ChangeSet, Value};
pub use hub::{HubWriter, Subscription, WatchHub};
pub use ring::{Bounds, Lost};
pub(crate) use ring::{Held, Ring, RingReader};
