//! Numbers, put into buckets: each becomes the greatest multiple of the width that is not above it.

use std::fmt::Write as _;

use bytes::{Buf as _, BufMut as _, BytesMut};

/// Decimal digits that an i128 surely holds.
const MAX_DIGITS: usize = 38;
/// Groups of four digits in the binary form of numeric that an i128 surely holds.
const MAX_GROUPS: i16 = 9;
/// Signs of numeric's binary form; all others stand for no number.
pub(super) const POSITIVE: u16 = 0;
pub(super) const NEGATIVE: u16 = 0x4000;

/// Which of the types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// Of so many bytes.
    Int(u8),
    Float4,
    Float8,
    Numeric,
    /// A whole number of the smallest unit.
    Money,
}

impl Number {
    pub(super) const fn of(type_oid: u32) -> Option<Self> {
        Some(match type_oid {
            20 => Self::Int(8),
            21 => Self::Int(2),
            23 => Self::Int(4),
            700 => Self::Float4,
            701 => Self::Float8,
            790 => Self::Money,
            1_700 => Self::Numeric,
            _ => return None,
        })
    }

    /// Writes the lower bound, of money by a width in its smallest unit; `None` for NULL, where the value is no number or the type cannot hold the bound.
    pub(super) fn bucket(self, width: u64, value: &[u8], binary: bool, out: &mut BytesMut) -> Option<()> {
        match self {
            Self::Int(size) => write_int(size, floor(read_int(value, binary)?.into(), width)?, binary, out),
            Self::Float4 | Self::Float8 => self.float(width, value, binary, out),
            Self::Money => super::decimals::money_bucket(width, value, binary, out),
            Self::Numeric if binary => numeric_binary(width, value, out),
            Self::Numeric => numeric_text(width, value, out),
        }
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "floats are as exact as they are")]
    fn float(self, width: u64, value: &[u8], binary: bool, out: &mut BytesMut) -> Option<()> {
        let read = match (self, binary) {
            (Self::Float4, true) => f64::from(f32::from_be_bytes(value.try_into().ok()?)),
            (_, true) => f64::from_be_bytes(value.try_into().ok()?),
            (_, false) => std::str::from_utf8(value).ok()?.parse().ok()?,
        };
        let width = width as f64;
        // No negative zero.
        let bound = (read / width).floor() * width + 0.0;
        if !bound.is_finite() {
            return None;
        }
        match (self, binary) {
            (Self::Float4, true) => out.put_f32(bound as f32),
            (_, true) => out.put_f64(bound),
            (Self::Float4, false) => write_float(&(bound as f32), bound.abs() >= 1e6, out)?,
            (_, false) => write_float(&bound, bound.abs() >= 1e15, out)?,
        }
        Some(())
    }
}

fn write_float<T: std::fmt::Display + std::fmt::LowerExp>(bound: &T, large: bool, out: &mut BytesMut) -> Option<()> {
    // As the server does: an exponent with its sign and at least two digits.
    if !large {
        return write!(out, "{bound}").ok();
    }
    let text = format!("{bound:e}");
    let (digits, exponent) = text.split_once('e')?;
    write!(out, "{digits}e+{exponent:0>2}").ok()
}

pub(super) fn floor(value: i128, width: u64) -> Option<i128> {
    let width = i128::from(width);
    value.checked_div_euclid(width)?.checked_mul(width)
}

/// A whole number of 2, 4 or 8 bytes, or in decimal.
pub(super) fn read_int(value: &[u8], binary: bool) -> Option<i64> {
    if !binary {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    Some(match value.len() {
        2 => i16::from_be_bytes(value.try_into().ok()?).into(),
        4 => i32::from_be_bytes(value.try_into().ok()?).into(),
        8 => i64::from_be_bytes(value.try_into().ok()?),
        _ => return None,
    })
}

/// `None` when `size` bytes do not hold it.
pub(super) fn write_int(size: u8, value: i128, binary: bool, out: &mut BytesMut) -> Option<()> {
    match size {
        2 => {
            let value = i16::try_from(value).ok()?;
            if binary { out.put_i16(value) } else { write!(out, "{value}").ok()? }
        }
        4 => {
            let value = i32::try_from(value).ok()?;
            if binary { out.put_i32(value) } else { write!(out, "{value}").ok()? }
        }
        _ => {
            let value = i64::try_from(value).ok()?;
            if binary { out.put_i64(value) } else { write!(out, "{value}").ok()? }
        }
    }
    Some(())
}

fn numeric_text(width: u64, value: &[u8], out: &mut BytesMut) -> Option<()> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, plain) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > MAX_DIGITS || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: i128 = whole.parse().ok()?;
    let rest = fraction.bytes().any(|digit| digit != b'0');
    let bound = floor(signed(whole, negative, rest)?, width)?;
    write!(out, "{bound}").ok()?;
    if !fraction.is_empty() {
        out.put_u8(b'.');
        out.put_bytes(b'0', fraction.len());
    }
    Some(())
}

/// The greatest whole number that is not above one with this whole part, and a rest or none.
fn signed(whole: i128, negative: bool, rest: bool) -> Option<i128> {
    if negative { whole.checked_neg()?.checked_sub(rest.into()) } else { Some(whole) }
}

