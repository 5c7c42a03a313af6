//! Members over real TLS on loopback, each behind a proxy that can be cut, stalled and made to damage bytes. Raft itself is a stand-in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_runtime::clock;
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::tls;
use postern_state::{Outcome, Success};
use raft::eraftpb::{Message, MessageType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::super::{AddressBook, PeerEntry, PeerForward, PeerTransport, Peers, PeersConfig, PeersHandle, RaftSide};
use crate::raft::log_store::StorageError;
use crate::raft::{ForwardedProposal, ProposeError};
use crate::serve;

pub(super) const LONG: Duration = Duration::from_secs(20);

/// No start of any member here is of the same number.
static STARTS: AtomicU64 = AtomicU64::new(1);

/// What a stand-in for Raft saw.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<SeenInner>);

#[derive(Default)]
struct SeenInner {
    steps: Mutex<Vec<Message>>,
    unreachable: Mutex<Vec<u64>>,
    reports: Mutex<Vec<(u64, bool)>>,
    proposals: Mutex<Vec<ForwardedProposal>>,
    refuse: Mutex<Option<ProposeError>>,
    applied: watch::Sender<u64>,
    leader: watch::Sender<u64>,
    snapshots: Mutex<BTreeMap<u64, Bytes>>,
    /// Writes are never answered while it is set.
    frozen: AtomicBool,
}

impl Seen {
    pub(super) fn steps(&self) -> Vec<Message> {
        self.0.steps.lock().unwrap().clone()
    }

    pub(super) fn step_count(&self) -> usize {
        self.0.steps.lock().unwrap().len()
    }

    pub(super) fn unreachable(&self) -> Vec<u64> {
        self.0.unreachable.lock().unwrap().clone()
    }

    pub(super) fn reports(&self) -> Vec<(u64, bool)> {
        self.0.reports.lock().unwrap().clone()
    }

    pub(super) fn proposals(&self) -> Vec<ForwardedProposal> {
        self.0.proposals.lock().unwrap().clone()
    }

    pub(super) fn hold(&self, index: u64, data: Vec<u8>) {
        self.0.snapshots.lock().unwrap().insert(index, data.into());
    }

    pub(super) fn freeze(&self) {
        self.0.frozen.store(true, Ordering::Relaxed);
    }

    pub(super) fn led_by(&self, leader: u64) {
        self.0.leader.send_replace(leader);
    }

    pub(super) fn refuse(&self, error: ProposeError) {
        *self.0.refuse.lock().unwrap() = Some(error);
    }
}

impl RaftSide for Seen {
    fn step(&self, message: Message) {
        if message.msg_type() == MessageType::MsgSnapshot {
            self.0.applied.send_replace(message.get_snapshot().get_metadata().index);
        }
        self.0.steps.lock().unwrap().push(message);
    }

    fn report_unreachable(&self, id: u64) {
        self.0.unreachable.lock().unwrap().push(id);
    }

    fn report_snapshot(&self, id: u64, ok: bool) {
        self.0.reports.lock().unwrap().push((id, ok));
    }

    fn snapshot(&self, index: u64, _: u64) -> Result<Option<Bytes>, StorageError> {
        Ok(self.0.snapshots.lock().unwrap().get(&index).cloned())
    }

    fn leader_changed(&self, leader: u64) -> BoxFuture<'static, ()> {
        let mut led = self.0.leader.subscribe();
        async move { drop(led.wait_for(|now| *now != 0 && *now != leader).await) }.boxed()
    }

    fn propose(&self, proposal: ForwardedProposal) -> BoxFuture<'static, Result<Outcome, ProposeError>> {
        self.0.proposals.lock().unwrap().push(proposal);
        let refusal = self.0.refuse.lock().unwrap().clone();
        let frozen = self.0.frozen.load(Ordering::Relaxed);
        async move {
            if frozen {
                std::future::pending::<()>().await;
            }
            refusal.map_or(Ok(Ok(Success::Done)), Err)
        }
        .boxed()
    }

    fn applied(&self, index: u64) -> BoxFuture<'static, ()> {
        let mut applied = self.0.applied.subscribe();
        async move { drop(applied.wait_for(|applied| *applied >= index).await) }.boxed()
    }
}

/// Between a member's announced address and its listener.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) address: String,
    state: Arc<ProxyState>,
}

