//! Numbers that states give to people, each told by its check digits, or by its form where it has none.

use super::digits::Run;
use super::is_over;

/// Where one that begins at `at` stops.
pub(super) fn id(text: &[u8], at: usize) -> Option<usize> {
    let first = *text.get(at)?;
    if first.is_ascii_alphabetic() {
        return [britain(text, at), spain(text, at), italy(text, at)].into_iter().flatten().max();
    }
    [united_states(text, at), spain(text, at), france(text, at), eleven(text, at)].into_iter().flatten().max()
}

/// Social security numbers: no check digit, so that only the form with signs is told; some numbers are never given.
fn united_states(text: &[u8], at: usize) -> Option<usize> {
    let run = Run::read(text, at, 9, b"- ", 1);
    if run.groups().get(..3)? != [3, 2, 4] {
        return None;
    }
    let part = |range: std::ops::Range<usize>| run.digits().get(range).map(number);
    let (area, group, serial) = (part(0..3)?, part(3..5)?, part(5..9)?);
    let given = area != 0 && area != 666 && area < 900 && group != 0 && serial != 0;
    let end = run.end(9)?;
    (given && is_over(text, end)).then_some(end)
}

/// National insurance numbers.
fn britain(text: &[u8], at: usize) -> Option<usize> {
    let (read, end) = compact::<9>(text, at)?;
    let [a, b, digits @ .., last] = &read;
    let letters = |byte: &u8| byte.is_ascii_alphabetic() && !b"DFIQUV".contains(byte);
    let never = [b"BG", b"GB", b"NK", b"KN", b"TN", b"NT", b"ZZ"].contains(&&[*a, *b]);
    let good = letters(a) && letters(b) && *b != b'O' && !never && digits.iter().all(u8::is_ascii_digit);
    (good && matches!(last, b'A'..=b'D')).then_some(end)
}

/// DNI and NIE: the letter follows from the number.
fn spain(text: &[u8], at: usize) -> Option<usize> {
    let (read, end) = compact::<9>(text, at)?;
    let [first, digits @ .., last] = &read;
    let first = match first {
        b'X' => 0,
        b'Y' => 1,
        b'Z' => 2,
        digit => digit.checked_sub(b'0').filter(|digit| *digit < 10)?,
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(u32::from(first), |sum, digit| {
        sum.saturating_mul(10).saturating_add(u32::from(digit.saturating_sub(b'0')))
    });
    let letter = b"TRWAGMYFPDXBNJZSQVHLCKE".get(usize::try_from(value % 23).ok()?)?;
    (letter == last).then_some(end)
}

/// Codice fiscale: the last letter follows from the others.
fn italy(text: &[u8], at: usize) -> Option<usize> {
    const ODD: [u8; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let (read, end) = compact::<16>(text, at)?;
    let form = b"LLLLLLNNLNNLNNNL";
    let fits = |(byte, form): (&u8, &u8)| match form {
        // Two people with the same number are told apart by letters in place of digits.
        b'N' => byte.is_ascii_digit() || b"LMNPQRSTUV".contains(byte),
        _ => byte.is_ascii_alphabetic(),
    };
    let month = read.get(8).is_some_and(|byte| b"ABCDEHLMPRST".contains(byte));
    if !read.iter().zip(form).all(fits) || !month {
        return None;
    }
    let value = |place: usize, byte: &u8| -> u32 {
        let of = if byte.is_ascii_digit() { byte.saturating_sub(b'0') } else { byte.saturating_sub(b'A') };
        if place.is_multiple_of(2) { ODD.get(usize::from(of)).copied().unwrap_or(0).into() } else { of.into() }
    };
    let (last, others) = read.split_last()?;
    let sum = others.iter().enumerate().map(|(place, byte)| value(place, byte)).fold(0, u32::saturating_add);
    (u32::from(last.saturating_sub(b'A')) == sum % 26).then_some(end)
}

/// NIR: sex, year, month, department, place, order and a key. Of Corsica's, letters stand for digits.
fn france(text: &[u8], at: usize) -> Option<usize> {
    if !matches!(text.get(at)?, b'1' | b'2') {
        return None;
    }
    let (mut read, end) = compact::<15>(text, at)?;
    let mut take = 0_u64;
    if let Some(pair) = read.get_mut(5..7) {
        match pair {
            [b'2', letter @ b'A'] => (*letter, take) = (b'0', 1_000_000),
            [b'2', letter @ b'B'] => (*letter, take) = (b'0', 2_000_000),
            _ => {}
        }
    }
    if !read.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = |range: std::ops::Range<usize>| {
        read.get(range).map(|part| {
            part.iter()
                .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit.saturating_sub(b'0'))))
        })
    };
    let month = value(3..5)?;
    let plausible = (1..=12).contains(&month) || (20..=42).contains(&month) || month >= 50;
    let number = value(0..13)?.checked_sub(take)?;
    (plausible && 97_u64.checked_sub(number % 97)? == value(13..15)?).then_some(end)
}

