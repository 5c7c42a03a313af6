//! Tunnel messages on a QUIC stream, read to the exact byte: the target's bytes follow.

use bytes::BytesMut;
use postern_protocols::tunnel::{self, FrameError, MAX_MESSAGE};
use prost::Message;
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};

/// A message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("reading: {0}")]
    Read(#[from] ReadExactError),
    #[error("writing: {0}")]
    Write(#[from] WriteError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

pub(crate) async fn read<M: Message + Default>(from: &mut RecvStream) -> Result<M, WireError> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let size = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if size > MAX_MESSAGE {
        return Err(FrameError::TooLong(size).into());
    }
    let mut frame = BytesMut::zeroed(length.len().saturating_add(size));
    if let Some((head, body)) = frame.split_first_chunk_mut::<4>() {
        *head = length;
        from.read_exact(body).await?;
    }
    Ok(tunnel::decode(&mut frame)?.ok_or(FrameError::Malformed)?)
}

pub(crate) async fn write(to: &mut SendStream, message: &impl Message) -> Result<(), WireError> {
    let frame = tunnel::frame(message)?;
    Ok(to.write_all(&frame).await?)
}
