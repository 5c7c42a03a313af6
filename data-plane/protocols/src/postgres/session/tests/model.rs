//! A server, as far as a session can tell: the protocol's state, and statements known by their text.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use crate::postgres::codec::backend::{self, TransactionStatus};
use crate::postgres::codec::frontend::{Bind, Message, Named};
use crate::postgres::codec::{self, Limits, Origin, write};
use crate::postgres::errors::ErrorFields;
use postern_core::Code;

#[derive(Default)]
pub(super) struct Model {
    /// Refuses, as Postern would: so a client that talks to it directly sees what one behind Postern sees.
    refuses: bool,
    pub(super) broken: bool,
    /// As PostgreSQL 18: a text after what was executed without Sync leaves the transaction open.
    pub(super) lingers: bool,
    /// Something was executed since the transaction began.
    piped: bool,
    /// A transaction is open that Sync alone does not end.
    left: bool,
    input: BytesMut,
    /// Held back until Sync, Flush or the end of a Query.
    held: BytesMut,
    pub(super) output: BytesMut,
    status: TransactionStatus,
    skipping: bool,
    extended: bool,
    statements: BTreeMap<Bytes, Bytes>,
    portals: BTreeMap<Bytes, Portal>,
    copying: Option<bool>,
    /// Texts that ran.
    pub(super) ran: Vec<String>,
}

struct Portal {
    text: Bytes,
    row: usize,
    done: bool,
}

pub(super) fn error(sqlstate: &'static str, message: &str) -> ErrorFields {
    let mut error = ErrorFields::error(Code::Internal, message);
    error.sqlstate = sqlstate;
    error
}

pub(super) fn refusal() -> ErrorFields {
    ErrorFields::error(Code::Denied, "denied by the test")
}

/// Rows and columns of a text; none for what returns no rows.
fn shape(text: &str) -> Option<usize> {
    text.strip_prefix("select ").and_then(|rest| rest.split(' ').next()?.parse().ok())
}

impl Model {
    pub(super) fn refusing() -> Self {
        Self { refuses: true, ..Self::default() }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while let Some(frame) = codec::next_frame(&mut self.input, Origin::Frontend, &Limits::default()).unwrap() {
            let message = Message::parse(&frame).unwrap();
            self.take(message);
        }
    }

    fn flush(&mut self) {
        let held = self.held.split();
        self.output.unsplit(held);
    }

    fn frame(&mut self, tag: u8, body: &[u8]) {
        write::frame(&mut self.held, tag, |out| out.put_slice(body));
    }

    fn fail(&mut self, error: &ErrorFields) {
        error.encode(&mut self.held);
        // Errors are sent at once.
        self.flush();
        if self.status == TransactionStatus::Open {
            self.status = TransactionStatus::Failed;
        }
        self.portals.clear();
        self.piped = false;
        self.skipping = self.extended;
    }

    fn ready(&mut self) {
        if self.status == TransactionStatus::Idle {
            self.portals.clear();
        }
        let open = self.lingers && self.piped && self.status == TransactionStatus::Idle;
        self.left = open;
        let status = if open { TransactionStatus::Open } else { self.status };
        write::ready_for_query(&mut self.held, status);
        self.flush();
    }

    fn take(&mut self, message: Message) {
        if let Some(extended) = self.copying {
            match message {
                Message::CopyData | Message::Sync | Message::Flush => return,
                Message::CopyDone => {
                    self.copying = None;
                    self.frame(backend::COMMAND_COMPLETE, b"COPY 2\0");
                }
                Message::CopyFail => {
                    self.copying = None;
                    self.extended = extended;
                    self.fail(&error("57014", "COPY from stdin failed"));
                }
                // The real one gives the connection up.
                _ => {
                    self.broken = true;
                    return;
                }
            }
            if !extended {
                self.ready();
            }
            return;
        }
        match message {
            Message::Sync => {
                self.skipping = false;
                self.piped = self.left;
                self.broken |= self.left;
                self.ready();
            }
            Message::Terminate => {}
            _ if self.skipping => {}
            Message::CopyData | Message::CopyDone | Message::CopyFail => {}
            Message::Query(text) => {
                self.extended = false;
                self.query(&text);
            }
            Message::FunctionCall(call) => {
                self.ran.push(format!("function {}", call.function));
                self.frame(backend::FUNCTION_RESULT, b"\0\0\0\x04\0\0\0\x07");
                self.ready();
            }
            Message::Flush => self.flush(),
            message => {
                self.extended = true;
                self.left = false;
                if let Err(error) = self.extended(message) {
                    self.fail(&error);
                }
            }
        }
    }

