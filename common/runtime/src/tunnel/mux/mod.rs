//! Streams over one TLS connection, where QUIC cannot pass: each with its own flow control, end, reset and stop, as QUIC's have them.
//!
//! A stream that is not read takes up its own window and nothing else: the others go on. What TCP loses, though, all wait for.

mod frame;
mod half;
mod state;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::frame::Frame;
use self::state::State;
use super::link::NOTHING_HEARD;
use super::{KEEP_ALIVE, LinkError, LinkStats, SILENCE, cause};

pub use frame::FrameFault;
pub use half::{MuxRecv, MuxSend};

/// Written at a time.
const PORTION: usize = 64 << 10;
/// How long the last words may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We did.
    Dialer,
    /// The peer did.
    Listener,
}

/// What is against the peer, or against a stream of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MuxFault {
    /// Of a stream that was never opened, or is opened twice.
    #[error("a frame of stream {0}, which is not open")]
    NoSuchStream(u32),
    /// More bytes than were granted.
    #[error("more bytes on stream {0} than were granted")]
    OverTheWindow(u32),
    /// Bytes after the end.
    #[error("bytes on stream {0} after its end")]
    AfterTheEnd(u32),
    /// Streams are opened faster than they can be refused.
    #[error("a flood of streams")]
    Flood,
    /// We have too many open.
    #[error("too many streams")]
    TooManyStreams,
    /// Not to be understood.
    #[error(transparent)]
    Frame(#[from] FrameFault),
}

/// How many streams there may be at a time.
#[derive(Clone, Copy, Debug)]
pub struct MuxLimits {
    /// Of the peer's; further ones are reset.
    pub incoming: usize,
    /// Of our own; further ones are not opened.
    pub outgoing: usize,
}

/// One end of the multiplexer. Cheap to clone.
#[derive(Clone)]
pub struct Mux(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to send.
    writable: Notify,
    /// The peer has opened a stream.
    opened: Notify,
    over: CancellationToken,
    numbers: Mutex<LinkStats>,
    /// Pings count from here.
    begin: Instant,
    remote: SocketAddr,
}

