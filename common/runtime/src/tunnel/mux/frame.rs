//! Frames of the multiplexer: eight bytes (kind, length of the payload in 24 bits, stream), and the payload.

use bytes::{Buf as _, BufMut as _, BytesMut};

/// Of each frame.
pub(super) const HEADER: usize = 8;
/// The longest payload that is sent.
pub(super) const MAX_PAYLOAD: usize = 16 << 10;
/// The longest that is read: a later version may know longer ones of kinds that are skipped here.
const MAX_READ: usize = 64 << 10;
/// Of the words in a CLOSE.
const MAX_WHY: usize = 200;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream of the sender's.
    Open,
    /// Bytes; they count against what the receiver has granted.
    Data(BytesMut),
    /// No more bytes follow.
    Fin,
    /// The sender has broken off.
    Reset(u32),
    /// The sender of this reads no more.
    Stop(u32),
    /// So many more bytes may be sent.
    Credit(u32),
    /// To be sent back.
    Ping(u64),
    /// Sent back.
    Pong(u64),
    /// The link ends.
    Close(u32, String),
    /// Of a kind that this build does not know: skipped.
    Unknown(u8),
}

/// Not to be understood; the link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Longer than any is.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// Shorter than its kind is.
    #[error("a frame of kind {0} is too short")]
    TooShort(u8),
}

fn header(kind: u8, stream: u32, length: usize, out: &mut BytesMut) {
    // Kind and length together: what is sent is at most MAX_PAYLOAD long.
    let length = u32::try_from(length).unwrap_or(0) & 0x00ff_ffff;
    out.put_u32(u32::from(kind) << 24 | length);
    out.put_u32(stream);
}

impl Frame {
    /// Appends it. Payloads are cut at what may be sent; the caller sees to shorter ones.
    pub(super) fn encode(&self, stream: u32, out: &mut BytesMut) {
        match self {
            Self::Open => header(1, stream, 0, out),
            Self::Data(bytes) => data(stream, bytes, out),
            Self::Fin => header(3, stream, 0, out),
            Self::Reset(cause) => number(4, stream, *cause, out),
            Self::Stop(cause) => number(5, stream, *cause, out),
            Self::Credit(more) => number(6, stream, *more, out),
            Self::Ping(value) => {
                header(7, stream, 8, out);
                out.put_u64(*value);
            }
            Self::Pong(value) => {
                header(8, stream, 8, out);
                out.put_u64(*value);
            }
            Self::Close(cause, why) => {
                let why = why.as_bytes();
                let why = why.get(..why.len().min(MAX_WHY)).unwrap_or_default();
                header(9, stream, why.len().saturating_add(4), out);
                out.put_u32(*cause);
                out.put_slice(why);
            }
            Self::Unknown(kind) => header(*kind, stream, 0, out),
        }
    }

    /// Takes the first frame and its stream out of `from`; none while it is incomplete.
    pub(super) fn decode(from: &mut BytesMut) -> Result<Option<(u32, Self)>, FrameFault> {
        let Some(head) = from.first_chunk::<HEADER>() else { return Ok(None) };
        let [kind, a, b, c, stream @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        if length > MAX_READ {
            return Err(FrameFault::TooLong(length));
        }
        if from.len() < HEADER.saturating_add(length) {
            return Ok(None);
        }
        let stream = u32::from_be_bytes(stream);
        from.advance(HEADER);
        let mut payload = from.split_to(length);
        let short = FrameFault::TooShort(kind);
        let frame = match kind {
            1 => Self::Open,
            2 if length > MAX_PAYLOAD => return Err(FrameFault::TooLong(length)),
            2 => Self::Data(payload),
            3 => Self::Fin,
            4 => Self::Reset(payload.try_get_u32().map_err(|_| short)?),
            5 => Self::Stop(payload.try_get_u32().map_err(|_| short)?),
            6 => Self::Credit(payload.try_get_u32().map_err(|_| short)?),
            7 => Self::Ping(payload.try_get_u64().map_err(|_| short)?),
            8 => Self::Pong(payload.try_get_u64().map_err(|_| short)?),
            9 => {
                let cause = payload.try_get_u32().map_err(|_| short)?;
                let why = payload.get(..payload.len().min(MAX_WHY)).unwrap_or_default();
                // For a log line: what is no plain text is not shown.
                let plain = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' };
                Self::Close(cause, why.iter().map(plain).collect())
            }
            other => Self::Unknown(other),
        };
        Ok(Some((stream, frame)))
    }
}

/// A DATA frame from borrowed bytes, at most [`MAX_PAYLOAD`] of them.
pub(super) fn data(stream: u32, bytes: &[u8], out: &mut BytesMut) {
    let bytes = bytes.get(..bytes.len().min(MAX_PAYLOAD)).unwrap_or_default();
    header(2, stream, bytes.len(), out);
    out.put_slice(bytes);
}

fn number(kind: u8, stream: u32, value: u32, out: &mut BytesMut) {
    header(kind, stream, 4, out);
    out.put_u32(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_in_any_pieces() {
        let frames = [
            Frame::Open,
            Frame::Data(BytesMut::from(&b"some bytes"[..])),
            Frame::Data(BytesMut::new()),
            Frame::Fin,
            Frame::Reset(7),
            Frame::Stop(u32::MAX),
            Frame::Credit(65_536),
            Frame::Ping(u64::MAX),
            Frame::Pong(1),
            Frame::Close(4, "the gateway stops".into()),
            Frame::Unknown(200),
        ];
        let mut wire = BytesMut::new();
        for frame in &frames {
            frame.encode(9, &mut wire);
        }
        for piece in 1..9 {
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for bytes in wire.chunks(piece) {
                buffer.extend_from_slice(bytes);
                while let Some((stream, frame)) = Frame::decode(&mut buffer).unwrap() {
                    assert_eq!(stream, 9);
                    got.push(frame);
                }
            }
            assert_eq!(got, frames);
        }
    }

    #[test]
    fn what_is_too_long_or_too_short_is_refused_before_it_arrives() {
        let decode = |bytes: &[u8]| Frame::decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[2, 0xff, 0xff, 0xff, 0, 0, 0, 1]), Err(FrameFault::TooLong(0x00ff_ffff)));
        assert_eq!(decode(&[4, 0, 0, 1, 0, 0, 0, 1, 9]), Err(FrameFault::TooShort(4)));
        assert_eq!(decode(&[77, 0xff, 0, 0]), Ok(None));
    }
}
