//! Recordings as a client reads them: from a file, or from the control plane as they come.

pub(crate) mod asciicast;
mod player;
mod replay;
mod source;

pub(crate) use player::{Effect, Frame, Key, Player, Speed};
pub(crate) use replay::{Replay, text};
pub(crate) use source::{EntryReader, ReadFault};
