//! Writes JSON values as YAML that reads back as the same.

use serde_json::Value;

/// `value` as a YAML document, without a marker before it.
pub(crate) fn emit(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write(value, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write(value, 0, &mut out),
        _ => {
            scalar(value, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn write(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                indent(depth, out);
                out.push_str(&text(key));
                out.push(':');
                after_key(value, depth, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                indent(depth, out);
                out.push('-');
                if is_block(item) {
                    let mut inner = String::new();
                    write(item, depth.saturating_add(1), &mut inner);
                    out.push(' ');
                    out.push_str(inner.trim_start_matches(' '));
                } else {
                    out.push(' ');
                    scalar(item, depth, out);
                    out.push('\n');
                }
            }
        }
        _ => {}
    }
}

fn after_key(value: &Value, depth: usize, out: &mut String) {
    if is_block(value) {
        out.push('\n');
        write(value, depth.saturating_add(1), out);
    } else {
        out.push(' ');
        scalar(value, depth, out);
        out.push('\n');
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn scalar(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(string) if is_literal(string) => {
            out.push('|');
            for line in string.lines() {
                out.push('\n');
                indent(depth.saturating_add(1), out);
                out.push_str(line);
            }
        }
        Value::String(string) => out.push_str(&text(string)),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// Whether `string` reads back unchanged from a literal block (YAML 1.2.2, section 8.1.2): a PEM file does.
fn is_literal(string: &str) -> bool {
    let ends_well = string.ends_with('\n') && !string.ends_with("\n\n");
    let plain = |line: &str| !line.is_empty() && !line.starts_with([' ', '\t']) && !line.chars().any(char::is_control);
    ends_well && string.lines().all(plain) && !string.contains('\r')
}

/// Plain where nothing else can be meant by it, else quoted as in JSON, which YAML takes as it is.
fn text(string: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '@');
    let starts_well = string.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let a_word = matches!(
        string.to_ascii_lowercase().as_str(),
        "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | ".inf" | ".nan"
    );
    // A colon is only a separator before a space or at the end, so one of the two may be in a plain text.
    let colons = string.chars().all(|c| safe(c) || c == ':') && !string.ends_with(':');
    let spaces = string.chars().all(|c| safe(c) || matches!(c, ' ' | ',')) && !string.ends_with(' ');
    if starts_well && (colons || spaces) && !a_word {
        string.to_owned()
    } else {
        Value::String(string.to_owned()).to_string()
    }
}

fn indent(depth: usize, out: &mut String) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{self, Node};
    use serde_json::json;

    fn back(node: &Node) -> Value {
        match &node.value {
            _ if node.is_null() => Value::Null,
            yaml::Value::Scalar { text, plain: true } => {
                serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
            }
            yaml::Value::Scalar { text, .. } => Value::String(text.clone()),
            yaml::Value::Sequence(items) => items.iter().map(back).collect(),
            yaml::Value::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), back(&entry.value))).collect()
            }
        }
    }

    #[test]
    fn reads_back_as_written() {
        let value = json!({
            "a": "plain", "b": ["x: y", "- z", "", "null", "12", "0x1f", "sql:*", "*", "#no", "a b", "a, b", "a b ", " a", "a b: c", "a #b"],
            "c": {"d": [{"e": 1, "f": [true, null]}, {"g": {}}, []], "tab": "a\tb", "unicode": "ä\u{202e}"},
            "pem": "-----BEGIN X-----\nabc=\n-----END X-----\n", "lines": "one\n\n two\n", "nl": "\n",
            "sql:select": "host:5432", "odd key: ": "ends:", "big": 18446744073709551615_u64,
        });
        let text = emit(&value);
        let (documents, fault) = yaml::parse(&text);
        assert_eq!(fault, None, "{text}");
        assert_eq!(back(&documents[0]), value, "{text}");
        assert!(text.contains("pem: |\n  -----BEGIN X-----\n  abc=\n"), "{text}");
        assert_eq!(emit(&json!([])), "[]\n");
    }
}
