//! A scope as OAuth 2.0 writes it (RFC 6749, section 3.3): words with spaces between them, `target:shop action:sql:select`.

use std::fmt::{self, Write as _};

use crate::policy::{ActionPattern, Pattern};
use crate::scope::{Scope, TooMany};

/// What an OAuth client asks for is no scope of Postern's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    /// It begins with none of the known prefixes.
    #[error("{0:?} is none of target:, action:, resource:, network: and role:")]
    Word(String),
    /// What stands behind the prefix is not what must stand there.
    #[error("{word:?}: {why}")]
    Value {
        /// The word.
        word: String,
        /// What is wrong with it.
        why: String,
    },
    /// There are too many.
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

impl Scope {
    /// Reads words: `target:NAME`, `action:ACTION`, `resource:PATTERN`, `network:NETWORK`, `role:NAME`, each as often as needed. What a word must not
    /// have in it (a space, a double quote, a backslash, `%`) is written as `%` and two hexadecimal digits.
    ///
    /// # Errors
    /// When a word is none of these, or there are too many.
    pub fn from_words(text: &str) -> Result<Self, InvalidScope> {
        let mut scope = Self::default();
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            let (kind, value) = word.split_once(':').ok_or_else(|| InvalidScope::Word(shown(word)))?;
            let fault = |why: &dyn fmt::Display| InvalidScope::Value { word: shown(word), why: why.to_string() };
            let value = decoded(value).ok_or_else(|| fault(&"not written as RFC 3986, section 2.1, has it"))?;
            match kind {
                "target" => _ = scope.targets.insert(value.parse().map_err(|error| fault(&error))?),
                "action" => scope.actions.push(ActionPattern::parse(&value).ok_or_else(|| fault(&"not an action"))?),
                "resource" => scope.resources.push(Pattern::parse(&value).map_err(|error| fault(&error))?),
                "network" => scope.networks.push(value.parse().map_err(|error| fault(&error))?),
                "role" if !value.is_empty() => _ = scope.roles.insert(value.into()),
                _ => return Err(InvalidScope::Word(shown(word))),
            }
            scope.check()?;
        }
        Ok(scope)
    }

    /// As [`Self::from_words`] reads it; empty, when it narrows nothing.
    #[must_use]
    pub fn to_words(&self) -> String {
        let mut words = String::new();
        let mut add = |kind: &str, value: &dyn fmt::Display| {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(kind);
            words.push(':');
            encode(&value.to_string(), &mut words);
        };
        self.targets.iter().for_each(|target| add("target", target));
        self.actions.iter().for_each(|action| add("action", action));
        self.resources.iter().for_each(|resource| add("resource", resource));
        self.networks.iter().for_each(|network| add("network", network));
        self.roles.iter().for_each(|role| add("role", role));
        words
    }
}

/// For an error: what the client sent, and not all of it.
fn shown(word: &str) -> String {
    word.chars().take(100).collect()
}

fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || u8::try_from(char::from(rest.next()?).to_digit(16)?).ok();
            let (high, low) = (digit()?, digit()?);
            high << 4 | low
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

/// What may stand in a word stays: RFC 6749, appendix A.4.
fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e) && byte != b'%' {
            into.push(byte.into());
        } else {
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written() {
        let text = "target:shop action:sql:select resource:public.orders network:10.0.0.0/8 role:viewer";
        let scope = Scope::from_words(text).unwrap();
        assert_eq!(scope.to_words(), text);
        assert_eq!(scope.targets.len() + scope.actions.len() + scope.resources.len(), 3);
        assert_eq!(Scope::from_words("").unwrap(), Scope::default());
        assert_eq!(Scope::from_words("  target:a   target:a ").unwrap().to_words(), "target:a");
        let odd = Scope::from_words("resource:%22odd%20na%C3%AFve%5C%25%22.t").unwrap();
        assert_eq!(odd.resources[0].as_str(), "\"odd naïve\\%\".t");
        let words = odd.to_words();
        assert!(words.is_ascii() && !words.contains([' ', '"', '\\']));
        assert_eq!(Scope::from_words(&words).unwrap(), odd);
    }

    #[test]
    fn what_is_no_scope_is_refused() {
        for bad in [
            "openid",
            "shop",
            "target:",
            "target:No",
            "action:sql:dance",
            "resource:",
            "network:10.0.0.0/40",
            "role:",
            "table:orders",
            "target:%",
            "target:%4",
            "target:%zz",
            "resource:%FF",
            "target:a\ttarget:b",
            "Target:a",
        ] {
            assert!(Scope::from_words(bad).is_err(), "{bad}");
        }
        let many: Vec<String> = (0..=crate::scope::SCOPE_ENTRIES).map(|n| format!("target:t{n}")).collect();
        assert!(matches!(Scope::from_words(&many.join(" ")), Err(InvalidScope::TooMany(_))));
    }
}
