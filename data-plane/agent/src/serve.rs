//! One stream of a tunnel: a connection that the gateway asks for, checked, opened, and carried both ways.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use postern_core::target::Address;
use postern_protocols::tunnel::{self, MAX_MESSAGE, Open, OpenStatus, Opened};
use postern_runtime::net::keep_alive;
use postern_runtime::tunnel::{RecvHalf, SendHalf, cause, wire};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::tunnel::Shared;

const REQUEST: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;
const BUFFER: usize = 32 << 10;
/// Held in each direction by a stream on which nothing comes.
const SMALL: usize = 2 << 10;

/// Why a stream was not opened.
struct Refusal {
    status: OpenStatus,
    detail: String,
}

/// One direction broke off.
struct Broken;

/// Counts among the open ones while it lives.
struct Counted<'a>(&'a Shared);

impl<'a> Counted<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.count(true);
        metrics::gauge!("postern_agent_streams_open").increment(1.0);
        Self(shared)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        metrics::gauge!("postern_agent_streams_open").decrement(1.0);
        self.0.count(false);
    }
}

/// `version` is what the tunnel's ends speak.
pub(crate) async fn stream(mut send: SendHalf, mut recv: RecvHalf, version: u32, shared: Arc<Shared>) {
    let request = wire::read::<Open, _>(&mut recv, MAX_MESSAGE, tunnel::decode);
    let Ok(Ok(open)) = tokio::time::timeout(REQUEST, request).await else {
        count("malformed");
        send.reset(cause::REFUSED);
        recv.stop(cause::REFUSED);
        return;
    };
    if shared.supervisor.shutdown_token().is_cancelled() {
        let refusal = Refusal { status: OpenStatus::Unavailable, detail: "the agent is about to stop".into() };
        return refuse(&mut send, &mut recv, &open, refusal, &shared).await;
    }
    let Ok(_permit) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let refusal = Refusal { status: OpenStatus::Unavailable, detail: "too many streams".into() };
        return refuse(&mut send, &mut recv, &open, refusal, &shared).await;
    };
    // Before anything that takes time: a gateway that hears nothing asks another agent.
    if version >= 2 && answer(&mut send, OpenStatus::Opening, String::new()).await.is_err() {
        return count("abandoned");
    }
    let connected = tokio::select! {
        connected = connect(&open, &shared) => connected,
        // The gateway has asked another agent meanwhile, or its client has gone.
        _ = send.stopped() => return count("abandoned"),
    };
    match connected {
        Err(refusal) => refuse(&mut send, &mut recv, &open, refusal, &shared).await,
        Ok(tcp) => {
            count("connected");
            if answer(&mut send, OpenStatus::Connected, String::new()).await.is_err() {
                return;
            }
            let stop = shared.supervisor.sessions_ended_token();
            let _counted = Counted::new(&shared);
            tokio::select! {
                () = carry(send, recv, tcp) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

async fn answer(send: &mut SendHalf, status: OpenStatus, detail: String) -> Result<(), ()> {
    let opened = Opened { status: status.into(), detail };
    wire::write(send, tunnel::frame(&opened)).await.map_err(drop)
}

async fn refuse(send: &mut SendHalf, recv: &mut RecvHalf, open: &Open, refusal: Refusal, shared: &Shared) {
    let Refusal { status, detail } = refusal;
    count(match status {
        OpenStatus::Forbidden => "forbidden",
        OpenStatus::Refused => "refused",
        OpenStatus::Unresolved => "unresolved",
        OpenStatus::TimedOut => "timed-out",
        OpenStatus::Unavailable => "unavailable",
        _ => "failed",
    });
    if shared.refusals.may() {
        let (session, target, relayed_for) = (shown(&open.session), shown(&open.target), shown(&open.relayed_for));
        tracing::warn!(session, target, address = shown(&open.address), relayed_for, ?status, detail, "not opened");
    }
    if answer(send, status, detail).await.is_ok() {
        let _ = send.finish();
    }
    recv.stop(cause::REFUSED);
}

/// A gateway's word in a log line: no longer than words of ours are.
fn shown(text: &str) -> &str {
    const MOST: usize = 256;
    text.get(..text.floor_char_boundary(MOST)).unwrap_or_default()
}

async fn connect(open: &Open, shared: &Shared) -> Result<TcpStream, Refusal> {
    let refusal = |status, detail: String| Refusal { status, detail };
    let address: Address =
        open.address.parse().map_err(|error| refusal(OpenStatus::Failed, format!("address: {error}")))?;
    if !shared.allow.admits(&address) {
        return Err(refusal(OpenStatus::Forbidden, "not on the allow-list".into()));
    }
    let limit =
        Duration::from_millis(u64::from(open.connect_timeout_ms)).clamp(Duration::from_millis(100), CONNECT_MAX);
    let dialled = async {
        let resolved = tokio::net::lookup_host((address.host(), address.port())).await;
        let resolved: Vec<SocketAddr> =
            resolved.map_err(|error| refusal(OpenStatus::Unresolved, error.to_string()))?.take(ADDRESSES).collect();
        let admitted = resolved.iter().filter(|socket| shared.allow.admits_resolved(&address, socket.ip()));
        let mut last = match resolved.first() {
            None => refusal(OpenStatus::Unresolved, "the name has no address".into()),
            Some(_) => refusal(OpenStatus::Forbidden, "resolves to an address that is not on the allow-list".into()),
        };
        for socket in admitted {
            match TcpStream::connect(socket).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    last = refusal(OpenStatus::Refused, error.to_string());
                }
                Err(error) => last = refusal(OpenStatus::Failed, error.to_string()),
            }
        }
        Err(last)
    };
    let tcp = match tokio::time::timeout(limit, dialled).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(refusal(OpenStatus::TimedOut, format!("no connection in {} ms", limit.as_millis()))),
    };
    tcp.set_nodelay(true)
        .and_then(|()| keep_alive(&tcp))
        .map_err(|error| refusal(OpenStatus::Failed, error.to_string()))?;
    Ok(tcp)
}

