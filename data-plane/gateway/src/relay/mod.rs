//! Streams to targets whose agents have no tunnel here: through another gateway that has one, one hop and never more.
//!
//! A [`Router`] takes an own tunnel where there is one whose agent stays, else asks the gateways that hold one, the least busy first; `peers` keeps the links to
//! them. The other side is a [`Holder`]: it opens through its own tunnels only, and only what policy there knows as well. Until a route is
//! open the next one is tried; from then on a break is the session's end.

mod carry;
mod metrics;
mod peers;
mod serve;

use std::net::SocketAddr;
use std::time::Duration;

use postern_core::fleet::FleetGateway;
use postern_core::{Code, Name};
use postern_proto::tunnel::v1::{Open, OpenStatus, RelayCancel, RelayOpen, RelayOpened, RelayStatus};
use postern_protocols::tunnel::{self, FrameError, MAX_MESSAGE};
use postern_runtime::tunnel::wire::{self, WireError};
use postern_runtime::tunnel::{LinkError, RecvHalf, SendHalf, cause};
use tokio::sync::watch;

pub(crate) use peers::Peers;
pub(crate) use serve::Holder;

use crate::cancel;
use crate::fleet::Fleet;
use crate::policy_feed::Feed;
use crate::tunnels::{HeldStream, OpenError, Tunnels};
use crate::upstream::{BoxStream, Destination};

/// How long a target may take, as the agent is told.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the other gateway may take to say that it is at it.
const HEARD: Duration = Duration::from_secs(2);
/// How long it may take from then on: it tries several agents.
const ANSWER: Duration = Duration::from_secs(14);
/// Gateways that are asked for one stream.
const TRIES: usize = 3;
/// Gateways that a cancel request is passed to: its key is of one, and by chance of others.
const OWNERS: usize = 8;

/// No stream to the target by any route.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    /// Through an own tunnel, and no other gateway has one.
    #[error(transparent)]
    Tunnel(#[from] OpenError),
    /// An agent said no to the gateway that holds its tunnel.
    #[error("through gateway {gateway}: {status:?}: {detail}")]
    Refused {
        /// Which.
        gateway: Name,
        /// The agent's word.
        status: OpenStatus,
        /// For the log.
        detail: String,
    },
    /// No gateway that is said to hold a tunnel could open it.
    #[error("through gateway {gateway}: {why}")]
    Relay {
        /// The last that was asked.
        gateway: Name,
        /// What.
        why: String,
    },
}

impl RouteError {
    /// What the client is told.
    #[must_use]
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Tunnel(error) => error.code(),
            Self::Refused { .. } => Code::TargetUnavailable,
            Self::Relay { .. } => Code::AgentUnavailable,
        }
    }
}

