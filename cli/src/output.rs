//! What commands print on standard output.

use std::io::{IsTerminal as _, Write as _};

use serde_json::Value;

use crate::args::Format;
use crate::failure::Failure;
use crate::yaml;

/// Prints `text` and a line's end.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    raw(text.as_ref().as_bytes())?;
    raw(b"\n")
}

/// Prints bytes as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    Ok(std::io::stdout().lock().write_all(bytes)?)
}

/// A note on standard error, for people.
pub(crate) fn note(text: impl AsRef<str>) {
    // With standard error gone there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))?;
    line(text)
}

/// One document, or several with a marker before each.
pub(crate) fn yaml(values: &[Value]) -> Result<(), Failure> {
    for value in values {
        if values.len() > 1 {
            line("---")?;
        }
        raw(yaml::emit(value).as_bytes())?;
    }
    Ok(())
}

/// Things of one kind as `format` says: each as its `value`, or as its `row` under the heading. `none` is said in the place of an empty table.
pub(crate) fn list<T>(
    all: &[T],
    format: Option<Format>,
    value: impl Fn(&T) -> Value,
    (heading, row): (&[&str], impl Fn(&T) -> Vec<String>),
    none: &str,
) -> Result<(), Failure> {
    match format.unwrap_or_default() {
        Format::Json => json(&all.iter().map(value).collect()),
        Format::Yaml => yaml(&all.iter().map(value).collect::<Vec<_>>()),
        Format::Table if all.is_empty() => {
            note(none);
            Ok(())
        }
        Format::Table => table(heading, &all.iter().map(row).collect::<Vec<_>>()),
    }
}

/// Columns padded to their widest cell, under a heading. Cells are made [`printable`].
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    raw(layout(heading, rows, color()).as_bytes())
}

fn layout(heading: &[&str], rows: &[Vec<String>], color: bool) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell).replace('\n', " ")).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(heading.get(column).map(|text| text.len())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut out = String::new();
    let mut write = |cells: &mut dyn Iterator<Item = &str>, bold: bool| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        let text = text.trim_end();
        out.push_str(&if bold { paint(text, Paint::Bold) } else { text.to_owned() });
        out.push('\n');
    };
    write(&mut heading.iter().copied(), color);
    for row in &rows {
        write(&mut row.iter().map(String::as_str), false);
    }
    out
}

/// Whether standard output is a terminal that may be coloured (<https://no-color.org>).
pub(crate) fn color() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[derive(Clone, Copy)]
pub(crate) enum Paint {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

/// `text` in colour (ECMA-48, section 8.3.117).
pub(crate) fn paint(text: &str, paint: Paint) -> String {
    let code = match paint {
        Paint::Bold => 1,
        Paint::Dim => 2,
        Paint::Red => 31,
        Paint::Green => 32,
        Paint::Yellow => 33,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// `text` safe to show: a statement must not steer the reviewer's terminal, nor read otherwise than it runs. Control characters and
/// those that change the direction of text are written out; line ends and tabs stay.
pub(crate) fn printable(text: &str) -> String {
    let hidden = |c: char| {
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
            || (c.is_control() && c != '\n' && c != '\t')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}\n\tc\r\u{9b}"), "a\\u{1b}[2Jb\\u{202e}\n\tc\\u{d}\\u{9b}");
    }

    #[test]
    fn columns_align() {
        let rows = vec![vec!["a".to_owned(), "long one".to_owned()], vec!["bcdef".to_owned(), "x\ny".to_owned()]];
        assert_eq!(layout(&["NAME", "B"], &rows, false), "NAME   B\na      long one\nbcdef  x y\n");
    }
}
