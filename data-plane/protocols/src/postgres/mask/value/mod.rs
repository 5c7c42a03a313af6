//! What one value becomes.

mod dates;
mod decimals;
mod digits;
mod numbers;
mod permute;
mod scan;

use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::hmac;
use bytes::{BufMut as _, BytesMut};
use postern_core::masking::{DateUnit, MaskFunction};

use self::dates::Moment;
use self::numbers::Number;
use self::permute::Permutation;
use self::scan::Container;
pub(super) use self::scan::Scanner;
use crate::postgres::catalog::FIRST_NORMAL_OID;

/// OIDs of PostgreSQL's pg_type.dat whose values are text in both formats: name, text, unknown, bpchar, varchar.
const TEXTS: [u32; 5] = [19, 25, 705, 1042, 1043];
const BYTEA: u32 = 17;
const UUID: u32 = 2_950;

/// What masks are keyed by: made once of the cluster's key. Without it, values could be found by trying them (I4).
#[derive(Clone, Default)]
pub(super) struct Keys(Option<Arc<Derived>>);

struct Derived {
    hash: hmac::Key,
    digits: Permutation,
    whole: Permutation,
}

/// The mask of one column of a result, with what it does to values of the column's type in the result's format.
#[derive(Clone, Debug)]
pub(super) struct ColumnMask {
    name: &'static str,
    work: Work,
}

/// What is done to each value; what a type cannot hold becomes NULL.
#[derive(Clone, Debug)]
enum Work {
    Null,
    Fixed(Arc<str>),
    Partial(usize),
    HashText,
    HashInt(u8, Format),
    HashUuid(Format),
    HashBytea(Format),
    HashNumeric(Format),
    HashMoney(Format),
    Truncate(DateUnit, Moment, Format),
    Bucket(u64, Number, Format),
    DigitsText(bool),
    DigitsInt(bool, u8, Format),
    DigitsNumeric(bool, Format),
    DigitsMoney(bool, Format),
    Scan(Scanner, Container),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Binary,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    pub(super) fn new(key: &[u8]) -> Self {
        let hash = (!key.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, key));
        let derive = |hash: hmac::Key| {
            let permutation =
                |what: &str| Permutation::new(hmac::sign(&hash, what.as_bytes()).as_ref().try_into().ok()?);
            let digits = permutation("postern/mask/digits/1")?;
            let whole = permutation("postern/mask/whole-numbers/1")?;
            Some(Arc::new(Derived { hash, digits, whole }))
        };
        Self(hash.and_then(derive))
    }
}

/// Whether a value of the type can be replaced by any text. A type of the database's own (citext, an enumeration) takes one in the text
/// format only; any other becomes NULL.
fn takes_text(type_oid: u32, binary: bool) -> bool {
    TEXTS.contains(&type_oid) || (type_oid >= FIRST_NORMAL_OID && !binary)
}

impl ColumnMask {
    /// For a column of this type.
    pub(super) fn new(function: &MaskFunction, type_oid: u32, binary: bool) -> Self {
        Work::of(function, type_oid, binary).map_or(Self::null(), |work| Self { name: function.as_str(), work })
    }

    /// For a column that is masked where a value holds what `scanner` looks for; `None` when values of the type are no text.
    pub(super) fn scan(scanner: &Scanner, type_oid: u32, binary: bool) -> Option<Self> {
        let container = Container::of(type_oid, binary)?;
        Some(Self { name: "detect", work: Work::Scan(scanner.clone(), container) })
    }

    /// As [`ColumnMask::scan`], of columns whose types are not known.
    pub(super) fn scan_unknown(scanner: &Scanner, binary: bool) -> Self {
        Self { name: "detect", work: Work::Scan(scanner.clone(), Container::unknown(binary)) }
    }

    /// For a column whose type is not known.
    pub(super) const fn null() -> Self {
        Self { name: MaskFunction::Null.as_str(), work: Work::Null }
    }

    /// For the recording: `null` where the column's type cannot hold what the rule says.
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Writes what stands for a value that is not NULL; false for NULL, with `out` as it was.
    pub(super) fn replace(&self, value: &[u8], keys: &Keys, out: &mut BytesMut) -> bool {
        let start = out.len();
        let done = self.work.run(value, keys, out).is_some();
        if !done {
            out.truncate(start);
        }
        done
    }
}

