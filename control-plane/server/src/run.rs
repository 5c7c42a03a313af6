//! Starting and stopping a control-plane node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postern_core::node::NodeIdentity;
use postern_runtime::ops::{self, Readiness};
use postern_runtime::pki::{NodeCredential, PkiError, Revocations, RotatingCredential};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::{jwt, telemetry, tls};
use postern_state::Refusal;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api::{self, Access, AuditLog};
use crate::bootstrap::{self, ClusterKeys};
use crate::cluster;
use crate::cluster::RedeemError;
use crate::cluster::identity::{DataDir, IdentityError, NodeFile};
use crate::cluster::view::{Observers, ViewObserver};
use crate::config::ControlConfig;
use crate::feed::{Feed, FeedError, Policy};
use crate::identity::IssuerKeysLoop;
use crate::keys::config::KekConfig;
use crate::keys::{Kek, KeyError};
use crate::raft::log_store::{SledLog, StorageError};
use crate::raft::transport::NoPeers;
use crate::raft::{DriverError, NoForward, NodeConfig, ProposeError, RaftHandle, ReadError, start};
use crate::recordings::Recordings;
use crate::watch::WatchHub;
use crate::{serve, serving};

/// How long a node may take until it leads and has applied its log.
const START_LIMIT: Duration = Duration::from_secs(60);
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
    /// The recordings' directory.
    #[error("recordings: {0}")]
    Recordings(std::io::Error),
}

/// A control-plane node that runs.
pub struct ControlHandle {
    /// Where the gRPC API listens.
    pub grpc_addr: SocketAddr,
    /// Where the operations endpoint listens, when it does.
    pub ops_addr: Option<SocketAddr>,
    /// Names the cluster.
    pub cluster_id: String,
    /// The cluster's certificate authority.
    pub ca_pem: String,
    /// Where the administrator's credential lies.
    pub admin_credential_dir: PathBuf,
    /// What is ready.
    pub readiness: Readiness,
    keys: Arc<ClusterKeys>,
}

impl ControlHandle {
    /// A new key and certificate for a node that runs in this process.
    ///
    /// # Errors
    /// When a name may not stand in a certificate.
    pub fn issue_node_credential(
        &self,
        identity: &NodeIdentity,
        alt_names: &[String],
    ) -> Result<NodeCredential, PkiError> {
        bootstrap::issue(&self.keys.authority, identity, alt_names)
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
    let grpc_addr = listener.local_addr().map_err(|source| ControlError::Listen { address: config.listen, source })?;

    // Outlives the API, which outlives the sessions.
    let raft_stop = CancellationToken::new();
    let node = NodeConfig::new(file.id);
    let log_dir = data.log();
    let log =
        SledLog::open(&log_dir).map_err(|source| ControlError::Log { dir: log_dir.display().to_string(), source })?;
    if !file.started {
        file.started = true;
        data.save(&file)?;
    }
    let (hub_writer, hub) = WatchHub::new();
    let (view_writer, views) = ViewObserver::new(file.id);
    let raft = start(
        &node,
        log,
        NoPeers,
        Observers(hub_writer, view_writer),
        Arc::new(NoForward),
        &supervisor,
        raft_stop.clone(),
    )?;
    let stop_raft = raft_stop.clone().drop_guard();

    let keys = tokio::time::timeout(START_LIMIT, cluster_keys(&raft, &kek, &file, &config))
        .await
        .map_err(|_| ControlError::Slow(START_LIMIT))??;
    let keys = Arc::new(keys);
    if config.dev {
        bootstrap::admin_credential(&keys.authority, &data.admin())?;
    }

    let (feed, published) =
        Feed::start(raft.clone(), hub.clone(), Arc::clone(&kek), Arc::clone(&keys), credential.clone()).await?;
    let recordings = Recordings::start(&data.recordings(), &supervisor).map_err(ControlError::Recordings)?;

    let revocations = Revocations::new(views.revoked.clone());
    let shown = serving::compatible(&credential, &keys, &raft, &supervisor)?;
    let tls = tls::server_optional_client_rotating(&shown, revocations.clone(), &[b"h2"])?;
    let readiness = Readiness::new(&["raft", "api"]);
    let ops = ops_endpoint(&config, &readiness, &supervisor).await?;

    let stop = supervisor.sessions_ended_token();
    supervisor.spawn("policy-feed", OnEnd::StopNode, feed.run(stop.clone()));
    supervisor.spawn("issuer-keys", OnEnd::StopNode, IssuerKeysLoop::new(raft.clone()).run(stop.clone()));
    let audit = AuditLog::start(raft.clone(), &supervisor);
    let access = Access::new(published.policy.clone(), &config, raft.clone(), audit);
    let cluster_api = api::cluster::Service::new(&raft, &keys, &access);
    let routes = api::routes(&raft, &hub, &kek, &keys, &access, &published, &recordings, cluster_api, &stop);
    let (ready, sessions) = (readiness.clone(), supervisor.clone());
    supervisor.spawn("grpc", OnEnd::StopNode, async move {
        serve::serve(listener, tls, revocations, routes, &sessions, stop).await;
        ready.set("api", false);
        recordings.stop().await;
        drop(stop_raft);
    });
    readiness.set("raft", true);
    readiness.set("api", true);
    info!(address = %grpc_addr, cluster = keys.cluster.id, node = %file.name, "the control plane serves");
    Ok(ControlHandle {
        grpc_addr,
        ops_addr: ops,
        cluster_id: keys.cluster.id.clone(),
        ca_pem: keys.cluster.ca_pem.clone(),
        admin_credential_dir: data.admin(),
        readiness,
        keys,
    })
}

/// Opens the keys of the cluster that this node is of.
async fn cluster_keys(
    raft: &RaftHandle,
    kek: &Kek,
    file: &NodeFile,
    config: &ControlConfig,
) -> Result<ClusterKeys, ControlError> {
    let cluster = raft.read(|state| state.cluster().cloned()).await?.ok_or(ControlError::NoCluster)?;
    if (&cluster.id, &cluster.incarnation) != (&file.cluster_id, &file.incarnation) {
        return Err(ControlError::OtherCluster { own: file.cluster_id.clone(), found: cluster.id.clone() });
    }
    bootstrap::open_keys(kek, cluster, config.certificate_lifetime.0).await
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

async fn ops_endpoint(
    config: &ControlConfig,
    readiness: &Readiness,
    supervisor: &Supervisor,
) -> Result<Option<SocketAddr>, ControlError> {
    let Some(address) = config.ops_listen else { return Ok(None) };
    let listener = listen(address).await?;
    let bound = listener.local_addr().map_err(|source| ControlError::Listen { address, source })?;
    let metrics = telemetry::install_metrics();
    let serve = ops::serve(listener, metrics, readiness.clone(), supervisor.sessions_ended_token());
    supervisor.spawn("ops", OnEnd::StopNode, serve);
    Ok(Some(bound))
}

/// The newest policy, for whoever decides by it here.
pub(crate) type PolicyWatch = watch::Receiver<Arc<Policy>>;
