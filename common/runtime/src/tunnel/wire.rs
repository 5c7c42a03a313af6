//! Messages on a stream, read to the exact byte: a target's bytes may follow.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Of the length in front of each message.
const PREFIX: usize = 4;

/// A message could not be read or written; `E` is what the protocol has against it.
#[derive(Debug, thiserror::Error)]
pub enum WireError<E: std::error::Error> {
    /// The stream broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Announced as longer than allowed.
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// Not a message of the protocol.
    #[error("{0}")]
    Frame(E),
    /// A message that is whole, and yet not.
    #[error("a message is incomplete")]
    Incomplete,
}

/// Reads one message of at most `max` bytes and not a byte more, and hands it with its length to `decode`.
///
/// # Errors
/// When the stream breaks or ends, the message is too long (judged before it arrives), or `decode` says so.
pub async fn read<M, E: std::error::Error>(
    from: &mut (impl AsyncRead + Unpin),
    max: usize,
    decode: impl FnOnce(&mut BytesMut) -> Result<Option<M>, E>,
) -> Result<M, WireError<E>> {
    let mut length = [0; PREFIX];
    from.read_exact(&mut length).await?;
    let size = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if size > max {
        return Err(WireError::TooLong(size));
    }
    let mut frame = BytesMut::zeroed(PREFIX.saturating_add(size));
    if let Some((head, body)) = frame.split_first_chunk_mut::<PREFIX>() {
        *head = length;
        from.read_exact(body).await?;
    }
    decode(&mut frame).map_err(WireError::Frame)?.ok_or(WireError::Incomplete)
}

/// Writes a message that has been framed.
///
/// # Errors
/// When it could not be framed, or the stream breaks.
pub async fn write<E: std::error::Error>(
    to: &mut (impl AsyncWrite + Unpin),
    framed: Result<Bytes, E>,
) -> Result<(), WireError<E>> {
    to.write_all(&framed.map_err(WireError::Frame)?).await?;
    Ok(to.flush().await?)
}
