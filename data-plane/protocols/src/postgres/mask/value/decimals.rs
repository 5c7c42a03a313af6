//! Numbers of decimal digits: `numeric` in both of its forms, and `money`.
//!
//! `money` is a whole number of the smallest unit. Its text form depends on the session's `lc_monetary`, of which nothing is known here: all digits of it
//! are that number, whatever stands between.

use aws_lc_rs::hmac;
use bytes::{Buf as _, BufMut as _, BytesMut};

use super::digits;
use super::numbers::{NEGATIVE, POSITIVE, floor, read_int, write_int};
use super::permute::Permutation;

/// Most digits after the point that numeric has (NUMERIC_MAX_DISPLAY_SCALE of PostgreSQL's numeric.h is less).
const MAX_SCALE: usize = 16_383;
/// Most groups of four digits before the point: more digits than can be permuted.
const MAX_WHOLE: i16 = 15;
/// Decimal digits in a group of numeric's binary form.
const GROUP: usize = 4;
/// What is above the hash of a numeric: it fits where a whole number of 8 bytes does.
const HASHES: u64 = 1_000_000_000_000_000_000;

/// A finite numeric.
struct Decimal {
    negative: bool,
    /// Its digits without the point, and without zeros in front.
    digits: Vec<u8>,
    /// Digits after the point.
    scale: usize,
}

impl Decimal {
    fn from_text(value: &[u8]) -> Option<Self> {
        let (negative, plain) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
        let point = plain.iter().position(|byte| *byte == b'.');
        let scale = point.map_or(0, |point| plain.len().saturating_sub(point).saturating_sub(1));
        let digits: Vec<u8> = plain.iter().copied().filter(|byte| *byte != b'.').collect();
        let form = plain.len() == digits.len().saturating_add(point.is_some().into());
        // NaN and the infinities are none.
        let whole = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        (form && whole && scale <= MAX_SCALE).then(|| Self { negative, digits: significant(&digits), scale })
    }

    /// `numeric_send`: count of groups, weight of the first, sign, digits after the point, groups of four digits.
    fn from_binary(mut value: &[u8]) -> Option<Self> {
        let count = value.try_get_i16().ok()?;
        let weight = value.try_get_i16().ok()?;
        let negative = match value.try_get_u16().ok()? {
            POSITIVE => false,
            NEGATIVE => true,
            _ => return None,
        };
        let scale = usize::from(value.try_get_u16().ok()?);
        if scale > MAX_SCALE || weight >= MAX_WHOLE || count < 0 {
            return None;
        }
        let mut digits = Vec::new();
        // Groups of zeros between the point and the first that is sent.
        let before = usize::try_from(weight.checked_neg()?.checked_sub(1)?).unwrap_or(0);
        digits.resize(before.min(MAX_SCALE).checked_mul(GROUP)?, b'0');
        for _ in 0..count {
            let mut group = value.try_get_u16().ok().filter(|group| *group < 10_000)?;
            for unit in [1_000, 100, 10, 1] {
                digits.push(b'0'.checked_add(u8::try_from(group.checked_div(unit)?).ok()?)?);
                group = group.checked_rem(unit)?;
            }
        }
        if !value.is_empty() {
            return None;
        }
        let whole = usize::try_from(weight.checked_add(1)?).unwrap_or(0).checked_mul(GROUP)?;
        let length = whole.checked_add(scale)?;
        if digits.iter().skip(length).any(|digit| *digit != b'0') {
            return None;
        }
        digits.resize(length, b'0');
        Some(Self { negative, digits: significant(&digits), scale })
    }

    /// The digits before and after the point.
    fn parts(&self) -> (Vec<u8>, Vec<u8>) {
        let mut all = vec![b'0'; self.scale.saturating_sub(self.digits.len())];
        all.extend_from_slice(&self.digits);
        let fraction = all.split_off(all.len().saturating_sub(self.scale));
        (all, fraction)
    }

    fn is_negative(&self) -> bool {
        self.negative && self.digits.iter().any(|digit| *digit != b'0')
    }

