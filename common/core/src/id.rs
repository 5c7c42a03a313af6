//! Identifiers: 128 bits, ordered by the time they were made, printed with a prefix that tells the kind.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;

/// Crockford's base 32, in lower case.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DIGITS: usize = 26;

/// The text is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}_ and 26 characters")]
pub struct InvalidId {
    prefix: &'static str,
}

/// The longest prefix, with what parts it from the digits.
const PREFIX: usize = 4;

/// An id's text, in one piece: every operation's are written several times.
struct Text {
    bytes: [u8; PREFIX + DIGITS],
    length: usize,
}

impl Text {
    /// `prefix` ends with what parts it from the digits.
    fn new(prefix: &str, value: u128) -> Self {
        let mut bytes = [b'0'; PREFIX + DIGITS];
        let mut length = 0;
        let digits = (0..DIGITS).rev().map(|place| {
            let digit = (value >> (place.saturating_mul(5))) & 31;
            usize::try_from(digit).ok().and_then(|d| ALPHABET.get(d)).copied().unwrap_or(b'0')
        });
        for (place, byte) in bytes.iter_mut().zip(prefix.bytes().chain(digits)) {
            *place = byte;
            length += 1;
        }
        Self { bytes, length }
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != DIGITS {
        return None;
    }
    let mut value = 0_u128;
    for (place, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|known| *known == byte)?;
        // 26 digits hold 130 bits: the first may only use three.
        if place == 0 && digit > 7 {
            return None;
        }
        value = (value << 5) | u128::try_from(digit).ok()?;
    }
    Some(value)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// From the time it is made at and randomness; of `random`, the low 80 bits count.
            #[must_use]
            pub const fn new(at: Timestamp, random: u128) -> Self {
                Self(((at.millis() as u128) << 80) | (random & ((1 << 80) - 1)))
            }

            /// When it was made, by the clock of its maker.
            #[must_use]
            #[allow(clippy::cast_possible_truncation)] // 48 bits
            pub const fn made_at(self) -> Timestamp {
                Timestamp::from_millis((self.0 >> 80) as u64)
            }

            /// The 16 bytes, big-endian.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// From 16 big-endian bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Text::new(concat!($prefix, "_"), self.0).as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(InvalidId { prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(Text::new(concat!($prefix, "_"), self.0).as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// One client connection through a gateway to one target.
    SessionId = "ses";
    /// One operation inside a session.
    OperationId = "op";
    /// One decision; clients see it beside a denial.
    DecisionId = "dec";
    /// One held operation's request for review.
    ApprovalId = "apr";
    /// One request for access, and its grant.
    AccessId = "acc";
    /// What was done in a session that is to be reviewed afterwards.
    ReviewId = "rev";
    /// One write to the control plane, for de-duplication.
    RequestId = "req";
    /// One session token (its `jti`).
    TokenId = "tok";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(bits in any::<u128>()) {
            let id = SessionId::from_bytes(bits.to_be_bytes());
            prop_assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        }

        #[test]
        fn any_text_is_refused_or_exact(text in "\\PC{0,40}") {
            if let Ok(id) = text.parse::<SessionId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn order_is_by_time() {
        let early = SessionId::new(Timestamp::from_millis(1), u128::MAX);
        let late = SessionId::new(Timestamp::from_millis(2), 0);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(late.made_at(), Timestamp::from_millis(2));
    }

    #[test]
    fn kinds_do_not_mix() {
        let session = SessionId::new(Timestamp::from_millis(1), 7).to_string();
        assert!(session.parse::<DecisionId>().is_err());
    }
}
