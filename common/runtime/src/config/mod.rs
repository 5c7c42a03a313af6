//! One TOML file per role. Environment variables override it; unknown keys are refused; all faults are told together.
//!
//! A variable `POSTERN_SECTION__KEY` sets `key` in `[section]` (more `__` descend further); `POSTERN__KEY` sets a key at the top. Variables
//! without `__` are none of a configuration's. A value is read as TOML where that fits the key (`15432`, `true`, `["a", "b"]`), else as text.
//!
//! The configuration's types carry `#[serde(deny_unknown_fields)]`; [`load`] goes on after a fault to find the others.

mod overlay;
mod units;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

pub use units::{ByteSize, HumanDuration, InvalidUnit};

use overlay::Overlay;

/// A configuration is not longer than this, in bytes.
const MAX_FILE: usize = 1 << 20;
/// After this many faults the rest can wait.
const MAX_FAULTS: usize = 50;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The file's line, from 1; none for a fault of an environment variable or of the file itself.
    pub line: Option<usize>,
    /// The environment variable at fault.
    pub variable: Option<String>,
    /// What is wrong. May quote a key, never a value from the environment.
    pub message: String,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults {
    /// The file.
    pub file: String,
    /// In the order of their lines; never empty.
    pub faults: Vec<ConfigFault>,
}

impl std::error::Error for ConfigFaults {}

/// A line per fault: `FILE:LINE: message`.
impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match (&fault.variable, fault.line) {
                (Some(variable), _) => write!(f, "environment variable {variable}: {}", fault.message)?,
                (None, Some(line)) => write!(f, "{}:{line}: {}", self.file, fault.message)?,
                (None, None) => write!(f, "{}: {}", self.file, fault.message)?,
            }
        }
        Ok(())
    }
}

/// Reads `file` and the process's environment variables that begin with `env_prefix` (`POSTERN`).
///
/// # Errors
/// Every fault that was found.
pub fn load<T: DeserializeOwned>(file: &Path, env_prefix: &str) -> Result<T, ConfigFaults> {
    let name = file.display().to_string();
    let whole = |message: String| ConfigFaults {
        file: name.clone(),
        faults: vec![ConfigFault { line: None, variable: None, message }],
    };
    let bytes = std::fs::read(file).map_err(|error| whole(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| whole("is not UTF-8 text".to_owned()))?;
    // A variable whose name or value is not UTF-8 cannot be one of ours.
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    parse(&text, &name, env_prefix, variables)
}

/// As [`load`], from values: `name` stands for the file in faults.
///
/// # Errors
/// Every fault that was found.
pub fn parse<T: DeserializeOwned>(
    text: &str,
    name: &str,
    env_prefix: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigFaults> {
    let refuse = |mut faults: Vec<ConfigFault>| {
        faults.sort_by_key(|fault| (fault.line.is_none(), fault.line));
        Err(ConfigFaults { file: name.to_owned(), faults })
    };
    if text.len() > MAX_FILE {
        let message = format!("is larger than {MAX_FILE} bytes");
        return refuse(vec![ConfigFault { line: None, variable: None, message }]);
    }
    let variables = overlay::select(env_prefix, variables);
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let fault = |error: toml::de::Error| ConfigFault {
            line: error.span().map(|span| line_of(text, &span)),
            variable: None,
            message: error.message().to_owned(),
        };
        return refuse(errors.into_iter().take(MAX_FAULTS).map(fault).collect());
    }
    let (root_span, mut root) = (tree.span(), tree.into_inner());
    let mut overlay = Overlay::new(text.len(), &variables);
    let mut faults = overlay.apply(&mut root);

    // A fault is noted, its key taken out, and the rest read again, until nothing new is found.
    let mut taken_out: Vec<String> = Vec::new();
    loop {
        let error = match T::deserialize(Deserializer::from(Spanned::new(root_span.clone(), root.clone()))) {
            Ok(value) if faults.is_empty() => return Ok(value),
            Ok(_) => return refuse(faults),
            Err(error) => error,
        };
        let span = error.span().unwrap_or_else(|| root_span.clone());
        if overlay.retry_as_text(&mut root, &span) {
            continue;
        }
        // What was taken out is missing now: no fault of the file's.
        let echo = taken_out.iter().any(|key| error.message() == format!("missing field `{key}`"));
        if !echo {
            faults.push(ConfigFault {
                line: (span.start <= text.len()).then(|| line_of(text, &span)),
                variable: overlay.variable(&span).map(str::to_owned),
                message: overlay.describe(&span, error.message()),
            });
        }
        match take_out(&mut root, &span) {
            Some(key) if faults.len() < MAX_FAULTS => taken_out.push(key),
            _ => return refuse(faults),
        }
    }
}

/// Takes out what `span` stands for and gives its key: the entry whose key or value it is, or the array's item. A missing key's span is
/// its table's; that table has no other fault then, for serde tells of missing keys last.
fn take_out(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        let value_span = value.span();
        let inside = match value.get_mut() {
            DeValue::Table(inner) => take_out(inner, span),
            DeValue::Array(all) => take_out_of_array(all, span).map(|inner| inner.unwrap_or_else(|| key.to_string())),
            _ => None,
        };
        if inside.is_some() {
            return inside;
        }
        let is_table = matches!(value.get_ref(), DeValue::Table(_));
        let holds = value_span.start <= span.start && span.end <= value_span.end;
        if key.span() == *span || value_span == *span || (holds && !is_table) {
            found = Some(key.clone());
        }
    }
    let key = found?;
    table.remove(&key);
    Some(key.into_inner().into_owned())
}

/// As [`take_out`]; the inner `None` is for a whole item, which has no key.
fn take_out_of_array(all: &mut DeArray<'_>, span: &Range<usize>) -> Option<Option<String>> {
    if all.iter().any(|item| item.span() == *span && matches!(item.get_ref(), DeValue::Table(_))) {
        let items = std::mem::replace(all, DeArray::new());
        items.into_iter().filter(|item| item.span() != *span).for_each(|item| all.push(item));
        return Some(None);
    }
    all.iter_mut().find_map(|item| match item.get_mut() {
        DeValue::Table(inner) => take_out(inner, span).map(Some),
        _ => None,
    })
}

/// The line, from 1, in which `span` begins.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start.min(text.len())).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count().saturating_add(1)
}

#[cfg(test)]
mod tests;