/// Finds a way to a target behind an agent. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) tunnels: Tunnels,
    pub(crate) fleet: Fleet,
    pub(crate) feed: watch::Receiver<Feed>,
    /// None: sessions go through own tunnels alone.
    pub(crate) peers: Option<Peers>,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Peer(#[from] peers::PeerError),
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Wire(#[from] WireError<FrameError>),
    #[error("no answer in time")]
    TimedOut,
    #[error("{0:?}: {1}")]
    Status(RelayStatus, String),
    #[error("{0:?}: {1}")]
    Agent(OpenStatus, String),
}

impl Router {
    /// Opens a stream to `to` through an agent of `pool`. The caller bounds the time.
    ///
    /// # Errors
    /// When no gateway has a tunnel that works, or the agent says no.
    pub(crate) async fn open(&self, pool: &Name, to: &Destination) -> Result<BoxStream, RouteError> {
        // Agents that are about to stop come after all that stay, wherever their tunnels are.
        let own_last = self.peers.is_some() && self.tunnels.all_drain(pool);
        let mut last = None;
        if !own_last {
            match self.own(pool, to).await {
                Ok(stream) => return Ok(stream),
                Err(error) if !error.elsewhere() => return Err(error.into()),
                Err(error) => last = Some(error.into()),
            }
        }
        let holders = self.peers.as_ref().map(|peers| (peers, self.holders(pool, to, peers)));
        for (peers, holder) in holders.into_iter().flat_map(|(peers, all)| all.into_iter().map(move |it| (peers, it))) {
            match relayed(peers, &holder, pool, to).await {
                Ok(stream) => {
                    metrics::opened("connected");
                    return Ok(stream);
                }
                Err(Fault::Agent(status, detail)) if status != OpenStatus::Unavailable => {
                    metrics::opened("refused");
                    return Err(RouteError::Refused { gateway: holder.name, status, detail });
                }
                Err(fault) => {
                    metrics::opened("failed");
                    tracing::debug!(gateway = %holder.name, error = %fault, "not opened through this gateway");
                    last = Some(RouteError::Relay { gateway: holder.name, why: fault.to_string() });
                }
            }
        }
        match last {
            Some(error) if !own_last => Err(error),
            _ => self.own(pool, to).await.map_err(Into::into),
        }
    }

    /// Passes a cancel request on to the gateway whose session it is for; whether it found one.
    pub(crate) async fn cancel(&self, pid: u32, secret: &[u8], from: SocketAddr) -> bool {
        let Some(peers) = &self.peers else { return false };
        let Some(current) = self.feed.borrow().current.clone() else { return false };
        let shared = current.snapshot.mask_key.expose();
        let is_owner = |gateway: &&FleetGateway| {
            gateway.name != *peers.own_name() && cancel::may_be_of(&gateway.name, pid, secret, shared)
        };
        let owners: Vec<FleetGateway> = self.fleet.view().gateways().filter(is_owner).take(OWNERS).cloned().collect();
        let asked = owners.iter().map(|owner| cancelled(peers, owner, pid, secret, from));
        futures::future::join_all(asked).await.into_iter().any(|done| done)
    }

    async fn own(&self, pool: &Name, to: &Destination) -> Result<BoxStream, OpenError> {
        let stream = self.tunnels.open(pool, &to.target.address, to.session, &to.name).await?;
        Ok(Box::new(stream))
    }

    /// The gateways to ask, best first. One that does not serve the target is not trusted with its sessions, whatever it says it holds.
    fn holders(&self, pool: &Name, to: &Destination, peers: &Peers) -> Vec<FleetGateway> {
        let view = self.fleet.view();
        let current = self.feed.borrow().current.clone();
        let none = std::collections::BTreeMap::new();
        let labels = current.as_ref().and_then(|current| current.snapshot.targets.get(&to.name)).map(|it| &it.labels);
        let labels = labels.unwrap_or(&none);
        let trusted = |gateway: &&FleetGateway| {
            gateway.name != *peers.own_name() && view.serves(&gateway.name, &to.name, labels) == Some(true)
        };
        let mut holders: Vec<FleetGateway> = view.holders(pool).into_iter().filter(trusted).cloned().collect();
        // Stable: among those that answer, and among those that did not lately, the order stays.
        holders.sort_by_cached_key(|gateway| peers.is_suspect(&gateway.name));
        holders.truncate(TRIES);
        holders
    }
}

async fn cancelled(peers: &Peers, owner: &FleetGateway, pid: u32, secret: &[u8], from: SocketAddr) -> bool {
    let cancel = RelayCancel { pid, secret: secret.to_vec(), client_address: from.to_string() };
    let request = RelayOpen { cancel: Some(cancel), ..RelayOpen::default() };
    let asked = async {
        let (link, _counted) = peers.link(owner).await?;
        ask(&link, &request, &mut None).await
    };
    match asked.await {
        Ok(answer) => answer.status() == RelayStatus::Connected,
        Err(fault) => {
            tracing::debug!(gateway = %owner.name, error = %fault, "a cancel request could not be passed on");
            false
        }
    }
}

async fn relayed(peers: &Peers, holder: &FleetGateway, pool: &Name, to: &Destination) -> Result<BoxStream, Fault> {
    let (link, counted) = peers.link(holder).await?;
    let request = RelayOpen {
        pool: pool.to_string(),
        open: Some(Open {
            address: to.target.address.to_string(),
            session: to.session.to_string(),
            target: to.name.to_string(),
            connect_timeout_ms: u32::try_from(CONNECT.as_millis()).unwrap_or(u32::MAX),
            // The holder says who asked: by the certificate.
            relayed_for: String::new(),
        }),
        cancel: None,
    };
    let mut halves = None;
    let answer = ask(&link, &request, &mut halves).await;
    peers.suspect(&holder.name, answer.is_err());
    let fault = match answer.map(|opened| (opened.status(), opened)) {
        Ok((RelayStatus::Connected, _)) => match halves.take() {
            Some((send, recv)) => return Ok(Box::new(HeldStream::new(send, recv, (counted, metrics::stream_out())))),
            None => Fault::TimedOut,
        },
        Ok((RelayStatus::Refused, opened)) => Fault::Agent(opened.agent_status(), opened.detail),
        Ok((status, opened)) => Fault::Status(status, opened.detail),
        Err(fault) => fault,
    };
    if let Some((mut send, mut recv)) = halves {
        // The holder, if it hears of it, gives up too.
        send.reset(cause::SILENT);
        recv.stop(cause::SILENT);
    }
    Err(fault)
}

async fn ask(
    link: &postern_runtime::tunnel::Link,
    request: &RelayOpen,
    halves: &mut Option<(SendHalf, RecvHalf)>,
) -> Result<RelayOpened, Fault> {
    let heard = async {
        let (send, recv) = halves.insert(link.open().await?);
        wire::write(send, tunnel::frame(request)).await?;
        let first: RelayOpened = wire::read(recv, MAX_MESSAGE, tunnel::decode).await?;
        Ok::<_, Fault>((recv, first))
    };
    let (recv, first) = tokio::time::timeout(HEARD, heard).await.map_err(|_| Fault::TimedOut)??;
    if first.status() != RelayStatus::Opening {
        return Ok(first);
    }
    let answer = wire::read(recv, MAX_MESSAGE, tunnel::decode);
    Ok(tokio::time::timeout(ANSWER, answer).await.map_err(|_| Fault::TimedOut)??)
}
