//! The gateway: where clients connect, and the only place that lets an operation through.
//!
//! An operation's way is one direction: [`listener`] accepts, [`identify`] turns a token into a principal, a [`session`] classifies,
//! decides and has the [`recorder`] write it down before the bytes go [`upstream`]; the reply is masked, recorded, and leaves.

mod approvals;
mod cancel;
mod catalogs;
pub mod config;
mod control;
mod credentials;
mod drain;
mod estimate;
mod fleet;
mod identify;
mod issuer_keys;
mod limits;
mod listener;
mod metrics;
mod policy_feed;
mod recorder;
mod relay;
mod replayed;
mod reviews;
mod session;
mod tunnels;
mod upstream;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postern_core::Name;
use postern_core::node::{GATEWAYS_NAME, NodeRole};
use postern_core::target::Protocol;
use postern_proto::admin::v1::RenewCertificateRequest;
use postern_proto::admin::v1::certificate_service_client::CertificateServiceClient;
use postern_protocols::registry;
use postern_protocols::tunnel::Gateways;
use postern_runtime::clock;
use postern_runtime::ops::{self, Readiness};
use postern_runtime::pki::{self, NodeCredential, PkiError, Revocations, RotatingCredential, SealSigner};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::telemetry;
use postern_runtime::tls::{self, TlsError};
use postern_runtime::vault::{Vault, VaultError};
use postern_runtime::workers::Workers;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use config::{Addresses, GatewayConfig, KeptPolicyConfig, Limits, ListenerConfig, Quota};
pub use control::ControlError;
pub use credentials::config::CredentialsConfig;
pub use fleet::{AdvertiseError, FleetConfig};
pub use recorder::{Durability, SpoolError};
pub use tunnels::{TunnelsConfig, TunnelsError};

/// For a test of this release beside the next, of agents as of gateways.
#[doc(hidden)]
pub use postern_protocols::tunnel::speak_as_the_next;

use approvals::Approvals;
use cancel::CancelKeys;
use catalogs::Catalogs;
use control::ControlPlane;
use credentials::Accounts;
use estimate::Estimator;
use fleet::{Advertised, Bound, Fleet, Following};
use issuer_keys::IssuerKeys;
use limits::{FailedLogins, Limiter};
use policy_feed::kept::{self, KeptConfig};
use recorder::{RecorderConfig, UploadClient};
use relay::{Holder, Peers, Router};
use reviews::Reviews;
use session::Shared;
use tunnels::{PeerLinks, Tunnels};
use upstream::Dialer;
use uses::Uses;

/// Recordings hold events of up to 16 MiB, and as much again around them.
const MAX_UPLOAD: usize = 64 << 20;

