//! Raft's way out: hands each message to its peer's lane and returns at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_runtime::supervisor::OnEnd;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lane::LaneKind;
use super::link::{self, Peer};
use super::{Shared, ship};
use crate::raft::transport::Transport;

/// The peers that there are links to, by id.
pub(super) type PeerMap = Arc<BTreeMap<u64, Arc<Peer>>>;

/// Sends Raft's messages to the members in the address book. Never blocks: what does not fit is dropped, and Raft told.
pub struct PeerTransport {
    shared: Arc<Shared>,
    peers: watch::Receiver<PeerMap>,
}

impl PeerTransport {
    pub(super) const fn new(shared: Arc<Shared>, peers: watch::Receiver<PeerMap>) -> Self {
        Self { shared, peers }
    }

    #[cfg(test)]
    pub(super) fn clone_for_test(&self) -> Self {
        Self::new(Arc::clone(&self.shared), self.peers.clone())
    }

    #[cfg(test)]
    pub(super) fn peers_for_test(&self) -> PeerMap {
        Arc::clone(&self.peers.borrow())
    }

    fn dropped(id: u64, why: &'static str, count: usize) {
        metrics::counter!("postern_control_peer_dropped_total", "peer" => id.to_string(), "reason" => why)
            .increment(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

impl Transport for PeerTransport {
    fn send(&mut self, messages: Vec<Message>) {
        let peers = Arc::clone(&self.peers.borrow());
        for message in messages {
            let id = message.to;
            let Some(peer) = peers.get(&id) else {
                // A member whose address did not come through yet, or one that was removed a moment ago.
                Self::dropped(id, "unknown", 1);
                self.shared.unreachable(id);
                if message.msg_type() == MessageType::MsgSnapshot {
                    self.shared.snapshot_sent(id, false);
                }
                continue;
            };
            if message.msg_type() == MessageType::MsgSnapshot {
                peer.offers.put(message);
                continue;
            }
            let lane = peer.lane(LaneKind::of(&message));
            let dropped = lane.push(message);
            if dropped > 0 {
                Self::dropped(id, "full", dropped);
                if lane.must_tell() {
                    self.shared.unreachable(id);
                }
            }
        }
    }
}

/// Starts links to whoever enters the address book, and ends those to whoever leaves it.
pub(super) async fn manage(shared: Arc<Shared>, out: watch::Sender<PeerMap>, stop: CancellationToken) {
    let mut book = shared.book.subscribe();
    loop {
        let members: Vec<u64> =
            book.borrow_and_update().members.keys().copied().filter(|id| *id != shared.config.node_id).collect();
        let mut peers = BTreeMap::clone(&out.borrow());
        peers.retain(|id, peer| {
            let stays = members.contains(id);
            if !stays {
                peer.stop.cancel();
                shared.forget(*id);
            }
            stays
        });
        for id in members {
            peers.entry(id).or_insert_with(|| begin(&shared, id, &stop));
        }
        out.send_replace(Arc::new(peers));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = book.changed() => if changed.is_err() { return },
        }
    }
}

fn begin(shared: &Arc<Shared>, id: u64, stop: &CancellationToken) -> Arc<Peer> {
    let peer = Arc::new(Peer::new(id, stop.child_token()));
    shared.expect(id);
    for kind in [LaneKind::Urgent, LaneKind::Bulk] {
        shared.supervisor.spawn("peer-link", OnEnd::EndPart, link::run(Arc::clone(shared), Arc::clone(&peer), kind));
    }
    shared.supervisor.spawn("peer-snapshots", OnEnd::EndPart, ship::run(Arc::clone(shared), Arc::clone(&peer)));
    peer
}
