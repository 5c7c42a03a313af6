//! Reading and writing a session's two sides so that one that is idle holds no buffer: thousands are, most of the time.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read may bring. TLS hands out records of up to as much.
const READ: usize = 16 << 10;

thread_local! {
    /// Where a worker's sessions read to, one at a time: whoever waits for bytes needs no room for them yet.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// One read. Cancel-safe.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), into: &mut BytesMut) -> std::io::Result<usize> {
    std::future::poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut came = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut came))?;
            into.extend_from_slice(came.filled());
            Poll::Ready(Ok(came.filled().len()))
        })
    })
    .await
}

/// Writes `bytes`, and flushes, which TLS needs: done once nothing is left of either. Cancel-safe.
pub(super) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &mut BytesMut,
    unflushed: &mut bool,
) -> std::io::Result<()> {
    std::future::poll_fn(|cx| poll_write(cx, to, bytes, unflushed)).await
}

/// As [`write`], as far as it goes now.
pub(super) fn poll_write(
    cx: &mut Context<'_>,
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &mut BytesMut,
    unflushed: &mut bool,
) -> Poll<std::io::Result<()>> {
    while !bytes.is_empty() {
        *unflushed = true;
        let written = ready!(Pin::new(&mut *to).poll_write(cx, bytes))?;
        if written == 0 {
            return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
        }
        bytes.advance(written);
    }
    release(bytes);
    if *unflushed {
        ready!(Pin::new(to).poll_flush(cx))?;
        *unflushed = false;
    }
    Poll::Ready(Ok(()))
}

/// Gives an empty buffer's memory back.
pub(super) fn release(bytes: &mut BytesMut) {
    if bytes.is_empty() && bytes.capacity() > 0 {
        *bytes = BytesMut::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_read_is_kept_in_order_and_what_is_empty_is_given_back() {
        let sent: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        let (mut near, mut far) = tokio::io::duplex(50_000);
        let expected = sent.clone();
        let writing = async move {
            let (mut bytes, mut unflushed) = (BytesMut::from(&sent[..]), false);
            while !bytes.is_empty() || unflushed {
                write(&mut near, &mut bytes, &mut unflushed).await.unwrap();
            }
            assert_eq!(bytes.capacity(), 0);
        };
        let reading = async move {
            let mut came = BytesMut::new();
            while read(&mut far, &mut came).await.unwrap() > 0 {}
            came
        };
        let ((), mut came) = tokio::join!(writing, reading);
        assert!(came == expected[..]);
        came.clear();
        release(&mut came);
        assert_eq!(came.capacity(), 0);
    }
}
