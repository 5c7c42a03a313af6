//! A stream to a target, through a tunnel or another gateway.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use postern_runtime::tunnel::{RecvHalf, SendHalf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both halves, and what is held for as long as they are. Dropped, it ends in both directions.
#[derive(Debug)]
pub(crate) struct HeldStream<H> {
    send: SendHalf,
    recv: RecvHalf,
    held: H,
}

impl<H> HeldStream<H> {
    pub(crate) const fn new(send: SendHalf, recv: RecvHalf, held: H) -> Self {
        Self { send, recv, held }
    }

    /// Its halves, and what is held for them.
    pub(crate) fn into_parts(self) -> (SendHalf, RecvHalf, H) {
        (self.send, self.recv, self.held)
    }
}

impl<H: Unpin> AsyncRead for HeldStream<H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, buf)
    }
}

impl<H: Unpin> AsyncWrite for HeldStream<H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}
