//! How members of the control plane talk to each other.
//!
//! | part | does |
//! | --- | --- |
//! | [`AddressBook`] | knows who the members are and where they are dialed |
//! | `known`, `seeds` | how it comes to know when they have moved: from each other, and from the operator |
//! | [`PeerTransport`] | Raft's way out: two lanes for each peer, one stream each, bounded and never blocking |
//! | [`PeerForward`] | passes a write to the leader, one hop |
//! | `ship`, `install` | snapshots: in pieces, checked, resumed where they broke off |
//! | [`PeerService`] | the other end of all of these |
//!
//! [`Peers::start`] makes the first two for `raft::start`; once that has given a handle, [`PeersHandle::attach`] takes it, and
//! [`PeersHandle::service`] goes into a gRPC server that demands client certificates of the cluster's authority. Until a handle is
//! attached, callers are told `UNAVAILABLE` and come again.
//!
//! Every link is a task of its own and lives as long as its peer is in the address book: it ends with the node's `stop`, which must not
//! come before Raft has ended. What stops the node from the inside, that it was removed, comes through [`PeersHandle::removed`].

mod book;
mod dial;
mod forward;
mod install;
mod known;
mod lane;
mod link;
mod seeds;
mod service;
mod ship;
mod transport;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use postern_core::Name;
use postern_proto::peer::v1 as pb;
use postern_proto::peer::v1::peer_service_server::PeerServiceServer;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_state::Outcome;
use raft::eraftpb::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use book::{AddressBook, Book, Known, PeerEntry, Said};
pub use dial::{DialError, TlsSource};
pub use forward::PeerForward;
pub use link::LinkStatus;
pub use service::PeerService;
pub use transport::PeerTransport;

use crate::raft::log_store::StorageError;
use crate::raft::{ForwardedProposal, ProposeError, RaftHandle};

/// Who this node is among the members.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// The cluster's id: a member of another is not let in.
    pub cluster_id: String,
    /// This node's id in the group.
    pub node_id: u64,
    /// The name in its certificate.
    pub name: Name,
    /// `host:port` where the other members reach it.
    pub address: String,
    /// How often the node was started, this time included: of two words of where it is, that of the later start counts.
    pub starts: u64,
    /// `host:port` of listeners of other members, where to look for those that are not where they were.
    pub seeds: Vec<String>,
    /// The highest cluster feature level that it can.
    pub feature_level: u32,
    /// Snapshots on their way in are kept in `incoming` below it.
    pub data_dir: PathBuf,
    /// Bytes a second that one outgoing snapshot takes up at most.
    pub snapshot_rate: u64,
}

impl PeersConfig {
    /// What one outgoing snapshot may take up by default, in bytes a second: heartbeats and appends go on beside it.
    pub const SNAPSHOT_RATE: u64 = 64 << 20;
}

/// What the peers' part asks of Raft. A `RaftHandle` does it; tests may put something simpler in its place.
pub trait RaftSide: Send + Sync + 'static {
    /// A message from a peer.
    fn step(&self, message: Message);
    /// Messages to `id` were lost.
    fn report_unreachable(&self, id: u64);
    /// What became of a snapshot to `id`.
    fn report_snapshot(&self, id: u64, ok: bool);
    /// The data of exactly that snapshot, if it is still there. Blocks, alone of all these.
    ///
    /// # Errors
    /// When the disk fails or the data is not as it was written.
    fn snapshot(&self, index: u64, term: u64) -> Result<Option<Bytes>, StorageError>;
    /// Proposes on this node, without passing on.
    fn propose(&self, proposal: ForwardedProposal) -> BoxFuture<'static, Result<Outcome, ProposeError>>;
    /// Ends once the entry at `index` is applied here.
    fn applied(&self, index: u64) -> BoxFuture<'static, ()>;
    /// Ends once another than `leader` is known to lead.
    fn leader_changed(&self, leader: u64) -> BoxFuture<'static, ()>;
}

impl RaftSide for RaftHandle {
    fn step(&self, message: Message) {
        Self::step(self, message);
    }

    fn report_unreachable(&self, id: u64) {
        Self::report_unreachable(self, id);
    }

    fn report_snapshot(&self, id: u64, ok: bool) {
        Self::report_snapshot(self, id, ok);
    }

    fn snapshot(&self, index: u64, term: u64) -> Result<Option<Bytes>, StorageError> {
        self.snapshots().open(index, term)
    }

    fn propose(&self, proposal: ForwardedProposal) -> BoxFuture<'static, Result<Outcome, ProposeError>> {
        let raft = self.clone();
        Box::pin(async move { raft.propose_here(proposal).await })
    }

    fn applied(&self, index: u64) -> BoxFuture<'static, ()> {
        let raft = self.clone();
        Box::pin(async move { Self::applied(&raft, index).await })
    }

    fn leader_changed(&self, leader: u64) -> BoxFuture<'static, ()> {
        let mut status = self.status();
        // An error is the end of the driver.
        Box::pin(async move { drop(status.wait_for(|now| now.leader != 0 && now.leader != leader).await) })
    }
}

