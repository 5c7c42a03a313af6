//! Agents on their way to the control plane: bytes to one of this gateway's own addresses of it, and nothing else.
//!
//! Inside is TLS between agent and control plane. What passes here is ciphertext: a gateway cannot redeem an agent's join token, nor renew
//! a certificate in its name. Bounded in number, bytes and time, as those who come to be let in have shown nothing yet.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use postern_protocols::tunnel::{self, FrameError, MAX_MESSAGE, OpenStatus, Opened, ToControlPlane};
use postern_runtime::tunnel::wire::{self, WireError};
use postern_runtime::tunnel::{Link, RecvHalf, SendHalf, cause};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{Shared, metrics};

/// At a time, of all agents and strangers.
const STREAMS: usize = 64;
/// One of them: a few calls.
const LIFE: Duration = Duration::from_secs(60);
/// Each way.
const BYTES: u64 = 1 << 20;
const REQUEST: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);
/// A stranger's link, whatever it does.
const STRANGER: Duration = Duration::from_secs(90);

/// The way to the control plane.
pub(super) struct Proxy {
    addresses: Vec<String>,
    places: Semaphore,
}

impl Proxy {
    pub(super) fn new(addresses: Vec<String>) -> Self {
        Self { addresses, places: Semaphore::new(STREAMS) }
    }

    /// Any node that answers, beginning with any.
    async fn dial(&self) -> io::Result<TcpStream> {
        let start = fastrand::usize(..self.addresses.len().max(1));
        let mut last = io::Error::other("no control plane is configured");
        for address in self.addresses.iter().cycle().skip(start).take(self.addresses.len()) {
            match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

/// A link of somebody without a certificate: streams to the control plane, for a short while.
pub(super) async fn strangers(link: Link, shared: &Arc<Shared>) {
    let remote = link.remote();
    let Some(_place) = shared.admission.stranger(remote.ip()) else {
        metrics::refused("strangers");
        if shared.admission.may_log() {
            tracing::warn!(%remote, "too many at a time ask to be let in: refused");
        }
        link.close(cause::LIMIT, "too many at a time ask to be let in");
        return;
    };
    let stop = shared.supervisor.sessions_ended_token();
    let serve = async {
        // The link's bound on streams is the bound here.
        let mut streams = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = link.accept() => match accepted {
                    Ok((send, recv)) => streams.push(stream(send, recv, shared, "")),
                    Err(_) => return,
                },
                Some(()) = streams.next() => {}
            }
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(STRANGER, serve) => {}
        () = stop.cancelled() => {}
    }
    link.close(cause::NONE, "that was all");
}

/// One stream; `agent` is empty for those who have no name yet.
pub(super) async fn stream(mut send: SendHalf, mut recv: RecvHalf, shared: &Shared, agent: &str) {
    let stop = shared.supervisor.sessions_ended_token();
    let passed = tokio::select! {
        passed = tokio::time::timeout(LIFE, pass(&mut send, &mut recv, shared)) => passed,
        () = stop.cancelled() => return,
    };
    match passed {
        Ok(Ok(())) => return,
        Ok(Err(Fault::Refused(why))) => {
            metrics::passed_on("refused");
            if shared.admission.may_log() {
                tracing::warn!(agent, why, "not passed on to the control plane");
            }
            let opened = Opened { status: OpenStatus::Failed.into(), detail: why };
            if wire::write(&mut send, tunnel::frame(&opened)).await.is_ok() {
                let _ = send.finish();
            }
        }
        Ok(Err(Fault::Wire(error))) => {
            metrics::passed_on("malformed");
            if shared.admission.may_log() {
                tracing::warn!(agent, %error, "a stream of the agent's is no request");
            }
        }
        Ok(Err(Fault::Io(error))) => {
            // An agent that has its answer just lets go.
            tracing::debug!(agent, %error, "a stream to the control plane broke off");
        }
        Err(_) => metrics::passed_on("too-long"),
    }
    send.reset(cause::REFUSED);
    recv.stop(cause::REFUSED);
}

enum Fault {
    Refused(String),
    Wire(WireError<FrameError>),
    Io(io::Error),
}

async fn pass(send: &mut SendHalf, recv: &mut RecvHalf, shared: &Shared) -> Result<(), Fault> {
    let asked = tokio::time::timeout(REQUEST, wire::read::<ToControlPlane, _>(recv, MAX_MESSAGE, tunnel::decode)).await;
    let late = |_| Fault::Wire(io::Error::from(io::ErrorKind::TimedOut).into());
    let ToControlPlane {} = asked.map_err(late)?.map_err(Fault::Wire)?;
    let busy = |_| Fault::Refused("too many agents at a time ask for the control plane".to_owned());
    let _place = shared.proxy.places.try_acquire().map_err(busy)?;
    let away = |error: io::Error| Fault::Refused(format!("the control plane cannot be reached: {error}"));
    let mut upstream = shared.proxy.dial().await.map_err(away)?;
    let opened = Opened { status: OpenStatus::Connected.into(), detail: String::new() };
    wire::write(send, tunnel::frame(&opened)).await.map_err(Fault::Wire)?;
    metrics::passed_on("connected");
    let (from, to) = upstream.split();
    let (mut from, mut to) = (from.take(BYTES), to);
    let mut asked = recv.take(BYTES);
    let out = async {
        tokio::io::copy(&mut asked, &mut to).await?;
        to.shutdown().await
    };
    let back = async {
        tokio::io::copy(&mut from, send).await?;
        send.finish()
    };
    tokio::try_join!(out, back).map_err(Fault::Io)?;
    Ok(())
}
