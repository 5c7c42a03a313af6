//! Writes messages.

use bytes::{BufMut as _, Bytes, BytesMut};
use postern_core::operation::Parameter;

use super::backend::{self, Fields, TransactionStatus};
use super::frontend;

/// A frame with `tag`, whose body `fill` writes.
pub fn frame(out: &mut BytesMut, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let place = out.len();
    out.put_u32(0);
    fill(out);
    // Everything that is written here is far below 2 GiB.
    let length = u32::try_from(out.len().saturating_sub(place)).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(place..place.saturating_add(4)) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

/// Bytes and a final zero. A zero inside would end it early, so it is cut there.
pub fn text(out: &mut BytesMut, bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    out.put_slice(bytes.get(..end).unwrap_or_default());
    out.put_u8(0);
}

/// An ErrorResponse or NoticeResponse of `fields`.
pub fn message(out: &mut BytesMut, tag: u8, fields: &Fields) {
    frame(out, tag, |out| {
        for (code, value) in fields {
            out.put_u8(*code);
            text(out, value);
        }
        out.put_u8(0);
    });
}

/// ReadyForQuery.
pub fn ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    frame(out, backend::READY_FOR_QUERY, |out| out.put_u8(status.as_byte()));
}

/// ParameterStatus.
pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    frame(out, backend::PARAMETER_STATUS, |out| {
        text(out, name.as_bytes());
        text(out, value.as_bytes());
    });
}

/// BackendKeyData: the secret has 4 bytes in protocol 3.0, up to 256 from 3.2 on.
pub fn backend_key(out: &mut BytesMut, pid: u32, secret: &[u8]) {
    frame(out, backend::BACKEND_KEY_DATA, |out| {
        out.put_u32(pid);
        out.put_slice(secret);
    });
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    frame(out, backend::AUTHENTICATION, |out| out.put_u32(0));
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut BytesMut) {
    frame(out, backend::AUTHENTICATION, |out| out.put_u32(3));
}

/// NegotiateProtocolVersion: the highest minor version, and the `_pq_.` options that are not known.
pub fn negotiate_version(out: &mut BytesMut, minor: u32, unknown: &[Bytes]) {
    frame(out, backend::NEGOTIATE_VERSION, |out| {
        // The whole version, as servers send it, not the minor alone.
        out.put_u32((3 << 16) | minor);
        out.put_u32(u32::try_from(unknown.len()).unwrap_or(u32::MAX));
        for name in unknown {
            text(out, name);
        }
    });
}

/// Query.
pub fn query(out: &mut BytesMut, statement: &[u8]) {
    frame(out, frontend::QUERY, |out| text(out, statement));
}

/// Parse; `types` are OIDs of its parameters, four bytes each.
pub fn parse(out: &mut BytesMut, name: &[u8], statement: &[u8], types: &[u8]) {
    frame(out, frontend::PARSE, |out| {
        text(out, name);
        text(out, statement);
        let count = types.len() / 4;
        out.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
        out.put_slice(types.get(..count.saturating_mul(4)).unwrap_or_default());
    });
}

/// Bind of `statement` to `portal`; results come as text.
pub fn bind(out: &mut BytesMut, portal: &[u8], statement: &[u8], parameters: &[Parameter]) {
    frame(out, frontend::BIND, |out| {
        text(out, portal);
        text(out, statement);
        // Clients send no more than this.
        let count = u16::try_from(parameters.len()).unwrap_or(u16::MAX);
        let parameters = parameters.get(..usize::from(count)).unwrap_or_default();
        out.put_u16(count);
        for parameter in parameters {
            out.put_u16(u16::from(parameter.binary));
        }
        out.put_u16(count);
        for parameter in parameters {
            match &parameter.value {
                None => out.put_i32(-1),
                Some(value) => {
                    out.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
                    out.put_slice(value);
                }
            }
        }
        out.put_u16(0);
    });
}

/// Execute of all of `portal`.
pub fn execute(out: &mut BytesMut, portal: &[u8]) {
    frame(out, frontend::EXECUTE, |out| {
        text(out, portal);
        out.put_u32(0);
    });
}

/// Close of a statement (`S`) or portal (`P`).
pub fn close(out: &mut BytesMut, kind: u8, name: &[u8]) {
    frame(out, frontend::CLOSE, |out| {
        out.put_u8(kind);
        text(out, name);
    });
}

/// CopyFail.
pub fn copy_fail(out: &mut BytesMut, why: &[u8]) {
    frame(out, frontend::COPY_FAIL, |out| text(out, why));
}

/// Describe of a portal.
pub fn describe_portal(out: &mut BytesMut, portal: &[u8]) {
    frame(out, frontend::DESCRIBE, |out| {
        out.put_u8(b'P');
        text(out, portal);
    });
}

/// Sync.
pub fn sync(out: &mut BytesMut) {
    frame(out, frontend::SYNC, |_| {});
}

/// Flush.
pub fn flush(out: &mut BytesMut) {
    frame(out, frontend::FLUSH, |_| {});
}

/// Terminate.
#[must_use]
pub fn terminate() -> Bytes {
    let mut out = BytesMut::new();
    frame(&mut out, frontend::TERMINATE, |_| {});
    out.freeze()
}

/// CancelRequest (section "Canceling Requests in Progress"). It has no tag.
#[must_use]
pub fn cancel_request(pid: u32, secret: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32(u32::try_from(secret.len().saturating_add(12)).unwrap_or(u32::MAX));
    out.put_u32(super::startup::CANCEL_REQUEST);
    out.put_u32(pid);
    out.put_slice(secret);
    out.freeze()
}
