//! Starting and stopping a control-plane node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postern_core::node::NodeIdentity;
use postern_proto::peer::v1::member_service_server::MemberServiceServer;
use postern_proto::peer::v1::recording_service_server::RecordingServiceServer;
use postern_runtime::ops::{self, Readiness};
use postern_runtime::pki::{NodeCredential, PkiError, Revocations, RotatingCredential};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::{jwt, telemetry, tls};
use postern_state::{Refusal, known_level};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::info;

use crate::api::{self, Access, AuditLog};
use crate::backup::BackupError;
use crate::bootstrap::{self, ClusterKeys};
use crate::cluster::identity::{DataDir, IdentityError};
use crate::cluster::init::own_record;
use crate::cluster::members::Members;
use crate::cluster::view::{Observers, ViewObserver};
use crate::cluster::{self, RedeemError, certificate, duties, signing};
use crate::config::ControlConfig;
use crate::feed::{Feed, FeedError, Policy, Published};
use crate::fleet::Fleet;
use crate::identity::saml::SamlLogins;
use crate::identity::{IssuerKeysLoop, Signers};
use crate::jobs::{Beats, sweep};
use crate::keys::config::KekConfig;
use crate::keys::{Kek, KeyError};
use crate::peers::{AddressBook, PeerEntry, Peers, PeersConfig};
use crate::raft::log_store::{DiskLog, StorageError};
use crate::raft::{DriverError, ProposeError, RaftHandle, ReadError, start};
use crate::recordings::Recordings;
use crate::recordings::archive::{self, Archive, ArchiveError, Archivist};
use crate::recordings::copies::Copies;
use crate::recordings::keys::{self as keys_of_recordings, RecordingKeys};
use crate::recordings::log::{self, LogBook, LogObserver};
use crate::recordings::orphans;
use crate::watch::WatchHub;
use crate::web::{self, WebError};
use crate::{serve, serving, webhooks};

/// Between tries to read before there is a leader.
const RETRY: Duration = Duration::from_millis(200);
/// How long Raft may take to hand over and end.
const RAFT_END_LIMIT: Duration = Duration::from_secs(5);
/// Entries that a node may be behind and still be ready.
const READY_LAG: u64 = 1_000;
/// Nobody needs the bootstrap token of a `postern dev`: the administrator's credential lies beside it.
const DEV_TOKEN_TTL: Duration = Duration::from_secs(60);

