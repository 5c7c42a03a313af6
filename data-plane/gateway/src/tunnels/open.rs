//! Opening a stream through one of a pool's tunnels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postern_core::target::Address;
use postern_core::{Code, Name, SessionId};
use postern_protocols::tunnel::{self, FrameError, MAX_MESSAGE, Open, OpenStatus, Opened};
use postern_runtime::tunnel::wire::{self, WireError};
use postern_runtime::tunnel::{LinkError, RecvHalf, SendHalf, cause};

use super::stream::HeldStream;
use super::{Tunnel, Tunnels, metrics};

/// The agent itself waits this long for the target; we wait a little longer for the agent.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(12);
/// How long an agent may take to say that it is at it: one that does not is behind a path that swallows everything, or hangs.
const HEARD: Duration = Duration::from_secs(2);
/// Tunnels that are tried for one stream.
const TRIES: usize = 3;
/// How long the target may take, as an agent is told while there is another one to ask: the way from this one may be broken.
const CONNECT_FIRST: Duration = Duration::from_secs(4);
/// With less than this left, no other agent is asked.
const CONNECT_LEAST: Duration = Duration::from_secs(1);

/// No stream to the target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// No agent of the pool has a tunnel.
    #[error("no agent of pool {0} has a tunnel")]
    NoAgent(Name),
    /// The tunnel broke, or hangs.
    #[error("the tunnel to agent {agent}: {why}")]
    Tunnel {
        /// Which.
        agent: Name,
        /// What.
        why: String,
    },
    /// The agent says no.
    #[error("agent {agent}: {status:?}: {detail}")]
    Refused {
        /// Which.
        agent: Name,
        /// Its word.
        status: OpenStatus,
        /// For the log.
        detail: String,
    },
}

impl OpenError {
    /// Whether another agent of the pool, at another gateway, may do it: those that were asked here take nothing, or do not answer.
    #[must_use]
    pub(crate) const fn elsewhere(&self) -> bool {
        matches!(self, Self::NoAgent(_) | Self::Tunnel { .. } | Self::Refused { status: OpenStatus::Unavailable, .. })
    }

    /// What the client is told.
    #[must_use]
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Refused { status, .. } if !matches!(status, OpenStatus::Unavailable) => Code::TargetUnavailable,
            Self::NoAgent(_) | Self::Tunnel { .. } | Self::Refused { .. } => Code::AgentUnavailable,
        }
    }
}

/// A stream to a target through a tunnel.
pub(crate) type TunnelStream = HeldStream<Counted>;

/// A stream more on its tunnel, as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tunnels {
    /// Opens a stream to `address` through a tunnel of `pool` that this gateway holds.
    ///
    /// # Errors
    /// When there is no tunnel, or no agent can or will open it.
    pub(crate) async fn open(
        &self,
        pool: &Name,
        address: &Address,
        session: SessionId,
        target: &Name,
    ) -> Result<TunnelStream, OpenError> {
        let request = Open {
            address: address.to_string(),
            session: session.to_string(),
            target: target.to_string(),
            connect_timeout_ms: u32::try_from(CONNECT.as_millis()).unwrap_or(u32::MAX),
            relayed_for: String::new(),
        };
        self.open_as(pool, &request).await
    }

    /// The same, as another gateway asks for it.
    ///
    /// # Errors
    /// See there.
    pub(crate) async fn open_as(&self, pool: &Name, request: &Open) -> Result<TunnelStream, OpenError> {
        let mut first_error = None;
        let mut left = Duration::from_millis(request.connect_timeout_ms.into());
        let candidates = self.candidates(pool, &request.address);
        let last = candidates.len().saturating_sub(1);
        for (place, tunnel) in candidates.into_iter().enumerate() {
            let most = if place < last { left.min(CONNECT_FIRST) } else { left };
            let connect_timeout_ms = u32::try_from(most.as_millis()).unwrap_or(u32::MAX);
            let error = match attempt(&tunnel, &Open { connect_timeout_ms, ..request.clone() }).await {
                Ok(stream) => {
                    tunnel.suspect(false);
                    return Ok(stream);
                }
                Err(error) => error,
            };
            let (reason, again) = match &error {
                // What another agent may do better. When the target does not answer either of them in time, time is up.
                OpenError::Refused { status: OpenStatus::TimedOut, .. } => {
                    left = left.saturating_sub(most);
                    ("refused", left >= CONNECT_LEAST)
                }
                OpenError::Refused { .. } => ("refused", true),
                OpenError::Tunnel { .. } | OpenError::NoAgent(_) => {
                    tunnel.suspect(true);
                    ("tunnel", true)
                }
            };
            metrics::open_failed(reason);
            tracing::debug!(%error, "not opened through this tunnel");
            // What an agent says of the target says more than a silent tunnel, or one that takes nothing.
            let better = first_error.as_ref().is_none_or(|first: &OpenError| first.elsewhere() && !error.elsewhere());
            if better {
                first_error = Some(error);
            }
            if !again {
                break;
            }
        }
        Err(first_error.unwrap_or_else(|| OpenError::NoAgent(pool.clone())))
    }

    /// The tunnels to try for `address`, best first; of each agent one.
    fn candidates(&self, pool: &Name, address: &str) -> Vec<Arc<Tunnel>> {
        let mut all = self.0.pools.borrow().get(pool).cloned().unwrap_or_default();
        all.sort_by_cached_key(|tunnel| tunnel.rank(address));
        let mut chosen: Vec<Arc<Tunnel>> = Vec::with_capacity(TRIES);
        for tunnel in all {
            if chosen.len() < TRIES && !chosen.iter().any(|other| other.agent == tunnel.agent) {
                chosen.push(tunnel);
            }
        }
        chosen
    }
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Wire(#[from] WireError<FrameError>),
    #[error("no answer in time")]
    TimedOut,
}