struct ProxyState {
    /// Cancelled: the present connections end.
    cut: Mutex<CancellationToken>,
    /// New connections are closed at once.
    closed: AtomicBool,
    /// Bytes are not passed on.
    stalled: watch::Sender<bool>,
    /// Towards the member, over all connections.
    passed: AtomicU64,
    /// Cuts once after so many bytes towards the member; `u64::MAX` never.
    cut_after: AtomicU64,
}

impl Proxy {
    async fn start(supervisor: &Supervisor, target: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap().to_string(),
            state: Arc::new(ProxyState {
                cut: Mutex::new(CancellationToken::new()),
                closed: AtomicBool::new(false),
                stalled: watch::Sender::new(false),
                passed: AtomicU64::new(0),
                cut_after: AtomicU64::new(u64::MAX),
            }),
        };
        let (this, spawner) = (proxy.clone(), supervisor.clone());
        supervisor.spawn("proxy", OnEnd::EndPart, async move {
            loop {
                let (inner, _) = listener.accept().await.unwrap();
                if this.state.closed.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(outer) = TcpStream::connect(target).await else { continue };
                let (cut, this) = (this.state.cut.lock().unwrap().clone(), this.clone());
                spawner.spawn("proxied", OnEnd::EndPart, async move {
                    tokio::select! {
                        () = cut.cancelled() => {}
                        () = this.pass(inner, outer) => {}
                    }
                });
            }
        });
        proxy
    }

    async fn pass(&self, inner: TcpStream, outer: TcpStream) {
        inner.set_nodelay(true).unwrap();
        outer.set_nodelay(true).unwrap();
        let (mut from, mut back) = inner.into_split();
        let (mut answers, mut to) = outer.into_split();
        let towards = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                self.state.stalled.subscribe().wait_for(|stalled| !stalled).await.unwrap();
                let read = match from.read(&mut buffer).await {
                    Ok(read) if read > 0 => read,
                    _ => return,
                };
                let passed = self.state.passed.fetch_add(u64::try_from(read).unwrap(), Ordering::Relaxed);
                if passed >= self.state.cut_after.load(Ordering::Relaxed) {
                    self.state.cut_after.store(u64::MAX, Ordering::Relaxed);
                    self.cut();
                }
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = towards => {}
            _ = tokio::io::copy(&mut answers, &mut back) => {}
        }
    }

    /// Ends the present connections; new ones are let through.
    pub(super) fn cut(&self) {
        std::mem::take(&mut *self.state.cut.lock().unwrap()).cancel();
    }

    /// Lets nothing through any more, or all again.
    pub(super) fn close(&self, closed: bool) {
        self.state.closed.store(closed, Ordering::Relaxed);
        if closed {
            self.cut();
        }
    }

    pub(super) fn stall(&self, stalled: bool) {
        self.state.stalled.send_replace(stalled);
    }

    pub(super) fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::Relaxed)
    }

    pub(super) fn cut_after(&self, bytes: u64) {
        self.state.cut_after.store(self.passed() + bytes, Ordering::Relaxed);
    }
}

/// A cluster's authority and what its members share.
pub(super) struct House {
    pub(super) cluster_id: String,
    pub(super) authority: Authority,
}

pub(super) struct Member {
    pub(super) id: u64,
    pub(super) handle: PeersHandle,
    pub(super) transport: PeerTransport,
    pub(super) forward: Arc<PeerForward>,
    pub(super) seen: Seen,
    pub(super) book: AddressBook,
    pub(super) proxy: Proxy,
    pub(super) supervisor: Supervisor,
    pub(super) stop: CancellationToken,
    pub(super) dir: tempfile::TempDir,
}

impl House {
    pub(super) fn new() -> Self {
        Self { cluster_id: "cluster-a".into(), authority: Authority::create("cluster-a").unwrap() }
    }

