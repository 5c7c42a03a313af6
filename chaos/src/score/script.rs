//! Scripts of psql, as far as statements have to be found in them.

use std::collections::BTreeMap;

/// Variables of a script.
pub type Variables = BTreeMap<String, String>;

/// What a script does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A statement, without its semicolon.
    Statement(String),
    /// `\c`: a new session.
    Connect,
    /// `\set name value`, `\getenv name VALUE`.
    Set(String, String),
}

/// The statements of `script`, and what else matters. Rows that follow a COPY FROM STDIN are left out.
#[must_use]
pub fn lines(script: &str) -> Vec<Line> {
    let mut found = Vec::new();
    let mut rest = script;
    while !rest.is_empty() {
        let (statement, end, after) = next(rest);
        let text = statement.trim();
        let copies = copies_from_client(text);
        if !bare(text).is_empty() {
            found.push(Line::Statement(text.to_owned()));
        }
        rest = after;
        if end == End::Command {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            found.extend(command(line));
            rest = after;
        }
        if copies && end == End::Semicolon {
            let (_, after) = rest.split_once('\n').unwrap_or((rest, ""));
            rest = match after.strip_prefix("\\.") {
                Some(after) => after,
                None => after.split_once("\n\\.").map_or("", |(_, after)| after),
            };
        }
    }
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Semicolon,
    Command,
    Text,
}

/// A statement up to its semicolon, or to a backslash that begins a command.
fn next(text: &str) -> (&str, End, &str) {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut atomic) = (0_usize, 0_usize, 0_usize);
    while let Some(byte) = bytes.get(at) {
        let here = text.get(at..).unwrap_or_default();
        let skipped = match byte {
            b'\'' => {
                let escapes = at > 0 && matches!(bytes.get(at - 1), Some(b'E' | b'e'));
                quoted(here, '\'', escapes)
            }
            b'"' => quoted(here, '"', false),
            b'$' => dollar(here),
            b'-' if here.starts_with("--") => here.find('\n').unwrap_or(here.len()),
            b'/' if here.starts_with("/*") => comment(here),
            b'(' => {
                depth += 1;
                1
            }
            b')' => {
                depth = depth.saturating_sub(1);
                1
            }
            b';' if depth == 0 && atomic == 0 => {
                return (text.get(..at).unwrap_or_default(), End::Semicolon, text.get(at + 1..).unwrap_or_default());
            }
            b'\\' => return (text.get(..at).unwrap_or_default(), End::Command, text.get(at + 1..).unwrap_or_default()),
            _ if byte.is_ascii_alphabetic() || *byte == b'_' => {
                let word = here.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(here.len());
                match here.get(..word).unwrap_or_default().to_ascii_lowercase().as_str() {
                    "atomic" => atomic += 1,
                    "case" if atomic > 0 => atomic += 1,
                    "end" => atomic = atomic.saturating_sub(1),
                    _ => {}
                }
                word
            }
            _ => here.chars().next().map_or(1, char::len_utf8),
        };
        at += skipped.max(1);
    }
    (text, End::Text, "")
}

fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if escapes && c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

fn dollar(text: &str) -> usize {
    let tag = text.get(1..).unwrap_or_default();
    let Some(end) = tag.find(|c: char| !c.is_alphanumeric() && c != '_') else { return 1 };
    if !tag.get(end..).unwrap_or_default().starts_with('$') || tag.starts_with(|c: char| c.is_ascii_digit()) {
        return 1;
    }
    let (mark, body) = text.split_at(end + 2);
    body.find(mark).map_or(text.len(), |at| at + 2 * mark.len())
}

fn comment(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < text.len() {
        let here = text.get(at..).unwrap_or(" ");
        if here.starts_with("/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if here.starts_with("*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Without comments: nothing, for what is none.
fn bare(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if rest.starts_with("--") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after).trim_start();
        } else if rest.starts_with("/*") {
            rest = rest.get(comment(rest)..).unwrap_or_default().trim_start();
        } else {
            out.push_str(rest);
            break;
        }
    }
    out
}

fn copies_from_client(statement: &str) -> bool {
    let words = bare(statement).to_ascii_lowercase();
    words.starts_with("copy")
        && words
            .split_whitespace()
            .collect::<Vec<_>>()
            .windows(2)
            .any(|pair| pair.first() == Some(&"from") && pair.get(1).is_some_and(|word| word.starts_with("stdin")))
}

fn command(line: &str) -> Option<Line> {
    let mut words = line.split_whitespace();
    match words.next()? {
        "c" | "connect" => Some(Line::Connect),
        "set" | "getenv" => {
            let name = words.next()?.to_owned();
            Some(Line::Set(name, words.collect::<Vec<_>>().join(" ")))
        }
        _ => None,
    }
}

/// A value of `\set`: words that are put together, quoted ones as they are, `:name` by what it stands for.
#[must_use]
pub fn value(text: &str, variables: &Variables) -> String {
    let word = |word: &str| match word.strip_prefix(':') {
        Some(name) => variables.get(name).cloned().unwrap_or_default(),
        None => word.trim_matches('\'').to_owned(),
    };
    text.split_whitespace().map(word).collect()
}

/// A statement with `:'name'` and `:name` put in, as far as they are known.
#[must_use]
pub fn filled(statement: &str, variables: &Variables) -> String {
    let mut out = statement.to_owned();
    for (name, value) in variables {
        out = out.replace(&format!(":'{name}'"), &format!("'{}'", value.replace('\'', "''")));
        out = out.replace(&format!(":\"{name}\""), &format!("\"{value}\""));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_found() {
        let script = "-- a comment; no statement\nSELECT 'a;b', \"c;d\", $x$;$x$, E'\\';';\n\\d t\nCOPY t FROM stdin;\n1;2\n\\.\nSELECT 1 \\gset\n\
                      CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END;\n\\set x 'y'\nSELECT /* ; */ 2";
        let statement = |text: &str| Line::Statement(text.to_owned());
        assert_eq!(
            lines(script),
            [
                statement("-- a comment; no statement\nSELECT 'a;b', \"c;d\", $x$;$x$, E'\\';'"),
                statement("COPY t FROM stdin"),
                statement("SELECT 1"),
                statement(
                    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END"
                ),
                Line::Set("x".into(), "'y'".into()),
                statement("SELECT /* ; */ 2"),
            ]
        );
    }
}
