//! What a value becomes.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use serde_json::Value;

/// What stands for a value when `redact` gives no text.
pub const REDACTED: &str = "****";

/// Longest text of `redact`, in bytes.
pub const MAX_REDACTED: usize = 256;

/// Most characters that `partial` keeps.
pub const MAX_KEPT: u32 = 64;

/// What a value becomes. A value whose type cannot hold the replacement becomes NULL.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MaskFunction {
    /// NULL.
    #[default]
    Null,
    /// A fixed text.
    Redact(Arc<str>),
    /// All characters but the last `keep_last` become `*`.
    Partial {
        /// Characters kept at the end.
        keep_last: u32,
    },
    /// A keyed hash, so that equal values stay equal.
    Hash,
    /// A date or timestamp becomes the beginning of the period that it lies in.
    Truncate(DateUnit),
    /// A number becomes the lower bound of its bucket: the greatest multiple of the width that is not above it.
    Bucket(NonZeroU64),
    /// Digits become other digits, by a keyed permutation of all numbers of as many digits; letters become `x`.
    Digits {
        /// The last digit is the check digit of the others, as on a card.
        luhn: bool,
    },
}

/// A period of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DateUnit {
    /// From 1 January.
    Year,
    /// From 1 January, April, July and October.
    Quarter,
    /// From its first day.
    Month,
    /// From midnight.
    Day,
    /// From its first minute.
    Hour,
}

/// No mask function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMask(pub String);

impl DateUnit {
    /// All of them, coarsest first.
    pub const ALL: [Self; 5] = [Self::Year, Self::Quarter, Self::Month, Self::Day, Self::Hour];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Year => "year",
            Self::Quarter => "quarter",
            Self::Month => "month",
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }

    /// The unit of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.as_str() == text)
    }
}

impl MaskFunction {
    /// How much it hides, beside others: the greater the stricter. What makes all values alike hides most, then what only tells them apart, then what
    /// shows a part; of those the one that shows less.
    #[must_use]
    pub fn strictness(&self) -> (u8, u64) {
        match self {
            Self::Null => (7, 0),
            Self::Redact(_) => (6, 0),
            Self::Hash => (5, 0),
            Self::Digits { .. } => (4, 0),
            Self::Truncate(unit) => (
                3,
                (0..).zip(DateUnit::ALL.iter().rev()).find(|(_, known)| *known == unit).map_or(0, |(place, _)| place),
            ),
            Self::Bucket(width) => (2, width.get()),
            Self::Partial { keep_last } => (1, u64::from(u32::MAX - keep_last)),
        }
    }

    /// The forms that [`MaskFunction::parse`] takes, for messages.
    pub const FORMS: &str = "null, hash, redact, digits, {redact: {text: ...}}, {partial: {keepLast: N}}, \
                             {truncate: {to: year|quarter|month|day|hour}}, {bucket: {width: N}} or {digits: {luhn: true}}";

