//! Values that hold what a detector tells: the parts that match are replaced, in whatever the value is written in.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};
use postern_core::masking::{Detectors, MaskFunction};

use super::{BYTEA, Keys, TEXTS, Work, from_hex, put_hex};
use crate::detect;
use crate::postgres::catalog::FIRST_NORMAL_OID;

const JSON: u32 = 114;
const JSONB: u32 = 3_802;

/// What rules look for in values, in their order: the first that tells a part counts.
#[derive(Clone, Debug)]
pub(in super::super) struct Scanner(Arc<[Sought]>);

#[derive(Debug)]
struct Sought {
    detectors: Detectors,
    /// What a part becomes, as text; `Work::Null` makes the whole value NULL.
    work: Work,
    /// What stands there whatever the part was needs no quoting in an array, a row or XML.
    safe: bool,
}

/// What a value's text is written in: how a part of it may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Text,
    Json,
    /// A byte that tells the version, and JSON.
    JsonbBinary,
    /// Something with a syntax of its own (XML, arrays, rows, a type of the database's own): only what needs no quoting fits.
    Guarded,
    ByteaText,
    Bytes,
    /// Not known; whatever looks like bytes is taken for them.
    Unknown,
    /// An array in the binary format.
    Array(Element),
    /// Bytes that cannot be replaced in part: with a find, the whole becomes NULL.
    Opaque,
    /// Cannot be looked into: it becomes NULL.
    Blind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Text,
    Json,
    JsonbBinary,
    Guarded,
    Bytes,
}

/// A part that was told, and by which rule.
struct Part {
    range: Range<usize>,
    rule: usize,
}

impl Container {
    /// Of a column's type; `None` for one whose values are no text.
    pub(super) const fn of(type_oid: u32, binary: bool) -> Option<Self> {
        Some(match (type_oid, binary) {
            // name, text, unknown, bpchar, varchar
            (19 | 25 | 705 | 1_042 | 1_043, _) => Self::Text,
            (JSON, _) | (JSONB, false) => Self::Json,
            (JSONB, true) => Self::JsonbBinary,
            (BYTEA, true) => Self::Bytes,
            (BYTEA, false) => Self::ByteaText,
            // xml, cstring, refcursor
            (142 | 2_275 | 1_790, _) => Self::Guarded,
            // Arrays of name, text, bpchar, varchar, json, jsonb, xml, bytea
            (1_003 | 1_009 | 1_014 | 1_015, true) => Self::Array(Element::Text),
            (199, true) => Self::Array(Element::Json),
            (3_807, true) => Self::Array(Element::JsonbBinary),
            (143, true) => Self::Array(Element::Guarded),
            (1_001, true) => Self::Array(Element::Bytes),
            (199 | 3_807, false) => Self::Opaque,
            (1_001, false) => Self::Blind,
            // The same as text, anyarray, record, tsvector, tsquery, jsonpath.
            (1_003 | 1_009 | 1_014 | 1_015 | 143 | 2_277 | 2_249 | 2_287 | 3_614 | 3_615 | 4_072, false) => {
                Self::Guarded
            }
            (2_277 | 2_249 | 2_287 | 3_614 | 3_615 | 4_072, true) => Self::Opaque,
            (FIRST_NORMAL_OID.., false) => Self::Guarded,
            (FIRST_NORMAL_OID.., true) => Self::Opaque,
            _ => return None,
        })
    }

    /// Of a column of COPY whose type is not known.
    pub(super) const fn unknown(binary: bool) -> Self {
        if binary { Self::Opaque } else { Self::Unknown }
    }
}

