//! What gateways and agents say inside a tunnel: protobuf messages, each preceded by its length.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;

mod choose;
mod version;

pub use postern_proto::tunnel::v1::{
    Drain, GatewayAddress, Gateways, Hello, Load, Open, OpenStatus, Opened, RevokedGateways, SignedRevocations,
    ToAgent, ToControlPlane, ToGateway, Welcome, to_agent, to_gateway,
};

pub use choose::{newer, prefer, share};
pub use version::{VERSION, VERSION_MIN, agree, agree_relay, relay_versions, speak_as_the_next, versions};

/// The application protocol of a tunnel's TLS (RFC 7301).
pub const ALPN: &[u8] = b"postern-tunnel/1";
/// The same inside TLS over TCP, with a multiplexer around its streams.
pub const ALPN_TCP: &[u8] = b"postern-tunnel-tcp/1";
/// For those who have no certificate yet: streams to the control plane, and nothing else.
pub const ALPN_ENROL: &[u8] = b"postern-enrol/1";
/// The same inside TLS over TCP.
pub const ALPN_ENROL_TCP: &[u8] = b"postern-enrol-tcp/1";

/// Gateways in one list: an agent is told those that it would choose from.
pub const MAX_GATEWAYS: usize = 32;
/// Addresses of one gateway, of either kind.
pub const MAX_ADDRESSES: usize = 4;

/// Longest message, in bytes, without its length.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// The length that precedes each message.
const LENGTH: usize = 4;

/// A frame cannot be read or written. The tunnel, or the stream, must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("a tunnel message of {0} bytes is longer than {MAX_MESSAGE}")]
    TooLong(usize),
    /// Not the expected message.
    #[error("a tunnel message is malformed")]
    Malformed,
}

/// Appends `message` with its length to `out`.
///
/// # Errors
/// When it is longer than [`MAX_MESSAGE`].
pub fn encode(message: &impl Message, out: &mut BytesMut) -> Result<(), FrameError> {
    let further = version::further();
    let length = message.encoded_len().saturating_add(further.len());
    let too_long = FrameError::TooLong(length);
    let prefix = u32::try_from(length).map_err(|_| too_long)?;
    if length > MAX_MESSAGE {
        return Err(too_long);
    }
    out.reserve(length.saturating_add(LENGTH));
    out.put_u32(prefix);
    // Cannot fail: the room is reserved.
    message.encode(out).map_err(|_| too_long)?;
    out.put_slice(further);
    Ok(())
}

/// `message` with its length.
///
/// # Errors
/// When it is longer than [`MAX_MESSAGE`].
pub fn frame(message: &impl Message) -> Result<Bytes, FrameError> {
    let mut out = BytesMut::new();
    encode(message, &mut out)?;
    Ok(out.freeze())
}

/// Takes the first message out of `from`; `None` while it is incomplete. What follows it stays: after an
/// [`Opened`] that connects, those are the target's bytes.
///
/// # Errors
/// When the length is past the limit, which is told before the message arrives, or the bytes are no such message.
pub fn decode<M: Message + Default>(from: &mut BytesMut) -> Result<Option<M>, FrameError> {
    let Some(prefix) = from.first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(FrameError::TooLong(length));
    }
    if from.len() < length.saturating_add(LENGTH) {
        return Ok(None);
    }
    from.advance(LENGTH);
    let message = from.split_to(length);
    M::decode(message).map(Some).map_err(|_| FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open() -> impl Strategy<Value = Open> {
        (".{0,60}", ".{0,30}", ".{0,30}", any::<u32>()).prop_map(|(address, session, target, connect_timeout_ms)| {
            Open { address, session, target, connect_timeout_ms, ..Open::default() }
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(messages in prop::collection::vec(open(), 1..5), cuts in prop::collection::vec(1_usize..40, 0..40)) {
            let mut wire = BytesMut::new();
            for message in &messages {
                encode(message, &mut wire).unwrap();
            }
            wire.extend_from_slice(b"what follows");
            let (mut buffer, mut got, mut cuts) = (BytesMut::new(), Vec::new(), cuts.into_iter());
            while !wire.is_empty() {
                let size = cuts.next().unwrap_or(usize::MAX).min(wire.len());
                buffer.extend_from_slice(&wire.split_to(size));
                while got.len() < messages.len() {
                    match decode::<Open>(&mut buffer).unwrap() {
                        Some(message) => got.push(message),
                        None => break,
                    }
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert_eq!(&buffer[..], b"what follows");
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode::<Hello>(&mut buffer) {}
        }
    }

    #[test]
    fn length_is_judged_before_the_message_arrives() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(decode::<Hello>(&mut buffer), Err(FrameError::TooLong(0xffff_ffff)));
        let long = Opened { status: OpenStatus::Failed.into(), detail: "x".repeat(MAX_MESSAGE) };
        assert!(matches!(frame(&long), Err(FrameError::TooLong(_))));
    }
}