impl Mux {
    /// The handle, and its driver: nothing moves until it runs, and the link ends with it.
    pub fn new<S>(
        stream: S,
        side: Side,
        remote: SocketAddr,
        limits: MuxLimits,
    ) -> (Self, impl Future<Output = ()> + Send)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(side, limits.incoming, limits.outgoing)),
            writable: Notify::new(),
            opened: Notify::new(),
            over: CancellationToken::new(),
            numbers: Mutex::default(),
            begin: Instant::now(),
            remote,
        });
        let driver = drive(stream, Ended(Arc::clone(&shared)), Pulse { every: KEEP_ALIVE, silence: SILENCE });
        (Self(shared), driver)
    }

    /// Where the peer is.
    pub(super) fn remote(&self) -> SocketAddr {
        self.0.remote
    }

    pub(super) fn open(&self) -> Result<(MuxSend, MuxRecv), LinkError> {
        let mut state = self.0.lock();
        if let Some(why) = &state.closed {
            return Err(LinkError(why.clone()));
        }
        let id = state.open().map_err(|fault| LinkError(fault.to_string()))?;
        Ok(self.halves(id))
    }

    pub(super) async fn accept(&self) -> Result<(MuxSend, MuxRecv), LinkError> {
        loop {
            let opened = self.0.opened.notified();
            {
                let mut state = self.0.lock();
                if let Some(why) = &state.closed {
                    return Err(LinkError(why.clone()));
                }
                if let Some(id) = state.accepted.pop_front() {
                    return Ok(self.halves(id));
                }
            }
            opened.await;
        }
    }

    fn halves(&self, id: u32) -> (MuxSend, MuxRecv) {
        (MuxSend { shared: Arc::clone(&self.0), id }, MuxRecv { shared: Arc::clone(&self.0), id })
    }

    pub(super) fn allow_streams(&self, streams: usize) {
        self.0.lock().max_incoming = streams;
    }

    pub(super) fn close(&self, cause: u32, why: &str) {
        let mut state = self.0.lock();
        state.close.get_or_insert_with(|| (cause, why.to_owned()));
        state.end(format!("closed: {why}"));
        drop(state);
        self.0.writable.notify_one();
        self.0.opened.notify_waiters();
    }

    /// Does not wait for the last words, which may take a while: streams break before.
    pub(super) async fn closed(&self) -> LinkError {
        let known = self.0.lock().closed.clone();
        if let Some(why) = known {
            return LinkError(why);
        }
        self.0.over.cancelled().await;
        LinkError(self.0.lock().closed.clone().unwrap_or_default())
    }

    pub(super) fn stats(&self) -> LinkStats {
        *self.0.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that wait to be sent, over all streams.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.lock().queued()
    }
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("remote", &self.0.remote).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, mut state: MutexGuard<'_, State>, id: u32) {
        let work = state.touch(id);
        drop(state);
        if work {
            self.writable.notify_one();
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn count(&self, with: impl FnOnce(&mut LinkStats)) {
        with(&mut self.numbers.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Whatever ends the driver, whoever waits is told.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().end("the connection was dropped".into());
        self.0.opened.notify_waiters();
        self.0.over.cancel();
    }
}

/// How often the peer is asked for a sign of life, and after how long without one it is given up.
#[derive(Clone, Copy)]
struct Pulse {
    every: Duration,
    silence: Duration,
}

async fn drive<S: AsyncRead + AsyncWrite + Send + Unpin>(stream: S, shared: Ended, pulse: Pulse) {
    let shared = &shared.0;
    let (mut from, mut to) = tokio::io::split(stream);
    let heard = Mutex::new(Instant::now());
    let reading = read(&mut from, shared, &heard);
    let why = {
        let writing = write(&mut to, shared);
        let watching = watch(shared, &heard, pulse);
        tokio::pin!(reading, writing, watching);
        tokio::select! {
            why = &mut reading => why,
            why = &mut writing => why,
            why = &mut watching => why,
        }
    };
    let goodbye = {
        let mut state = shared.lock();
        if let End::Fault(fault) = &why {
            state.close.get_or_insert_with(|| (cause::PROTOCOL, fault.to_string()));
        }
        state.end(why.to_string());
        let mut goodbye = BytesMut::new();
        state.produce(&mut goodbye, 0);
        goodbye
    };
    shared.opened.notify_waiters();
    // The peer may be gone, or not read.
    let _ = tokio::time::timeout(GOODBYE, async {
        to.write_all(&goodbye).await?;
        to.shutdown().await
    })
    .await;
}

#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("{0}")]
    Fault(#[from] MuxFault),
    #[error("the peer closed the connection")]
    Eof,
    #[error("{NOTHING_HEARD}")]
    Silent,
    #[error("closed")]
    Closed,
}

async fn read(from: &mut (impl AsyncRead + Unpin), shared: &Shared, heard: &Mutex<Instant>) -> End {
    let (mut buffer, mut flooded) = (BytesMut::new(), false);
    loop {
        buffer.reserve(PORTION);
        match from.read_buf(&mut buffer).await {
            Ok(0) => return End::Eof,
            Ok(size) => {
                shared.count(|stats| stats.received = stats.received.saturating_add(u64::try_from(size).unwrap_or(0)))
            }
            Err(error) => return End::Broken(error),
        }
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let mut state = shared.lock();
        let mut work = false;
        loop {
            match Frame::decode(&mut buffer).map_err(MuxFault::from) {
                Ok(None) => break,
                Ok(Some((id, frame))) => match state.receive(id, frame) {
                    Ok(more) => work |= more,
                    Err(fault) => return End::Fault(fault),
                },
                Err(fault) => return End::Fault(fault),
            }
        }
        let (answered, over) = (state.answered.take(), std::mem::take(&mut state.over));
        let (accepted, closed) = (!state.accepted.is_empty(), state.closed.is_some());
        drop(state);
        // A peer that sends back what it was never asked is only wrong about itself.
        if let Some(asked) = answered {
            shared.count(|stats| stats.rtt = Duration::from_micros(shared.micros().saturating_sub(asked)));
        }
        if over > 0 {
            metrics::counter!("postern_tunnel_streams_refused_total").increment(over);
            if !std::mem::replace(&mut flooded, true) {
                tracing::warn!(remote = %shared.remote, "the peer opens more streams than it may have: those are refused");
            }
        }
        if accepted {
            shared.opened.notify_one();
        }
        if work {
            shared.writable.notify_one();
        }
        if closed {
            return End::Closed;
        }
        if buffer.is_empty() {
            // An idle link holds no memory.
            buffer = BytesMut::new();
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), shared: &Shared) -> End {
    let mut out = BytesMut::new();
    loop {
        let closed = {
            let mut state = shared.lock();
            state.produce(&mut out, PORTION);
            state.closed.is_some()
        };
        if out.is_empty() {
            if closed {
                return End::Closed;
            }
            out = BytesMut::new();
            shared.writable.notified().await;
            continue;
        }
        let sent = async {
            to.write_all(&out).await?;
            to.flush().await
        };
        if let Err(error) = sent.await {
            return End::Broken(error);
        }
        shared.count(|stats| stats.sent = stats.sent.saturating_add(u64::try_from(out.len()).unwrap_or(0)));
        out.clear();
    }
}

/// Asks the peer for a sign of life, and measures the round trip by it.
async fn watch(shared: &Shared, heard: &Mutex<Instant>, pulse: Pulse) -> End {
    loop {
        shared.lock().ping = Some(shared.micros());
        shared.writable.notify_one();
        tokio::time::sleep(pulse.every).await;
        if heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > pulse.silence {
            return End::Silent;
        }
    }
}

#[cfg(test)]
mod tests;