    /// The same bytes for equal numbers, 1.5 and 1.50, and for no others.
    fn canonical(&self) -> Vec<u8> {
        let (whole, mut fraction) = self.parts();
        fraction.truncate(fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last.saturating_add(1)));
        let sign: &[u8] = if self.is_negative() { b"-" } else { b"+" };
        [sign, &significant(&whole), b".", &fraction].concat()
    }

    fn to_text(&self, out: &mut BytesMut) {
        let (whole, fraction) = self.parts();
        if self.is_negative() {
            out.put_u8(b'-');
        }
        match significant(&whole).as_slice() {
            [] => out.put_u8(b'0'),
            whole => out.put_slice(whole),
        }
        if !fraction.is_empty() {
            out.put_u8(b'.');
            out.put_slice(&fraction);
        }
    }

    fn to_binary(&self, out: &mut BytesMut) -> Option<()> {
        let (whole, mut fraction) = self.parts();
        let padding = whole.len().next_multiple_of(GROUP).checked_sub(whole.len())?;
        let mut all = vec![b'0'; padding];
        all.extend_from_slice(&whole);
        let first = all.len().checked_div(GROUP)?;
        fraction.resize(fraction.len().next_multiple_of(GROUP), b'0');
        all.append(&mut fraction);
        let value = |group: &[u8]| {
            let add = |sum: i16, digit: &u8| sum.checked_mul(10)?.checked_add(digit.checked_sub(b'0')?.into());
            group.iter().try_fold(0, add)
        };
        let groups = all.chunks(GROUP).map(value).collect::<Option<Vec<i16>>>()?;
        // Groups of zero at both ends are left out.
        let zeros = groups.iter().take_while(|group| **group == 0).count();
        let kept = groups.get(zeros..)?;
        let kept = kept.get(..kept.iter().rposition(|group| *group != 0).map_or(0, |last| last.saturating_add(1)))?;
        let weight = i64::try_from(first).ok()?.checked_sub(i64::try_from(zeros).ok()?)?.checked_sub(1)?;
        out.put_i16(kept.len().try_into().ok()?);
        out.put_i16(if kept.is_empty() { 0 } else { weight.try_into().ok()? });
        out.put_u16(if self.is_negative() { NEGATIVE } else { POSITIVE });
        out.put_u16(self.scale.try_into().ok()?);
        kept.iter().for_each(|group| out.put_i16(*group));
        Some(())
    }
}

/// Without zeros in front.
fn significant(digits: &[u8]) -> Vec<u8> {
    digits.iter().copied().skip_while(|digit| *digit == b'0').collect()
}

/// Of a numeric: another of as many digits that count, as many of them after the point, and the same sign. `None` for NULL.
pub(super) fn digits(luhn: bool, value: &[u8], binary: bool, key: &Permutation, out: &mut BytesMut) -> Option<()> {
    let other = |read: Decimal| Some(Decimal { digits: digits::whole(luhn, &read.digits, None, key)?, ..read });
    numeric(value, binary, other, out)
}

/// Of a numeric: a whole number of at most 18 digits, the same for equal ones whatever their scale. `None` for NULL.
pub(super) fn hash(value: &[u8], binary: bool, key: &hmac::Key, out: &mut BytesMut) -> Option<()> {
    let tag = |read: Decimal| {
        let tag = hmac::sign(key, &read.canonical());
        let number = u64::from_be_bytes(*tag.as_ref().first_chunk()?).checked_rem(HASHES)?;
        Some(Decimal { negative: false, digits: significant(number.to_string().as_bytes()), scale: 0 })
    };
    numeric(value, binary, tag, out)
}

/// What `change` makes of a numeric, in the format of the value.
fn numeric(
    value: &[u8],
    binary: bool,
    change: impl FnOnce(Decimal) -> Option<Decimal>,
    out: &mut BytesMut,
) -> Option<()> {
    if binary {
        return change(Decimal::from_binary(value)?)?.to_binary(out);
    }
    change(Decimal::from_text(value)?)?.to_text(out);
    Some(())
}