    /// For the recording and for `describe`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Redact(_) => "redact",
            Self::Partial { .. } => "partial",
            Self::Hash => "hash",
            Self::Truncate(_) => "truncate",
            Self::Bucket(_) => "bucket",
            Self::Digits { .. } => "digits",
        }
    }

    /// Of a release that knew null, redact, partial and hash alone.
    #[must_use]
    pub const fn is_of_level_4(&self) -> bool {
        matches!(self, Self::Null | Self::Redact(_) | Self::Partial { .. } | Self::Hash)
    }

    /// Whether it makes sense of a part of a text.
    #[must_use]
    pub const fn is_for_text(&self) -> bool {
        !matches!(self, Self::Truncate(_) | Self::Bucket(_))
    }

    /// A fixed text.
    ///
    /// # Errors
    /// When it is too long.
    pub fn redact(text: &str) -> Result<Self, InvalidMask> {
        match text.len() {
            0 => Ok(Self::Redact(REDACTED.into())),
            len if len > MAX_REDACTED => Err(InvalidMask(format!("redact: is longer than {MAX_REDACTED} bytes"))),
            _ => Ok(Self::Redact(text.into())),
        }
    }

    /// All but the last characters are hidden.
    ///
    /// # Errors
    /// When too many are kept.
    pub fn partial(keep_last: u32) -> Result<Self, InvalidMask> {
        if keep_last > MAX_KEPT {
            return Err(InvalidMask(format!("partial: keepLast is more than {MAX_KEPT}")));
        }
        Ok(Self::Partial { keep_last })
    }

    /// The beginning of a period.
    ///
    /// # Errors
    /// When it is none.
    pub fn truncate(unit: &str) -> Result<Self, InvalidMask> {
        let unknown = || InvalidMask("truncate: must be to one of year, quarter, month, day, hour".into());
        DateUnit::parse(unit).map(Self::Truncate).ok_or_else(unknown)
    }

    /// Buckets of a width.
    ///
    /// # Errors
    /// When the width is 0 or 1, which would leave whole numbers as they are, or too large.
    pub fn bucket(width: u64) -> Result<Self, InvalidMask> {
        match NonZeroU64::new(width) {
            Some(width) if width.get() > 1 && i64::try_from(width.get()).is_ok() => Ok(Self::Bucket(width)),
            _ => Err(InvalidMask(format!("bucket: width must be from 2 to {}", i64::MAX))),
        }
    }

    /// Reads a mask as it is written in one word (`null`, `hash`, `redact`, `digits`), or in the JSON of a manifest's `mask`.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, InvalidMask> {
        let text = text.trim();
        let value = if text.starts_with(['{', '"']) {
            serde_json::from_str(text).map_err(|error| InvalidMask(format!("is not JSON: {error}")))?
        } else {
            Value::String(text.to_owned())
        };
        Self::from_json(&value)
    }

    /// As [`MaskFunction::parse`], of JSON that is read already.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_json(value: &Value) -> Result<Self, InvalidMask> {
        let unknown = || InvalidMask(format!("must be one of {}", Self::FORMS));
        let object = match value {
            Value::Null => return Ok(Self::Null),
            Value::String(word) => return Self::of_word(word).ok_or_else(unknown),
            Value::Object(object) => object,
            _ => return Err(unknown()),
        };
        let mut entries = object.iter();
        let (Some((name, form)), None) = (entries.next(), entries.next()) else { return Err(unknown()) };
        let known = match name.as_str() {
            "redact" => "text",
            "partial" => "keepLast",
            "truncate" => "to",
            "bucket" => "width",
            "digits" => "luhn",
            _ => return Err(unknown()),
        };
        let form = form.as_object().ok_or_else(unknown)?;
        if let Some(other) = form.keys().find(|key| *key != known) {
            return Err(InvalidMask(format!("{name}: {other} is not known")));
        }
        let member = form.get(known);
        let missing = || InvalidMask(format!("{name}: {known} is missing, or not of its type"));
        match name.as_str() {
            "redact" => match member {
                None => Self::redact(""),
                Some(text) => Self::redact(text.as_str().ok_or_else(missing)?),
            },
            "partial" => {
                let keep = member.map_or(Some(0), Value::as_u64).and_then(|keep| u32::try_from(keep).ok());
                Self::partial(keep.ok_or_else(missing)?)
            }
            "truncate" => Self::truncate(member.and_then(Value::as_str).ok_or_else(missing)?),
            "bucket" => Self::bucket(member.and_then(Value::as_u64).ok_or_else(missing)?),
            _ => Ok(Self::Digits { luhn: member.map_or(Some(false), Value::as_bool).ok_or_else(missing)? }),
        }
    }

    /// The mask that one word says.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "null" => Self::Null,
            "hash" => Self::Hash,
            "redact" => Self::Redact(REDACTED.into()),
            "digits" => Self::Digits { luhn: false },
            _ => return None,
        })
    }
}

impl fmt::Display for MaskFunction {
    /// As [`MaskFunction::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null | Self::Hash | Self::Digits { luhn: false } => f.write_str(self.as_str()),
            Self::Redact(text) => write!(f, "{}", serde_json::json!({"redact": {"text": **text}})),
            Self::Partial { keep_last } => write!(f, "{}", serde_json::json!({"partial": {"keepLast": keep_last}})),
            Self::Truncate(unit) => write!(f, "{}", serde_json::json!({"truncate": {"to": unit.as_str()}})),
            Self::Bucket(width) => write!(f, "{}", serde_json::json!({"bucket": {"width": width.get()}})),
            Self::Digits { luhn: true } => write!(f, "{}", serde_json::json!({"digits": {"luhn": true}})),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_read_as_they_are_written() {
        let all = [
            "null",
            "hash",
            "digits",
            r#"{"redact":{"text":"?"}}"#,
            r#"{"partial":{"keepLast":4}}"#,
            r#"{"truncate":{"to":"quarter"}}"#,
            r#"{"bucket":{"width":100}}"#,
            r#"{"digits":{"luhn":true}}"#,
        ];
        for text in all {
            assert_eq!(MaskFunction::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(MaskFunction::parse("redact").unwrap(), MaskFunction::Redact(REDACTED.into()));
        assert_eq!(MaskFunction::parse(r#"{"redact":{}}"#).unwrap(), MaskFunction::Redact(REDACTED.into()));
    }

    #[test]
    fn what_is_no_mask_is_refused() {
        for text in [
            "",
            "none",
            "{",
            "{}",
            "[]",
            r#"{"truncate":{"to":"minute"}}"#,
            r#"{"truncate":{}}"#,
            r#"{"bucket":{"width":1}}"#,
            r#"{"bucket":{"width":-5}}"#,
            r#"{"bucket":{"width":9223372036854775808}}"#,
            r#"{"partial":{"keepLast":65}}"#,
            r#"{"partial":{"keepFirst":5}}"#,
            r#"{"hash":{}}"#,
            r#"{"digits":{"luhn":"yes"}}"#,
            r#"{"digits":{},"redact":{}}"#,
        ] {
            assert!(MaskFunction::parse(text).is_err(), "{text}");
        }
    }
}