impl Scanner {
    /// `None` when no rule looks for anything.
    pub(in super::super) fn new<'a>(rules: impl Iterator<Item = (Detectors, &'a MaskFunction)>) -> Option<Self> {
        let sought = |(detectors, function): (Detectors, &MaskFunction)| {
            let [text, ..] = TEXTS;
            let safe = match function {
                MaskFunction::Redact(fixed) => is_safe(fixed.as_bytes()),
                _ => true,
            };
            Sought { detectors, work: Work::of(function, text, false).unwrap_or(Work::Null), safe }
        };
        let all: Arc<[Sought]> = rules.map(sought).collect();
        (!all.is_empty()).then_some(Self(all))
    }

    /// Writes the value with the parts that match replaced; `None` for NULL.
    pub(super) fn run(&self, container: Container, value: &[u8], keys: &Keys, out: &mut BytesMut) -> Option<()> {
        match container {
            // Bytes that were cast to text.
            Container::Text => match value.strip_prefix(b"\\x").and_then(from_hex) {
                Some(bytes) => self.hex(&bytes, value, keys, out),
                None => self.plain(value, false, keys, out),
            },
            Container::Blind => None,
            Container::Guarded => self.plain(value, true, keys, out),
            Container::Bytes => self.plain(value, false, keys, out),
            Container::Json => self.json(value, keys, out),
            Container::JsonbBinary => {
                let (version, json) = value.split_first()?;
                out.put_u8(*version);
                self.json(json, keys, out)
            }
            Container::ByteaText => match value.strip_prefix(b"\\x").and_then(from_hex) {
                Some(bytes) => self.hex(&bytes, value, keys, out),
                None => self.plain(value, true, keys, out),
            },
            Container::Unknown => match value.strip_prefix(b"\\x").and_then(from_hex) {
                Some(bytes) => self.hex(&bytes, value, keys, out),
                None => self.plain(value, true, keys, out),
            },
            Container::Array(element) => self.array(element, value, keys, out),
            Container::Opaque => {
                if !self.find(value).is_empty() {
                    return None;
                }
                out.put_slice(value);
                Some(())
            }
        }
    }

    /// In order, without overlap: what overlaps is one part, of the first rule that tells any of it.
    fn find(&self, text: &[u8]) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let mut found = Vec::new();
        for (rule, sought) in self.0.iter().enumerate() {
            detect::find(sought.detectors, text, &mut found);
            parts.extend(found.drain(..).map(|range| Part { range, rule }));
        }
        if self.0.len() > 1 && parts.len() > 1 {
            parts.sort_by_key(|part| (part.range.start, part.rule));
            let mut merged: Vec<Part> = Vec::with_capacity(parts.len());
            for part in parts {
                match merged.last_mut() {
                    Some(last) if part.range.start < last.range.end => {
                        last.range.end = last.range.end.max(part.range.end);
                        last.rule = last.rule.min(part.rule);
                    }
                    _ => merged.push(part),
                }
            }
            return merged;
        }
        parts
    }

    fn plain(&self, value: &[u8], guarded: bool, keys: &Keys, out: &mut BytesMut) -> Option<()> {
        let parts = self.find(value);
        let mut done = 0_usize;
        for part in &parts {
            let sought = self.0.get(part.rule)?;
            if guarded && !sought.safe {
                return None;
            }
            let start = if guarded { after_escape(value, &part.range) } else { part.range.start };
            out.put_slice(value.get(done..start)?);
            sought.work.run(value.get(start..part.range.end)?, keys, out)?;
            done = part.range.end;
        }
        out.put_slice(value.get(done..)?);
        Some(())
    }

    fn hex(&self, bytes: &[u8], value: &[u8], keys: &Keys, out: &mut BytesMut) -> Option<()> {
        if self.find(bytes).is_empty() {
            out.put_slice(value);
            return Some(());
        }
        let mut made = BytesMut::new();
        self.plain(bytes, false, keys, &mut made)?;
        out.put_slice(b"\\x");
        put_hex(&made, out);
        Some(())
    }

    /// Parts of strings are replaced within them; of a number, the whole becomes a string.
    fn json(&self, value: &[u8], keys: &Keys, out: &mut BytesMut) -> Option<()> {
        let parts = self.find(value);
        if value.windows(2).any(|pair| pair == b"\\u") && self.find(&unescape(value)).len() != parts.len() {
            // Something is spelled so that it cannot be replaced where it stands.
            return None;
        }
        let mut place = Place::default();
        let mut done = 0_usize;
        for part in &parts {
            let work = &self.0.get(part.rule)?.work;
            let start = after_escape(value, &part.range);
            place.advance(value, start);
            if place.in_string {
                place.advance(value, part.range.end);
                if !place.in_string || place.escaped || place.closed_since(start) {
                    return None;
                }
                out.put_slice(value.get(done..start)?);
                escaped(work, value.get(start..part.range.end)?, keys, out)?;
                done = part.range.end;
            } else {
                let of_number = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                let before = value.get(done..start)?.iter().rev().take_while(|byte| of_number(byte)).count();
                let after = value.get(part.range.end..)?.iter().take_while(|byte| of_number(byte)).count();
                let (from, to) = (start.checked_sub(before)?, part.range.end.checked_add(after)?);
                let number = value.get(from..to)?;
                if !number.iter().all(of_number) {
                    return None;
                }
                out.put_slice(value.get(done..from)?);
                out.put_u8(b'"');
                escaped(work, number, keys, out)?;
                out.put_u8(b'"');
                done = to;
            }
        }
        out.put_slice(value.get(done..)?);
        Some(())
    }

    /// `array_send`: dimensions, flags, type of the elements, then length and lower bound of each dimension, then the elements.
    fn array(&self, element: Element, value: &[u8], keys: &Keys, out: &mut BytesMut) -> Option<()> {
        if self.find(value).is_empty() {
            out.put_slice(value);
            return Some(());
        }
        let dimensions = usize::try_from(i32::from_be_bytes(value.get(..4)?.try_into().ok()?)).ok()?;
        let head = dimensions.checked_mul(8)?.checked_add(12)?;
        let (head, mut rest) = value.split_at_checked(head)?;
        // Whether an element is NULL is told before the elements: it is said that some may be.
        out.put_slice(head.get(..4)?);
        out.put_i32(1);
        out.put_slice(head.get(8..)?);
        let container = match element {
            Element::Text => Container::Text,
            Element::Json => Container::Json,
            Element::JsonbBinary => Container::JsonbBinary,
            Element::Guarded => Container::Guarded,
            Element::Bytes => Container::Bytes,
        };
        while !rest.is_empty() {
            let (length, after) = rest.split_at_checked(4)?;
            let length = i32::from_be_bytes(length.try_into().ok()?);
            rest = after;
            let Ok(length) = usize::try_from(length) else {
                out.put_i32(-1);
                continue;
            };
            let (one, after) = rest.split_at_checked(length)?;
            rest = after;
            let mut made = BytesMut::new();
            match self.run(container, one, keys, &mut made) {
                Some(()) => {
                    out.put_i32(i32::try_from(made.len()).ok()?);
                    out.put_slice(&made);
                }
                None => out.put_i32(-1),
            }
        }
        Some(())
    }
}

