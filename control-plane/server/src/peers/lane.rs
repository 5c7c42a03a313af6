//! What waits to be sent to one peer: bounded by number and by bytes.
//!
//! Each peer has two lanes, each with its own connection: [`LaneKind::Urgent`] for heartbeats, votes and answers, which are small and keep
//! a leader in office, and [`LaneKind::Bulk`] for appends. All appends go one way, in order: one that overtook another would be
//! rejected and slow the stream down. A full lane drops its oldest messages; Raft sends anew what is still needed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};
use raft_prost::Message as _;
use tokio::sync::Notify;

/// What a lane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneKind {
    /// Small, and must not wait.
    Urgent,
    /// Appends.
    Bulk,
}

impl LaneKind {
    /// For metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Bulk => "bulk",
        }
    }

    /// The lane of a message.
    pub(super) fn of(message: &Message) -> Self {
        match message.msg_type() {
            MessageType::MsgAppend | MessageType::MsgSnapshot | MessageType::MsgPropose => Self::Bulk,
            _ => Self::Urgent,
        }
    }

    /// Messages and bytes that may wait (I11). Some seconds of heartbeats; for appends, some windows of pipelining.
    const fn limits(self) -> (usize, usize) {
        match self {
            Self::Urgent => (1_024, 4 << 20),
            Self::Bulk => (1_024, 32 << 20),
        }
    }
}

/// Bytes that one batch takes up, unless its first message alone is larger.
const BATCH_BYTES: usize = 1 << 20;
/// Messages in one batch.
pub(super) const BATCH_MESSAGES: usize = 256;

/// One lane of one peer.
pub(super) struct Lane {
    kind: LaneKind,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    /// Whether Raft was told of dropped messages since the last batch went out.
    told: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(Message, usize)>,
    bytes: usize,
}

impl Lane {
    pub(super) fn new(kind: LaneKind) -> Self {
        Self { kind, waiting: Mutex::default(), arrived: Notify::new(), told: AtomicBool::new(false) }
    }

    /// Puts `message` at the end; how many older ones it drove out.
    pub(super) fn push(&self, message: Message) -> usize {
        let size = message.encoded_len();
        let (max_messages, max_bytes) = self.kind.limits();
        let mut dropped = 0_usize;
        {
            let mut waiting = self.lock();
            while !waiting.messages.is_empty()
                && (waiting.messages.len() >= max_messages || waiting.bytes.saturating_add(size) > max_bytes)
            {
                if let Some((_, size)) = waiting.messages.pop_front() {
                    waiting.bytes = waiting.bytes.saturating_sub(size);
                    dropped = dropped.saturating_add(1);
                }
            }
            waiting.bytes = waiting.bytes.saturating_add(size);
            waiting.messages.push_back((message, size));
        }
        self.arrived.notify_one();
        dropped
    }

    /// The next messages, encoded; waits for the first. Safe to cancel: nothing is taken before it returns.
    pub(super) async fn take(&self) -> Vec<Bytes> {
        loop {
            let arrived = self.arrived.notified();
            let taken = self.pop();
            if !taken.is_empty() {
                self.told.store(false, Ordering::Relaxed);
                return taken.into_iter().map(|message| Bytes::from(message.encode_to_vec())).collect();
            }
            arrived.await;
        }
    }

    /// Whether Raft has to be told that messages were dropped: once, until some got out again.
    pub(super) fn must_tell(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    /// Drops all that waits; how many.
    pub(super) fn clear(&self) -> usize {
        let mut waiting = self.lock();
        let cleared = std::mem::take(&mut *waiting);
        cleared.messages.len()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn pop(&self) -> Vec<Message> {
        let mut waiting = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0_usize);
        while let Some((_, size)) = waiting.messages.front() {
            bytes = bytes.saturating_add(*size);
            if !taken.is_empty() && (bytes > BATCH_BYTES || taken.len() >= BATCH_MESSAGES) {
                break;
            }
            if let Some((message, size)) = waiting.messages.pop_front() {
                waiting.bytes = waiting.bytes.saturating_sub(size);
                taken.push(message);
            }
        }
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::Entry;

    use super::*;

    fn append(index: u64, bytes: usize) -> Message {
        let mut message = Message { index, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.entries.push(Entry { data: vec![7; bytes], ..Entry::default() });
        message
    }

    fn indices(batch: &[Bytes]) -> Vec<u64> {
        batch.iter().map(|bytes| Message::decode(&bytes[..]).unwrap().index).collect()
    }

    #[tokio::test]
    async fn full_lane_drops_the_oldest_and_stays_within_its_bounds() {
        let lane = Lane::new(LaneKind::Bulk);
        let mut dropped = 0;
        for index in 0..100 {
            dropped += lane.push(append(index, 1 << 20));
            assert!(lane.bytes() <= 32 << 20);
        }
        assert!((68..=70).contains(&dropped), "{dropped}");
        // One message of more than a batch goes alone.
        assert_eq!(indices(&lane.take().await), [u64::try_from(dropped).unwrap()]);
        for index in 0..5_000 {
            lane.push(append(index, 0));
        }
        assert_eq!(lane.clear(), 1_024);
        assert_eq!(lane.bytes(), 0);
    }

    #[tokio::test]
    async fn one_larger_than_the_bound_still_passes() {
        let lane = Lane::new(LaneKind::Bulk);
        lane.push(append(1, 1));
        assert_eq!(lane.push(append(2, 40 << 20)), 1);
        assert_eq!(indices(&lane.take().await), [2]);
    }

    #[tokio::test]
    async fn batches_keep_order_and_wait_for_the_first() {
        let lane = Lane::new(LaneKind::Bulk);
        assert!(futures::FutureExt::now_or_never(lane.take()).is_none());
        for index in 0..300 {
            lane.push(append(index, 10));
        }
        assert_eq!(indices(&lane.take().await), (0..256).collect::<Vec<_>>());
        assert_eq!(indices(&lane.take().await), (256..300).collect::<Vec<_>>());
    }

    #[test]
    fn heartbeats_and_votes_have_their_own_lane() {
        let kind = |kind| {
            let mut message = Message::default();
            message.set_msg_type(kind);
            LaneKind::of(&message)
        };
        assert_eq!(kind(MessageType::MsgHeartbeat), LaneKind::Urgent);
        assert_eq!(kind(MessageType::MsgRequestPreVote), LaneKind::Urgent);
        assert_eq!(kind(MessageType::MsgAppendResponse), LaneKind::Urgent);
        assert_eq!(kind(MessageType::MsgAppend), LaneKind::Bulk);
    }
}
