//! What one value becomes.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use postern_core::masking::MaskFunction;

use crate::postgres::catalog::FIRST_NORMAL_OID;

/// OIDs of PostgreSQL's pg_type.dat whose values are text in both formats: name, text, unknown, bpchar, varchar.
const TEXTS: [u32; 5] = [19, 25, 705, 1042, 1043];

/// Whether a value of the type can be replaced by any text. A type of the database's own (citext, an enumeration) takes one in the text
/// format only; any other becomes NULL.
pub(super) fn takes_text(type_oid: u32, binary: bool) -> bool {
    TEXTS.contains(&type_oid) || (type_oid >= FIRST_NORMAL_OID && !binary)
}

/// The replacement of a value that is not NULL; `None` for NULL.
pub(super) fn replace(mask: &MaskFunction, value: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    match mask {
        MaskFunction::Null => None,
        MaskFunction::Redact(text) => Some(text.as_bytes().to_vec()),
        MaskFunction::Partial { keep_last } => partial(value, usize::try_from(*keep_last).unwrap_or(0)),
        // Without its key, values could be found by trying them (I4).
        MaskFunction::Hash => (!key.is_empty()).then(|| hash(value, key)),
    }
}

/// All characters but the last become `*`; all of them when there are no more than are kept, or the value would be shown whole.
fn partial(value: &[u8], keep: usize) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let hidden = match text.chars().count().checked_sub(keep) {
        None | Some(0) => text.chars().count(),
        Some(hidden) => hidden,
    };
    let mut out = "*".repeat(hidden);
    out.extend(text.chars().skip(hidden));
    Some(out.into_bytes())
}

/// The first 16 bytes of HMAC-SHA256, in hexadecimal digits.
fn hash(value: &[u8], key: &[u8]) -> Vec<u8> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), value);
    let mut out = String::with_capacity(32);
    for byte in tag.as_ref().iter().take(16) {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out.into_bytes()
}
