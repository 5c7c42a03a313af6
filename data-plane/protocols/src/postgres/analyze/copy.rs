//! COPY and its options.

use pg_query::{NodeEnum, protobuf as pb};
use postern_core::action::{ObjectKind, Verb};

use super::names::{self, SEEN};
use super::walk::{Analyzer, Flow, Seen};
use crate::sql::{Copy, CopyDirection, CopyFormat, CopySource, CopyText, Relation, Unclassifiable};

impl Analyzer<'_> {
    pub(super) fn copy(&mut self, copy: &pb::CopyStmt) -> Seen {
        if self.out.copy.is_some() {
            return Err(Unclassifiable::unsupported("more than one COPY in one text"));
        }
        let on_server = copy.is_program || !copy.filename.is_empty();
        if on_server {
            let what = if copy.is_program { "program" } else { "file" };
            self.out.act_on(Verb::SqlServerFile, ObjectKind::Server, ["system", what]);
        }
        let columns: Vec<String> = names::parts(&copy.attlist)?.into_iter().map(str::to_owned).collect();
        // What goes to the server's files is written, what goes to the client is shown.
        let flow = if on_server { Flow::Written } else { Flow::Plain };
        let source = if let Some(range) = &copy.relation {
            let relations = self.resolve(range)?;
            self.copy_relation(copy, &relations, &columns, flow)?;
            let [relation] = relations.as_slice() else {
                return Err(Unclassifiable::doubt(
                    "COPY of a relation whose schema this session left open: name its schema",
                ));
            };
            CopySource::Relation(relation.clone(), columns)
        } else {
            let query = names::missing(copy.query.as_ref().and_then(|query| query.node.as_ref()))?;
            self.flowing(flow, |this| this.rows(query))?;
            CopySource::Query
        };
        self.condition(copy.where_clause.as_deref())?;
        self.out.facts.copies |= on_server && !copy.is_from;
        if !on_server {
            let direction = if copy.is_from { CopyDirection::In } else { CopyDirection::Out };
            self.out.copy = Some(Copy { direction, source, format: format(&copy.options) });
        }
        SEEN
    }

    fn copy_relation(&mut self, copy: &pb::CopyStmt, relations: &[Relation], columns: &[String], flow: Flow) -> Seen {
        for relation in relations {
            if copy.is_from {
                self.out.act(Verb::SqlInsert, self.object(relation));
                self.out.facts.writes.insert(relation.clone());
                self.out.facts.assigned.extend(columns.iter().cloned());
                self.out.facts.any_assigned |= columns.is_empty();
            } else {
                self.selects(relation.clone());
            }
        }
        if !copy.is_from {
            self.flowing(flow, |this| columns.iter().for_each(|column| this.mention(column)));
            let all = columns.is_empty();
            self.out.facts.star_shown |= all && flow == Flow::Plain;
            self.out.facts.star_written |= all && flow == Flow::Written;
        }
        SEEN
    }
}

/// How rows are written, by COPY's options; [`CopyFormat::Unknown`] when any of them is not followed.
fn format(options: &[pb::Node]) -> CopyFormat {
    read_options(options).unwrap_or(CopyFormat::Unknown)
}

fn read_options(options: &[pb::Node]) -> Option<CopyFormat> {
    let mut kind = "text".to_owned();
    let (mut delimiter, mut null, mut header) = (None, None, false);
    let (mut quote, mut escape) = (None, None);
    for option in options {
        let Some(NodeEnum::DefElem(option)) = &option.node else { return None };
        let value = option.arg.as_ref().and_then(|arg| arg.node.as_ref());
        match &*option.defname {
            "format" => kind = text(value)?.to_ascii_lowercase(),
            "delimiter" => delimiter = Some(byte(value)?),
            "null" => null = Some(text(value)?.as_bytes().to_vec()),
            "header" => header = boolean(value)?,
            "quote" => quote = Some(byte(value)?),
            "escape" => escape = Some(byte(value)?),
            "encoding" => {
                let name = text(value)?.to_ascii_lowercase();
                if !matches!(&*name, "utf8" | "utf-8" | "unicode") {
                    return None;
                }
            }
            // They change which values are quoted, or concern COPY FROM alone.
            "force_quote" | "freeze" | "force_not_null" | "force_null" | "on_error" | "log_verbosity"
            | "reject_limit" | "default" => {}
            _ => return None,
        }
    }
    match &*kind {
        "binary" => Some(CopyFormat::Binary),
        "csv" => {
            let quote = quote.unwrap_or(b'"');
            let text = CopyText { delimiter: delimiter.unwrap_or(b','), null: null.unwrap_or_default(), header };
            Some(CopyFormat::Csv { text, quote, escape: escape.unwrap_or(quote) })
        }
        "text" => Some(CopyFormat::Text(CopyText {
            delimiter: delimiter.unwrap_or(b'\t'),
            null: null.unwrap_or_else(|| b"\\N".to_vec()),
            header,
        })),
        _ => None,
    }
}

fn text(value: Option<&NodeEnum>) -> Option<&str> {
    match value? {
        NodeEnum::String(text) => Some(&text.sval),
        _ => None,
    }
}

fn byte(value: Option<&NodeEnum>) -> Option<u8> {
    match text(value)?.as_bytes() {
        [byte] => Some(*byte),
        _ => None,
    }
}

fn boolean(value: Option<&NodeEnum>) -> Option<bool> {
    match value {
        None => Some(true),
        Some(NodeEnum::Boolean(value)) => Some(value.boolval),
        Some(NodeEnum::Integer(value)) => Some(value.ival != 0),
        Some(NodeEnum::String(value)) => match &*value.sval.to_ascii_lowercase() {
            "true" | "on" | "match" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        },
        Some(_) => None,
    }
}
