//! Environment variables over the file's tree.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigFault;

/// An environment variable that speaks of the configuration.
pub(super) struct Variable {
    name: String,
    path: Vec<String>,
    value: String,
}

/// Those of `variables` that begin with `prefix` and name a key, in the order of their names.
pub(super) fn select(prefix: &str, variables: impl IntoIterator<Item = (String, String)>) -> Vec<Variable> {
    let prefix = format!("{}_", prefix.trim_end_matches('_'));
    let mut found: Vec<Variable> = variables
        .into_iter()
        .filter_map(|(name, value)| {
            let rest = name.strip_prefix(&prefix)?.to_ascii_lowercase();
            // `POSTERN__KEY`: nothing before the `__`, so at the top.
            let path: Vec<String> = match rest.strip_prefix('_') {
                Some(top) => top.split("__").map(str::to_owned).collect(),
                None if rest.contains("__") => rest.split("__").map(str::to_owned).collect(),
                None => return None,
            };
            Some(Variable { name, path, value })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The variables of one configuration. Each stands in the tree with a span of its own, past the end of the file, by which faults
/// find back to it.
pub(super) struct Overlay<'v> {
    base: usize,
    variables: &'v [Variable],
    /// Those read as text, because TOML's reading of them did not fit.
    as_text: BTreeSet<usize>,
}

impl<'v> Overlay<'v> {
    pub(super) fn new(text_len: usize, variables: &'v [Variable]) -> Self {
        Self { base: text_len.saturating_add(1), variables, as_text: BTreeSet::new() }
    }

    /// Puts every variable into the tree; tells of those that cannot stand where they say.
    pub(super) fn apply(&self, root: &mut DeTable<'v>) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        for (index, variable) in self.variables.iter().enumerate() {
            if put(root, &variable.path, &self.span(index), read(&variable.value)).is_none() {
                faults.push(ConfigFault {
                    line: None,
                    variable: Some(variable.name.clone()),
                    message: "it names no key of a section".to_owned(),
                });
            }
        }
        faults
    }

    /// Whether a value that did not fit as TOML is to be tried as text; it is then in the tree.
    pub(super) fn retry_as_text(&mut self, root: &mut DeTable<'v>, span: &Range<usize>) -> bool {
        let Some((index, variable)) = self.index(span).and_then(|index| Some((index, self.variables.get(index)?)))
        else {
            return false;
        };
        if matches!(read(&variable.value), DeValue::String(_)) || !self.as_text.insert(index) {
            return false;
        }
        put(root, &variable.path, &self.span(index), DeValue::String(Cow::Borrowed(&variable.value))).is_some()
    }

    /// The variable that a span belongs to.
    pub(super) fn variable(&self, span: &Range<usize>) -> Option<&str> {
        self.variables.get(self.index(span)?).map(|variable| variable.name.as_str())
    }

    /// A fault's text. That of a variable's value could quote the value, and values in the environment may be secrets (I5).
    pub(super) fn describe(&self, span: &Range<usize>, message: &str) -> String {
        if self.index(span).is_none() || message.starts_with("unknown field") || message.starts_with("missing field") {
            return message.to_owned();
        }
        match message.rsplit_once("expected ") {
            Some((_, expected)) => format!("the value is not fit: expected {expected}"),
            None => "the value is not fit".to_owned(),
        }
    }

    fn index(&self, span: &Range<usize>) -> Option<usize> {
        let index = span.start.checked_sub(self.base)?;
        (index < self.variables.len()).then_some(index)
    }

    fn span(&self, index: usize) -> Range<usize> {
        let start = self.base.saturating_add(index);
        start..start.saturating_add(1)
    }
}

/// A value as TOML where it is a whole TOML value but for dates, else as text.
fn read(text: &str) -> DeValue<'_> {
    match DeValue::parse(text).map(Spanned::into_inner) {
        Ok(DeValue::Datetime(_)) | Err(_) => DeValue::String(Cow::Borrowed(text)),
        Ok(value) => value,
    }
}

/// Sets the value at `path`, making tables on the way. `None` when something that is no table stands in the way.
fn put<'v>(table: &mut DeTable<'v>, path: &'v [String], span: &Range<usize>, value: DeValue<'v>) -> Option<()> {
    let (first, rest) = path.split_first()?;
    if first.is_empty() {
        return None;
    }
    let key = Spanned::new(span.clone(), Cow::Borrowed(first.as_str()));
    if rest.is_empty() {
        // Out with the file's entry first: its key would keep the file's span.
        table.remove(&key);
        table.insert(key, Spanned::new(span.clone(), value));
        return Some(());
    }
    if !table.contains_key(&key) {
        table.insert(key.clone(), Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
    }
    match table.get_mut(&key)?.get_mut() {
        DeValue::Table(inner) => put(inner, rest, span, value),
        _ => None,
    }
}