/// What all parts share.
struct Shared {
    config: PeersConfig,
    book: AddressBook,
    dialer: dial::Dialer,
    supervisor: Supervisor,
    raft: OnceLock<Arc<dyn RaftSide>>,
    links: watch::Sender<BTreeMap<u64, LinkStatus>>,
    removed: watch::Sender<Option<String>>,
    refusals: service::Refusals,
    stop: CancellationToken,
}

impl Shared {
    fn raft(&self) -> Option<&Arc<dyn RaftSide>> {
        self.raft.get()
    }

    fn unreachable(&self, id: u64) {
        if let Some(raft) = self.raft() {
            raft.report_unreachable(id);
        }
    }

    fn snapshot_sent(&self, id: u64, ok: bool) {
        if let Some(raft) = self.raft() {
            raft.report_snapshot(id, ok);
        }
    }

    fn hello(&self, to: u64) -> pb::Hello {
        pb::Hello {
            cluster_id: self.config.cluster_id.clone(),
            node_id: self.config.node_id,
            to,
            peer_address: self.config.address.clone(),
            protocol_min: *wire::PROTOCOL.start(),
            protocol_max: *wire::PROTOCOL.end(),
            feature_level: self.config.feature_level,
            starts: self.config.starts,
        }
    }

    /// Only for a peer that there still is a link to.
    fn link(&self, id: u64, change: impl FnOnce(&mut LinkStatus)) {
        self.links.send_if_modified(|links| links.get_mut(&id).map(change).is_some());
    }

    fn expect(&self, id: u64) {
        self.links.send_modify(|links| drop(links.insert(id, LinkStatus::default())));
    }

    fn forget(&self, id: u64) {
        self.links.send_modify(|links| drop(links.remove(&id)));
    }

    /// A peer says that this node was removed.
    fn removed(&self, why: &str) {
        self.removed.send_if_modified(|known| {
            let news = known.is_none();
            known.get_or_insert_with(|| why.to_owned());
            news
        });
    }
}

/// Starts the peers' part.
pub struct Peers;

impl Peers {
    /// Links to whoever is in `book`. `stop` ends them, and must come after the end of Raft.
    #[must_use]
    pub fn start(
        config: PeersConfig,
        tls: TlsSource,
        book: AddressBook,
        supervisor: &Supervisor,
        stop: CancellationToken,
    ) -> (PeerTransport, Arc<PeerForward>, PeersHandle) {
        let shared = Arc::new(Shared {
            config,
            book,
            dialer: dial::Dialer::new(tls),
            supervisor: supervisor.clone(),
            raft: OnceLock::new(),
            links: watch::Sender::new(BTreeMap::new()),
            removed: watch::Sender::new(None),
            refusals: service::Refusals::default(),
            stop: stop.clone(),
        });
        let (out, peers) = watch::channel(transport::PeerMap::default());
        let seeds = shared.config.seeds.clone();
        supervisor.spawn("peer-seeds", OnEnd::EndPart, seeds::look(Arc::clone(&shared), seeds, stop.clone()));
        supervisor.spawn("peers", OnEnd::StopNode, transport::manage(Arc::clone(&shared), out, stop));
        let transport = PeerTransport::new(Arc::clone(&shared), peers);
        let forward = Arc::new(PeerForward::new(Arc::clone(&shared)));
        (transport, forward, PeersHandle { shared })
    }
}

/// What the rest of the node asks of the peers' part. Cheap to clone.
#[derive(Clone)]
pub struct PeersHandle {
    shared: Arc<Shared>,
}

impl PeersHandle {
    /// Lets messages and writes of peers through to Raft from now on. Only the first counts.
    pub fn attach(&self, raft: impl RaftSide) {
        // A second one would be a mistake in the node's start; the first stays.
        let _ = self.shared.raft.set(Arc::new(raft));
    }

    /// Answers the other members; for a server that demands client certificates of the cluster's authority.
    #[must_use]
    pub fn service(&self) -> PeerServiceServer<PeerService> {
        PeerServiceServer::new(PeerService::new(Arc::clone(&self.shared))).max_decoding_message_size(link::MAX_BATCH)
    }

    /// Who the members are.
    #[must_use]
    pub fn book(&self) -> &AddressBook {
        &self.shared.book
    }

    /// A connection to a member, for what else members ask of each other. It does not reconnect by itself.
    ///
    /// # Errors
    /// When its address is not known, it cannot be reached, or is not who it should be.
    pub async fn connect(&self, id: u64) -> Result<tonic::transport::Channel, DialError> {
        let entry = self.shared.book.get(id).ok_or(DialError::NoAddress)?;
        self.shared.dialer.connect(&entry).await
    }

    /// How each peer is reached, now and at each change.
    #[must_use]
    pub fn links(&self) -> watch::Receiver<BTreeMap<u64, LinkStatus>> {
        self.shared.links.subscribe()
    }

    /// Ends when a peer says that this node was removed from the cluster; with the reason. Else never.
    pub async fn removed(&self) -> String {
        let mut removed = self.shared.removed.subscribe();
        let why = removed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
