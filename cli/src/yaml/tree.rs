//! Reads YAML 1.2 into trees. Bounded: nodes (aliases count as often as they are used) and depth.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Nodes in one file; an alias counts all that it stands for.
const MAX_NODES: usize = 100_000;
const MAX_DEPTH: usize = 64;

/// One node and the line that it begins on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Scalar {
        text: String,
        /// Neither quoted nor a block: `null`, `true` and numbers are only meant when plain.
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// One pair of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: Node,
}

/// Where and why the text is no YAML, or no YAML that is admitted here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(crate) struct YamlFault {
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Node {
    /// `null`, `~` or nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain: true } => matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"),
            _ => false,
        }
    }

    /// What it is, for messages.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

/// The documents of `text`, up to the first fault of syntax.
pub(crate) fn parse(text: &str) -> (Vec<Node>, Option<YamlFault>) {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(YamlFault { line: error.marker().line(), message: error.info().to_owned() }),
        };
        if let Err(fault) = step {
            return (builder.documents, Some(fault));
        }
    }
    (builder.documents, None)
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

struct Open {
    line: usize,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, key: Option<(String, usize)> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlFault> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                self.close(Node { line, value }, anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(line, anchor, OpenKind::Sequence(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.begin(line, anchor, OpenKind::Mapping { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { line, anchor, kind: OpenKind::Sequence(items) }) => {
                    self.close(Node { line, value: Value::Sequence(items) }, anchor)
                }
                Some(Open { line, anchor, kind: OpenKind::Mapping { entries, .. } }) => {
                    self.close(Node { line, value: Value::Mapping(entries) }, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(YamlFault { line, message: "an alias inside what it stands for".into() });
                };
                // Counted before it is kept: ten lines must not grow into gigabytes.
                self.count(size(&node), line)?;
                self.place(node)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn begin(&mut self, line: usize, anchor: usize, kind: OpenKind) -> Result<(), YamlFault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(YamlFault { line, message: format!("nested deeper than {MAX_DEPTH}") });
        }
        self.open.push(Open { line, anchor, kind });
        Ok(())
    }

    fn close(&mut self, node: Node, anchor: usize) -> Result<(), YamlFault> {
        self.count(1, node.line)?;
        if anchor > 0 {
            self.count(size(&node), node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node)
    }

    fn count(&mut self, more: usize, line: usize) -> Result<(), YamlFault> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            return Err(YamlFault { line, message: format!("more than {MAX_NODES} values in one file") });
        }
        Ok(())
    }

    fn place(&mut self, node: Node) -> Result<(), YamlFault> {
        let Some(parent) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        match &mut parent.kind {
            OpenKind::Sequence(items) => items.push(node),
            OpenKind::Mapping { entries, key } => match key.take() {
                Some((key, line)) => entries.push(Entry { key, line, value: node }),
                None => {
                    let line = node.line;
                    let Value::Scalar { text, .. } = node.value else {
                        return Err(YamlFault { line, message: "a key must be a single value".into() });
                    };
                    if let Some(first) = entries.iter().find(|entry| entry.key == text) {
                        let message = format!("key {text:?} stands here and on line {}", first.line);
                        return Err(YamlFault { line, message });
                    }
                    *key = Some((text, line));
                }
            },
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 1,
        Value::Sequence(items) => items.iter().map(size).fold(1, usize::saturating_add),
        Value::Mapping(entries) => entries.iter().map(|entry| size(&entry.value)).fold(1, usize::saturating_add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_lines() {
        let (documents, fault) = parse("a: 1\nb:\n  - x\n  - 'y'\n---\nc: |\n  two\n  lines\n");
        assert_eq!(fault, None);
        assert_eq!(documents.len(), 2);
        let Value::Mapping(first) = &documents[0].value else { panic!("a mapping") };
        assert_eq!((first[1].key.as_str(), first[1].line), ("b", 2));
        let Value::Sequence(items) = &first[1].value.value else { panic!("a list") };
        assert_eq!(items[1], Node { line: 4, value: Value::Scalar { text: "y".into(), plain: false } });
        let Value::Mapping(second) = &documents[1].value else { panic!("a mapping") };
        assert_eq!(second[0].value.value, Value::Scalar { text: "two\nlines\n".into(), plain: false });
    }

    #[test]
    fn what_stands_before_a_fault_is_kept() {
        let (documents, fault) = parse("a: 1\n---\nb: [1, 2\nc: 3\n");
        assert_eq!(documents.len(), 1);
        assert!(fault.is_some());
        let (_, fault) = parse("a: 1\nb: 2\na: 3\n");
        assert_eq!(fault.unwrap().to_string(), "line 3: key \"a\" stands here and on line 1");
    }

    #[test]
    fn aliases_cannot_grow_without_bound() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inner = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        assert!(parse(&bomb).1.unwrap().message.contains("more than"));
        let deep = "[".repeat(1000);
        assert!(parse(&deep).1.is_some());
        let (documents, fault) = parse("a: &x [1]\nb: *x\n");
        assert_eq!((documents.len(), fault), (1, None));
    }
}