/// Where a walk over JSON stands.
#[derive(Default)]
struct Place {
    at: usize,
    in_string: bool,
    escaped: bool,
    /// The last place at which a string ended.
    closed: Option<usize>,
}

impl Place {
    fn advance(&mut self, json: &[u8], to: usize) {
        for byte in json.get(self.at..to).unwrap_or_default() {
            if self.escaped {
                self.escaped = false;
            } else if self.in_string && *byte == b'\\' {
                self.escaped = true;
            } else if *byte == b'"' {
                self.in_string = !self.in_string;
                self.closed = Some(self.at);
            }
            self.at = self.at.saturating_add(1);
        }
    }

    fn closed_since(&self, start: usize) -> bool {
        self.closed.is_some_and(|closed| closed >= start)
    }
}

/// Where a part begins when what stands before it is the backslash of an escape: after the escape.
fn after_escape(text: &[u8], part: &Range<usize>) -> usize {
    let slashes = text.get(..part.start).unwrap_or_default().iter().rev().take_while(|byte| **byte == b'\\').count();
    if slashes.is_multiple_of(2) {
        return part.start;
    }
    let letters = if text.get(part.start) == Some(&b'u') { 5 } else { 1 };
    part.start.saturating_add(letters).min(part.end)
}

/// Runs `work` on a part of a JSON string, and quotes what comes.
fn escaped(work: &Work, part: &[u8], keys: &Keys, out: &mut BytesMut) -> Option<()> {
    let Work::Fixed(fixed) = work else { return work.run(part, keys, out) };
    for byte in fixed.bytes() {
        match byte {
            b'"' | b'\\' => out.put_slice(&[b'\\', byte]),
            0..=31 => {
                out.put_slice(b"\\u00");
                put_hex(&[byte], out);
            }
            _ => out.put_u8(byte),
        }
    }
    Some(())
}

