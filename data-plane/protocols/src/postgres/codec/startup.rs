//! The packet that opens a connection: it has a length and no tag (sections "Start-up", "SSL Session Encryption").

use bytes::{Bytes, BytesMut};

use super::{CodecError, Reader};

/// The code of CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;
/// The code of SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// The code of GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;
/// Protocol 3.0.
pub const VERSION_3: u32 = 3 << 16;

/// Shortest packet, in bytes: its length and a code.
const SHORTEST: usize = 8;
/// Longest packet, in bytes: PostgreSQL's own MAX_STARTUP_PACKET_LENGTH.
const LONGEST: usize = 10_000;

/// How a client opens a connection.
#[derive(Clone, PartialEq, Eq)]
pub enum Opening {
    /// Asks for TLS.
    Ssl,
    /// Asks for GSSAPI encryption.
    GssEnc,
    /// Wants another connection's operation cancelled.
    Cancel {
        /// As that connection's BackendKeyData said.
        pid: u32,
        /// As that connection's BackendKeyData said.
        secret: Bytes,
    },
    /// Opens a session.
    Startup {
        /// Of the protocol's version: major, minor.
        version: (u16, u16),
        /// Names and values, in order; no name twice.
        parameters: Vec<(Bytes, Bytes)>,
    },
}

/// The fault's tag, where there is none on the wire.
pub(in crate::postgres) const NO_TAG: u8 = 0;

/// Takes the opening packet out of `buffer`; `None` while it is incomplete.
///
/// # Errors
/// When its length, which is judged first, or its content is impossible.
pub fn next_opening(buffer: &mut BytesMut) -> Result<Option<Opening>, CodecError> {
    let Some(&length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(SHORTEST..=LONGEST).contains(&length) {
        return Err(CodecError::BadLength { tag: NO_TAG });
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let mut packet = Reader::new(NO_TAG, buffer.split_to(length).freeze());
    packet.int32()?;
    let opening = match packet.uint32()? {
        SSL_REQUEST => Opening::Ssl,
        GSSENC_REQUEST => Opening::GssEnc,
        CANCEL_REQUEST => {
            let pid = packet.uint32()?;
            // 4 bytes in protocol 3.0, up to 256 from 3.2 on.
            if !(4..=256).contains(&packet.remaining()) {
                return Err(packet.fault("the secret's length is impossible"));
            }
            return Ok(Some(Opening::Cancel { pid, secret: packet.rest() }));
        }
        version => {
            let [a, b, c, d] = version.to_be_bytes();
            let version = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            if version.0 != 3 {
                // What follows is of no form that is known here.
                return Ok(Some(Opening::Startup { version, parameters: Vec::new() }));
            }
            Opening::Startup { version, parameters: parameters(&mut packet)? }
        }
    };
    packet.end()?;
    Ok(Some(opening))
}

fn parameters(packet: &mut Reader) -> Result<Vec<(Bytes, Bytes)>, CodecError> {
    let mut parameters: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let name = packet.text()?;
        if name.is_empty() {
            return Ok(parameters);
        }
        if parameters.iter().any(|(known, _)| *known == name) {
            return Err(packet.fault("a parameter is given twice"));
        }
        if parameters.len() >= 64 {
            return Err(packet.fault("it has too many parameters"));
        }
        let value = packet.text()?;
        parameters.push((name, value));
    }
}
