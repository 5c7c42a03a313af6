//! One agent's tunnel while it is up: what is told over its control stream, and the streams that the agent opens.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt as _;
use postern_proto::gateway::v1::Signed;
use postern_protocols::tunnel::{
    self, Drain, FrameError, Gateways, MAX_GATEWAYS, MAX_MESSAGE, SignedRevocations, ToAgent, ToGateway, to_agent,
    to_gateway,
};
use postern_runtime::supervisor::OnEnd;
use postern_runtime::tunnel::wire::{self, WireError};
use postern_runtime::tunnel::{LinkError, RecvHalf, SendHalf, cause};

use super::{Shared, Tunnel, metrics, proxy};

/// Serves the tunnel until it closes.
pub(super) async fn tunnel(tunnel: Arc<Tunnel>, control: (SendHalf, RecvHalf), shared: &Arc<Shared>) {
    let (agent, pool, link) = (&tunnel.agent, &tunnel.pool, &tunnel.link);
    let (remote, carrier) = (link.remote(), link.carrier().as_str());
    let _alive = crate::metrics::tunnel();
    tracing::info!(%agent, %pool, %remote, carrier, version = tunnel.version, "tunnel up");
    shared.tunnels.add(Arc::clone(&tunnel));
    let (send, recv) = control;
    let stop = shared.supervisor.sessions_ended_token();
    let why = tokio::select! {
        error = link.closed() => lost(&error),
        () = link.until_revoked(shared.revoked.clone()) => {
            link.close(cause::NOT_ALLOWED, "the certificate was revoked");
            metrics::refused("revoked");
            "the agent's certificate was revoked".to_owned()
        }
        () = stop.cancelled() => {
            link.close(cause::STOPPING, "the gateway stops");
            "the gateway stops".to_owned()
        }
        why = talk(&tunnel, send, recv, shared) => match link.closed().now_or_never() {
            // What ended is the tunnel, and with it the stream.
            Some(error) => lost(&error),
            None => {
                link.close(cause::PROTOCOL, &why);
                why
            }
        },
        why = streams(&tunnel, shared) => why,
        never = measure(&tunnel, shared) => match never {},
    };
    shared.tunnels.remove(&tunnel);
    tracing::info!(%agent, %pool, why, "tunnel down");
}

/// The tunnel has ended, and not because this gateway would have it so.
fn lost(error: &LinkError) -> String {
    metrics::lost(error);
    error.to_string()
}

async fn measure(tunnel: &Tunnel, shared: &Shared) -> std::convert::Infallible {
    let label = shared.labels(&tunnel.agent);
    let mut numbers = metrics::Numbers::new(label, tunnel.link.carrier().as_str());
    loop {
        numbers.take(tunnel);
        tokio::time::sleep(metrics::EVERY).await;
    }
}

/// Returns why the control stream ended.
async fn talk(tunnel: &Tunnel, mut send: SendHalf, mut recv: RecvHalf, shared: &Shared) -> String {
    if tunnel.version < 2 {
        // It says nothing, and understands nothing.
        return std::future::pending().await;
    }
    let ended = tokio::select! {
        Err(error) = listen(tunnel, &mut recv, shared) => error,
        Err(error) = tell(tunnel, &mut send, shared) => error,
    };
    format!("control stream: {ended}")
}

async fn listen(
    tunnel: &Tunnel,
    recv: &mut RecvHalf,
    shared: &Shared,
) -> Result<std::convert::Infallible, WireError<FrameError>> {
    loop {
        let said: ToGateway = wire::read(recv, MAX_MESSAGE, tunnel::decode).await?;
        match said.message {
            Some(to_gateway::Message::Load(load)) => {
                tunnel.told_streams.store(load.open_streams, Ordering::Relaxed);
                tunnel.told_max.store(load.max_streams, Ordering::Relaxed);
            }
            Some(to_gateway::Message::Drain(_)) => {
                tracing::info!(agent = %tunnel.agent, "the agent is about to stop");
                shared.tunnels.drains(tunnel);
            }
            None => metrics::skipped(),
        }
    }
}

async fn tell(
    tunnel: &Tunnel,
    send: &mut SendHalf,
    shared: &Shared,
) -> Result<std::convert::Infallible, WireError<FrameError>> {
    let mut gateways = shared.tunnels.gateways().subscribe();
    let mut revoked = shared.tunnels.revoked_gateways().subscribe();
    // Also what was told before it came.
    revoked.mark_changed();
    let draining = &shared.tunnels.0.draining;
    let mut drained = false;
    loop {
        let message = {
            let known = Arc::clone(&gateways.borrow_and_update());
            (!known.gateways.is_empty())
                .then(|| to_agent::Message::Gateways(of_interest(tunnel.agent.as_str(), &known)))
        };
        if let Some(message) = message {
            wire::write(send, tunnel::frame(&ToAgent { message: Some(message) })).await?;
        }
        loop {
            tokio::select! {
                changed = gateways.changed() => match changed {
                    Ok(()) => break,
                    // `shared` keeps the sender.
                    Err(_) => return std::future::pending().await,
                },
                changed = revoked.changed() => match changed {
                    Ok(()) => {
                        let list = revoked.borrow_and_update().clone();
                        if let Some(Signed { payload, signature, certificate }) = list {
                            let (payload, certificate) = (payload.to_vec(), certificate.to_vec());
                            let list = SignedRevocations { payload, signature: signature.to_vec(), certificate };
                            let message = Some(to_agent::Message::Revoked(list));
                            wire::write(send, tunnel::frame(&ToAgent { message })).await?;
                        }
                    }
                    Err(_) => return std::future::pending().await,
                },
                () = draining.cancelled(), if !drained => {
                    drained = true;
                    let message = Some(to_agent::Message::Drain(Drain {}));
                    wire::write(send, tunnel::frame(&ToAgent { message })).await?;
                }
            }
        }
    }
}

/// Those that `agent` would choose from: a list of thousands does not go to each of thousands.
fn of_interest(agent: &str, all: &Gateways) -> Gateways {
    let mut chosen = all.clone();
    tunnel::prefer(agent, &mut chosen.gateways);
    chosen.gateways.truncate(MAX_GATEWAYS);
    for gateway in &mut chosen.gateways {
        gateway.quic.truncate(tunnel::MAX_ADDRESSES);
        gateway.tcp.truncate(tunnel::MAX_ADDRESSES);
    }
    chosen
}

/// Streams that the agent opens lead to the control plane. How many there are at a time is the link's bound.
async fn streams(tunnel: &Tunnel, shared: &Arc<Shared>) -> String {
    loop {
        match tunnel.link.accept().await {
            Err(error) => return lost(&error),
            Ok((send, recv)) => {
                let (served, agent) = (Arc::clone(shared), tunnel.agent.clone());
                let pass_on = async move { proxy::stream(send, recv, &served, agent.as_str()).await };
                shared.supervisor.spawn("control-stream", OnEnd::EndPart, pass_on);
            }
        }
    }
}
