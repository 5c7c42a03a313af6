//! Everything that is wrong with some files, each with its line.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::failure::Failure;
use crate::output;
use crate::yaml::{Node, Value};

/// Something that is not as it must be, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub(crate) file: Arc<str>,
    /// From 1; 0: the file as a whole.
    pub(crate) line: usize,
    /// In the document, as written there; may be empty.
    pub(crate) path: String,
    pub(crate) message: String,
}

/// `file:line: path: message`
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong, as the command fails by it.
impl From<Vec<Fault>> for Failure {
    fn from(faults: Vec<Fault>) -> Self {
        Self::Many(faults.iter().map(|fault| output::printable(&fault.to_string())).collect())
    }
}

/// Gathers the faults of one file.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(super) file: Arc<str>,
    list: RefCell<Vec<Fault>>,
}

impl Faults {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.into(), list: RefCell::new(Vec::new()) }
    }

    pub(crate) fn add(&self, line: usize, path: &str, message: impl Into<String>) {
        let fault = Fault { file: self.file.clone(), line, path: path.to_owned(), message: message.into() };
        self.list.borrow_mut().push(fault);
    }

    /// Whether something was found wrong with exactly `path` in the document that begins on `line` or later.
    pub(super) fn has(&self, line: usize, path: &str) -> bool {
        self.list.borrow().iter().any(|fault| fault.line >= line && fault.path == path)
    }

    pub(crate) fn into_list(self) -> Vec<Fault> {
        self.list.into_inner()
    }
}

/// Where each field of one document stands.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    file: Arc<str>,
    start: usize,
    lines: BTreeMap<String, usize>,
}

impl Lines {
    pub(crate) fn new(file: &Arc<str>, document: &Node) -> Self {
        let mut lines = BTreeMap::new();
        walk(document, &mut String::new(), &mut lines);
        Self { file: file.clone(), start: document.line, lines }
    }

    /// Of something that has no fields, from `line` on.
    pub(super) fn from_line(file: &Arc<str>, line: usize) -> Self {
        Self { file: file.clone(), start: line, lines: BTreeMap::new() }
    }

    /// A fault of the field `path`, at its line, or at that of the nearest thing around it that is written.
    pub(crate) fn fault(&self, path: &str, message: &str) -> Fault {
        let mut at = path;
        let line = loop {
            if let Some(line) = self.lines.get(at) {
                break *line;
            }
            // `tls.ca` may be written as `tls.caFile`.
            if let Some(line) = self.lines.get(&format!("{at}File")) {
                break *line;
            }
            match at.rfind(['.', '[']) {
                Some(cut) => at = at.get(..cut).unwrap_or_default(),
                None => break self.start,
            }
        };
        Fault { file: self.file.clone(), line, path: path.to_owned(), message: message.to_owned() }
    }
}

fn walk(node: &Node, path: &mut String, lines: &mut BTreeMap<String, usize>) {
    let length = path.len();
    match &node.value {
        Value::Scalar { .. } => {}
        Value::Sequence(items) => {
            for (place, item) in items.iter().enumerate() {
                path.push_str(&format!("[{place}]"));
                lines.insert(path.clone(), item.line);
                walk(item, path, lines);
                path.truncate(length);
            }
        }
        Value::Mapping(entries) => {
            for entry in entries {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&entry.key);
                lines.insert(path.clone(), entry.line);
                walk(&entry.value, path, lines);
                path.truncate(length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_line_is_found() {
        let (documents, _) =
            crate::yaml::parse("kind: Policy\nspec:\n  targets:\n    names: [a,\n      b]\n  tls: {caFile: x}\n");
        let lines = Lines::new(&"f.yaml".into(), &documents[0]);
        for (path, shown) in [
            ("spec.targets.names[1]", "f.yaml:5: spec.targets.names[1]: m"),
            ("spec.targets.names[7]", "f.yaml:4: spec.targets.names[7]: m"),
            ("spec.maxAge", "f.yaml:2: spec.maxAge: m"),
            ("spec.tls.ca", "f.yaml:6: spec.tls.ca: m"),
            ("metadata.name", "f.yaml:1: metadata.name: m"),
        ] {
            assert_eq!(lines.fault(path, "m").to_string(), shown);
        }
    }
}
