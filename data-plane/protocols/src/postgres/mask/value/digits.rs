//! Digits that become other digits, in texts and in whole numbers.

use bytes::{BufMut as _, BytesMut};

use super::numbers::{read_int, write_int};
use super::permute::{MAX_DIGITS, MIN_DIGITS, Permutation};

/// Tries to find a whole number of as many digits that its type holds. One in ten fits at worst.
const MAX_WALK: usize = 1_000;

/// Of a text: each digit becomes another, letters become `x`, all else stays. `None` for NULL: not UTF-8, or more digits than can be permuted.
pub(super) fn in_text(luhn: bool, value: &[u8], permutation: &Permutation, out: &mut BytesMut) -> Option<()> {
    let text = std::str::from_utf8(value).ok()?;
    let mut digits = Digits::default();
    text.bytes().filter(u8::is_ascii_digit).try_for_each(|digit| digits.push(digit))?;
    digits.permute(luhn, permutation)?;
    let mut next = digits.iter();
    for c in text.chars() {
        out.put_u8(match c {
            '0'..='9' => next.next()?,
            'A'..='Z' => b'X',
            _ if c.is_ascii() && !c.is_ascii_alphabetic() => u8::try_from(c).ok()?,
            _ => b'x',
        });
    }
    Some(())
}

/// Of a whole number of `size` bytes: another with as many digits, and the same sign.
pub(super) fn in_int(
    size: u8,
    luhn: bool,
    value: &[u8],
    binary: bool,
    permutation: &Permutation,
    out: &mut BytesMut,
) -> Option<()> {
    let value = read_int(value, binary)?;
    let max = match size {
        2 => i64::from(i16::MAX),
        4 => i64::from(i32::MAX),
        _ => i64::MAX,
    };
    let made = whole(luhn, value.unsigned_abs().to_string().as_bytes(), Some(max.unsigned_abs().into()), permutation)?;
    let made = i128::try_from(number(&made)?).ok()?;
    write_int(size, if value < 0 { made.checked_neg()? } else { made }, binary, out)
}

/// Of the digits of a number that has no zeros in front: as many others, likewise, that are no number above `max`. Zeros where there are too few.
pub(super) fn whole(luhn: bool, number: &[u8], max: Option<u128>, permutation: &Permutation) -> Option<Vec<u8>> {
    let mut digits = Digits::default();
    number.iter().try_for_each(|digit| digits.push(*digit))?;
    for _ in 0..MAX_WALK {
        digits.permute(luhn, permutation)?;
        // Without a zero in front, which the number would lose. The walk ends where it began at the latest.
        let keeps = digits.iter().next() != Some(b'0') || digits.count.saturating_sub(luhn.into()) < MIN_DIGITS;
        let made: Vec<u8> = digits.iter().collect();
        if keeps && max.is_none_or(|max| self::number(&made).is_some_and(|made| made <= max)) {
            return Some(made);
        }
    }
    None
}

/// Decimal digits, as ASCII.
struct Digits {
    all: [u8; MAX_DIGITS as usize],
    count: u32,
}

impl Default for Digits {
    fn default() -> Self {
        Self { all: [b'0'; MAX_DIGITS as usize], count: 0 }
    }
}

impl Digits {
    fn push(&mut self, digit: u8) -> Option<()> {
        *self.all.get_mut(usize::try_from(self.count).ok()?)? = digit;
        self.count = self.count.checked_add(1)?;
        Some(())
    }

    fn iter(&self) -> impl Iterator<Item = u8> {
        self.all.iter().copied().take(usize::try_from(self.count).unwrap_or(0))
    }