/// As [`digits`], of money.
pub(super) fn money_digits(
    luhn: bool,
    value: &[u8],
    binary: bool,
    key: &Permutation,
    out: &mut BytesMut,
) -> Option<()> {
    if binary {
        return digits::in_int(8, luhn, value, true, key, out);
    }
    let text = Money::read(value)?;
    let made = digits::whole(luhn, &significant(&text.digits), Some(i64::MAX.unsigned_abs().into()), key)?;
    let zero = made.iter().all(|digit| *digit == b'0');
    let mut next = std::iter::repeat_n(b'0', text.digits.len().checked_sub(made.len())?).chain(made);
    for byte in value.iter().copied() {
        match byte {
            b'0'..=b'9' => out.put_u8(next.next()?),
            // Nothing less than nothing.
            b'-' | b'(' | b')' if zero => {}
            _ => out.put_u8(byte),
        }
    }
    Some(())
}

/// The greatest multiple of `width` smallest units that is not above it.
pub(super) fn money_bucket(width: u64, value: &[u8], binary: bool, out: &mut BytesMut) -> Option<()> {
    money(value, binary, |number| i64::try_from(floor(number.into(), width)?).ok(), out)
}

/// Of money: another, each its own.
pub(super) fn money_hash(value: &[u8], binary: bool, key: &Permutation, out: &mut BytesMut) -> Option<()> {
    money(value, binary, |number| Some(key.bits(64, number.cast_unsigned())?.cast_signed()), out)
}

/// What `change` makes of the smallest units, in the form of the value.
fn money(value: &[u8], binary: bool, change: impl Fn(i64) -> Option<i64>, out: &mut BytesMut) -> Option<()> {
    if binary {
        return write_int(8, change(read_int(value, true)?)?.into(), true, out);
    }
    let text = Money::read(value)?;
    let number: i128 = std::str::from_utf8(&text.digits).ok()?.parse().ok()?;
    let number = if text.negative { number.checked_neg()? } else { number };
    text.with(change(i64::try_from(number).ok()?)?, out)
}

/// The text form of money, `cash_out` of PostgreSQL.
struct Money<'a> {
    before: &'a [u8],
    after: &'a [u8],
    negative: bool,
    /// All of them.
    digits: Vec<u8>,
    /// Digits after the point; 0 where there is none.
    fraction: usize,
    point: &'a [u8],
    /// Between groups of three digits, where there are several.
    separator: &'a [u8],
}

impl<'a> Money<'a> {
    fn read(value: &'a [u8]) -> Option<Self> {
        let first = value.iter().position(u8::is_ascii_digit)?;
        let end = value.iter().rposition(u8::is_ascii_digit)?.checked_add(1)?;
        let (before, rest) = value.split_at_checked(first)?;
        let (number, after) = rest.split_at_checked(end.checked_sub(first)?)?;
        let digits: Vec<u8> = number.iter().copied().filter(u8::is_ascii_digit).collect();
        // As int8 has.
        if digits.len() > 20 {
            return None;
        }
        let mut signs: Vec<(usize, &[u8])> = Vec::new();
        let mut count = 0_usize;
        for run in number.chunk_by(|one, next| one.is_ascii_digit() == next.is_ascii_digit()) {
            if run.iter().all(u8::is_ascii_digit) {
                count = count.saturating_add(run.len());
            } else {
                signs.push((digits.len().checked_sub(count)?, run));
            }
        }
        // A point is another sign than what stands between groups, or stands where no group ends.
        let (fraction, point) = match signs.as_slice() {
            [.., (_, other), (after, last)] if last != other => (*after, *last),
            [(after, only)] if *after != 3 => (*after, *only),
            _ => (0, &[][..]),
        };
        let separator = signs.first().filter(|(after, _)| *after != fraction).map_or(&[][..], |(_, sign)| *sign);
        let negative = before.iter().chain(after).any(|byte| matches!(byte, b'-' | b'('));
        Some(Self { before, after, negative, digits, fraction, point, separator })
    }