    fn query(&mut self, text: &Bytes) {
        if self.refuses && text.windows(4).any(|w| w == b"deny" || w == b"hold") {
            self.fail(&refusal());
            return self.ready();
        }
        self.statements.remove(&b""[..]);
        self.portals.remove(&b""[..]);
        for text in text.split(|byte| *byte == b';') {
            let text = std::str::from_utf8(text).unwrap().trim();
            if let Some(rows) = shape(text) {
                self.describe(text);
                for row in 0..rows {
                    self.row(row);
                }
            }
            match self.run(text, false) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.fail(&error);
                    break;
                }
            }
        }
        self.ready();
    }

    /// Runs it up to its tag; false when it now takes rows from the client.
    fn run(&mut self, text: &str, extended: bool) -> Result<bool, ErrorFields> {
        if text.is_empty() {
            self.frame(backend::EMPTY_QUERY, b"");
            return Ok(true);
        }
        self.ran.push(text.to_owned());
        assert!(self.refuses || !text.contains("deny"), "a denied statement ran: {text}");
        if self.status == TransactionStatus::Failed && text != "rollback" {
            return Err(error("25P02", "current transaction is aborted"));
        }
        match text {
            "begin" => self.status = TransactionStatus::Open,
            "commit" | "rollback" => {
                self.status = TransactionStatus::Idle;
                self.piped = false;
            }
            text if text.starts_with("selec ") => return Err(error("42601", "syntax error")),
            "select 1/0" => return Err(error("22012", "division by zero")),
            "copy t from stdin" => {
                self.frame(backend::COPY_IN_RESPONSE, b"\0\0\x01\0\0");
                self.flush();
                self.copying = Some(extended);
                return Ok(false);
            }
            "copy t to stdout" => {
                self.frame(backend::COPY_OUT_RESPONSE, b"\0\0\x01\0\0");
                self.frame(backend::COPY_DATA, b"a\n");
                self.frame(backend::COPY_DATA, b"b\n");
                self.frame(backend::COPY_DONE, b"");
            }
            _ => {}
        }
        let tag = match text.split(' ').next().unwrap() {
            "select" => format!("SELECT {}\0", shape(text).unwrap_or(0)),
            other => format!("{}\0", other.to_uppercase()),
        };
        self.frame(backend::COMMAND_COMPLETE, tag.as_bytes());
        self.piped |= extended;
        Ok(true)
    }

    fn describe(&mut self, text: &str) {
        if shape(text).is_some() {
            self.frame(backend::ROW_DESCRIPTION, b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
        } else {
            self.frame(backend::NO_DATA, b"");
        }
    }

    fn row(&mut self, row: usize) {
        let value = row.to_string();
        write::frame(&mut self.held, backend::DATA_ROW, |out| {
            out.put_u16(1);
            out.put_u32(u32::try_from(value.len()).unwrap());
            out.put_slice(value.as_bytes());
        });
    }

    fn extended(&mut self, message: Message) -> Result<(), ErrorFields> {
        let missing = |kind: &str, sqlstate, name: &Bytes| {
            error(sqlstate, &format!("{kind} \"{}\" does not exist", name.escape_ascii()))
        };
        match message {
            Message::Parse(parse) => {
                if self.refuses && parse.text.windows(4).any(|w| w == b"deny") {
                    return Err(refusal());
                }
                let exits = parse.text.as_ref() == b"rollback" || parse.text.is_empty();
                if self.status == TransactionStatus::Failed && !exits {
                    return Err(error("25P02", "current transaction is aborted"));
                }
                if parse.name.is_empty() || !self.statements.contains_key(&parse.name) {
                    self.statements.insert(parse.name, parse.text);
                    self.frame(backend::PARSE_COMPLETE, b"");
                } else {
                    return Err(error("42P05", "prepared statement already exists"));
                }
            }
            Message::Bind(Bind { portal, statement, .. }) => {
                let Some(text) = self.statements.get(&statement).cloned() else {
                    return Err(missing("prepared statement", "26000", &statement));
                };
                if self.refuses && text.windows(4).any(|w| w == b"hold") {
                    return Err(refusal());
                }
                if self.status == TransactionStatus::Failed && !(text.as_ref() == b"rollback" || text.is_empty()) {
                    return Err(error("25P02", "current transaction is aborted"));
                }
                if !portal.is_empty() && self.portals.contains_key(&portal) {
                    return Err(error("42P03", "portal already exists"));
                }
                self.portals.insert(portal, Portal { text, row: 0, done: false });
                self.frame(backend::BIND_COMPLETE, b"");
            }
            Message::Describe(Named::Statement(name)) => {
                let text =
                    self.statements.get(&name).cloned().ok_or_else(|| missing("prepared statement", "26000", &name))?;
                self.frame(backend::PARAMETER_DESCRIPTION, b"\0\0");
                self.describe(std::str::from_utf8(&text).unwrap());
            }
            Message::Describe(Named::Portal(name)) => {
                let portal = self.portals.get(&name).ok_or_else(|| missing("portal", "34000", &name))?;
                let text = portal.text.clone();
                self.describe(std::str::from_utf8(&text).unwrap());
            }
            Message::Execute(execute) => {
                let Some(portal) = self.portals.get_mut(&execute.portal) else {
                    return Err(missing("portal", "34000", &execute.portal));
                };
                if portal.done {
                    return Err(error("55000", "portal cannot be run"));
                }
                let text = String::from_utf8(portal.text.to_vec()).unwrap();
                if let Some(rows) = shape(&text) {
                    let from = portal.row;
                    let most = usize::try_from(execute.max_rows).unwrap();
                    let to = if most > 0 { rows.min(from + most) } else { rows };
                    portal.row = to;
                    // As the real one: a limit that is reached suspends, even at the end.
                    let suspended = most > 0 && to - from == most;
                    (from..to).for_each(|row| self.row(row));
                    if suspended {
                        self.frame(backend::PORTAL_SUSPENDED, b"");
                        return Ok(());
                    }
                }
                if let Some(portal) = self.portals.get_mut(&execute.portal) {
                    portal.done = true;
                }
                self.run(&text, true)?;
                if self.status == TransactionStatus::Idle && matches!(text.as_str(), "commit" | "rollback") {
                    self.portals.clear();
                }
            }
            Message::Close(Named::Statement(name)) => {
                self.statements.remove(&name);
                self.frame(backend::CLOSE_COMPLETE, b"");
            }
            Message::Close(Named::Portal(name)) => {
                self.portals.remove(&name);
                self.frame(backend::CLOSE_COMPLETE, b"");
            }
            _ => panic!("no extended message"),
        }
        Ok(())
    }
}
