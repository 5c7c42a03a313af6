//! Cards and bank accounts.

use super::digits::Run;
use super::is_over;

/// Lengths of account numbers by country ("IBAN Registry", release 99).
const IBANS: &[u8] = b"AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29ES24FI18FK18FO18FR27GB22GE22\
GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28NL18NO15OM23PK24\
PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20YE30";

/// Where a card's number that begins at `at` stops: 13 to 19 digits, in groups of three and more when there are groups.
pub(super) fn card(text: &[u8], at: usize) -> Option<usize> {
    let run = Run::read(text, at, 20, b" -", 1);
    let (mut count, mut found) = (0_usize, None);
    for (place, group) in run.groups().iter().copied().enumerate() {
        count = count.saturating_add(group.into());
        if count > 19 || (group < 3 && run.groups().len() > 1) {
            break;
        }
        let digits = run.digits().get(..count)?;
        let end = run.end(count)?;
        let grouped = place == 0 || run.groups().first().is_some_and(|first| *first == 4);
        if count >= 13 && grouped && is_over(text, end) && is_issued(digits) && passes_luhn(digits) {
            found = Some(end);
        }
    }
    found
}

/// Whether an issuer's range holds the number, and its numbers are of this length (ISO/IEC 7812, as the schemes publish them).
fn is_issued(digits: &[u8]) -> bool {
    let prefix = |count: usize| {
        digits.iter().take(count).fold(0_u32, |sum, digit| sum.saturating_mul(10).saturating_add((*digit).into()))
    };
    let length = digits.len();
    match (prefix(2), prefix(4)) {
        (40..=49, _) => matches!(length, 13 | 16 | 19),
        (51..=55, _) | (_, 2_221..=2_720) => length == 16,
        (34 | 37, _) => length == 15,
        (36 | 38 | 39, _) | (_, 3_000..=3_059 | 3_095) => (14..=19).contains(&length),
        (35, 3_528..=3_589) | (60, 6_011) | (64 | 65, _) | (62 | 81, _) => (16..=19).contains(&length),
        (50 | 56..=61 | 63 | 66..=69, _) => (13..=19).contains(&length),
        (_, 2_200..=2_204) => (16..=19).contains(&length),
        _ => false,
    }
}

fn passes_luhn(digits: &[u8]) -> bool {
    let mut sum = 0_u32;
    for (place, digit) in digits.iter().rev().enumerate() {
        let digit = u32::from(*digit);
        let doubled = if place % 2 == 1 { digit.saturating_mul(2) } else { digit };
        sum = sum.saturating_add(if doubled > 9 { doubled.saturating_sub(9) } else { doubled });
    }
    sum.is_multiple_of(10) && sum > 0
}

/// Where an account's number that begins at `at` stops.
pub(super) fn iban(text: &[u8], at: usize) -> Option<usize> {
    let head = text.get(at..at.saturating_add(4))?;
    let [a, b, c, d] = *head else { return None };
    if !a.is_ascii_alphabetic() || !b.is_ascii_alphabetic() || !c.is_ascii_digit() || !d.is_ascii_digit() {
        return None;
    }
    let country = [a.to_ascii_uppercase(), b.to_ascii_uppercase()];
    let known = IBANS.chunks_exact(4).find(|entry| entry.starts_with(&country))?;
    let digit = |place: usize| known.get(place).map(|digit| usize::from(digit.saturating_sub(b'0')));
    let length = digit(2)?.saturating_mul(10).saturating_add(digit(3)?);
    let mut read = [0_u8; 34];
    let (mut count, mut end) = (0_usize, at);
    while count < length {
        let byte = *text.get(end)?;
        end = end.saturating_add(1);
        if byte.is_ascii_alphanumeric() {
            *read.get_mut(count)? = byte.to_ascii_uppercase();
            count = count.saturating_add(1);
        } else if !(matches!(byte, b' ' | b'-') && text.get(end).is_some_and(u8::is_ascii_alphanumeric)) {
            return None;
        }
    }
    let read = read.get(..length)?;
    // ISO 7064, mod 97-10: the first four come last, letters count from 10 on.
    let (head, rest) = read.split_at_checked(4)?;
    let rest97 = rest.iter().chain(head).fold(0_u32, |sum, byte| match byte {
        b'0'..=b'9' => sum.saturating_mul(10).saturating_add(u32::from(byte.saturating_sub(b'0'))) % 97,
        _ => sum.saturating_mul(100).saturating_add(u32::from(byte.saturating_sub(b'A')).saturating_add(10)) % 97,
    });
    (rest97 == 1 && is_over(text, end)).then_some(end)
}
