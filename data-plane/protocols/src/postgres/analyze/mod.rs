//! PostgreSQL statements to actions and facts, by PostgreSQL's own grammar (I3).
//!
//! A text is parsed by libpg_query and walked whole: every node that is not known by name puts the text in doubt, and doubt is denial.
//! Names resolve by the target's catalog and search path; what cannot be resolved has the schema `?`, which only patterns like `*` mean.

mod bounds;
mod calls;
mod columns;
mod context;
mod copy;
mod define;
mod functions;
mod grant;
mod json;
mod known;
mod names;
mod objects;
mod query;
mod settings;
mod uses;
mod utility;
mod values;
mod walk;
mod write;

#[cfg(test)]
mod calls_tests;
#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
pub(crate) mod tests;

use std::borrow::Cow;

pub use context::{AnalyzeContext, SessionNames};
pub(crate) use known::{Classified, Texts, is_lasting};
pub(crate) use settings::{split_path, startup_setting};
pub use values::{Values, blanked, values};

use self::walk::Analyzer;
pub use crate::sql::{
    Copy, CopyDirection, CopyFormat, CopySource, Facts, SessionEffect, Statement, StatementKind, Unclassifiable,
};

/// Most statements of one text.
const MAX_STATEMENTS: usize = 5_000;

/// Classifies `text` as the server will read it. All statements of a text are one operation: their actions stand together.
///
/// # Errors
/// When any part of it is in doubt. The reason never quotes a literal of the text.
pub fn analyze(text: &[u8], context: &AnalyzeContext, names: &SessionNames) -> Result<Statement, Unclassifiable> {
    if text.len() > context.max_statement {
        return Err(Unclassifiable::too_large(format!("the statement is longer than {} bytes", context.max_statement)));
    }
    let text = std::str::from_utf8(text).map_err(|_| Unclassifiable::doubt("the statement is not valid UTF-8"))?;
    let parsed = parse(text)?;
    let mut analyzer = Analyzer::new(context, Cow::Borrowed(names));
    let count = parsed.stmts.len();
    if count > MAX_STATEMENTS {
        return Err(Unclassifiable::too_large(format!("the text holds more than {MAX_STATEMENTS} statements")));
    }
    for (place, statement) in parsed.stmts.iter().enumerate() {
        let Some(node) = statement.stmt.as_ref().and_then(|node| node.node.as_ref()) else {
            return Err(Unclassifiable::doubt("a statement is empty where none may be"));
        };
        let known = analyzer.out.effects.len();
        analyzer.text = slice(text, statement);
        analyzer.statement(node)?;
        if analyzer.out.is_too_large() {
            return Err(Unclassifiable::too_large(
                "the statement names more relations or columns than Postern follows",
            ));
        }
        let made = analyzer.out.effects.get(known..).unwrap_or_default();
        if place.saturating_add(1) < count && !made.is_empty() {
            // What follows is read by the names that this statement leaves.
            analyzer.names.to_mut().begin(made)?;
        }
    }
    analyzer.tell_columns();
    analyzer.tell_calls();
    if let [one] = parsed.stmts.as_slice() {
        analyzer.tell_limit(one.stmt.as_ref().and_then(|node| node.node.as_ref()));
    }
    Ok(analyzer.out)
}

/// The text of one statement; a length of 0 is that of all that is left.
fn slice<'a>(text: &'a str, statement: &pg_query::protobuf::RawStmt) -> &'a str {
    let begin = usize::try_from(statement.stmt_location).unwrap_or(usize::MAX);
    let rest = text.get(begin..).unwrap_or_default();
    match usize::try_from(statement.stmt_len) {
        Ok(length) if length > 0 => rest.get(..length).unwrap_or(rest),
        _ => rest,
    }
}

/// Parses by PostgreSQL's own grammar. The parser is C behind a binding that may panic on what it does not expect: that is doubt, too.
fn parse(text: &str) -> Result<pg_query::protobuf::ParseResult, Unclassifiable> {
    if text.as_bytes().contains(&0) {
        return Err(Unclassifiable::doubt("the statement holds a zero byte"));
    }
    match std::panic::catch_unwind(|| pg_query::parse(text, 0)) {
        Ok(Ok(parsed)) => Ok(parsed.protobuf),
        Ok(Err(pg_query::Error::Parse(_))) => Err(Unclassifiable::syntax()),
        Ok(Err(_)) => Err(Unclassifiable::doubt("the statement is nested deeper than Postern follows")),
        Err(_) => Err(Unclassifiable::doubt("the statement is not of a form that Postern knows")),
    }
}