/// The node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The configuration is not valid.
    #[error("{0}")]
    Config(String),
    /// A key or certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A sealed key.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The key of session tokens.
    #[error("the key of session tokens: {0}")]
    SessionKey(#[from] jwt::KeyError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The log's files.
    #[error("the log in {dir}: {source}")]
    Log {
        /// Where it lies.
        dir: String,
        /// What is wrong.
        source: StorageError,
    },
    /// The log, raft, or the state machine.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The policy cannot be published.
    #[error("the policy cannot be published: {0}")]
    Feed(String),
    /// The node did not come to lead, or stopped.
    #[error("the log cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The cluster could not be made.
    #[error("the cluster cannot be made: {0}")]
    Propose(#[from] ProposeError),
    /// The cluster could not be made.
    #[error("the cluster cannot be made: {0}")]
    Refused(Refusal),
    /// The data directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster does not let this node in.
    #[error(transparent)]
    Join(#[from] RedeemError),
    /// A backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The log is of another cluster, or another life of it.
    #[error("the log is of cluster {found}, this node is a member of {own}: one of them was put here by mistake")]
    OtherCluster {
        /// What the data directory says.
        own: String,
        /// What the log says.
        found: String,
    },
    /// Its record is not what was written.
    #[error("the cluster's keys are unreadable")]
    NoCluster,
    /// A node that is not ready in time.
    #[error("the node did not become ready within {0:?}")]
    Slow(Duration),
    /// An address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The metrics cannot be kept.
    #[error("metrics: {0}")]
    Telemetry(String),
    /// Asked to stop before it served.
    #[error("stopped before it served")]
    Stopped,
    /// The listener for browsers.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The store of recordings.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The recordings' directory.
    #[error("recordings: {0}")]
    Recordings(std::io::Error),
}

/// A control-plane node that runs.
pub struct ControlHandle {
    /// Where the gRPC API listens.
    pub grpc_addr: SocketAddr,
    /// Where other members reach it, when it listens for them.
    pub peer_addr: Option<SocketAddr>,
    /// Where the operations endpoint listens, when it does.
    pub ops_addr: Option<SocketAddr>,
    /// Where browsers reach it, when they do.
    pub web_addr: Option<SocketAddr>,
    /// Names the cluster.
    pub cluster_id: String,
    /// The cluster's certificate authority.
    pub ca_pem: String,
    /// Where the administrator's credential lies.
    pub admin_credential_dir: PathBuf,
    /// What is ready.
    pub readiness: Readiness,
    keys: Arc<ClusterKeys>,
    raft: RaftHandle,
}

impl ControlHandle {
    /// A new key and certificate for a node that runs in this process.
    ///
    /// # Errors
    /// When a name may not stand in a certificate, or the certificate cannot be recorded: nobody has it then.
    pub async fn issue_node_credential(
        &self,
        identity: &NodeIdentity,
        alt_names: &[String],
    ) -> Result<NodeCredential, ControlError> {
        bootstrap::issue(&self.keys, &self.raft, identity, alt_names).await
    }
}

impl From<FeedError> for ControlError {
    fn from(error: FeedError) -> Self {
        Self::Feed(error.to_string())
    }
}

/// Starts a node; returns once it serves. It runs until the supervisor's sessions have ended.
///
/// # Errors
/// When the log, a key or the configuration is not fit to serve from: nothing is served then.
pub async fn run(config: ControlConfig, supervisor: Supervisor) -> Result<ControlHandle, ControlError> {
    if let Some(fault) = config.faults() {
        return Err(ControlError::Config(fault));
    }
    let data = DataDir::new(&config.data_dir);
    if config.dev && !data.has_node() {
        cluster::init(&config, DEV_TOKEN_TTL).await?;
    }
    let mut file = data.load()?;
    let kek = Arc::new(kek(&config, true)?);
    for vault in kek.vaults() {
        supervisor.spawn("vault-token", OnEnd::StopNode, vault.keep(supervisor.sessions_ended_token()));
    }
    // Vault may be sealed for hours: no limit, and no loop of restarts.
    tokio::select! {
        ready = kek.ready() => ready?,
        () = supervisor.shutdown_token().cancelled_owned() => return Err(ControlError::Stopped),
    }
    let credential = RotatingCredential::new(data.load_credential(&kek).await?)?;
    let listener = listen(config.listen).await?;
    let grpc_addr = bound(&listener, config.listen)?;
    let peer_listener = match config.peer_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let peer_addr =
        peer_listener.as_ref().zip(config.peer_listen).map(|(it, address)| bound(it, address)).transpose()?;
    let web_listener = match &config.web {
        Some(web) => Some(web::Listener::bind(web).await?),
        None => None,
    };
    let web_addr = web_listener.as_ref().map(web::Listener::address);
    let record = own_record(&config, file.id, &file.name, &kek, grpc_addr, peer_addr)?;
    let readiness = Readiness::new(&["raft", "api"]);
    let ops = ops_endpoint(&config, &readiness, &supervisor).await?;

    // Outlives the API, which outlives the sessions; what reaches the peers outlives Raft.
    let raft_stop = CancellationToken::new();
    let log_dir = data.log();
    let log =
        DiskLog::open(&log_dir).map_err(|source| ControlError::Log { dir: log_dir.display().to_string(), source })?;
    if !file.started {
        file.started = true;
        data.save(&file)?;
    }
    let (hub_writer, hub, hub_relay) = WatchHub::new();
    supervisor.spawn("watch-hub", OnEnd::EndPart, hub_relay);
    let (view_writer, views) = ViewObserver::new(file.id);
    let revocations = Revocations::new(views.revoked.clone());
    let book = AddressBook::new();
    book.seed(
        file.members
            .iter()
            .map(|member| (member.id, PeerEntry { name: member.name.clone(), address: member.peer_address.clone() })),
    );
    let peers_stop = CancellationToken::new();
    let dial = Arc::new(tls::client_mtls_rotating(&credential, revocations.clone(), &[b"h2"])?);
    let (transport, forward, peers) = Peers::start(
        PeersConfig {
            cluster_id: file.cluster_id.clone(),
            node_id: file.id,
            name: file.name.clone(),
            address: record.peer_address.clone(),
            starts: data.count_start()?,
            seeds: config.peer_seeds.clone(),
            feature_level: known_level(),
            data_dir: config.data_dir.clone(),
            snapshot_rate: PeersConfig::SNAPSHOT_RATE,
        },
        Arc::new(move || Ok(Arc::clone(&dial))),
        book,
        &supervisor,
        peers_stop.clone(),
    );
    let (log_writer, log_state) = LogObserver::new();
    let observers = Observers { first: (hub_writer, log_writer), view: view_writer, book: peers.book().clone() };
    let node = config.raft(file.id);
    let raft = start(&node, log, transport, observers, forward, &supervisor, raft_stop.clone())?;
    let (stop_raft, stop_peers) = (raft_stop.clone().drop_guard(), peers_stop.clone().drop_guard());
    peers.attach(raft.clone());
    let members =
        Members { raft: raft.clone(), view: views.view.clone(), peers: peers.clone(), credential, fleet: Fleet::new() };
    let recording_keys = RecordingKeys::new(views.view.clone());
    let recordings = Recordings::start(&data.recordings(), recording_keys.clone(), &supervisor);
    let recordings = recordings.map_err(ControlError::Recordings)?;
    let book = LogBook::open(&data.recording_log(), &file.incarnation, log_state).map_err(ControlError::Recordings)?;
    let archive = Archive::open(&config.recordings.store, &data.archive(), &file.cluster_id, recording_keys.clone())?;
    let copies = Copies::new(recordings.clone(), members.clone(), book.clone(), archive.clone());
    if let Some(listener) = peer_listener {
        // TLS would only say no. The services tell a member that was removed, whose certificate is revoked as well, that it was.
        let told_by_services = Revocations::none();
        let tls = tls::server_mtls_rotating(&members.credential, told_by_services.clone(), &[b"h2"])?;
        let routes = Routes::new(peers.service())
            .add_service(MemberServiceServer::new(members.clone()))
            .add_service(RecordingServiceServer::new(copies.clone()));
        let (own, until) = (supervisor.clone(), peers_stop);
        supervisor.spawn("peer-listener", OnEnd::StopNode, async move {
            serve::serve(listener, tls, told_by_services, routes, &own, until).await;
        });
    }
    supervisor.spawn("membership", OnEnd::StopNode, until_removed(members.clone(), supervisor.clone()));

    // A new member waits here until the leader has brought it up to date.
    let keys = tokio::select! {
        keys = bootstrap::cluster_keys(&members, &kek, &file, &config) => {
            Arc::new(ClusterKeys { clock: raft.stamps().clone(), ..keys? })
        }
        () = supervisor.shutdown_token().cancelled_owned() => return Err(ControlError::Stopped),
    };
    let stop = supervisor.sessions_ended_token();
    // Before there is a leader: with a certificate that has ended there would never be one.
    let renewal = certificate::keep_own(members.clone(), Arc::clone(&keys), data.clone(), &config, stop.clone());
    supervisor.spawn("certificate", OnEnd::StopNode, renewal);

    let (feed, published) = tokio::select! {
        started = start_feed(&members, &hub, &kek, &keys) => started?,
        () = supervisor.shutdown_token().cancelled_owned() => return Err(ControlError::Stopped),
    };
    if config.dev {
        bootstrap::admin_credential(&keys, &raft, &data.admin()).await?;
    }
    let shown = serving::compatible(&members.credential, &keys, &raft, &supervisor)?;
    let tls = tls::server_optional_client_rotating(&shown, revocations.clone(), &[b"h2"])?;
    supervisor.spawn("policy-feed", OnEnd::StopNode, feed.run(stop.clone()));
    let (issuer_keys, demand) = IssuerKeysLoop::new(raft.clone());
    supervisor.spawn("issuer-keys", OnEnd::StopNode, issuer_keys.run(stop.clone()));
    let signers = Signers::new(views.view.clone(), &keys);
    let rotation = signing::keep(members.clone(), Arc::clone(&kek), signers.clone(), config.signing_keys, stop.clone());
    supervisor.spawn("signing-keys", OnEnd::StopNode, rotation);
    supervisor.spawn("leader", OnEnd::StopNode, duties::lead(members.clone(), config.max_feature_level, stop.clone()));
    let keeper = log::Keeper { book: book.clone(), members: members.clone(), kek: Arc::clone(&kek) };
    supervisor.spawn("recording-log", OnEnd::StopNode, log::keep(keeper, stop.clone()));
    let witnesses = config.recordings.witnesses.clone();
    let witness = log::witness::witness(book.clone(), members.clone(), witnesses, stop.clone());
    supervisor.spawn("witnesses", OnEnd::StopNode, witness);
    let (archivist, sealed) = Archivist::new();
    let parts = archive::Parts { archive, recordings: recordings.clone(), dir: data.recordings() };
    supervisor.spawn("archivist", OnEnd::StopNode, archive::archive(parts, sealed, stop.clone()));
    supervisor.spawn("orphans", OnEnd::StopNode, orphans::close(members.clone(), copies.clone(), stop.clone()));
    let recording_keys = keys_of_recordings::keep(recording_keys, members.clone(), Arc::clone(&kek), stop.clone());
    supervisor.spawn("recording-keys", OnEnd::StopNode, recording_keys);
    supervisor.spawn("own-record", OnEnd::StopNode, duties::announce(members.clone(), record, stop.clone()));
    supervisor.spawn("clock", OnEnd::StopNode, duties::watch_clock(members.clone(), stop.clone()));
    supervisor.spawn("readiness", OnEnd::StopNode, tell_readiness(raft.clone(), readiness.clone(), stop.clone()));
    let incarnation = keys.cluster.incarnation.clone();
    let follow = members.fleet.clone().follow(raft.status(), published.policy.clone(), incarnation, stop.clone());
    supervisor.spawn("fleet", OnEnd::StopNode, follow);
    let audit = AuditLog::start(raft.clone(), &supervisor);
    let access = Access::new(published.policy.clone(), &config, raft.clone(), audit.clone(), demand)?;
    let public_url = config.web.as_ref().map(|web| web.public_url.clone());
    let saml = SamlLogins::new(raft.clone(), &kek, &keys, public_url, file.name.as_str().into())?;
    let jobs = api::Jobs { raft: raft.clone(), beats: Beats::start(raft.clone(), &supervisor) };
    supervisor.spawn("jobs", OnEnd::StopNode, sweep(raft.clone(), file.name.as_str().into(), stop.clone()));
    let parts = webhooks::Parts {
        raft: raft.clone(),
        kek: Arc::clone(&kek),
        policy: published.policy.clone(),
        cluster: keys.cluster.id.as_str().into(),
    };
    supervisor.spawn("webhooks", OnEnd::StopNode, webhooks::deliver(parts, stop.clone()));
    let desk = api::token_desk((&keys, &signers), &access, &saml, &jobs);
    if let Some(listener) = web_listener {
        let parts = web::Parts {
            saml: saml.clone(),
            audit,
            desk: desk.clone(),
            policy: published.policy.clone(),
            book: book.clone(),
        };
        listener.start(&shown, parts, &supervisor, &stop)?;
    }
    let cluster_api = api::cluster::Service::new(&members, &kek, &keys, &access, config.signing_keys);
    let routes = api::routes(
        &raft,
        &hub,
        &kek,
        &keys,
        &access,
        &published,
        (&desk, &saml, &jobs),
        (&recordings, &copies, &book, &archivist),
        cluster_api,
        &members,
        &stop,
    );
    let (ready, sessions) = (readiness.clone(), supervisor.clone());
    supervisor.spawn("grpc", OnEnd::StopNode, async move {
        serve::serve(listener, tls, revocations, routes, &sessions, stop).await;
        ready.set("api", false);
        recordings.stop().await;
        drop(stop_raft);
        // A leader hands over as it ends; what reaches its peers ends after it.
        let mut status = raft.status();
        let ended = async { while status.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(RAFT_END_LIMIT, ended).await;
        drop(stop_peers);
    });
    readiness.set("api", true);
    info!(address = %grpc_addr, cluster = keys.cluster.id, node = %file.name, id = file.id, "the control plane serves");
    Ok(ControlHandle {
        grpc_addr,
        peer_addr,
        ops_addr: ops,
        web_addr,
        cluster_id: keys.cluster.id.clone(),
        ca_pem: keys.cluster.ca_pem.clone(),
        admin_credential_dir: data.admin(),
        readiness,
        keys,
        raft: members.raft,
    })
}

/// The feed with its first policy: as soon as there is a leader.
async fn start_feed(
    members: &Members,
    hub: &WatchHub,
    kek: &Arc<Kek>,
    keys: &Arc<ClusterKeys>,
) -> Result<(Feed, Published), ControlError> {
    let mut told = false;
    loop {
        let (raft, credential) = (members.raft.clone(), members.credential.clone());
        match Feed::start(raft, hub.clone(), Arc::clone(kek), Arc::clone(keys), credential).await {
            Err(FeedError::Read(error @ (ReadError::NotLeader | ReadError::Unavailable | ReadError::Overloaded))) => {
                if !told {
                    info!(%error, "waiting for a leader");
                    told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
            started => return Ok(started?),
        }
    }
}

/// Ready while a leader is known and this node has applied what it knows to be committed.
async fn tell_readiness(raft: RaftHandle, readiness: Readiness, stop: CancellationToken) {
    let mut status = raft.status();
    loop {
        let ready = {
            let status = status.borrow_and_update();
            status.leader != 0 && status.applied.saturating_add(READY_LAG) >= status.committed
        };
        readiness.set("raft", ready);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

/// Stops the node once it is no member any more, and says so.
async fn until_removed(members: Members, supervisor: Supervisor) {
    let (mut view, stop) = (members.view.clone(), supervisor.sessions_ended_token());
    let why = tokio::select! {
        () = stop.cancelled() => return,
        why = members.peers.removed() => why,
        removed = view.wait_for(|view| view.removed.is_some()) => {
            // Else Raft has ended: it says why itself.
            if removed.is_ok() { "its record was removed".to_owned() } else { String::new() }
        }
    };
    if why.is_empty() {
        return stop.cancelled().await;
    }
    supervisor.stop_node(&format!(
        "this node was removed from the cluster ({why}): it stops. To come back, empty its data directory and join as a new member"
    ));
    stop.cancelled().await;
}

/// The key-encryption keys. With `old` data a lost key is not replaced by a new one, which would open nothing.
pub(crate) fn kek(config: &ControlConfig, old: bool) -> Result<Kek, KeyError> {
    match (&config.kek, &config.kek_file) {
        (Some(kek), _) => Kek::new(kek, old),
        (None, Some(path)) => Kek::new(&KekConfig::file(path), old),
        (None, None) => Kek::new(&KekConfig::file(&config.data_dir.join("kek")), old),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address).await.map_err(|source| ControlError::Listen { address, source })
}

fn bound(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, ControlError> {
    listener.local_addr().map_err(|source| ControlError::Listen { address, source })
}

async fn ops_endpoint(
    config: &ControlConfig,
    readiness: &Readiness,
    supervisor: &Supervisor,
) -> Result<Option<SocketAddr>, ControlError> {
    let Some(address) = config.ops_listen else { return Ok(None) };
    let listener = listen(address).await?;
    let bound = bound(&listener, address)?;
    let metrics = telemetry::install_metrics();
    let serve = ops::serve(listener, metrics, readiness.clone(), supervisor.sessions_ended_token());
    supervisor.spawn("ops", OnEnd::StopNode, serve);
    Ok(Some(bound))
}

/// The newest policy, for whoever decides by it here.
pub(crate) type PolicyWatch = watch::Receiver<Arc<Policy>>;