/// Copies both ways: an end of one direction is passed on as such, a break of either breaks all.
async fn carry(mut send: SendHalf, mut recv: RecvHalf, mut tcp: TcpStream) {
    let broken = {
        let (mut from_target, mut to_target) = tcp.split();
        let abandoned = send.stopped();
        let outward = async {
            copy(&mut recv, &mut to_target).await?;
            to_target.shutdown().await.map_err(|_| Broken)
        };
        let inward = async {
            copy(&mut from_target, &mut send).await?;
            send.finish().map_err(|_| Broken)
        };
        // `stopped` also resolves when all was delivered: only a stop by the gateway breaks.
        let abandoned = async {
            match abandoned.await {
                Ok(None) => Ok(()),
                Ok(Some(_)) | Err(_) => Err(Broken),
            }
        };
        tokio::try_join!(outward, inward, abandoned).is_err()
    };
    if broken {
        send.reset(cause::BROKEN);
        recv.stop(cause::BROKEN);
        // The target sees a reset too, not an orderly end.
        drop(tcp.set_zero_linger());
    }
}

/// Until the orderly end. While nothing comes it holds a small buffer; while much comes, a large one.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> Result<(), Broken> {
    let mut small = [0; SMALL];
    loop {
        let size = from.read(&mut small).await.map_err(|_| Broken)?;
        if size == 0 {
            return Ok(());
        }
        to.write_all(small.get(..size).unwrap_or_default()).await.map_err(|_| Broken)?;
        if size < SMALL {
            continue;
        }
        let mut large = Vec::with_capacity(BUFFER);
        // Reading is given up without a loss when nothing is there.
        while let Some(read) = from.read_buf(&mut large).now_or_never() {
            if read.map_err(|_| Broken)? == 0 {
                return Ok(());
            }
            to.write_all(&large).await.map_err(|_| Broken)?;
            large.clear();
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("postern_agent_streams_total", "outcome" => outcome).increment(1);
}
