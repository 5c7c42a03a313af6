//! Patterns over dotted names.

use std::fmt;

use crate::action::{Object, ObjectKind};

/// A pattern over dotted names: `shop.public.orders`, `public.*`, `function:app.get_*`, `"odd.name".t`. `*` matches any text within
/// one part, never a dot between parts. A pattern with fewer parts than the name matches its end, so `public.orders` means that table in
/// any database; the pattern `*` alone matches everything of every kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: String,
    kind: Option<ObjectKind>,
    parts: Vec<String>,
}

/// The text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Empty, or with an empty part.
    #[error("a part of the pattern is empty")]
    EmptyPart,
    /// A quote is not closed, or stands inside a part.
    #[error("a double quote must enclose a whole part")]
    Quote,
    /// The text before the colon is no kind.
    #[error("unknown kind before ':' (relation, function, schema, database, role, setting, channel, server)")]
    Kind,
    /// More parts than any name has.
    #[error("too many parts (database.schema.table.column at most)")]
    TooManyParts,
}

const KINDS: [ObjectKind; 8] = [
    ObjectKind::Relation,
    ObjectKind::Routine,
    ObjectKind::Schema,
    ObjectKind::Database,
    ObjectKind::Role,
    ObjectKind::Setting,
    ObjectKind::Channel,
    ObjectKind::Server,
];

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When a part is empty, a quote is out of place, or the kind is unknown.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let prefix = text.split_once(':').filter(|(before, _)| !before.contains(['"', '.']));
        let (kind, rest) = match prefix {
            Some((before, rest)) => {
                let kind = KINDS.into_iter().find(|kind| kind.as_str() == before).ok_or(InvalidPattern::Kind)?;
                (Some(kind), rest)
            }
            None => (None, text),
        };
        let parts = split(rest)?;
        if parts.len() > 4 {
            return Err(InvalidPattern::TooManyParts);
        }
        // Without a kind, names are relations; `*` alone is everything.
        let kind = if rest == "*" { kind } else { Some(kind.unwrap_or(ObjectKind::Relation)) };
        Ok(Self { text: text.to_owned(), kind, parts })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many parts it names.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.parts.len()
    }

    /// Whether `object` is meant.
    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        match self.kind {
            None => true,
            Some(kind) => kind == object.kind && self.matches_tail(&object.path),
        }
    }

    /// Whether the end of `path` is meant, whatever its kind.
    #[must_use]
    pub fn matches_tail<S: AsRef<str>>(&self, path: &[S]) -> bool {
        if self.kind.is_none() {
            return true;
        }
        let Some(skip) = path.len().checked_sub(self.parts.len()) else { return false };
        self.parts.iter().zip(path.iter().skip(skip)).all(|(part, name)| glob(part, name.as_ref()))
    }

    /// For a pattern over columns: whether it may name a column of the relation at `path`.
    #[must_use]
    pub fn covers_parent_of(&self, path: &[&str]) -> bool {
        if self.kind.is_none() {
            return true;
        }
        let parents = self.parts.len().saturating_sub(1);
        let Some(skip) = path.len().checked_sub(parents) else { return false };
        self.parts.iter().take(parents).zip(path.iter().skip(skip)).all(|(part, name)| glob(part, name))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Splits at dots outside quotes; a doubled quote inside quotes is a quote, as in SQL.
fn split(text: &str) -> Result<Vec<String>, InvalidPattern> {
    let mut parts = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        let mut part = String::new();
        if rest.next_if_eq(&'"').is_some() {
            loop {
                match rest.next() {
                    Some('"') if rest.next_if_eq(&'"').is_some() => part.push('"'),
                    Some('"') => break,
                    Some(other) => part.push(other),
                    None => return Err(InvalidPattern::Quote),
                }
            }
        } else {
            while let Some(next) = rest.next_if(|next| *next != '.') {
                if next == '"' {
                    return Err(InvalidPattern::Quote);
                }
                part.push(next);
            }
        }
        if part.is_empty() {
            return Err(InvalidPattern::EmptyPart);
        }
        parts.push(part);
        match rest.next() {
            None => return Ok(parts),
            Some('.') => {}
            Some(_) => return Err(InvalidPattern::Quote),
        }
    }
}

/// Whether `name` is of the form of `pattern`, in time linear in their product and without recursion.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0_usize, 0_usize);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p = p.saturating_add(1);
            }
            Some(byte) if Some(byte) == name.get(n) => {
                p = p.saturating_add(1);
                n = n.saturating_add(1);
            }
            _ => match star {
                // The last star takes one more.
                Some((at, taken)) => {
                    p = at.saturating_add(1);
                    n = taken.saturating_add(1);
                    star = Some((at, n));
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(path: [&str; 3]) -> Object {
        Object::new(ObjectKind::Relation, path)
    }

    fn matches(pattern: &str, object: &Object) -> bool {
        Pattern::parse(pattern).unwrap().matches(object)
    }

    #[test]
    fn fewer_parts_match_the_end() {
        let orders = relation(["shop", "public", "orders"]);
        for good in [
            "*",
            "orders",
            "public.orders",
            "public.*",
            "shop.public.orders",
            "*.*.*",
            "o*s",
            "*.public.o*r*",
            "relation:orders",
        ] {
            assert!(matches(good, &orders), "{good}");
        }
        for bad in ["order", "other.orders", "prod.public.orders", "*.*.*.*", "function:orders", "schema:*", "*x"] {
            assert!(!matches(bad, &orders), "{bad}");
        }
    }

    #[test]
    fn kinds_do_not_mix() {
        let database = Object::new(ObjectKind::Database, ["shop"]);
        assert!(matches("*", &database));
        assert!(matches("database:shop", &database));
        assert!(!matches("shop", &database));
        assert!(!matches("relation:*", &database));
    }

    #[test]
    fn a_star_does_not_cross_dots() {
        let odd = relation(["shop", "public", "a.b"]);
        assert!(!matches("a.b", &odd));
        assert!(matches("\"a.b\"", &odd));
        assert!(matches("public.\"a.b\"", &odd));
    }

    #[test]
    fn faults() {
        for bad in ["", ".", "a.", "a..b", "\"a", "a\"b", "\"a\"b", "nokind:a", "a.b.c.d.e"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn columns_name_their_relation() {
        let email = Pattern::parse("public.customers.email").unwrap();
        assert!(email.covers_parent_of(&["shop", "public", "customers"]));
        assert!(!email.covers_parent_of(&["shop", "public", "orders"]));
        assert!(email.matches_tail(&["shop", "public", "customers", "email"]));
    }

    #[test]
    fn globbing_is_not_exponential() {
        assert!(!glob(&format!("{}b", "*a".repeat(12)), &"a".repeat(5_000)));
    }
}
