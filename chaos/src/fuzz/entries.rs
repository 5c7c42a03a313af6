//! The state machine: entries, and snapshots of what came of them.

#![allow(clippy::expect_used)] // a target panics where something is wrong

use std::sync::OnceLock;

use postern_core::Timestamp;
use postern_state::{Entry, State};

use super::Bytes;
use super::seeds::founding;

/// A cluster that was just founded.
pub(super) fn founded() -> State {
    static FOUNDED: OnceLock<State> = OnceLock::new();
    let found = || {
        let mut state = State::default();
        let proposed_at = Timestamp::from_millis(1);
        let entry = Entry { proposed_at, request_id: None, command: founding().into(), audit: None };
        state.apply(1, &entry.encode()).expect("the first entry is applied").outcome.expect("and not refused");
        state
    };
    FOUNDED.get_or_init(found).clone()
}

/// Entries, each with its length before it; the first byte says where a second node goes on from a snapshot.
pub(super) fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let leave = bytes.byte();
    let mut state = founded();
    let mut other = None;
    let mut count = 0;
    while !bytes.is_empty() {
        let (entry, index) = (bytes.some(), state.index() + 1);
        if count == leave {
            other = Some(again(&state));
        }
        count = count.wrapping_add(1);
        let before = state.clone();
        let applied = state.apply(index, entry);
        if applied.is_err() {
            assert_eq!(state.hash(), before.hash(), "an entry that halts changes nothing");
        }
        if let Some(other) = &mut other {
            assert_eq!(other.apply(index, entry), applied, "two nodes, one log");
        }
        if applied.is_err() {
            break;
        }
    }
    let restored = again(&state);
    if let Some(other) = other {
        assert_eq!(other.hash(), restored.hash(), "two nodes, one log");
    }
}

/// A snapshot of the state; then an entry.
pub(super) fn restore(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let entry = bytes.some();
    let Ok(mut state) = State::restore(bytes.rest()) else { return };
    again(&state);
    if state.apply(state.index().saturating_add(1), entry).is_ok() {
        again(&state);
    }
}

/// By way of a snapshot.
fn again(state: &State) -> State {
    let restored = State::restore(&state.snapshot()).expect("what a node wrote it can read");
    assert_eq!(restored.hash(), state.hash(), "a snapshot is the state");
    restored
}