impl Work {
    fn of(function: &MaskFunction, type_oid: u32, binary: bool) -> Option<Self> {
        let format = if binary { Format::Binary } else { Format::Text };
        let text = takes_text(type_oid, binary);
        let number = Number::of(type_oid);
        Some(match function {
            MaskFunction::Null => return None,
            MaskFunction::Redact(fixed) if text => Self::Fixed(Arc::clone(fixed)),
            MaskFunction::Partial { keep_last } if text => Self::Partial(usize::try_from(*keep_last).unwrap_or(0)),
            MaskFunction::Redact(_) | MaskFunction::Partial { .. } => return None,
            MaskFunction::Hash => match (type_oid, number) {
                _ if text => Self::HashText,
                (UUID, _) => Self::HashUuid(format),
                (BYTEA, _) => Self::HashBytea(format),
                (_, Some(Number::Int(size))) => Self::HashInt(size, format),
                (_, Some(Number::Numeric)) => Self::HashNumeric(format),
                (_, Some(Number::Money)) => Self::HashMoney(format),
                _ => return None,
            },
            MaskFunction::Truncate(unit) => Self::Truncate(*unit, Moment::of(type_oid)?, format),
            MaskFunction::Bucket(width) => Self::Bucket(width.get(), number?, format),
            MaskFunction::Digits { luhn } => match number {
                _ if text => Self::DigitsText(*luhn),
                Some(Number::Int(size)) => Self::DigitsInt(*luhn, size, format),
                Some(Number::Numeric) => Self::DigitsNumeric(*luhn, format),
                Some(Number::Money) => Self::DigitsMoney(*luhn, format),
                _ => return None,
            },
        })
    }

    /// `None` for NULL.
    fn run(&self, value: &[u8], keys: &Keys, out: &mut BytesMut) -> Option<()> {
        let all = keys;
        let keys = || keys.0.as_deref();
        match self {
            Self::Scan(scanner, container) => scanner.run(*container, value, all, out),
            Self::Null => None,
            Self::Fixed(text) => {
                out.put_slice(text.as_bytes());
                Some(())
            }
            Self::Partial(keep) => partial(value, *keep, out),
            Self::HashText => hash_hex(value, &keys()?.hash, out),
            Self::HashInt(size, format) => hash_int(*size, value, format.is_binary(), &keys()?.whole, out),
            Self::HashUuid(format) => hash_uuid(value, format.is_binary(), &keys()?.hash, out),
            Self::HashBytea(Format::Binary) => {
                out.put_slice(hmac::sign(&keys()?.hash, value).as_ref().get(..16)?);
                Some(())
            }
            // Of the text form, whichever it is; the hash is the same as in the binary format for the usual one.
            Self::HashBytea(Format::Text) => {
                let bytes = from_hex(value.strip_prefix(b"\\x")?)?;
                out.put_slice(b"\\x");
                hash_hex(&bytes, &keys()?.hash, out)
            }
            Self::HashNumeric(format) => decimals::hash(value, format.is_binary(), &keys()?.hash, out),
            Self::HashMoney(format) => decimals::money_hash(value, format.is_binary(), &keys()?.whole, out),
            Self::Truncate(unit, moment, format) => moment.truncate(*unit, value, format.is_binary(), out),
            Self::Bucket(width, number, format) => number.bucket(*width, value, format.is_binary(), out),
            Self::DigitsText(luhn) => digits::in_text(*luhn, value, &keys()?.digits, out),
            Self::DigitsInt(luhn, size, format) => {
                digits::in_int(*size, *luhn, value, format.is_binary(), &keys()?.digits, out)
            }
            Self::DigitsNumeric(luhn, format) => {
                decimals::digits(*luhn, value, format.is_binary(), &keys()?.digits, out)
            }
            Self::DigitsMoney(luhn, format) => {
                decimals::money_digits(*luhn, value, format.is_binary(), &keys()?.digits, out)
            }
        }
    }
}

impl Format {
    const fn is_binary(self) -> bool {
        matches!(self, Self::Binary)
    }
}

/// All characters but the last become `*`; all of them when there are no more than are kept, or the value would be shown whole.
fn partial(value: &[u8], keep: usize, out: &mut BytesMut) -> Option<()> {
    let text = std::str::from_utf8(value).ok()?;
    let count = text.chars().count();
    let hidden = match count.checked_sub(keep) {
        None | Some(0) => count,
        Some(hidden) => hidden,
    };
    let kept = text.char_indices().nth(hidden).and_then(|(at, _)| text.get(at..)).unwrap_or_default();
    out.put_bytes(b'*', hidden);
    out.put_slice(kept.as_bytes());
    Some(())
}

/// The first 16 bytes of HMAC-SHA256, in hexadecimal digits.
fn hash_hex(value: &[u8], key: &hmac::Key, out: &mut BytesMut) -> Option<()> {
    let tag = hmac::sign(key, value);
    put_hex(tag.as_ref().get(..16)?, out);
    Some(())
}

fn put_hex(bytes: &[u8], out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            out.put_u8(DIGITS.get(usize::from(half)).copied().unwrap_or(b'0'));
        }
    }
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let pairs = text.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
        _ => None,
    };
    pairs.map(byte).collect()
}

