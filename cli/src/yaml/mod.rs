//! YAML as trees whose every node knows its line.

mod emit;
mod tree;

pub(crate) use emit::emit;
pub(crate) use tree::{Entry, Node, Value, parse};