/// JSON with its `\u` escapes written out.
fn unescape(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut at = 0_usize;
    while let Some(byte) = json.get(at).copied() {
        at = at.saturating_add(1);
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let escape = json.get(at).copied();
        at = at.saturating_add(1);
        let code = json.get(at..at.saturating_add(4)).and_then(|digits| std::str::from_utf8(digits).ok());
        match (escape, code.and_then(|digits| u32::from_str_radix(digits, 16).ok())) {
            (Some(b'u'), Some(code)) => {
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                at = at.saturating_add(4);
            }
            (Some(other), _) => out.extend([b'\\', other]),
            (None, _) => {}
        }
    }
    out
}

/// Needs no quotes, wherever it is put.
fn is_safe(text: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"*_.#-".contains(byte);
    !text.is_empty() && text.iter().all(plain) && !text.eq_ignore_ascii_case(b"null")
}

#[cfg(test)]
mod tests {
    use postern_core::masking::Detector;

    use super::*;

    fn scanned(function: MaskFunction, type_oid: u32, binary: bool, value: &[u8]) -> Option<Vec<u8>> {
        let rules = [(Detector::ALL.into_iter().collect::<Detectors>(), function)];
        let scanner = Scanner::new(rules.iter().map(|(detectors, function)| (*detectors, function))).unwrap();
        let mut out = BytesMut::new();
        scanner.run(Container::of(type_oid, binary).unwrap(), value, &Keys::new(&[7; 32]), &mut out)?;
        Some(out.to_vec())
    }

    fn redacted(type_oid: u32, value: &str) -> Option<String> {
        let made = scanned(MaskFunction::Redact("****".into()), type_oid, false, value.as_bytes())?;
        Some(String::from_utf8(made).unwrap())
    }

    #[test]
    fn parts_of_texts_are_replaced() {
        let text = |value| redacted(25, value).unwrap();
        assert_eq!(text("mail ada@x.example, or call +49 30 1234567."), "mail ****, or call ****.");
        assert_eq!(text("nothing of the kind"), "nothing of the kind");
        let partial = scanned(MaskFunction::Partial { keep_last: 4 }, 25, false, b"card 4111 1111 1111 1111.").unwrap();
        assert_eq!(partial, b"card ***************1111.");
        assert_eq!(scanned(MaskFunction::Null, 25, false, b"card 4111 1111 1111 1111."), None);
        let digits = scanned(MaskFunction::Digits { luhn: true }, 25, false, b"<4111-1111-1111-1111>").unwrap();
        assert_eq!((digits.len(), digits[5], digits != b"<4111-1111-1111-1111>"), (21, b'-', true));
    }