/// An agent is asked. Whoever gives up while it is, a client that waits no longer, has learnt something for those who come after.
struct Asking<'a> {
    tunnel: &'a Tunnel,
    address: &'a str,
    began: Instant,
    answered: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.answered && self.began.elapsed() >= HEARD {
            self.tunnel.reaches(self.address, false);
        }
    }
}

async fn attempt(tunnel: &Tunnel, request: &Open) -> Result<TunnelStream, OpenError> {
    let counted = Counted::new(&tunnel.streams);
    let agent = &tunnel.agent;
    let mut halves = None;
    let mut asking = Asking { tunnel, address: &request.address, began: Instant::now(), answered: false };
    let asked = ask(tunnel, request, &mut halves).await;
    asking.answered = true;
    match asked {
        Ok(opened) => match (opened.status(), halves) {
            (OpenStatus::Connected, Some((send, recv))) => {
                tunnel.reaches(&request.address, true);
                Ok(HeldStream::new(send, recv, counted))
            }
            (status, _) => {
                // That it may not open it, or takes nothing now, says nothing of the way there.
                if !matches!(status, OpenStatus::Forbidden | OpenStatus::Unavailable) {
                    tunnel.reaches(&request.address, false);
                }
                Err(OpenError::Refused { agent: agent.clone(), status, detail: opened.detail })
            }
        },
        Err(fault) => {
            if let Some((mut send, mut recv)) = halves {
                // The agent, if it hears of it, gives up too: the target is not dialled twice.
                send.reset(cause::SILENT);
                recv.stop(cause::SILENT);
            }
            Err(OpenError::Tunnel { agent: agent.clone(), why: fault.to_string() })
        }
    }
}

async fn ask(tunnel: &Tunnel, request: &Open, halves: &mut Option<(SendHalf, RecvHalf)>) -> Result<Opened, Fault> {
    let heard = async {
        let (send, recv) = halves.insert(tunnel.link.open().await?);
        wire::write(send, tunnel::frame(request)).await?;
        if tunnel.version < 2 {
            return Ok((recv, None));
        }
        let first: Opened = wire::read(recv, MAX_MESSAGE, tunnel::decode).await?;
        Ok::<_, Fault>((recv, Some(first)))
    };
    let (recv, first) = tokio::time::timeout(HEARD, heard).await.map_err(|_| Fault::TimedOut)??;
    match first {
        Some(first) if first.status() != OpenStatus::Opening => Ok(first),
        _ => {
            let answer = wire::read(recv, MAX_MESSAGE, tunnel::decode);
            Ok(tokio::time::timeout(ANSWER, answer).await.map_err(|_| Fault::TimedOut)??)
        }
    }
}
