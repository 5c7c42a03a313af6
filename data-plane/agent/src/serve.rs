//! One stream of a tunnel: a connection that the gateway asks for, checked, opened, and carried both ways.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_core::target::Address;
use postern_proto::tunnel::v1::{Open, OpenStatus, Opened};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::tunnel::Shared;
use crate::wire;

const REQUEST: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;
const BUFFER: usize = 32 << 10;
/// The other side's connection broke (as a TCP reset), in QUIC's terms.
const BROKEN: VarInt = VarInt::from_u32(1);
const REFUSED: VarInt = VarInt::from_u32(2);

/// Why a stream was not opened.
struct Refusal {
    status: OpenStatus,
    detail: String,
}

/// One direction broke off.
struct Broken;

pub(crate) async fn stream(mut send: SendStream, mut recv: RecvStream, shared: Arc<Shared>) {
    let request = tokio::time::timeout(REQUEST, wire::read::<Open>(&mut recv)).await;
    let Ok(Ok(open)) = request else {
        count("malformed");
        drop(send.reset(REFUSED));
        drop(recv.stop(REFUSED));
        return;
    };
    let Ok(_permit) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let refusal = Refusal { status: OpenStatus::Failed, detail: "too many streams".into() };
        return refuse(&mut send, &mut recv, &open, refusal).await;
    };
    match connect(&open, &shared).await {
        Err(refusal) => refuse(&mut send, &mut recv, &open, refusal).await,
        Ok(tcp) => {
            count("connected");
            let opened = Opened { status: OpenStatus::Connected.into(), detail: String::new() };
            if wire::write(&mut send, &opened).await.is_err() {
                return;
            }
            let stop = shared.supervisor.sessions_ended_token();
            metrics::gauge!("postern_agent_streams_open").increment(1.0);
            tokio::select! {
                () = carry(send, recv, tcp) => {}
                () = stop.cancelled() => {}
            }
            metrics::gauge!("postern_agent_streams_open").decrement(1.0);
        }
    }
}

async fn refuse(send: &mut SendStream, recv: &mut RecvStream, open: &Open, refusal: Refusal) {
    let Refusal { status, detail } = refusal;
    count(match status {
        OpenStatus::Forbidden => "forbidden",
        OpenStatus::Refused => "refused",
        OpenStatus::Unresolved => "unresolved",
        OpenStatus::TimedOut => "timed-out",
        _ => "failed",
    });
    tracing::warn!(session = open.session, target = open.target, address = open.address, ?status, detail, "not opened");
    let opened = Opened { status: status.into(), detail };
    if wire::write(send, &opened).await.is_ok() {
        drop(send.finish());
    }
    drop(recv.stop(REFUSED));
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
    tcp.set_nodelay(true).map_err(|error| refusal(OpenStatus::Failed, error.to_string()))?;
    Ok(tcp)
}

/// Copies both ways: an end of one direction is passed on as such, a break of either breaks all.
async fn carry(mut send: SendStream, mut recv: RecvStream, mut tcp: TcpStream) {
    let broken = {
        let (mut from_target, mut to_target) = tcp.split();
        let abandoned = send.stopped();
        let outward = async {
            let mut buffer = vec![0; BUFFER];
            loop {
                match recv.read(&mut buffer).await {
                    Ok(Some(size)) => {
                        let bytes = buffer.get(..size).unwrap_or_default();
                        to_target.write_all(bytes).await.map_err(|_| Broken)?;
                    }
                    Ok(None) => return to_target.shutdown().await.map_err(|_| Broken),
                    Err(_) => return Err(Broken),
                }
            }
        };
        let inward = async {
            let mut buffer = vec![0; BUFFER];
            loop {
                match from_target.read(&mut buffer).await {
                    Ok(0) => return send.finish().map_err(|_| Broken),
                    Ok(size) => {
                        let bytes = buffer.get(..size).unwrap_or_default();
                        send.write_all(bytes).await.map_err(|_| Broken)?;
                    }
                    Err(_) => return Err(Broken),
                }
            }
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
        drop(send.reset(BROKEN));
        drop(recv.stop(BROKEN));
        // The target sees a reset too, not an orderly end.
        drop(tcp.set_zero_linger());
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("postern_agent_streams_total", "outcome" => outcome).increment(1);
}