    /// Another value in its form. The sign of a number that had another is put before all, as most locales do.
    fn with(&self, value: i64, out: &mut BytesMut) -> Option<()> {
        let mut made = value.unsigned_abs().to_string().into_bytes();
        // As many digits after the point as there were, and one before it.
        let least = self.fraction.saturating_add(1);
        made.splice(0..0, std::iter::repeat_n(b'0', least.saturating_sub(made.len())));
        let plain = |part: &'a [u8]| part.iter().copied().filter(|byte| !matches!(byte, b'-' | b'(' | b')'));
        if value < 0 && !self.negative {
            out.put_u8(b'-');
        }
        let keeps = value < 0 && self.negative;
        if keeps {
            out.put_slice(self.before)
        } else {
            out.extend(plain(self.before))
        }
        let whole = made.len().checked_sub(self.fraction)?;
        for (place, digit) in made.into_iter().enumerate() {
            if place == whole {
                out.put_slice(self.point);
            } else if place > 0 && place < whole && whole.checked_sub(place)?.is_multiple_of(3) {
                out.put_slice(self.separator);
            }
            out.put_u8(digit);
        }
        if keeps {
            out.put_slice(self.after)
        } else {
            out.extend(plain(self.after))
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Permutation {
        Permutation::new(&[7; 32]).unwrap()
    }

    fn text(value: &str) -> Option<String> {
        let mut out = BytesMut::new();
        digits(false, value.as_bytes(), false, &key(), &mut out)?;
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    fn masked_money(value: &str) -> String {
        let mut out = BytesMut::new();
        money_digits(false, value.as_bytes(), false, &key(), &mut out).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn bucket(width: u64, value: &str) -> Option<String> {
        let mut out = BytesMut::new();
        money_bucket(width, value.as_bytes(), false, &mut out)?;
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn numerics_keep_their_form() {
        for value in ["123456", "-123456.78", "1234.5678", "0.00123456", "999999999999.99", "-0.12345678", "100000.00"]
        {
            let made = text(value).unwrap();
            assert_ne!(made, value);
            assert_eq!(made.len(), value.len(), "{value} {made}");
            assert_eq!(made.find('.'), value.find('.'), "{value} {made}");
            assert_eq!(made.starts_with('-'), value.starts_with('-'));
            // As many digits that count: no precision is too small for it.
            let first = |text: &str| text.find(|digit: char| ('1'..='9').contains(&digit));
            assert_eq!(first(&made), first(value), "{value} {made}");
            // And the same in binary.
            let read = Decimal::from_text(value.as_bytes()).unwrap();
            let mut binary = BytesMut::new();
            read.to_binary(&mut binary).unwrap();
            let again = Decimal::from_binary(&binary).unwrap();
            assert_eq!((&again.digits, again.scale, again.negative), (&read.digits, read.scale, read.negative));
            let mut masked = BytesMut::new();
            digits(false, &binary, true, &key(), &mut masked).unwrap();
            let mut shown = BytesMut::new();
            Decimal::from_binary(&masked).unwrap().to_text(&mut shown);
            assert_eq!(shown, made.as_bytes());
        }
        // So few could be tried.
        assert_eq!(text("-12.34").as_deref(), Some("0.00"));
        assert_eq!(text("0").as_deref(), Some("0"));
        for none in ["NaN", "Infinity", "-Infinity", "", "-", ".", "1.2.3", "1e5", &"1".repeat(57)] {
            assert_eq!(text(none), None, "{none}");
        }
        let forms: [&[u8]; 6] = [
            b"",
            &[0, 0, 0, 0, 0xC0, 0, 0, 0],
            &[0, 1, 0, 0, 0, 0, 0, 0],
            &[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10],
            &[0, 1, 0, 15, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 0, 1],
        ];
        for bad in forms {
            assert!(digits(false, bad, true, &key(), &mut BytesMut::new()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn money_keeps_its_form_in_any_locale() {
        for value in
            ["$1,234.56", "-$12,345.67", "($1,234,567.89)", "1.234,56 €", "￥123,456", "12 345,67 kr", "Rs1,234.567"]
        {
            let made = masked_money(value);
            assert_ne!(made, value);
            let form = |text: &str| text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
            assert_eq!(form(&made), form(value));
            let units = |text: &str| text.bytes().filter(u8::is_ascii_digit).map(char::from).collect::<String>();
            let raw: i64 = units(value).parse().unwrap();
            let mut out = BytesMut::new();
            money_digits(false, &raw.to_be_bytes(), true, &key(), &mut out).unwrap();
            let made: i64 = units(&made).parse().unwrap();
            assert_eq!(out.as_ref(), made.to_be_bytes(), "{value}");
        }
        assert_eq!(masked_money("-$0.05"), "$0.00");
        assert_eq!(masked_money("($12.34)"), "$00.00");
    }

    fn hashed(value: &str) -> Option<String> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let mut out = BytesMut::new();
        hash(value.as_bytes(), false, &key, &mut out)?;
        let mut binary = BytesMut::new();
        Decimal::from_text(value.as_bytes())?.to_binary(&mut binary)?;
        let mut made = BytesMut::new();
        hash(&binary, true, &key, &mut made)?;
        let mut shown = BytesMut::new();
        Decimal::from_binary(&made)?.to_text(&mut shown);
        assert_eq!(shown, out, "{value}: the same in both formats");
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn equal_numerics_have_equal_hashes_and_others_others() {
        for equal in [["1.5", "1.50"], ["0", "0.000"], ["-0", "0"], ["100", "100.0"], ["-7.10", "-7.1"]] {
            assert_eq!(hashed(equal[0]), hashed(equal[1]), "{equal:?}");
        }
        let values = ["0", "1", "-1", "10", "0.1", "0.01", "1.5", "15", "123456789012345678901234567890.5"];
        let made: std::collections::BTreeSet<String> = values.iter().map(|value| hashed(value).unwrap()).collect();
        assert_eq!(made.len(), values.len());
        assert!(made.iter().all(|made| made.len() <= 18 && made.bytes().all(|byte| byte.is_ascii_digit())), "{made:?}");
        assert_eq!((hashed("NaN"), hashed("Infinity"), hashed("")), (None, None, None));
    }

    #[test]
    fn money_is_hashed_as_the_number_that_it_is() {
        for (value, raw) in [("$1,234.56", 123_456_i64), ("-$0.05", -5), ("($12.34)", -1_234), ("1.234,56 €", 123_456)]
        {
            let mut out = BytesMut::new();
            money_hash(value.as_bytes(), false, &key(), &mut out).unwrap();
            let text = String::from_utf8(out.to_vec()).unwrap();
            let mut out = BytesMut::new();
            money_hash(&raw.to_be_bytes(), true, &key(), &mut out).unwrap();
            let number = i64::from_be_bytes(out.as_ref().try_into().unwrap());
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            assert_eq!(digits.parse::<u64>().unwrap(), number.unsigned_abs(), "{text}");
            assert_eq!(text.contains(['-', '(']), number < 0, "{text}");
            assert_ne!(number, raw);
        }
    }

    #[test]
    fn money_goes_into_buckets() {
        for (width, value, expected) in [
            (100_000, "$1,780.00", "$1,000.00"),
            (100_000, "$999.99", "$0.00"),
            (100_000, "-$0.01", "-$1,000.00"),
            (100_000, "-$1,500.00", "-$2,000.00"),
            (100_000, "1.234.567,89 €", "1.234.000,00 €"),
            (1_000, "￥123,456", "￥123,000"),
            (1_000, "￥56", "￥0"),
        ] {
            let made = bucket(width, value).unwrap();
            // What grows has no separator to go by.
            assert_eq!(made.replace(",000.00", "000.00"), expected.replace(",000.00", "000.00"), "{value}");
        }
        assert_eq!((bucket(10, "$"), bucket(u64::MAX, "-$1.00")), (None, None));
        let mut out = BytesMut::new();
        money_bucket(100, &(-1_i64).to_be_bytes(), true, &mut out).unwrap();
        assert_eq!(out.as_ref(), (-100_i64).to_be_bytes());
    }
}