    fn permute(&mut self, luhn: bool, permutation: &Permutation) -> Option<()> {
        let count = self.count.saturating_sub(luhn.into());
        if count < MIN_DIGITS {
            self.all.fill(b'0');
            return Some(());
        }
        let (length, split) = (usize::try_from(count).ok()?, usize::try_from(count / 2).ok()?);
        let body = self.all.get_mut(..length)?;
        let (left, right) = body.split_at_mut(split);
        let (new_left, new_right) = permutation.decimal(count, (number(left)?, number(right)?))?;
        write(new_left, left)?;
        write(new_right, right)?;
        if luhn {
            *self.all.get_mut(length)? = check_digit(self.all.get(..length)?);
        }
        Some(())
    }
}

fn number(digits: &[u8]) -> Option<u128> {
    let add = |sum: u128, digit: &u8| sum.checked_mul(10)?.checked_add(digit.checked_sub(b'0')?.into());
    digits.iter().try_fold(0, add)
}

fn write(mut value: u128, digits: &mut [u8]) -> Option<()> {
    for place in digits.iter_mut().rev() {
        *place = b'0'.checked_add(u8::try_from(value.checked_rem(10)?).ok()?)?;
        value = value.checked_div(10)?;
    }
    Some(())
}

/// The digit after `digits` that makes them pass the test of Luhn (ISO/IEC 7812-1, annex B).
pub(in super::super) fn check_digit(digits: &[u8]) -> u8 {
    let mut sum = 0_u32;
    for (place, digit) in digits.iter().rev().enumerate() {
        let digit = u32::from(digit.saturating_sub(b'0'));
        let doubled = if place.is_multiple_of(2) { digit.saturating_mul(2) } else { digit };
        sum = sum.saturating_add(if doubled > 9 { doubled.saturating_sub(9) } else { doubled });
    }
    let rest = 10_u32.saturating_sub(sum % 10) % 10;
    b'0'.saturating_add(u8::try_from(rest).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permutation() -> Permutation {
        Permutation::new(&[7; 32]).unwrap()
    }

    fn text(luhn: bool, value: &str) -> Option<String> {
        let mut out = BytesMut::new();
        in_text(luhn, value.as_bytes(), &permutation(), &mut out)?;
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn texts_keep_their_form() {
        let card = text(true, "4111-1111-1111-1111").unwrap();
        assert_eq!(card.len(), 19);
        assert_eq!(card.match_indices('-').map(|(at, _)| at).collect::<Vec<_>>(), [4, 9, 14]);
        let digits: Vec<u8> = card.bytes().filter(u8::is_ascii_digit).collect();
        assert_eq!(check_digit(&digits[..15]), digits[15]);
        assert_eq!(text(true, "4111 1111 1111 1111").unwrap().replace(' ', "-"), card, "the same card");
        assert_ne!(card, "4111-1111-1111-1111");
        assert_ne!(text(false, "4111-1111-1111-1112"), text(false, "4111-1111-1111-1111"));
        assert_eq!(text(false, "123").as_deref(), Some("000"), "so few could be tried");
        let letters = text(false, "Ada@1815é").unwrap();
        assert_eq!(letters, "Xxx@0000x");
        assert_eq!(text(false, &"1".repeat(57)), None);
    }

    #[test]
    fn whole_numbers_keep_their_length_and_type() {
        for value in [123_456_i64, 999_999, 2_147_483_647, -2_000_000_000, 1_000_000_000] {
            let mut binary = BytesMut::new();
            let value4 = i32::try_from(value).unwrap();
            in_int(4, false, &value4.to_be_bytes(), true, &permutation(), &mut binary).unwrap();
            let made = i32::from_be_bytes(binary.as_ref().try_into().unwrap());
            assert_eq!(made.unsigned_abs().to_string().len(), value4.unsigned_abs().to_string().len());
            assert_eq!(made < 0, value < 0);
            let mut plain = BytesMut::new();
            in_int(4, false, value.to_string().as_bytes(), false, &permutation(), &mut plain).unwrap();
            assert_eq!(std::str::from_utf8(&plain).unwrap(), made.to_string());
        }
        let mut out = BytesMut::new();
        in_int(2, false, b"12", false, &permutation(), &mut out).unwrap();
        assert_eq!(out.as_ref(), b"0");
    }
}
