//! Founding a cluster: its authority and keys, its first member, and the token that makes its first administrator.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postern_core::Timestamp;
use postern_core::cluster::{ControlNode, JoinToken};
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::operation::Digest;
use postern_runtime::clock;
use postern_runtime::pki::{JoinTokenText, KeyRequest, NodeCredential};
use postern_runtime::supervisor::Supervisor;
use postern_state::{Command, Success, commands, known_level};
use tokio_util::sync::CancellationToken;

use super::identity::{DataDir, NodeFile};
use crate::api::sign;
use crate::bootstrap::{self, ClusterKeys};
use crate::config::ControlConfig;
use crate::keys::Kek;
use crate::raft::log_store::DiskLog;
use crate::raft::transport::NoPeers;
use crate::raft::{NoForward, NodeConfig, RaftHandle, start};
use crate::run::{ControlError, kek};

/// The first member's id.
const FOUNDER: u64 = 1;
/// How long writing the first entries may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long to wait for the log to be closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(20);

/// A cluster that was founded. Its node is not running yet.
pub struct Founded {
    /// Names the cluster.
    pub cluster_id: String,
    /// SHA-256 of its authority, in hexadecimal.
    pub ca_fingerprint: String,
    /// Makes the first administrator: one use. Secret.
    pub bootstrap_token: JoinTokenText,
    /// Until when.
    pub token_expires_at: Timestamp,
    /// The first member's name.
    pub node_name: postern_core::Name,
}

/// Founds a cluster in the configuration's data directory. The bootstrap token is good for `token_ttl`.
///
/// # Errors
/// When the directory holds something already, or a key, the disk or the configuration is not fit.
pub async fn init(config: &ControlConfig, token_ttl: Duration) -> Result<Founded, ControlError> {
    if let Some(fault) = config.faults() {
        return Err(ControlError::Config(fault));
    }
    let data = DataDir::new(&config.data_dir);
    data.prepare_new()?;
    let kek = kek(config, false)?;
    tokio::time::timeout(LIMIT, kek.ready()).await.map_err(|_| ControlError::Slow(LIMIT))??;
    let raft = Solo::start(&data.log(), FOUNDER, vec![FOUNDER])?;
    let founded = tokio::time::timeout(LIMIT, found(config, &data, &kek, &raft.handle, token_ttl)).await;
    // Also when it failed: the log's files are let go of.
    raft.close().await;
    founded.map_err(|_| ControlError::Slow(LIMIT))?
}

async fn found(
    config: &ControlConfig,
    data: &DataDir,
    kek: &Kek,
    raft: &RaftHandle,
    token_ttl: Duration,
) -> Result<Founded, ControlError> {
    let cluster = bootstrap::make_cluster(kek).await?;
    let (cluster_id, incarnation) = (cluster.id.clone(), cluster.incarnation.clone());
    write(raft, commands::InitCluster(cluster.clone())).await?;
    let keys = bootstrap::open_keys(kek, cluster.into(), config.certificate_lifetime.0).await?;
    let name = config.name().ok_or(ControlError::NoCluster)?;
    let node = own_record(config, FOUNDER, &name, kek, config.listen, config.peer_listen)?;
    write(raft, commands::UpdateNode { node }).await?;
    let token = admit(config, data, kek, &keys, raft, &name, token_ttl).await?;
    let mut file = NodeFile::new(&cluster_id, &incarnation, FOUNDER, name.clone());
    file.started = true;
    // Last: with it, the node is made.
    data.save(&file)?;
    Ok(Founded {
        cluster_id,
        ca_fingerprint: hex(&token.text.ca_sha256),
        bootstrap_token: token.text,
        token_expires_at: token.expires_at,
        node_name: name,
    })
}

/// A token that was recorded.
pub(crate) struct Bootstrap {
    pub(crate) text: JoinTokenText,
    pub(crate) expires_at: Timestamp,
}

/// The first member's certificate, and a token for the first administrator.
pub(crate) async fn admit(
    config: &ControlConfig,
    data: &DataDir,
    kek: &Kek,
    keys: &ClusterKeys,
    raft: &RaftHandle,
    name: &postern_core::Name,
    token_ttl: Duration,
) -> Result<Bootstrap, ControlError> {
    let identity = NodeIdentity { role: NodeRole::Control, name: name.clone(), pool: None };
    let request = KeyRequest::generate()?;
    let names = config.certificate_names();
    let signed = sign(keys, &identity, &request.csr_der, &names)?;
    write(raft, commands::RecordCertificate { certificate: signed.record }).await?;
    let ca_pem = keys.authority.ca_pem().to_owned();
    let credential = NodeCredential { certificate_pem: signed.certificate_pem, key_pem: request.key_pem, ca_pem };
    data.save_credential(kek, &credential).await?;

    let text = JoinTokenText::generate(&keys.cluster.id, keys.authority.ca_pem())
        .map_err(|error| ControlError::Config(error.to_string()))?;
    let now = clock::now();
    let expires_at = now.plus(token_ttl);
    let token = JoinToken {
        id: text.id.clone(),
        role: NodeRole::Admin,
        secret_sha256: Digest(text.secret_sha256()),
        uses_left: 1,
        expires_at,
        created_at: now,
        created_by: "postern control".to_owned(),
        agent_pool: None,
        serves: None,
        name: None,
        learner: false,
        revision: 0,
    };
    write(raft, commands::CreateJoinToken { token }).await?;
    Ok(Bootstrap { text, expires_at })
}

/// What a member tells of itself.
pub(crate) fn own_record(
    config: &ControlConfig,
    id: u64,
    name: &postern_core::Name,
    kek: &Kek,
    api: std::net::SocketAddr,
    peer: Option<std::net::SocketAddr>,
) -> Result<ControlNode, ControlError> {
    Ok(ControlNode {
        id,
        name: name.clone(),
        peer_address: config.peer_address(peer).map_err(ControlError::Config)?,
        api_address: config.api_address(api).map_err(ControlError::Config)?,
        feature_level: known_level(),
        kek_ids: kek.ids(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        joined_at: Timestamp::default(),
        revision: 0,
        learner: false,
    })
}

/// A raft of one that runs only as long as something is written: no listener, no peers.
pub(crate) struct Solo {
    pub(crate) handle: RaftHandle,
    supervisor: Supervisor,
    stop: CancellationToken,
}

impl Solo {
    pub(crate) fn start(log_dir: &Path, id: u64, founders: Vec<u64>) -> Result<Self, ControlError> {
        let (supervisor, stop) = (Supervisor::new(), CancellationToken::new());
        let log = DiskLog::open(log_dir)
            .map_err(|source| ControlError::Log { dir: log_dir.display().to_string(), source })?;
        let node = NodeConfig { founders, ..NodeConfig::new(id) };
        let handle = start(&node, log, NoPeers, (), Arc::new(NoForward), &supervisor, stop.clone())?;
        Ok(Self { handle, supervisor, stop })
    }

    /// Lets go of the log.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        drop(self.handle);
        let drained = self.supervisor.drain(CLOSE_LIMIT).await;
        if !drained.all_ended {
            tracing::warn!("the log was not closed in time");
        }
    }
}

pub(crate) async fn write(raft: &RaftHandle, command: impl Into<Command>) -> Result<Success, ControlError> {
    raft.propose(command, Some(clock::request_id())).await?.map_err(ControlError::Refused)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
