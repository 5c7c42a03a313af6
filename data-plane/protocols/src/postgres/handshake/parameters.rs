//! What a startup packet may ask for: an allow-list, since a setting can change what every later statement means.

use bytes::Bytes;

use super::{Beyond, HandshakeError, MAX_NAME, Startup};

/// Settings that change how values are written or how long the server waits, and nothing of what a statement means or may do.
const HARMLESS: &[&str] = &[
    "application_name",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "statement_timeout",
    "timezone",
];

/// Longest value, in bytes.
const MAX_VALUE: usize = 256;

/// The startup's content, and the protocol options (`_pq_.`) that are not known here: none is.
pub(super) fn read(given: Vec<(Bytes, Bytes)>) -> Result<(Startup, Vec<Bytes>), HandshakeError> {
    let (mut user, mut database) = (None, None);
    let (mut settings, mut unknown, mut beyond) = (Vec::new(), Vec::new(), Beyond::default());
    for (name, value) in given {
        match name.as_ref() {
            b"user" => user = Some(identifier(&value, "the user")?),
            b"database" => database = Some(identifier(&value, "the database")?),
            b"replication" => {
                // Off is as if not given.
                if !matches!(value.as_ref(), b"" | b"0" | b"off" | b"false" | b"no") {
                    let value = text(&value, "replication")?;
                    beyond.ask("replication", value, HandshakeError::Replication);
                }
            }
            b"options" => {
                let given = text(&value, "options")?;
                match options(given) {
                    Ok(assigned) => {
                        for (name, value) in assigned {
                            setting(&name, &value, &mut settings, &mut beyond)?;
                        }
                    }
                    // Only the server knows what they are.
                    Err(error) => beyond.ask("options", given, error),
                }
            }
            name_bytes if name_bytes.starts_with(b"_pq_.") => unknown.push(name),
            _ => {
                let (name, value) = (text(&name, "a setting's name")?, text(&value, "a setting's value")?);
                setting(name, value, &mut settings, &mut beyond)?;
            }
        }
    }
    let target = user.filter(|user| !user.is_empty()).ok_or(HandshakeError::NoUser)?;
    let database = database.filter(|database| !database.is_empty()).unwrap_or_else(|| target.clone());
    let application =
        settings.iter().rev().find(|(name, _)| name == "application_name").map_or_else(String::new, |(_, v)| v.clone());
    Ok((Startup { target, database, application, settings, minor: 0, beyond }, unknown))
}

fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, HandshakeError> {
    std::str::from_utf8(bytes).map_err(|_| HandshakeError::Name(what))
}

fn identifier(bytes: &[u8], what: &'static str) -> Result<String, HandshakeError> {
    if bytes.len() > MAX_NAME {
        return Err(HandshakeError::Name(what));
    }
    text(bytes, what).map(str::to_owned)
}

/// A setting's name, for people.
pub(super) fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()
}

impl Beyond {
    fn ask(&mut self, name: &str, value: &str, refused: HandshakeError) {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self.refused.get_or_insert(refused);
    }
}

fn setting(
    name: &str,
    value: &str,
    settings: &mut Vec<(String, String)>,
    beyond: &mut Beyond,
) -> Result<(), HandshakeError> {
    let folded = name.to_ascii_lowercase();
    if value.len() > MAX_VALUE {
        return Err(HandshakeError::Name("a setting's value"));
    }
    if !HARMLESS.contains(&folded.as_str()) {
        beyond.ask(&folded, value, HandshakeError::Setting(shown(name)));
        return Ok(());
    }
    if folded == "client_encoding" {
        // The server compares names by letters and digits alone.
        let encoding: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
        if !matches!(encoding.to_ascii_lowercase().as_str(), "utf8" | "unicode") {
            beyond.ask(&folded, value, HandshakeError::Encoding);
        }
        // The gateway sets it itself, whether or not the client does.
        return Ok(());
    }
    settings.push((folded, value.to_owned()));
    Ok(())
}

/// `-c name=value`, `-cname=value` and `--name=value`, split at spaces that no backslash precedes, as the server does it.
fn options(text: &str) -> Result<Vec<(String, String)>, HandshakeError> {
    let mut assigned = Vec::new();
    let mut words = split(text).into_iter();
    while let Some(word) = words.next() {
        let (assignment, dashed) = if word == "-c" {
            (words.next().ok_or(HandshakeError::Options)?, false)
        } else if let Some(rest) = word.strip_prefix("--") {
            (rest.to_owned(), true)
        } else if let Some(rest) = word.strip_prefix("-c") {
            (rest.to_owned(), false)
        } else {
            return Err(HandshakeError::Options);
        };
        let (name, value) = assignment.split_once('=').ok_or(HandshakeError::Options)?;
        // The server reads dashes in such a name as underscores.
        let name = if dashed || name.contains('-') { name.replace('-', "_") } else { name.to_owned() };
        assigned.push((name, value.to_owned()));
    }
    Ok(assigned)
}

fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            c if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