    pub(super) fn credential(&self, role: NodeRole, name: &str) -> NodeCredential {
        let identity = NodeIdentity { role, name: name.parse().unwrap(), pool: None };
        let request = KeyRequest::generate_for(role).unwrap();
        let (names, now, day) = (["localhost".to_owned()], clock::now(), Duration::from_secs(86_400));
        let certificate_pem = self.authority.issue(&identity, &request.csr_der, &names, now, day).unwrap();
        NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: self.authority.ca_pem().to_owned() }
    }

    /// A member with its own idea of who it is.
    pub(super) async fn member(&self, id: u64, name: &str) -> Member {
        self.member_of(id, name, &self.cluster_id, &self.credential(NodeRole::Control, name)).await
    }

    /// A member that was here before.
    pub(super) async fn member_in(&self, id: u64, name: &str, dir: tempfile::TempDir) -> Member {
        self.start(id, name, &self.cluster_id, &self.credential(NodeRole::Control, name), dir, Vec::new(), true).await
    }

    /// A member that waits for its Raft, and looks for others at `seeds`.
    pub(super) async fn bare(&self, id: u64, dir: tempfile::TempDir, seeds: Vec<String>) -> Member {
        let name = format!("control-{id}");
        self.start(id, &name, &self.cluster_id, &self.credential(NodeRole::Control, &name), dir, seeds, false).await
    }

    pub(super) async fn member_of(&self, id: u64, name: &str, cluster: &str, credential: &NodeCredential) -> Member {
        self.start(id, name, cluster, credential, tempfile::tempdir().unwrap(), Vec::new(), true).await
    }

    #[allow(clippy::too_many_arguments)] // of one test helper
    async fn start(
        &self,
        id: u64,
        name: &str,
        cluster: &str,
        credential: &NodeCredential,
        dir: tempfile::TempDir,
        seeds: Vec<String>,
        attach: bool,
    ) -> Member {
        let (supervisor, stop) = (Supervisor::new(), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Not the member's: the proxy outlives it.
        let proxy = Proxy::start(&Supervisor::new(), listener.local_addr().unwrap()).await;
        let config = PeersConfig {
            cluster_id: cluster.to_owned(),
            node_id: id,
            name: name.parse().unwrap(),
            address: proxy.address.clone(),
            starts: STARTS.fetch_add(1, Ordering::Relaxed),
            seeds,
            feature_level: 1,
            data_dir: dir.path().to_owned(),
            snapshot_rate: 1 << 30,
        };
        let client = Arc::new(tls::client_mtls(credential, &[b"h2"]).unwrap());
        let book = AddressBook::new();
        let source = Arc::new(move || Ok(Arc::clone(&client)));
        let (transport, forward, handle) = Peers::start(config, source, book.clone(), &supervisor, stop.clone());
        let seen = Seen::default();
        if attach {
            handle.attach(seen.clone());
        }
        let mut routes = Routes::builder();
        routes.add_service(handle.service());
        let server = tls::server_mtls(credential, &[b"h2"]).unwrap();
        let (spawner, until, routes) = (supervisor.clone(), stop.clone(), routes.routes());
        supervisor.spawn("grpc", OnEnd::EndPart, async move {
            serve::serve(listener, server, postern_runtime::pki::Revocations::none(), routes, &spawner, until).await;
        });
        Member { id, handle, transport, forward, seen, book, proxy, supervisor, stop, dir }
    }

    /// Members 1 to `count` that know each other.
    pub(super) async fn members(&self, count: u64) -> Vec<Member> {
        let mut members = Vec::new();
        for id in 1..=count {
            members.push(self.member(id, &format!("control-{id}")).await);
        }
        introduce(&members);
        members
    }
}

impl Member {
    pub(super) fn entry(&self, name: &str) -> PeerEntry {
        PeerEntry { name: name.parse().unwrap(), address: self.proxy.address.clone() }
    }

    pub(super) async fn linked(&self, to: u64) {
        let mut links = self.handle.links();
        let linked = links.wait_for(|links| links.get(&to).is_some_and(|link| link.connected));
        tokio::time::timeout(LONG, linked).await.expect("no link in time").unwrap();
    }

    /// Why there is no link to `to`, once there is a reason that has `part` in it.
    pub(super) async fn fault(&self, to: u64, part: &str) -> String {
        let mut links = self.handle.links();
        let fault = |links: &BTreeMap<u64, super::super::LinkStatus>| {
            links.get(&to).and_then(|link| link.error.clone()).filter(|error| error.contains(part))
        };
        let found = links.wait_for(|links| fault(links).is_some());
        let found = tokio::time::timeout(LONG, found).await;
        let links =
            found.unwrap_or_else(|_| panic!("no such fault: {part}; {:?}", self.handle.links().borrow())).unwrap();
        fault(&links).unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.cancel();
        self.supervisor.request_shutdown("the test is over");
    }
}

/// All get to know all.
pub(super) fn introduce(members: &[Member]) {
    for member in members {
        member.book.seed(members.iter().map(|other| (other.id, other.entry(&format!("control-{}", other.id)))));
    }
}

/// Polls until it holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn message(kind: MessageType, from: u64, to: u64) -> Message {
    let mut message = Message { from, to, term: 1, ..Message::default() };
    message.set_msg_type(kind);
    message
}