    #[test]
    fn json_stays_json() {
        let json = |value| redacted(114, value);
        assert_eq!(json(r#"{"a":"ada@x.example","n":1}"#).unwrap(), r#"{"a":"****","n":1}"#);
        assert_eq!(
            json(r#"{"a": 4111111111111111, "b": [-4111111111111111]}"#).unwrap(),
            r#"{"a": "****", "b": ["****"]}"#
        );
        assert_eq!(json(r#"{"a":"x\nada@x.example"}"#).unwrap(), r#"{"a":"x\n****"}"#);
        assert_eq!(json(r#"{"a":"x\u00e9ada@x.example"}"#).unwrap(), r#"{"a":"x\u00e9****"}"#);
        assert_eq!(json(r#"{"a":"ada\u0040x.example"}"#), None, "it cannot be replaced in its place");
        let key = r#"{"k":"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n","n":1}"#;
        assert_eq!(json(key).unwrap(), r#"{"k":"****\n","n":1}"#);
        assert_eq!(json(r#"{"k":"-----BEGIN PRIVATE KEY-----\nMIIE","n":1}"#), None, "it has no end within the string");
        let quoted = scanned(MaskFunction::Redact("\"\\\n".into()), 114, false, br#"["a@x.example"]"#).unwrap();
        assert_eq!(quoted, br#"["\"\\\u000a"]"#);
        let binary = scanned(MaskFunction::Redact("****".into()), JSONB, true, b"\x01[\"a@x.example\"]").unwrap();
        assert_eq!(binary, b"\x01[\"****\"]");
    }

    #[test]
    fn what_would_need_quotes_is_null() {
        assert_eq!(redacted(1_009, "{ada@x.example,b}").unwrap(), "{****,b}");
        assert_eq!(redacted(2_249, "(1,\"x ada@x.example\")").unwrap(), "(1,\"x ****\")");
        for type_oid in [1_009, 142, 2_249, 20_000] {
            assert_eq!(scanned(MaskFunction::Redact("a, b".into()), type_oid, false, b"{ada@x.example}"), None);
            assert_eq!(scanned(MaskFunction::Redact("a, b".into()), type_oid, false, b"{ada}").unwrap(), b"{ada}");
        }
        assert_eq!(scanned(MaskFunction::Redact("x".into()), 20_000, true, b"ada@x.example"), None);
        assert!(Container::of(23, false).is_none() && Container::of(2_950, true).is_none());
    }

    #[test]
    fn bytes_and_arrays() {
        assert_eq!(redacted(BYTEA, "\\x613a616461407a2e6578616d706c65").unwrap(), "\\x613a2a2a2a2a");
        assert_eq!(redacted(BYTEA, "\\x00ff").unwrap(), "\\x00ff");
        let mut array = BytesMut::new();
        for number in [1, 0, 25, 3, 1] {
            array.put_i32(number);
        }
        let elements = |array: &mut BytesMut, first: &[u8]| {
            array.put_i32(i32::try_from(first.len()).unwrap());
            array.put_slice(first);
            array.put_i32(-1);
            array.put_i32(1);
            array.put_slice(b"b");
        };
        let mut expected = array.clone();
        expected[7] = 1;
        elements(&mut array, b"ada@x.example");
        elements(&mut expected, b"****");
        let made = scanned(MaskFunction::Redact("****".into()), 1_009, true, &array).unwrap();
        assert_eq!(made, expected);
        let made = scanned(MaskFunction::Redact("****".into()), 1_009, true, &array[..24]);
        assert!(made.is_none_or(|made| !made.windows(3).any(|window| window == b"ada")), "cut short");
    }

    #[test]
    fn the_first_rule_that_tells_a_part_counts() {
        let (card, email): (Detectors, Detectors) =
            ([Detector::CreditCard].into_iter().collect(), [Detector::Email].into_iter().collect());
        let rules = [(card, MaskFunction::Redact("CARD".into())), (email, MaskFunction::Redact("MAIL".into()))];
        let scanner = Scanner::new(rules.iter().map(|(detectors, function)| (*detectors, function))).unwrap();
        let mut out = BytesMut::new();
        scanner
            .run(
                Container::Text,
                b"a@x.example 4111111111111111 4111111111111111@x.example",
                &Keys::default(),
                &mut out,
            )
            .unwrap();
        assert_eq!(out.as_ref(), b"MAIL CARD CARD");
    }
}
