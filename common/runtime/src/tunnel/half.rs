//! The two halves of a stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use quinn::{ReadError, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::mux::{MuxRecv, MuxSend};

/// How the peer broke a stream off; inside of an [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// It sends no more.
    #[error("reset by the peer (cause {0})")]
    Reset(u32),
    /// It reads no more.
    #[error("stopped by the peer (cause {0})")]
    Stopped(u32),
}

impl StreamFault {
    /// What is inside of `error`, if it is one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<StreamFault> for io::Error {
    fn from(fault: StreamFault) -> Self {
        Self::new(io::ErrorKind::ConnectionReset, fault)
    }
}

fn code(from: VarInt) -> u32 {
    u32::try_from(from.into_inner()).unwrap_or(u32::MAX)
}

fn read_error(error: ReadError) -> io::Error {
    match error {
        ReadError::Reset(cause) => StreamFault::Reset(code(cause)).into(),
        other => other.into(),
    }
}

fn write_error(error: WriteError) -> io::Error {
    match error {
        WriteError::Stopped(cause) => StreamFault::Stopped(code(cause)).into(),
        other => other.into(),
    }
}

/// The half that is written. Dropped, it ends in good order; [`AsyncWrite::poll_shutdown`] ends it too.
#[derive(Debug)]
pub struct SendHalf {
    kind: SendKind,
    waiting: Waiting,
}

#[derive(Debug)]
enum SendKind {
    Quic(quinn::SendStream),
    Mux(MuxSend),
}

/// Counts among those that wait for room while it does.
#[derive(Debug)]
struct Waiting {
    all: Arc<AtomicUsize>,
    now: bool,
}

impl Waiting {
    fn set(&mut self, now: bool) {
        match (self.now, now) {
            (false, true) => _ = self.all.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.all.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.now = now;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl SendHalf {
    pub(super) const fn quic(send: quinn::SendStream, all: Arc<AtomicUsize>) -> Self {
        Self { kind: SendKind::Quic(send), waiting: Waiting { all, now: false } }
    }

    pub(super) const fn mux(send: MuxSend, all: Arc<AtomicUsize>) -> Self {
        Self { kind: SendKind::Mux(send), waiting: Waiting { all, now: false } }
    }

    /// All has been written: the peer reads to the end.
    ///
    /// # Errors
    /// When it was broken off before.
    pub fn finish(&mut self) -> io::Result<()> {
        match &mut self.kind {
            SendKind::Quic(send) => send.finish().map_err(io::Error::other),
            SendKind::Mux(send) => send.finish(),
        }
    }

    /// Breaks off; what the peer has not read is lost.
    pub fn reset(&mut self, cause: u32) {
        match &mut self.kind {
            // An error says that it has ended already.
            SendKind::Quic(send) => _ = send.reset(cause.into()),
            SendKind::Mux(send) => send.reset(cause),
        }
    }

    /// Resolves when the peer wants no more, to its cause; to none when all was delivered after [`Self::finish`].
    pub fn stopped(&self) -> impl Future<Output = io::Result<Option<u32>>> + Send + Sync + 'static {
        let (quic, mux) = match &self.kind {
            SendKind::Quic(send) => (Some(send.stopped()), None),
            SendKind::Mux(send) => (None, Some(send.stopped())),
        };
        async move {
            match (quic, mux) {
                (Some(stopped), _) => stopped
                    .await
                    .map(|cause| cause.map(code))
                    .map_err(|error| io::Error::new(io::ErrorKind::ConnectionReset, error)),
                (None, Some(stopped)) => stopped.await,
                (None, None) => Ok(None),
            }
        }
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.kind {
            SendKind::Quic(send) => Pin::new(send).poll_write(cx, bytes).map_err(write_error),
            SendKind::Mux(send) => send.poll_write(cx, bytes),
        };
        self.waiting.set(written.is_pending());
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Either sends by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }
}

/// The half that is read. Dropped before its end, the peer is told to stop.
#[derive(Debug)]
pub struct RecvHalf(RecvKind);

#[derive(Debug)]
enum RecvKind {
    Quic(quinn::RecvStream),
    Mux(MuxRecv),
}

impl RecvHalf {
    pub(super) const fn quic(recv: quinn::RecvStream) -> Self {
        Self(RecvKind::Quic(recv))
    }

    pub(super) const fn mux(recv: MuxRecv) -> Self {
        Self(RecvKind::Mux(recv))
    }

    /// Reads no more, and tells the peer why.
    pub fn stop(&mut self, cause: u32) {
        match &mut self.0 {
            // An error says that it has ended already.
            RecvKind::Quic(recv) => _ = recv.stop(cause.into()),
            RecvKind::Mux(recv) => recv.stop(cause),
        }
    }
}

impl AsyncRead for RecvHalf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            RecvKind::Quic(recv) => recv.poll_read_buf(cx, into).map_err(read_error),
            RecvKind::Mux(recv) => recv.poll_read(cx, into),
        }
    }
}
