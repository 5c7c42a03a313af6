//! Who has come: agents with their certificate, other gateways, and those who ask to be let in.

use std::sync::Arc;
use std::time::Duration;

use postern_core::Name;
use postern_core::fleet::FleetGateway;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_protocols::tunnel::{
    self, ALPN, ALPN_ENROL, ALPN_ENROL_TCP, ALPN_TCP, FrameError, Hello, MAX_MESSAGE, Welcome,
};
use postern_runtime::tunnel::wire::{self, WireError};
use postern_runtime::tunnel::{Link, LinkError, RecvHalf, SendHalf, cause};

use super::{Shared, Tunnel, listen, metrics, proxy, serve};

const GREETING: Duration = Duration::from_secs(10);
/// How long a peer that is refused has to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Tunnels of one agent to this gateway: one, and others for a moment while it moves or an old one is not known to be dead.
const OF_ONE_AGENT: usize = 8;
/// A gateway that has too many tunnels says when to ask again, so that not all ask at once.
const COME_BACK: std::ops::Range<u32> = 10_000..40_000;

#[derive(Debug, thiserror::Error)]
pub(super) enum GreetError {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("greeting: {0}")]
    Wire(#[from] WireError<FrameError>),
    #[error("it has shown no certificate of an agent or gateway")]
    NotANode,
    #[error("it speaks version {min} to {max} of the protocol, this gateway up to {}", tunnel::versions().1)]
    Version { min: u32, max: u32 },
    #[error("the greeting does not agree with the certificate of {0}")]
    Disagrees(NodeIdentity),
    #[error("{0} tunnels already")]
    TooMany(usize),
    #[error("no greeting in time")]
    TimedOut,
}

impl GreetError {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Link(_) | Self::Wire(_) => "broken",
            Self::NotANode => "certificate",
            Self::Version { .. } => "version",
            Self::Disagrees(_) => "claim",
            Self::TooMany(_) => "full",
            Self::TimedOut => "timeout",
        }
    }
}

/// Serves a peer until its link closes.
pub(super) async fn peer(link: Link, shared: Arc<Shared>) {
    let known = match link.alpn() {
        alpn if alpn == ALPN_ENROL || alpn == ALPN_ENROL_TCP => return proxy::strangers(link, &shared).await,
        alpn if alpn == ALPN || alpn == ALPN_TCP => link.peer().cloned(),
        _ => None,
    };
    let stop = shared.supervisor.sessions_ended_token();
    match known {
        Some(NodeIdentity { role: NodeRole::Gateway, .. }) if shared.peers.is_some() => {
            let Some(peers) = &shared.peers else { return };
            listen::allow_peer(&link);
            tokio::select! {
                () = peers.serve(link.clone()) => {}
                () = link.until_revoked(shared.revoked.clone()) => link.close(cause::NOT_ALLOWED, "the certificate was revoked"),
                () = stop.cancelled() => {}
            }
        }
        Some(identity @ NodeIdentity { role: NodeRole::Agent, .. }) => {
            let greeted = tokio::select! {
                greeted = tokio::time::timeout(GREETING, greet(&link, &identity, &shared)) => greeted,
                () = stop.cancelled() => return,
            };
            match greeted.unwrap_or(Err(GreetError::TimedOut)) {
                Ok((tunnel, control)) => serve::tunnel(Arc::new(tunnel), control, &shared).await,
                Err(error) => refuse(&link, &error, &shared),
            }
        }
        _ => refuse(&link, &GreetError::NotANode, &shared),
    }
}

fn refuse(link: &Link, error: &GreetError, shared: &Shared) {
    metrics::refused(error.reason());
    if shared.admission.may_log() {
        let peer = link.peer().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(remote = %link.remote(), peer, %error, "tunnel refused");
    }
    link.close(cause::NOT_ALLOWED, "refused");
}

async fn greet(
    link: &Link,
    identity: &NodeIdentity,
    shared: &Shared,
) -> Result<(Tunnel, (SendHalf, RecvHalf)), GreetError> {
    let Some(pool) = identity.pool.clone() else { return Err(GreetError::NotANode) };
    let (mut send, mut recv) = link.accept().await?;
    let hello: Hello = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await?;
    let judged = judge(&hello, identity, &pool, shared);
    let welcome = Welcome {
        version: judged.as_ref().copied().unwrap_or(tunnel::versions().1),
        gateway: shared.gateway.to_string(),
        refused: judged.as_ref().err().map(ToString::to_string).unwrap_or_default(),
        retry_after_ms: match &judged {
            Err(GreetError::TooMany(_)) => fastrand::u32(COME_BACK),
            _ => 0,
        },
    };
    wire::write(&mut send, tunnel::frame(&welcome)).await?;
    match judged {
        Ok(version) => {
            Ok((Tunnel::new(identity.name.clone(), pool, link.clone(), version, release(hello.release)), (send, recv)))
        }
        Err(error) => {
            let _ = send.finish();
            let _ = tokio::time::timeout(LAST_WORDS, link.closed()).await;
            Err(error)
        }
    }
}

/// An agent's word for its release, no longer than the directory takes.
fn release(mut said: String) -> String {
    said.truncate(said.floor_char_boundary(FleetGateway::MAX_VERSION));
    said
}

/// The version to speak.
fn judge(hello: &Hello, identity: &NodeIdentity, pool: &Name, shared: &Shared) -> Result<u32, GreetError> {
    if hello.agent != identity.name.as_str() || hello.pool != pool.as_str() {
        return Err(GreetError::Disagrees(identity.clone()));
    }
    let (all, own) = (shared.tunnels.len(), shared.tunnels.of_agent(pool, &identity.name));
    if own >= OF_ONE_AGENT {
        return Err(GreetError::TooMany(own));
    }
    if all >= usize::try_from(shared.config.max_tunnels).unwrap_or(usize::MAX) {
        return Err(GreetError::TooMany(all));
    }
    let version = tunnel::agree(hello.version_min, hello.version);
    version.ok_or(GreetError::Version { min: hello.version_min, max: hello.version })
}