/// A whole number becomes another of its type: a permutation, so that no two become the same, and joins hold within a type.
fn hash_int(size: u8, value: &[u8], binary: bool, key: &Permutation, out: &mut BytesMut) -> Option<()> {
    let value = numbers::read_int(value, binary)?;
    let bits = u32::from(size).checked_mul(8)?;
    let unused = 64_u32.checked_sub(bits)?;
    let low = value.cast_unsigned() << unused >> unused;
    // The highest bit that is used is the sign's.
    let made = (key.bits(bits, low)? << unused).cast_signed() >> unused;
    numbers::write_int(size, made.into(), binary, out)
}

/// A uuid becomes one of version 8 (RFC 9562).
fn hash_uuid(value: &[u8], binary: bool, key: &hmac::Key, out: &mut BytesMut) -> Option<()> {
    let read = if binary {
        value.try_into().ok()?
    } else {
        let hex: Vec<u8> = value.iter().copied().filter(|byte| *byte != b'-').collect();
        <[u8; 16]>::try_from(from_hex(&hex)?).ok()?
    };
    let mut made = <[u8; 16]>::try_from(hmac::sign(key, &read).as_ref().get(..16)?).ok()?;
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut made;
    *version = (*version & 0x0F) | 0x80;
    *variant = (*variant & 0x3F) | 0x80;
    if binary {
        out.put_slice(&made);
        return Some(());
    }
    let number = u128::from_be_bytes(made);
    let part = |skip: u32, bits: u32| (number << skip) >> 128_u32.saturating_sub(bits);
    write!(
        out,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(0, 32),
        part(32, 16),
        part(48, 16),
        part(64, 16),
        part(80, 48)
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(function: MaskFunction, type_oid: u32, binary: bool, value: &[u8]) -> Option<Vec<u8>> {
        let mut out = BytesMut::new();
        let mask = ColumnMask::new(&function, type_oid, binary);
        mask.replace(value, &Keys::new(&[7; 32]), &mut out).then(|| out.to_vec())
    }

    #[test]
    fn a_hash_keeps_the_type_and_is_the_same_in_both_formats() {
        for value in [0_i32, -1, 42, i32::MIN, i32::MAX] {
            let binary = made(MaskFunction::Hash, 23, true, &value.to_be_bytes()).unwrap();
            let number = i32::from_be_bytes(binary.try_into().unwrap());
            let text = made(MaskFunction::Hash, 23, false, value.to_string().as_bytes()).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), number.to_string());
            assert_ne!(number, value);
        }
        let text = made(MaskFunction::Hash, UUID, false, b"00112233-4455-6677-8899-aabbccddeeff").unwrap();
        let text = String::from_utf8(text).unwrap();
        let bytes: Vec<u8> = (0..16).map(|n| n * 0x11).collect();
        let binary = made(MaskFunction::Hash, UUID, true, &bytes).unwrap();
        assert_eq!(from_hex(text.replace('-', "").as_bytes()).unwrap(), binary);
        assert_eq!((text.len(), &text[14..15]), (36, "8"));
        let binary = made(MaskFunction::Hash, BYTEA, true, b"ab").unwrap();
        let text = made(MaskFunction::Hash, BYTEA, false, b"\\x6162").unwrap();
        assert_eq!(from_hex(&text[2..]).unwrap(), binary);
        assert_eq!(made(MaskFunction::Hash, 701, true, &1.5_f64.to_be_bytes()), None);
    }

    #[test]
    fn without_a_key_nothing_is_shown() {
        for function in [MaskFunction::Hash, MaskFunction::Digits { luhn: false }] {
            for (type_oid, value) in [
                (25, "4111111111111111"),
                (23, "1234567"),
                (1_700, "1234567"),
                (790, "$1234567.00"),
                (UUID, "0011223344556677"),
            ] {
                let mut out = BytesMut::new();
                let mask = ColumnMask::new(&function, type_oid, false);
                assert!(!mask.replace(value.as_bytes(), &Keys::new(&[]), &mut out));
            }
        }
    }

    #[test]
    fn what_a_type_cannot_hold_is_null() {
        let year = MaskFunction::Truncate(DateUnit::Year);
        let bucket = MaskFunction::bucket(10).unwrap();
        let types = [16, 23, 25, 114, 600, 701, 790, 869, 1_082, 1_114, 1_184, 1_186, 1_700, UUID, 3_802, 20_000];
        let all =
            [year, bucket, MaskFunction::Digits { luhn: true }, MaskFunction::Hash, MaskFunction::Redact("x".into())];
        for type_oid in types {
            for function in &all {
                for binary in [false, true] {
                    // Of no type's form, so that only what does not look at the value makes anything of it.
                    let value = made(function.clone(), type_oid, binary, b"?");
                    let text = takes_text(type_oid, binary);
                    let blind = match function {
                        MaskFunction::Hash | MaskFunction::Redact(_) | MaskFunction::Digits { .. } => text,
                        _ => false,
                    };
                    assert_eq!(value.is_some(), blind, "{function:?} {type_oid} {binary}");
                }
            }
        }
    }
}
