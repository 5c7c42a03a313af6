//! The unit of policy inside a session.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::action::Action;
use crate::id::{OperationId, SessionId};

/// SHA-256 over everything that an approval binds (I7): session, exact bytes, parameters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

/// What a client asks a target to do, classified.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Names it in the recording.
    pub id: OperationId,
    /// The statement exactly as the client sent it.
    pub text: Bytes,
    /// Parameter values as sent, beside their wire format; `None` for NULL.
    pub parameters: Vec<Parameter>,
    /// Everything that it does. Empty: nothing that policy speaks of (BEGIN, SHOW, an empty query).
    pub actions: Vec<Action>,
    /// What an approval of it would bind.
    pub digest: Digest,
}

/// One bound parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Whether `value` is in the protocol's binary format.
    pub binary: bool,
    /// The bytes as sent; `None` for NULL.
    pub value: Option<Bytes>,
}

impl Operation {
    /// A classified operation of `session`; computes its digest.
    #[must_use]
    pub fn new(
        id: OperationId,
        session: SessionId,
        text: Bytes,
        parameters: Vec<Parameter>,
        actions: Vec<Action>,
    ) -> Self {
        let digest = Digest::of(session, &text, &parameters);
        Self { id, text, parameters, actions, digest }
    }
}

impl Digest {
    /// Over `session`, `text` and `parameters`, each preceded by its length, so that no two differ alike.
    #[must_use]
    pub fn of(session: SessionId, text: &[u8], parameters: &[Parameter]) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(b"postern operation v1\0");
        hash.update(&session.to_bytes());
        let part = |hash: &mut Context, bytes: &[u8]| {
            hash.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        };
        part(&mut hash, text);
        for parameter in parameters {
            hash.update(&[u8::from(parameter.binary), u8::from(parameter.value.is_some())]);
            part(&mut hash, parameter.value.as_deref().unwrap_or_default());
        }
        let mut out = [0; 32];
        out.copy_from_slice(hash.finish().as_ref());
        Self(out)
    }

    /// From 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl Digest {
    /// In hexadecimal digits.
    fn hex(&self) -> [u8; 64] {
        let digit = |nibble: u8| if nibble < 10 { b'0' | nibble } else { b'W'.wrapping_add(nibble) };
        let mut out = [0; 64];
        for ([high, low], byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            (*high, *low) = (digit(byte >> 4), digit(byte & 15));
        }
        out
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let mut out = [0; 32];
        let fault = || serde::de::Error::custom("expected 64 hexadecimal digits");
        if text.len() != 64 {
            return Err(fault());
        }
        for (slot, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| fault())?;
            *slot = u8::from_str_radix(pair, 16).map_err(|_| fault())?;
        }
        Ok(Self(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn digest_tells_apart_what_differs() {
        let session = SessionId::new(Timestamp::from_millis(1), 1);
        let text = |t: &'static str| Parameter { binary: false, value: Some(Bytes::from_static(t.as_bytes())) };
        let null = Parameter { binary: false, value: None };
        let all = [
            Digest::of(session, b"select $1", &[text("a")]),
            Digest::of(session, b"select $1", &[text("")]),
            Digest::of(session, b"select $1", std::slice::from_ref(&null)),
            Digest::of(session, b"select $1", &[]),
            Digest::of(session, b"select $1a", &[]),
            Digest::of(SessionId::new(Timestamp::from_millis(1), 2), b"select $1", &[]),
            Digest::of(session, b"select $1", &[text("a"), text("b")]),
            Digest::of(session, b"select $1", &[text("ab"), text("")]),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in all.iter().skip(i + 1) {
                assert_ne!(a, b);
            }
        }
        let json = serde_json::to_string(&all[0]).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), all[0]);
    }
}