/// Numbers of eleven digits: Germany's Steuer-ID, Poland's PESEL, Brazil's CPF.
fn eleven(text: &[u8], at: usize) -> Option<usize> {
    let run = Run::read(text, at, 11, b" .-", 1);
    let digits: &[u8; 11] = run.digits().get(..11)?.try_into().ok()?;
    let grouped = matches!(run.groups(), [11] | [2, 3, 3, 3] | [3, 3, 3, 2]);
    let end = run.end(11)?;
    (grouped && is_over(text, end) && (germany(digits) || poland(digits) || brazil(digits))).then_some(end)
}

/// ISO 7064, mod 11,10; of the first ten digits, one stands there two or three times, and no other twice.
fn germany(digits: &[u8; 11]) -> bool {
    let [first, ..] = digits;
    let [body @ .., check] = digits;
    let times = |wanted: u8| body.iter().filter(|digit| **digit == wanted).count();
    let repeated: Vec<usize> = (0..10).map(times).filter(|count| *count > 1).collect();
    let product = body.iter().fold(10_u32, |product, digit| {
        let sum = u32::from(*digit).saturating_add(product) % 10;
        (if sum == 0 { 10 } else { sum }).saturating_mul(2) % 11
    });
    let expected = 11_u32.saturating_sub(product) % 10;
    *first != 0 && matches!(repeated.as_slice(), [2 | 3]) && expected == u32::from(*check)
}

/// A date of birth, with the century in the month, and a weighted sum.
fn poland(digits: &[u8; 11]) -> bool {
    let [_, _, m1, m2, d1, d2, ..] = digits;
    let two = |high: u8, low: u8| high.saturating_mul(10).saturating_add(low);
    let (month, day) = (two(*m1, *m2) % 20, two(*d1, *d2));
    let weights = [1_u32, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1];
    (1..=12).contains(&month) && (1..=31).contains(&day) && weighted(digits, &weights).is_multiple_of(10)
}

/// Two check digits, each over all before it.
fn brazil(digits: &[u8; 11]) -> bool {
    let [first, .., _, _] = digits;
    let check = |sum: u32| {
        let rest = sum.saturating_mul(10) % 11;
        if rest == 10 { 0 } else { rest }
    };
    let [_, _, _, _, _, _, _, _, _, tenth, eleventh] = digits;
    digits.iter().any(|digit| digit != first)
        && check(weighted(digits, &[10, 9, 8, 7, 6, 5, 4, 3, 2])) == u32::from(*tenth)
        && check(weighted(digits, &[11, 10, 9, 8, 7, 6, 5, 4, 3, 2])) == u32::from(*eleventh)
}

fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits
        .iter()
        .zip(weights)
        .fold(0, |sum, (digit, weight)| sum.saturating_add(weight.saturating_mul(u32::from(*digit))))
}

fn number(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |sum, digit| sum.saturating_mul(10).saturating_add(u32::from(*digit)))
}

/// `N` letters and digits in upper case, with single spaces or hyphens between, and where they stop.
fn compact<const N: usize>(text: &[u8], at: usize) -> Option<([u8; N], usize)> {
    let mut read = [0_u8; N];
    let (mut count, mut end) = (0_usize, at);
    while count < N {
        let byte = *text.get(end)?;
        end = end.saturating_add(1);
        if byte.is_ascii_alphanumeric() {
            *read.get_mut(count)? = byte.to_ascii_uppercase();
            count = count.saturating_add(1);
        } else if !(matches!(byte, b' ' | b'-') && text.get(end).is_some_and(u8::is_ascii_alphanumeric)) {
            return None;
        }
    }
    is_over(text, end).then_some((read, end))
}
