//! A mapping that is read key by key; what is left unread at the end is unknown.

use std::collections::{BTreeMap, BTreeSet};

use super::duration::parse_duration;
use super::faults::Faults;
use crate::yaml::{Entry, Node, Value};

/// One mapping of a document while it is read. Faults are gathered, reading goes on with what is there.
pub(crate) struct Object<'a> {
    pub(crate) faults: &'a Faults,
    path: String,
    line: usize,
    entries: &'a [Entry],
    known: BTreeSet<&'static str>,
}

impl<'a> Object<'a> {
    /// `node` as a mapping; otherwise a fault.
    pub(crate) fn new(node: &'a Node, path: &str, faults: &'a Faults) -> Option<Self> {
        match &node.value {
            Value::Mapping(entries) => {
                Some(Self { faults, path: path.to_owned(), line: node.line, entries, known: BTreeSet::new() })
            }
            _ => {
                faults.add(node.line, path, format!("expected a mapping, found {}", node.describe()));
                None
            }
        }
    }

    /// The value of `key`, unless absent or null.
    pub(crate) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.any_node(key).filter(|node| !node.is_null())
    }

    /// The value of `key`, null or not.
    pub(crate) fn any_node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.insert(key);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key && !entry.value.is_null())
    }

    pub(crate) fn line(&self) -> usize {
        self.line
    }

    pub(crate) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A fault of `key`, on its line where it is there.
    pub(crate) fn fault(&self, key: &str, message: impl Into<String>) {
        let line = self.entries.iter().find(|entry| entry.key == key).map_or(self.line, |entry| entry.line);
        self.faults.add(line, &self.path(key), message);
    }

    pub(crate) fn object(&mut self, key: &'static str) -> Option<Self> {
        let node = self.node(key)?;
        Self::new(node, &self.path(key), self.faults)
    }

    /// A list of mappings.
    pub(crate) fn objects(&mut self, key: &'static str) -> Vec<Self> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::Sequence(items) = &node.value else {
            self.fault(key, format!("expected a list, found {}", node.describe()));
            return Vec::new();
        };
        let path = self.path(key);
        let item = |(place, item)| Self::new(item, &format!("{path}[{place}]"), self.faults);
        items.iter().enumerate().filter_map(item).collect()
    }

    pub(crate) fn string(&mut self, key: &'static str) -> Option<String> {
        let node = self.node(key)?;
        text(node, &self.path(key), self.faults)
    }

    pub(crate) fn required(&mut self, key: &'static str) -> String {
        if !self.has(key) {
            self.known.insert(key);
            self.fault(key, "is required");
        }
        self.string(key).unwrap_or_default()
    }

    pub(crate) fn bool(&mut self, key: &'static str) -> Option<bool> {
        let node = self.node(key)?;
        match &node.value {
            Value::Scalar { text, plain: true } if text == "true" => Some(true),
            Value::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.fault(key, "expected true or false");
                None
            }
        }
    }

    pub(crate) fn number<T: std::str::FromStr>(&mut self, key: &'static str) -> Option<T> {
        let node = self.node(key)?;
        let number = match &node.value {
            Value::Scalar { text, plain: true } => text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.fault(key, "expected a whole number");
        }
        number
    }

    /// A duration, in seconds.
    pub(crate) fn seconds(&mut self, key: &'static str) -> Option<u32> {
        let text = self.string(key)?;
        match parse_duration(&text).map(|duration| u32::try_from(duration.as_secs())) {
            Ok(Ok(seconds)) => Some(seconds),
            Ok(Err(_)) => {
                self.fault(key, "is too long");
                None
            }
            Err(message) => {
                self.fault(key, message);
                None
            }
        }
    }

    /// One of `choices` by its name.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(key)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.fault(key, format!("expected {}, not {text:?}", names.join(", ")));
        }
        found
    }

    pub(crate) fn strings(&mut self, key: &'static str) -> Vec<String> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::Sequence(items) = &node.value else {
            self.fault(key, format!("expected a list, found {}", node.describe()));
            return Vec::new();
        };
        let path = self.path(key);
        let item = |(place, item)| text(item, &format!("{path}[{place}]"), self.faults);
        items.iter().enumerate().filter_map(item).collect()
    }

    pub(crate) fn map<M: FromIterator<(String, String)>>(&mut self, key: &'static str) -> M {
        let pairs = self.object(key).map_or_else(BTreeMap::new, |inner| {
            let pair = |entry: &Entry| {
                let value = text(&entry.value, &inner.path(&entry.key), inner.faults)?;
                Some((entry.key.clone(), value))
            };
            inner.entries.iter().filter_map(pair).collect()
        });
        pairs.into_iter().collect()
    }

    /// A mapping of any keys to lists; a single value is a list of one.
    pub(crate) fn lists(&mut self, key: &'static str) -> Vec<(String, Vec<String>)> {
        let Some(inner) = self.object(key) else { return Vec::new() };
        let list = |entry: &Entry| {
            let path = inner.path(&entry.key);
            let values = match &entry.value.value {
                Value::Sequence(items) => items.iter().filter_map(|item| text(item, &path, inner.faults)).collect(),
                _ => text(&entry.value, &path, inner.faults).into_iter().collect(),
            };
            (entry.key.clone(), values)
        };
        inner.entries.iter().map(list).collect()
    }

    /// Refuses every key that was not asked for.
    pub(crate) fn finish(self) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(entry.key.as_str())) {
            let known: Vec<&str> = self.known.iter().copied().collect();
            let message = format!("no such field; known here: {}", known.join(", "));
            self.faults.add(entry.line, &self.path(&entry.key), message);
        }
    }
}

/// A single value as text: a plain number or word is taken as it is written.
fn text(node: &Node, path: &str, faults: &Faults) -> Option<String> {
    match &node.value {
        Value::Scalar { text, .. } if !node.is_null() => Some(text.clone()),
        _ => {
            faults.add(node.line, path, format!("expected text, found {}", node.describe()));
            None
        }
    }
}
