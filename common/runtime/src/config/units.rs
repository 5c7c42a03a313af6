//! Durations and sizes as people write them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration: `500ms`, `30s`, `15m`, `1h30m`, `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A size: `512`, `64KiB`, `64MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// The text is no such quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// Not a duration.
    #[error("a duration has a unit, as in \"500ms\", \"30s\", \"15m\", \"1h30m\", \"7d\"")]
    Duration,
    /// Not a size.
    #[error("a size is bytes, or has a unit, as in \"512\", \"64KiB\", \"64MiB\", \"1GiB\"")]
    Size,
}

/// From the largest, with their milliseconds.
const DURATIONS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// From the largest, with their bytes.
const SIZES: &[(&str, u64)] = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for HumanDuration {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let (mut rest, mut millis) = (text, 0_u64);
        // Larger units first, each once.
        let mut units = DURATIONS;
        while !rest.is_empty() {
            let (number, after) = number(rest).ok_or(InvalidUnit::Duration)?;
            let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_len);
            let place = units.iter().position(|(name, _)| *name == unit).ok_or(InvalidUnit::Duration)?;
            let (_, factor) = units.get(place).ok_or(InvalidUnit::Duration)?;
            units = units.get(place.saturating_add(1)..).unwrap_or_default();
            let part = number.checked_mul(*factor).ok_or(InvalidUnit::Duration)?;
            millis = millis.checked_add(part).ok_or(InvalidUnit::Duration)?;
            rest = after;
        }
        if text.is_empty() { Err(InvalidUnit::Duration) } else { Ok(Self(Duration::from_millis(millis))) }
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in DURATIONS {
            let count = rest / factor;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
            rest %= factor;
        }
        Ok(())
    }
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let (number, unit) = number(text).ok_or(InvalidUnit::Size)?;
        let unit = if unit.is_empty() { "B" } else { unit };
        let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit).ok_or(InvalidUnit::Size)?;
        number.checked_mul(*factor).map(Self).ok_or(InvalidUnit::Size)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = SIZES.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match whole {
            Some(("B", _)) | None => write!(f, "{}", self.0),
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
        }
    }
}

impl ByteSize {
    /// As a length in memory.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// The digits in front, as a number, and what follows.
fn number(text: &str) -> Option<(u64, &str)> {
    let len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(len);
    Some((digits.parse().ok()?, rest))
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A whole number of bytes, or text with a unit.
impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64MiB\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom(InvalidUnit::Size))
            }
        }
        from.deserialize_any(Visitor)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for text in ["500ms", "30s", "15m", "1h30m", "7d", "1d2h3m4s5ms", "0s"] {
            assert_eq!(text.parse::<HumanDuration>().unwrap().to_string(), text);
        }
        assert_eq!("90m".parse::<HumanDuration>().unwrap().to_string(), "1h30m");
        for text in ["", "5", "m", "-1s", "1.5s", "1s1s", "1s1m", "5 s", "99999999999999999999d", "9999999999999999d"] {
            assert_eq!(text.parse::<HumanDuration>(), Err(InvalidUnit::Duration), "{text}");
        }
    }

    #[test]
    fn sizes_round_trip() {
        for (text, bytes) in [("512", 512), ("64KiB", 65_536), ("64MiB", 67_108_864), ("1GiB", 1 << 30), ("0", 0)] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, text));
        }
        for text in ["", "KiB", "1 KiB", "1kb", "-1", "99999999999TiB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(InvalidUnit::Size), "{text}");
        }
    }
}
