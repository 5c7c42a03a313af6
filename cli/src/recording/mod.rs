//! Recordings as a client reads them: from a file, or from the control plane as they come.

mod replay;
mod source;

pub(crate) use replay::{Replay, text};
pub(crate) use source::{EntryReader, ReadFault};