/// `numeric_send`: count of groups, weight of the first, sign, digits after the point, groups of four digits.
fn numeric_binary(width: u64, mut value: &[u8], out: &mut BytesMut) -> Option<()> {
    let count = value.try_get_i16().ok()?;
    let weight = value.try_get_i16().ok()?;
    let sign = value.try_get_u16().ok()?;
    let scale = value.try_get_i16().ok()?;
    let negative = match sign {
        POSITIVE => false,
        NEGATIVE => true,
        _ => return None,
    };
    if weight >= MAX_GROUPS {
        return None;
    }
    let (mut whole, mut rest) = (0_i128, false);
    let mut place = 0_i16;
    while place <= weight || place < count {
        let group = if place < count { value.try_get_i16().ok()? } else { 0 };
        if !(0..10_000).contains(&group) {
            return None;
        }
        if place <= weight {
            whole = whole.checked_mul(10_000)?.checked_add(group.into())?;
        } else {
            rest |= group != 0;
        }
        place = place.checked_add(1)?;
    }
    if !value.is_empty() {
        return None;
    }
    let bound = floor(signed(whole, negative, rest)?, width)?;
    let mut groups = [0_i16; 12];
    let (mut left, mut used) = (bound.unsigned_abs(), 0_usize);
    while left > 0 {
        *groups.get_mut(used)? = i16::try_from(left.checked_rem(10_000)?).ok()?;
        left = left.checked_div(10_000)?;
        used = used.checked_add(1)?;
    }
    let used = groups.get(..used)?;
    // Groups of zero at the end are left out.
    let zeros = used.iter().take_while(|group| **group == 0).count();
    out.put_i16(i16::try_from(used.len().checked_sub(zeros)?).ok()?);
    out.put_i16(i16::try_from(used.len().saturating_sub(1)).ok()?);
    out.put_u16(if bound < 0 { NEGATIVE } else { POSITIVE });
    out.put_i16(scale);
    used.iter().skip(zeros).rev().for_each(|group| out.put_i16(*group));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: Number, width: u64, value: &str) -> Option<String> {
        let mut out = BytesMut::new();
        of.bucket(width, value.as_bytes(), false, &mut out)?;
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn whole_numbers() {
        let int4 = |value| text(Number::Int(4), 10, value);
        assert_eq!(int4("47").as_deref(), Some("40"));
        assert_eq!(int4("-1").as_deref(), Some("-10"));
        assert_eq!(int4("-2147483648"), None, "the bound does not fit");
        assert_eq!(int4("x"), None);
        let mut out = BytesMut::new();
        Number::Int(8).bucket(1_000, &(-1_i64).to_be_bytes(), true, &mut out).unwrap();
        assert_eq!(out.as_ref(), (-1_000_i64).to_be_bytes());
    }

    #[test]
    fn floats() {
        assert_eq!(text(Number::Float8, 10, "47.5").as_deref(), Some("40"));
        assert_eq!(text(Number::Float8, 10, "-0.5").as_deref(), Some("-10"));
        assert_eq!(text(Number::Float8, 10, "0.5").as_deref(), Some("0"));
        assert_eq!(text(Number::Float8, 10, "2e+20").as_deref(), Some("2e+20"));
        assert_eq!(text(Number::Float4, 2, "2e+06").as_deref(), Some("2e+06"));
        assert_eq!((text(Number::Float8, 10, "NaN"), text(Number::Float8, 10, "Infinity")), (None, None));
        let mut out = BytesMut::new();
        Number::Float4.bucket(100, &299.0_f32.to_be_bytes(), true, &mut out).unwrap();
        assert_eq!(out.as_ref(), 200.0_f32.to_be_bytes());
    }

    #[test]
    fn numerics() {
        let numeric = |value| text(Number::Numeric, 100, value);
        assert_eq!(numeric("1234.50").as_deref(), Some("1200.00"));
        assert_eq!(numeric("-0.01").as_deref(), Some("-100.00"));
        assert_eq!(numeric("-100").as_deref(), Some("-100"));
        assert_eq!(numeric("99").as_deref(), Some("0"));
        assert_eq!((numeric("NaN"), numeric(&"9".repeat(39))), (None, None));
        // 12345678.5, then -12345678.5, then 0.5; width 1000.
        let binary = |groups: &[i16], weight: i16, sign: u16| {
            let mut value = BytesMut::new();
            value.put_i16(groups.len().try_into().unwrap());
            value.put_i16(weight);
            value.put_u16(sign);
            value.put_i16(1);
            groups.iter().for_each(|group| value.put_i16(*group));
            value
        };
        let mut out = BytesMut::new();
        Number::Numeric.bucket(1_000, &binary(&[1234, 5678, 5000], 1, 0), true, &mut out).unwrap();
        assert_eq!(out, binary(&[1234, 5000], 1, 0));
        out.clear();
        Number::Numeric.bucket(10_000, &binary(&[1234, 5678, 5000], 1, NEGATIVE), true, &mut out).unwrap();
        assert_eq!(out, binary(&[1235], 1, NEGATIVE));
        out.clear();
        Number::Numeric.bucket(1_000, &binary(&[5000], -1, 0), true, &mut out).unwrap();
        assert_eq!(out, binary(&[], 0, 0));
        for bad in [binary(&[], 0, 0xC000), binary(&[10_000], 0, 0), binary(&[1], 9, 0)] {
            assert_eq!(Number::Numeric.bucket(1_000, &bad, true, &mut out), None);
        }
    }
}
