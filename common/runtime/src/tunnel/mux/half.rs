//! The two halves of a stream of the multiplexer.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::ReadBuf;

use super::Shared;
use super::state::{SEND_BUFFER, State};
use crate::tunnel::{StreamFault, cause};

/// The writing half of a stream.
pub struct MuxSend {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u32,
}

/// The reading half of a stream.
pub struct MuxRecv {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u32,
}

fn gone(state: &State) -> io::Error {
    let why = state.closed.clone().unwrap_or_else(|| "the stream has ended".to_owned());
    io::Error::new(io::ErrorKind::NotConnected, why)
}

impl MuxSend {
    pub(in crate::tunnel) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        if state.closed.is_some() {
            return Poll::Ready(Err(gone(&state)));
        }
        let Some(stream) = state.streams.get_mut(&self.id) else { return Poll::Ready(Err(gone(&state))) };
        let send = &mut stream.send;
        if let Some(cause) = send.stopped {
            return Poll::Ready(Err(StreamFault::Stopped(cause).into()));
        }
        if send.finished || send.reset.is_some() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "written after the end")));
        }
        let room = SEND_BUFFER.saturating_sub(send.buffer.len());
        if room == 0 {
            send.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        send.buffer.extend_from_slice(taken);
        self.shared.touch(state, self.id);
        Poll::Ready(Ok(taken.len()))
    }

    pub(in crate::tunnel) fn finish(&mut self) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.closed.is_some() {
            return Err(gone(&state));
        }
        let Some(stream) = state.streams.get_mut(&self.id) else { return Err(gone(&state)) };
        if let Some(cause) = stream.send.stopped {
            return Err(StreamFault::Stopped(cause).into());
        }
        stream.send.finished = true;
        self.shared.touch(state, self.id);
        Ok(())
    }

    pub(in crate::tunnel) fn reset(&mut self, cause: u32) {
        let mut state = self.shared.lock();
        if let Some(stream) = state.streams.get_mut(&self.id)
            && !stream.send.done()
        {
            stream.send.reset.get_or_insert(cause);
            stream.send.buffer = BytesMut::new();
        }
        self.shared.touch(state, self.id);
    }

    pub(in crate::tunnel) fn stopped(&self) -> impl Future<Output = io::Result<Option<u32>>> + Send + Sync + 'static {
        let (shared, id) = (Arc::clone(&self.shared), self.id);
        std::future::poll_fn(move |cx| {
            let mut state = shared.lock();
            let closed = state.closed.is_some();
            match state.streams.get_mut(&id) {
                Some(stream) if stream.send.stopped.is_some() => Poll::Ready(Ok(stream.send.stopped)),
                Some(stream) if stream.send.done() => Poll::Ready(Ok(None)),
                _ if closed => Poll::Ready(Err(gone(&state))),
                None => Poll::Ready(Ok(None)),
                Some(stream) => {
                    let wakers = &mut stream.send.stop_wakers;
                    if !wakers.iter().any(|known| known.will_wake(cx.waker())) {
                        wakers.push(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
    }
}

impl Drop for MuxSend {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.send.dropped = true;
            stream.send.finished = true;
        }
        self.shared.touch(state, self.id);
    }
}

impl MuxRecv {
    pub(in crate::tunnel) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let closed = state.closed.is_some();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(gone(&state)));
        };
        let recv = &mut stream.recv;
        if let Some(cause) = recv.reset {
            return Poll::Ready(Err(StreamFault::Reset(cause).into()));
        }
        let size = recv.buffer.len().min(into.remaining());
        if size > 0 {
            into.put_slice(recv.buffer.get(..size).unwrap_or_default());
            recv.buffer.advance(size);
            if recv.buffer.is_empty() {
                recv.buffer = BytesMut::new();
            }
            recv.owed = recv.owed.saturating_add(u32::try_from(size).unwrap_or(u32::MAX));
            self.shared.touch(state, self.id);
            return Poll::Ready(Ok(()));
        }
        if recv.finished || into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if closed {
            return Poll::Ready(Err(gone(&state)));
        }
        recv.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(in crate::tunnel) fn stop(&mut self, cause: u32) {
        let mut state = self.shared.lock();
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.recv.stop.get_or_insert(cause);
            stream.recv.buffer = BytesMut::new();
        }
        self.shared.touch(state, self.id);
    }
}

impl Drop for MuxRecv {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.recv.dropped = true;
            stream.recv.buffer = BytesMut::new();
            stream.recv.stop.get_or_insert(cause::NONE);
        }
        self.shared.touch(state, self.id);
    }
}

impl fmt::Debug for MuxSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MuxSend({})", self.id)
    }
}

impl fmt::Debug for MuxRecv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MuxRecv({})", self.id)
    }
}
