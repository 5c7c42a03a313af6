//! Pages of lists: keyset tokens, so that what changes meanwhile neither hides nor repeats what does not.

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use tonic::Status;

use super::status;

/// A page token's version: another form gets another number.
const VERSION: u32 = 1;

/// Where a page ended. Opaque to clients; it says nothing that they were not told, so it is not signed.
#[derive(Clone, PartialEq, Eq, Message)]
struct Token {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// Of the query that it is good for.
    #[prost(bytes = "vec", tag = "2")]
    query: Vec<u8>,
    /// The sort key of the last object told, as number...
    #[prost(uint64, tag = "3")]
    number: u64,
    /// ...and as text, which decides between equal numbers.
    #[prost(string, tag = "4")]
    text: String,
}

/// Orders objects, and names a place between them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) number: u64,
    pub(super) text: String,
}

/// One page to be made.
#[derive(Clone, Debug)]
pub(super) struct Page {
    size: usize,
    after: Option<Key>,
    query: Vec<u8>,
    descending: bool,
}

/// How large pages may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) default: u32,
    pub(super) most: u32,
}

/// Bytes of one page's objects: below what clients take by default (4 MiB).
pub(super) const MAX_PAGE_BYTES: usize = 3 << 20;

impl Page {
    /// From a request. `query` is all that must be the same for a token to be good; the order is part of it.
    pub(super) fn read(size: u32, sizes: Sizes, token: &str, query: &[&str], descending: bool) -> Result<Self, Status> {
        let size = if size == 0 { sizes.default } else { size.min(sizes.most) };
        let mut text = Vec::new();
        for part in query {
            text.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            text.extend(part.as_bytes());
        }
        text.push(u8::from(descending));
        let query = digest(&SHA256, &text).as_ref().get(..8).unwrap_or_default().to_vec();
        let after = if token.is_empty() {
            None
        } else {
            let bad = || status::invalid_field("page_token", "is none that this server gave");
            let token = unhex(token).and_then(|bytes| Token::decode(bytes.as_slice()).ok()).ok_or_else(bad)?;
            if token.version != VERSION {
                return Err(bad());
            }
            if token.query != query {
                return Err(status::invalid_field(
                    "page_token",
                    "is of another query: filters and order must be the same",
                ));
            }
            Some(Key { number: token.number, text: token.text })
        };
        Ok(Self { size: usize::try_from(size).unwrap_or(usize::MAX), after, query, descending })
    }

    /// The objects of this page and the token of the next (empty: there is none). `found` need not be in order; `weigh` gives bytes.
    pub(super) fn cut<T>(
        &self,
        found: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> Key,
        weigh: impl Fn(&T) -> usize,
    ) -> (Vec<T>, String) {
        let mut keyed: Vec<(Key, T)> = found.into_iter().map(|object| (key(&object), object)).collect();
        if let Some(after) = &self.after {
            keyed.retain(|(key, _)| if self.descending { key < after } else { key > after });
        }
        keyed.sort_by(|(one, _), (other, _)| if self.descending { other.cmp(one) } else { one.cmp(other) });
        let (mut page, mut bytes, mut last, mut more) = (Vec::new(), 0_usize, None, false);
        for (key, object) in keyed {
            bytes = bytes.saturating_add(weigh(&object));
            // One object always fits: else there would be no way past it.
            if page.len() >= self.size || (bytes > MAX_PAGE_BYTES && !page.is_empty()) {
                more = true;
                break;
            }
            last = Some(key);
            page.push(object);
        }
        let token = last.filter(|_| more).map(|key| self.token(key)).unwrap_or_default();
        (page, token)
    }

    fn token(&self, key: Key) -> String {
        let token = Token { version: VERSION, query: self.query.clone(), number: key.number, text: key.text };
        token.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// `FIELD`, `FIELD asc` or `FIELD desc` as the field's place among `fields` and whether it goes down. Empty: `default`.
pub(super) fn order(
    text: &str,
    fields: &[&'static str],
    default: (&'static str, bool),
) -> Result<(&'static str, bool), Status> {
    let mut words = text.split_whitespace();
    let (field, direction) = (words.next(), words.next());
    let bad = || {
        status::invalid_field("order_by", format!("must be one of {}, with \" desc\" or nothing", fields.join(", ")))
    };
    let Some(field) = field else { return Ok(default) };
    let field = fields.iter().find(|known| **known == field).ok_or_else(bad)?;
    match (direction, words.next()) {
        (None | Some("asc"), None) => Ok((field, false)),
        (Some("desc"), None) => Ok((field, true)),
        _ => Err(bad()),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() > 4_096 || !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { default: 2, most: 3 };

    fn key(text: &&'static str) -> Key {
        Key { number: 0, text: (*text).to_owned() }
    }

    fn page(token: &str, descending: bool) -> Page {
        Page::read(0, SIZES, token, &["kind", "selector"], descending).unwrap()
    }

    #[test]
    fn pages_follow_each_other_whatever_changes() {
        let (first, token) = page("", false).cut(["c", "a", "b", "e"], key, |_| 1);
        assert_eq!(first, ["a", "b"]);
        // One is gone, one is new before, one after.
        let (second, token) = page(&token, false).cut(["aa", "c", "d", "e"], key, |_| 1);
        assert_eq!(second, ["c", "d"]);
        let (third, token) = page(&token, false).cut(["e"], key, |_| 1);
        assert_eq!((third, token), (vec!["e"], String::new()));
        let (down, token) = page("", true).cut(["a", "b", "c"], key, |_| 1);
        assert_eq!(down, ["c", "b"]);
        assert_eq!(page(&token, true).cut(["a", "b", "c"], key, |_| 1).0, ["a"]);
    }

    #[test]
    fn a_page_is_bounded_in_bytes_and_never_empty() {
        let (one, token) = page("", false).cut(["a", "b"], key, |_| MAX_PAGE_BYTES + 1);
        assert_eq!(one, ["a"]);
        assert!(!token.is_empty());
    }

    #[test]
    fn tokens_are_good_for_their_query_alone() {
        let (_, token) = page("", false).cut(["a", "b", "c"], key, |_| 1);
        assert!(Page::read(0, SIZES, &token, &["kind", "other"], false).is_err());
        assert!(Page::read(0, SIZES, &token, &["kind", "selector"], true).is_err());
        for bad in ["x", "00", "zz", "é", &"ab".repeat(9_000)] {
            assert!(Page::read(0, SIZES, bad, &["kind", "selector"], false).is_err(), "{bad}");
        }
    }

    #[test]
    fn orders() {
        let fields = ["name", "created"];
        assert_eq!(order("", &fields, ("name", false)).unwrap(), ("name", false));
        assert_eq!(order("created desc", &fields, ("name", false)).unwrap(), ("created", true));
        for bad in ["size", "name down", "name desc x"] {
            assert!(order(bad, &fields, ("name", false)).is_err(), "{bad}");
        }
    }
}
