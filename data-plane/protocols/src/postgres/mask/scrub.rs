//! The server's messages: they quote values.

/// How much of an ErrorResponse or NoticeResponse may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scrub {
    /// All of it: no mask holds for the session.
    Nothing,
    /// Drop DETAIL, CONTEXT and the internal query; keep message and hint.
    Details,
    /// Also the message and hint, unless the SQLSTATE is of a class whose messages quote no rows.
    Values,
    /// Only severity, SQLSTATE, position and a generic message.
    Everything,
}

/// What stands for a message that is withheld.
const WITHHELD: &[u8] = b"the server's message is withheld by Postern: it may show masked values";

/// Classes of SQLSTATE whose messages name objects and states, never values of rows: connection, constraints (their
/// values stand in DETAIL), transaction state, statement and cursor names, rollback, syntax and access, resources, object state, intervention. ("Appendix A. PostgreSQL Error Codes")
const NAMELY: [&[u8]; 10] = [b"08", b"23", b"25", b"26", b"34", b"40", b"42", b"53", b"55", b"57"];

/// Of class 42, what no value can spell out: privileges, and columns, functions, schemas and relations that are there already.
const NAMES: [&[u8]; 5] = [b"42501", b"42701", b"42723", b"42P06", b"42P07"];

/// Rewrites the fields of an ErrorResponse or NoticeResponse: code and value of each, as in the body without its final zero.
/// ("Error and Notice Message Fields")
#[must_use]
pub fn scrub_fields(mut fields: Vec<(u8, Vec<u8>)>, scrub: Scrub) -> Vec<(u8, Vec<u8>)> {
    let state = fields.iter().find(|(code, _)| *code == b'C').map(|(_, value)| value.as_slice()).unwrap_or_default();
    // What code of the database's own raises (a trigger's, a default's) may say anything, under any SQLSTATE; the server then tells where.
    let raised = fields.iter().any(|(code, place)| *code == b'W' && !place.starts_with(b"COPY "));
    // Names that a statement spells out are found missing at a place in it; those that a value spells out (`email::regclass`, `nextval(email)`) are not.
    let in_text = !state.starts_with(b"42") || NAMES.contains(&state) || fields.iter().any(|(code, _)| *code == b'P');
    let namely = !raised && in_text && state.get(..2).is_some_and(|class| NAMELY.contains(&class));
    let withhold = match scrub {
        Scrub::Nothing => return fields,
        Scrub::Details => false,
        Scrub::Values => !namely,
        Scrub::Everything => true,
    };
    fields.retain(|(code, _)| match code {
        // Severity, SQLSTATE, message, position; names of schema, table, column, type, constraint; file, line, routine of the server's source.
        b'S' | b'V' | b'C' | b'M' | b'P' | b's' | b't' | b'c' | b'd' | b'n' | b'F' | b'L' | b'R' => true,
        b'H' => !withhold,
        // Detail, internal position and query, where; and what later versions may add.
        _ => false,
    });
    if withhold {
        for (_, message) in fields.iter_mut().filter(|(code, _)| *code == b'M') {
            *message = WITHHELD.to_vec();
        }
    }
    fields
}
