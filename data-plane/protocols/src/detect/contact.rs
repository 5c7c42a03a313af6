//! Addresses of mail, and telephone numbers.

use std::ops::Range;

use super::digits::Run;
use super::is_over;

/// Longest part before the sign, and longest domain, in bytes (RFC 5321).
const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 255;

/// The address around the `@` at `sign`, which begins not before `from`.
pub(super) fn email(text: &[u8], sign: usize, from: usize) -> Option<Range<usize>> {
    let local = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"._%+-!#$*^~&".contains(byte);
    let before = text.get(from..sign)?;
    let count = before.iter().rev().take(MAX_LOCAL).take_while(|byte| local(byte)).count();
    let mut start = sign.checked_sub(count)?;
    // Signs at the edge are not the address's.
    while start < sign
        && !text.get(start).is_some_and(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii() || *byte == b'_')
    {
        start = start.saturating_add(1);
    }
    let after = text.get(sign.checked_add(1)?..)?;
    let of_domain = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii() || matches!(byte, b'.' | b'-');
    let count = after.iter().take(MAX_DOMAIN).take_while(|byte| of_domain(byte)).count();
    let mut domain = after.get(..count)?;
    while let Some((b'.' | b'-', rest)) = domain.split_last() {
        domain = rest;
    }
    let dot = domain.iter().rposition(|byte| *byte == b'.')?;
    let top = domain.get(dot.checked_add(1)?..)?;
    let named =
        top.len() >= 2 && top.iter().all(|byte| byte.is_ascii_alphabetic() || !byte.is_ascii() || *byte == b'-');
    let good = start < sign && (named || top.starts_with(b"xn--")) && dot > 0 && !domain.starts_with(b".");
    good.then(|| start..sign.saturating_add(1).saturating_add(domain.len()))
}

/// Where a telephone number that begins at `at` stops.
pub(super) fn phone(text: &[u8], at: usize) -> Option<usize> {
    match *text.get(at)? {
        b'+' => international(text, at.checked_add(1)?),
        b'0' if text.get(at.checked_add(1)?) == Some(&b'0') => {
            let end = international(text, at.checked_add(2)?)?;
            // Zeros in front of a number are not enough.
            text.get(at..end)?.iter().any(|byte| !byte.is_ascii_digit()).then_some(end)
        }
        b'0' => trunk(text, at),
        b'(' if text.get(at.checked_add(1)?) == Some(&b'0') => trunk(text, at.checked_add(1)?),
        _ => north_american(text, at),
    }
}

/// ITU-T E.164: 8 to 15 digits, the first of which is the country's.
fn international(text: &[u8], at: usize) -> Option<usize> {
    let run = Run::read(text, at, 16, b" -./()", 2);
    let count = run.digits().len();
    let end = run.end(count)?;
    let begins = text.get(at).is_some_and(|byte| (b'1'..=b'9').contains(byte));
    ((8..=15).contains(&count) && begins && is_over(text, end)).then_some(end)
}

/// With the prefix 0 of a country, and a sign after the area: 9 to 12 digits.
fn trunk(text: &[u8], at: usize) -> Option<usize> {
    let run = Run::read(text, at, 13, b" -/()", 2);
    let count = run.digits().len();
    let end = run.end(count)?;
    let groups = run.groups();
    // Days and months have two digits, and years follow them.
    let date = matches!(groups, [2, 2, 4, ..] | [2, 2, 2]);
    let area = groups.len() > 1 && groups.first().is_some_and(|first| (2..=5).contains(first));
    let second = run.digits().get(1).is_some_and(|digit| *digit != 0);
    ((9..=12).contains(&count) && area && second && !date && is_over(text, end)).then_some(end)
}

/// Three, three and four digits with signs between, with or without the country's 1.
fn north_american(text: &[u8], at: usize) -> Option<usize> {
    let run = Run::read(text, at.checked_add(usize::from(text.get(at) == Some(&b'(')))?, 11, b" -.()", 2);
    let (skip, count) = match run.groups() {
        [3, 3, 4, ..] => (0_usize, 10_usize),
        [1, 3, 3, 4, ..] if run.digits().first() == Some(&1) => (1, 11),
        _ => return None,
    };
    let end = run.end(count)?;
    let digit = |place: usize| run.digits().get(skip.saturating_add(place)).copied().unwrap_or(0);
    let numbers = digit(0) > 1 && digit(3) > 1;
    (numbers && is_over(text, end)).then_some(end)
}