/// The gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The certificate is not a gateway's.
    #[error("the credential is of {0}, not of a gateway")]
    NotAGateway(String),
    /// The credential cannot be read.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The control plane's address cannot be used.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The references to credentials that it may follow.
    #[error("{0}")]
    Credentials(String),
    /// The Vault of its configuration cannot be used.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The tunnel listener cannot start.
    #[error(transparent)]
    Tunnels(#[from] TunnelsError),
    /// An address that others are to be told.
    #[error(transparent)]
    Advertise(#[from] AdvertiseError),
    /// The threads of its sessions cannot start.
    #[error("threads for sessions: {0}")]
    Workers(#[source] std::io::Error),
    /// An address cannot be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the listener's certificate cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Only one of two files that go together is given.
    #[error("listener: certificate_file and key_file go together")]
    HalfCertificate,
}

/// A running gateway.
#[derive(Clone, Debug)]
pub struct GatewayHandle {
    /// Where PostgreSQL clients connect.
    pub postgres_addr: SocketAddr,
    /// Where agents dial in.
    pub tunnel_addr: Option<SocketAddr>,
    /// Where they do over TCP.
    pub tunnel_tcp_addr: Option<SocketAddr>,
    /// Where its health is told.
    pub ops_addr: Option<SocketAddr>,
    /// The certificate chain that clients see, PEM.
    pub listener_certificate_pem: String,
    /// What of it works.
    pub readiness: Readiness,
    tunnels: Tunnels,
    fleet: Fleet,
}

/// What a gateway knows of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Of the leader whose directory it is.
    pub term: u64,
    /// The agents that each gateway has a tunnel of, by pool counted once in each.
    pub agents: BTreeMap<Name, u64>,
}

impl GatewayHandle {
    /// The agents that have a tunnel here, each with its pool.
    #[must_use]
    pub fn agents(&self) -> BTreeSet<(Name, Name)> {
        self.tunnels.held().into_iter().map(|held| (held.pool, held.agent)).collect()
    }

    /// What it knows of all gateways, itself among them.
    #[must_use]
    pub fn known(&self) -> Known {
        let view = self.fleet.view();
        Known { term: view.epoch().term, agents: view.agents() }
    }

    /// How many agents have a tunnel, over all pools.
    #[must_use]
    pub fn tunnel_count(&self) -> usize {
        self.tunnels.counts().values().sum()
    }
}

/// Renews the gateway's certificate at the control plane before it ends; recordings are sealed with the newest.
fn keep_fresh(
    control: &ControlPlane,
    credential: RotatingCredential,
    dir: Option<PathBuf>,
    signer: SealSigner,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let control = control.clone();
    async move {
        let renew = |csr: Vec<u8>| {
            let mut client = CertificateServiceClient::new(control.any());
            async move {
                let renewed = client.renew_certificate(RenewCertificateRequest { csr }).await;
                renewed.map(|answer| answer.into_inner().certificate_pem).map_err(|status| status.message().to_owned())
            }
        };
        let mut changes = credential.changes();
        let shown = async {
            while changes.changed().await.is_ok() {
                signer.renewed(&changes.borrow_and_update().certificate_der());
            }
        };
        tokio::select! {
            () = pki::keep_fresh(credential.clone(), dir, renew, stop) => {}
            () = shown => {}
        }
    }
}

/// Starts the gateway's tasks. Its name is that of its certificate. It serves once the control plane has sent it a policy.
///
/// # Errors
/// When it cannot start at all; a control plane that is away is retried, and no error.
pub async fn run(
    config: GatewayConfig,
    credential: NodeCredential,
    supervisor: Supervisor,
) -> Result<GatewayHandle, GatewayError> {
    let identity = credential.identity()?;
    if identity.role != NodeRole::Gateway {
        return Err(GatewayError::NotAGateway(identity.to_string()));
    }
    if let Some(fault) = config.credentials.faults() {
        return Err(GatewayError::Credentials(fault));
    }
    let readiness = Readiness::new(&["policy", "recorder", "accepting"]);
    let metrics = telemetry::install_metrics();
    let ended = supervisor.sessions_ended_token();

    let recorder_config =
        RecorderConfig { dir: config.spool_dir.clone(), max_bytes: config.spool_max.0, durability: config.durability };
    let spool_key = recorder::SpoolKey::of(&credential)?;
    let (signer, credential) = (credential.signer()?, RotatingCredential::new(credential)?);
    let (recorder, uploader) = recorder::start(&recorder_config, spool_key, signer.clone(), &supervisor)?;
    let (to_revoked, revoked) = watch::channel(Arc::default());
    let revocations = Revocations::new(revoked);
    let control = ControlPlane::new(&config.control_plane, &credential, revocations.clone())?;
    let upload = UploadClient::new(control.any()).max_encoding_message_size(MAX_UPLOAD);
    let dir = Some(config.credential_dir.clone()).filter(|dir| !dir.as_os_str().is_empty());
    supervisor.spawn(
        "certificate",
        OnEnd::StopNode,
        keep_fresh(&control, credential.clone(), dir, signer, ended.clone()),
    );
    let uploading = uploader.run(upload, ended.clone(), config.flush_limit.0, supervisor.hurry_token());
    supervisor.spawn("upload", OnEnd::StopNode, uploading);
    supervisor.spawn(
        "recorder-watch",
        OnEnd::StopNode,
        watch_recorder(recorder.clone(), readiness.clone(), ended.clone()),
    );

    let kept = KeptConfig {
        gateway: identity.name.clone(),
        dir: config.kept_policy.dir.clone().unwrap_or_else(|| config.spool_dir.join("policy")),
        credentials: config.kept_policy.credentials,
        limit: config.staleness_limit.0,
    };
    let (loaded, keeper) = kept::start(config.kept_policy.enabled, kept, &credential.current(), &supervisor);
    let tunnels = Tunnels::default();
    let (held, feed, standings) = policy_feed::Held::new(loaded, keeper, tunnels.revoked_gateways().clone());
    let follow = policy_feed::follow(control.clone(), held, readiness.clone(), config.staleness_limit.0, ended.clone());
    supervisor.spawn("policy", OnEnd::StopNode, follow);
    let follow = policy_feed::follow_revoked(feed.clone(), to_revoked, ended.clone());
    supervisor.spawn("revocations", OnEnd::StopNode, follow);

    let fleet = Fleet::new(tunnels.clone());
    let (name, most) = (identity.name.clone(), config.fleet.max_relayed);
    let (relays, cancels) = (config.fleet.relay, CancelKeys::new(name.clone()));
    let holder = relays.then(|| {
        Holder::new(
            name.clone(),
            tunnels.clone(),
            fleet.clone(),
            feed.clone(),
            cancels.clone(),
            most,
            supervisor.clone(),
        )
    });
    let holder = holder.map(|holder| Arc::new(holder) as Arc<dyn PeerLinks>);
    let (tunnel_addr, tunnel_tcp_addr) =
        take_tunnels(&config, &credential, &revocations, &tunnels, &name, holder, &supervisor).await?;
    let peers = relays.then(|| Peers::new(name.clone(), &credential, revocations.clone(), supervisor.clone()));
    let router =
        Router { tunnels: tunnels.clone(), fleet: fleet.clone(), feed: feed.clone(), peers: peers.transpose()? };

    let (listener_certificate_pem, key) = listener_certificate(&config.listener, &identity.dns_name())?;
    let alpn = registry::entry(Protocol::Postgres).alpn;
    let tls = TlsAcceptor::from(Arc::new(tls::listener_for_clients(
        &listener_certificate_pem,
        &key,
        (GATEWAYS_NAME, credential.clone()),
        alpn,
    )?));
    let listener = bind(config.postgres_listen).await?;
    let postgres_addr = local(&listener, config.postgres_listen)?;

    let bound = Bound { clients: postgres_addr, quic: tunnel_addr, tcp: tunnel_tcp_addr };
    let (quic, tcp) = (&config.tunnels.addresses, &config.tunnels.tcp_addresses);
    let following = Following {
        fleet: fleet.clone(),
        control: control.clone(),
        name,
        advertised: Advertised::new(&config.fleet, quic, tcp, bound, &config.control_plane)?,
        draining: supervisor.shutdown_token(),
        started_at: clock::now(),
    };
    supervisor.spawn("fleet", OnEnd::StopNode, fleet::follow(following, ended.clone()));

    let mut ops_addr = None;
    if let Some(address) = config.ops_listen {
        let listener = bind(address).await?;
        ops_addr = Some(local(&listener, address)?);
        supervisor.spawn("ops", OnEnd::StopNode, ops::serve(listener, metrics, readiness.clone(), ended));
    }

    let vault = config.vault.as_ref().map(Vault::new).transpose()?;
    let credentials = Accounts::new(&config.credentials, vault.clone());
    let dialer = Dialer::new(router, credentials.clone());
    let (dialer, spares) =
        dialer.with_spares(feed.clone(), config.limits.connect_timeout.0, supervisor.shutdown_token());
    supervisor.spawn("spare-sessions", OnEnd::StopNode, spares);
    supervisor.spawn("credentials", OnEnd::StopNode, credentials.keep(supervisor.sessions_ended_token()));
    if let Some(vault) = vault {
        supervisor.spawn("vault-token", OnEnd::StopNode, vault.keep(supervisor.sessions_ended_token()));
    }
    let limiter = Limiter::new(config.limits.clone());
    let follow = limits::follow(
        Arc::clone(&limiter),
        identity.name.clone(),
        feed.clone(),
        fleet.subscribe(),
        supervisor.sessions_ended_token(),
    );
    supervisor.spawn("limits", OnEnd::StopNode, follow);
    let shared = Arc::new(Shared {
        gateway: identity.name,
        limits: config.limits.clone(),
        limiter,
        tls,
        feed,
        standings,
        recorder,
        catalogs: Catalogs::new(dialer.clone()),
        estimator: Estimator::new(dialer.clone(), config.estimate_limit.0),
        dialer,
        approvals: Approvals::new(control.any(), supervisor.clone()),
        cancels,
        issuer_keys: IssuerKeys::new(control.any()),
        uses: Uses::new(control.any()),
        reviews: Reviews::new(control.any()),
        failed_logins: FailedLogins::default(),
        fleet: fleet.clone(),
        supervisor: supervisor.clone(),
        workers: Workers::start(&supervisor, Workers::usual_count()).map_err(GatewayError::Workers)?,
        config,
    });
    supervisor.spawn("listener", OnEnd::StopNode, listener::accept(listener, shared));
    supervisor.spawn("drain", OnEnd::StopNode, drain::watch(readiness.clone(), supervisor.clone()));
    tracing::info!(postgres = %postgres_addr, tunnels = ?tunnel_addr, tunnels_tcp = ?tunnel_tcp_addr, "gateway listens");
    Ok(GatewayHandle {
        postgres_addr,
        tunnel_addr,
        tunnel_tcp_addr,
        ops_addr,
        listener_certificate_pem,
        readiness,
        tunnels,
        fleet,
    })
}

/// Where tunnels come in, QUIC's and TCP's.
async fn take_tunnels(
    config: &GatewayConfig,
    credential: &RotatingCredential,
    revoked: &Revocations,
    tunnels: &Tunnels,
    name: &Name,
    peers: Option<Arc<dyn PeerLinks>>,
    supervisor: &Supervisor,
) -> Result<(Option<SocketAddr>, Option<SocketAddr>), GatewayError> {
    let (quic, tcp, settings) = (config.tunnel_listen, config.tunnel_tcp_listen, config.tunnels.clone());
    if quic.is_none() && tcp.is_none() {
        return Ok((None, None));
    }
    let listening = tunnels::listen(quic, tcp, &settings, credential, revoked).await?;
    let addresses = (listening.quic_addr(), listening.tcp_addr());
    let own = settings.advertised(name.as_str(), false);
    tunnels.gateways().send_replace(Arc::new(Gateways { gateways: own.into_iter().collect(), ..Gateways::default() }));
    let shared = tunnels::Shared::new(
        name.clone(),
        tunnels.clone(),
        revoked.clone(),
        peers,
        supervisor.clone(),
        settings,
        config.control_plane.iter().cloned().collect(),
    );
    let stop = supervisor.sessions_ended_token();
    supervisor.spawn("tunnels", OnEnd::StopNode, tunnels::accept(listening, Arc::new(shared), stop));
    Ok(addresses)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(address).await.map_err(|source| GatewayError::Listen { address, source })
}

fn local(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, GatewayError> {
    listener.local_addr().map_err(|source| GatewayError::Listen { address, source })
}

fn listener_certificate(config: &ListenerConfig, own_name: &str) -> Result<(String, SecretString), GatewayError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| GatewayError::File { path: path.clone(), source })
    };
    match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => Ok((read(certificate)?, SecretString::from(read(key)?))),
        (None, None) => {
            let fixed = ["localhost", "127.0.0.1", "::1", own_name, GATEWAYS_NAME];
            let names: Vec<String> = config.names.iter().cloned().chain(fixed.map(str::to_owned)).collect();
            Ok(pki::self_signed_listener(&names)?)
        }
        _ => Err(GatewayError::HalfCertificate),
    }
}

async fn watch_recorder(
    recorder: recorder::RecorderHandle,
    readiness: Readiness,
    stop: tokio_util::sync::CancellationToken,
) {
    loop {
        readiness.set("recorder", recorder.is_ready());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
