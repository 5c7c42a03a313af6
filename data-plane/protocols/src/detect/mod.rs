//! Values that can be told by their form, found in any text: cards, accounts, addresses, keys.
//!
//! One pass over the bytes: at the beginning of each word, what may begin there is tried, and each trial looks at a bounded number of bytes or at
//! what no other looks at again. So the time is linear in the text (I11).

mod accounts;
mod contact;
mod digits;
mod national;
mod secrets;

#[cfg(test)]
mod tests;

use std::ops::Range;

use postern_core::masking::{Detector, Detectors};

/// Puts the places of all that `detectors` tell into `found`, in order and without overlap.
pub(crate) fn find(detectors: Detectors, text: &[u8], found: &mut Vec<Range<usize>>) {
    let (mut at, mut from) = (0_usize, 0_usize);
    let mut before = b' ';
    while let Some(byte) = text.get(at).copied() {
        let next = at.saturating_add(1);
        let word = byte.is_ascii_alphanumeric();
        let begins = match byte {
            b'@' => true,
            b'+' | b'(' | b'-' => !before.is_ascii_alphanumeric(),
            _ => word && (!before.is_ascii_alphanumeric() || is_escape(text, at)),
        };
        if begins && let Some(range) = match_at(detectors, text, at, from) {
            // An address begins before its sign.
            at = range.end.max(next);
            from = at;
            before = text.get(at.saturating_sub(1)).copied().unwrap_or(b' ');
            found.push(range);
            continue;
        }
        before = byte;
        at = next;
    }
}

/// Whether the byte before `at` is the letter of an escape (`\n`): in JSON and arrays it is no part of the word.
fn is_escape(text: &[u8], at: usize) -> bool {
    let (letter, slash) = (at.checked_sub(1), at.checked_sub(2));
    let byte = |at: Option<usize>| at.and_then(|at| text.get(at)).copied().unwrap_or(b' ');
    byte(slash) == b'\\' && matches!(byte(letter), b'n' | b'r' | b't' | b'b' | b'f')
}

/// The longest of what begins at `at`. Nothing before `from` is looked at again.
fn match_at(detectors: Detectors, text: &[u8], at: usize, from: usize) -> Option<Range<usize>> {
    let first = text.get(at).copied()?;
    if first == b'@' {
        return if detectors.has(Detector::Email) { contact::email(text, at, from) } else { None };
    }
    let has = |detector| detectors.has(detector);
    let number = first.is_ascii_digit();
    let letter = first.is_ascii_alphabetic();
    let ends = [
        (number && has(Detector::CreditCard)).then(|| accounts::card(text, at)).flatten(),
        (letter && has(Detector::Iban)).then(|| accounts::iban(text, at)).flatten(),
        (!letter && has(Detector::Phone)).then(|| contact::phone(text, at)).flatten(),
        ((number || letter) && has(Detector::NationalId)).then(|| national::id(text, at)).flatten(),
        (first == b'e' && has(Detector::Jwt)).then(|| secrets::jwt(text, at)).flatten(),
        (first == b'-' && has(Detector::PrivateKey)).then(|| secrets::private_key(text, at)).flatten(),
        ((number || letter) && has(Detector::CloudKey)).then(|| secrets::cloud_key(text, at)).flatten(),
    ];
    ends.into_iter().flatten().max().map(|end| at..end)
}

/// Whether a word that stops at `end` is over there.
fn is_over(text: &[u8], end: usize) -> bool {
    !text.get(end).is_some_and(u8::is_ascii_alphanumeric)
}
