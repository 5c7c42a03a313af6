//! How messages reach the other members.

use raft::eraftpb::Message;

/// Carries messages to peers. May lose, repeat and reorder them: Raft allows for it. Never blocks.
pub trait Transport: Send + 'static {
    /// Sends what can be sent.
    fn send(&mut self, messages: Vec<Message>);
}

/// For a cluster of one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&mut self, messages: Vec<Message>) {
        debug_assert!(messages.is_empty(), "a single node has nobody to talk to");
    }
}
