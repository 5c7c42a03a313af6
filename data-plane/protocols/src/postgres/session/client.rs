//! The client's bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use postern_core::id::OperationId;
use postern_core::operation::Parameter;

use super::flight::Expected;
use super::functions;
use super::names::{Columns, Lookup, Prepared, Source};
use super::step::Message as Held;
use super::through;
use super::{ClientStep, Pending, ProtocolError, Session};
use crate::postgres::analyze::{Statement, Unclassifiable};
use crate::postgres::codec::frontend::{self, Bind, Execute, Message, Named, Parse};
use crate::postgres::codec::{self, Frame, Origin, write};
use crate::postgres::errors::ErrorFields;

/// invalid_sql_statement_name, as the server says it.
const NO_STATEMENT: &str = "26000";
/// invalid_cursor_name, as the server says it.
const NO_PORTAL: &str = "34000";

impl Session {
    /// Takes the next step out of `from_client`. Call until [`ClientStep::NeedMore`] or [`ClientStep::Wait`].
    ///
    /// # Errors
    /// When the session cannot go on.
    pub fn next_client(&mut self, from_client: &mut BytesMut) -> Result<ClientStep, ProtocolError> {
        if let Some(rest) = self.pass_rest(from_client) {
            return Ok(rest);
        }
        // In the middle of a message nothing else can be said to the client.
        if self.deciding || self.is_amid() {
            return Ok(ClientStep::Wait);
        }
        loop {
            let (message, frame) = match self.stashed.take() {
                Some(stashed) => stashed,
                None => {
                    if self.copy_in
                        && let Some(rows) = self.copy_rows(from_client)?
                    {
                        return Ok(ClientStep::Forward(rows));
                    }
                    if self.copy_in
                        && let Some(begun) = self.pass_begun(from_client)?
                    {
                        return Ok(begun);
                    }
                    let frame = codec::next_frame(from_client, Origin::Frontend, &self.limits.frames);
                    let Some(frame) = frame.map_err(ProtocolError::Client)? else {
                        return Ok(ClientStep::NeedMore);
                    };
                    (Message::parse(&frame).map_err(ProtocolError::Client)?, frame)
                }
            };
            if self.is_dropped(&message) {
                continue;
            }
            if self.copy_in && !belongs_to_copy(&message) {
                return Err(ProtocolError::DuringCopy(frame.tag()));
            }
            if self.must_wait(&message) {
                self.stashed = Some((message, frame));
                return Ok(self.wait());
            }
            return Ok(self.take(message, frame));
        }
    }

    /// Whole CopyData frames, as many as are there: no copy is made of them.
    fn copy_rows(&self, from_client: &mut BytesMut) -> Result<Option<Bytes>, ProtocolError> {
        let mut end = 0_usize;
        while let Some(rest) = from_client.get(end..) {
            let next = codec::peek(rest, Origin::Frontend, &through::ANY_LENGTH).map_err(ProtocolError::Client)?;
            match next {
                Some((frontend::COPY_DATA, whole)) if rest.len() >= whole => end = end.saturating_add(whole),
                _ => break,
            }
        }
        Ok((end > 0).then(|| from_client.split_to(end).freeze()))
    }

    /// What the server would pass over without a word.
    fn is_dropped(&self, message: &Message) -> bool {
        match message {
            Message::Terminate => false,
            // While COPY takes rows, the server ignores both (section "COPY Operations").
            Message::Sync | Message::Flush if self.copy_in => true,
            Message::Sync => false,
            _ if self.skipping => true,
            // Rows that come after a COPY has failed (section "COPY Operations").
            Message::CopyData | Message::CopyDone | Message::CopyFail => !self.copy_in && !self.flight.copies_in(),
            _ => false,
        }
    }

    /// Whether what the message means hangs on replies that are not here yet.
    fn must_wait(&self, message: &Message) -> bool {
        if self.waits_for_bound(message) {
            return true;
        }
        if self.flight.is_empty() {
            return false;
        }
        match message {
            Message::Terminate | Message::Flush => false,
            Message::CopyData | Message::CopyDone | Message::CopyFail => !self.copy_in,
            Message::Sync => self.flight.is_full(),
            Message::Describe(_) | Message::Close(_) => self.flight.is_full() || self.flight.copies_in(),
            Message::Query(_) | Message::FunctionCall(_) => self.group_open || self.is_unsettled(),
            Message::Parse(_) => self.is_unsettled(),
            Message::Bind(bind) => {
                self.is_unsettled() || matches!(self.find_statement(&bind.statement), Lookup::Unsettled)
            }
            Message::Execute(execute) => {
                self.is_unsettled() || matches!(self.find_portal(&execute.portal), Lookup::Unsettled)
            }
        }
    }

    fn is_unsettled(&self) -> bool {
        self.flight.is_full() || self.flight.copies_in() || self.flight.has_effects()
    }

    /// Waits; where no Sync makes the server send what it holds back, Flush does.
    fn wait(&mut self) -> ClientStep {
        if self.group_open && !self.flushed {
            self.flushed = true;
            let mut flush = BytesMut::new();
            write::flush(&mut flush);
            return ClientStep::Forward(flush.freeze());
        }
        ClientStep::Wait
    }

    fn take(&mut self, message: Message, frame: Frame) -> ClientStep {
        match message {
            Message::Query(text) => {
                let classified = self.classify(&text);
                let message = Held::Query { raw: frame.into_raw() };
                self.decide(text, Vec::new(), classified, message)
            }
            Message::FunctionCall(call) => {
                let text = functions::text_of(&call);
                let classified = match functions::known(call.function) {
                    Some(_) => self.classify(&text),
                    None => self.pass_unfollowed(&text, Unclassifiable::unsupported(functions::UNKNOWN)),
                };
                self.decide(text, call.arguments, classified, Held::FunctionCall { raw: frame.into_raw() })
            }
            Message::Parse(parse) => self.parse(parse, frame),
            Message::Bind(bind) => self.bind(bind, frame),
            Message::Execute(execute) => self.execute(execute, frame),
            Message::Describe(named) => {
                let expected = match named {
                    Named::Statement(name) => {
                        let id = match self.find_statement(&name) {
                            Lookup::Found(prepared) => prepared.id,
                            // Its reply is passed on, and nothing is learnt from it.
                            Lookup::Unknown | Lookup::Unsettled => 0,
                        };
                        Expected::DescribeStatement { name: Bytes::copy_from_slice(&name), id }
                    }
                    Named::Portal(name) => {
                        Expected::DescribePortal { name: Bytes::copy_from_slice(&name), hidden: false }
                    }
                };
                self.extended(expected, frame)
            }
            Message::Close(named) => {
                let named = match named {
                    Named::Statement(name) => Named::Statement(Bytes::copy_from_slice(&name)),
                    Named::Portal(name) => Named::Portal(Bytes::copy_from_slice(&name)),
                };
                self.extended(Expected::Close(named), frame)
            }
            Message::Sync => {
                self.group_open = false;
                self.skipping = false;
                self.unsecured();
                self.flight.push(Expected::Sync);
                ClientStep::Forward(frame.into_raw())
            }
            Message::CopyDone | Message::CopyFail => {
                self.copy_in = false;
                ClientStep::Forward(frame.into_raw())
            }
            Message::Flush | Message::CopyData => ClientStep::Forward(frame.into_raw()),
            Message::Terminate => ClientStep::Terminate(frame.into_raw()),
        }
    }

    pub(super) fn decide(
        &mut self,
        text: Bytes,
        parameters: Vec<Parameter>,
        classified: Result<Arc<Statement>, Unclassifiable>,
        message: Held,
    ) -> ClientStep {
        self.deciding = true;
        ClientStep::Decide(Box::new(Pending { text, parameters, classified, message, generation: self.generation }))
    }

    fn extended(&mut self, expected: Expected, frame: Frame) -> ClientStep {
        self.expect(expected);
        ClientStep::Forward(frame.into_raw())
    }

    /// Notes an extended message that is forwarded now.
    pub(super) fn expect(&mut self, expected: Expected) {
        self.group_open = true;
        self.flushed = false;
        self.flight.push(expected);
    }

    fn parse(&mut self, parse: Parse, frame: Frame) -> ClientStep {
        let mut classified = self.classify_typed(&parse.text, &parse.types);
        if !self.statements.admits(&parse.name, &parse.text) {
            classified = Err(Unclassifiable::too_large("the session holds too many prepared statements"));
        }
        // Held for long: not as a part of the whole buffer.
        let text = Bytes::copy_from_slice(&parse.text);
        let prepared = classified.as_ref().ok().map(|statement| Prepared {
            id: self.statements.next_id(),
            text: text.clone(),
            types: Bytes::copy_from_slice(&parse.types),
            statement: Arc::clone(statement),
            generation: self.generation,
            columns: None,
            by_sql: false,
        });
        let name = Bytes::copy_from_slice(&parse.name);
        let message = Held::Parse { raw: frame.into_raw(), name, prepared };
        self.deciding = true;
        let generation = self.generation;
        ClientStep::Prepare(Box::new(Pending { text, parameters: Vec::new(), classified, message, generation }))
    }

    fn bind(&mut self, bind: Bind, frame: Frame) -> ClientStep {
        let found = match self.find_statement(&bind.statement) {
            Lookup::Found(found) => found,
            // Made by what could not be followed, or not there at all: the server knows.
            Lookup::Unknown if self.is_open() => self.unknown_statement(&bind.statement),
            Lookup::Unknown | Lookup::Unsettled => {
                let name = bind.statement.escape_ascii();
                return self.fail(NO_STATEMENT, format!("prepared statement \"{name}\" does not exist"));
            }
        };
        let mut classified = self.classify_prepared(&bind.statement, &found);
        if !self.portals.admits(&bind.portal) {
            classified = Err(Unclassifiable::too_large("the session holds too many portals"));
        }
        let source = Source {
            name: Bytes::copy_from_slice(&bind.statement),
            id: found.id,
            by_sql: found.by_sql,
            types: found.types,
            columns: found.columns,
        };
        let name = Bytes::copy_from_slice(&bind.portal);
        let message = Held::Bind { raw: frame.into_raw(), name, source, formats: bind.formats };
        self.decide(found.text, bind.parameters, classified, message)
    }

    /// Continues a permitted portal: no operation of its own.
    fn execute(&mut self, execute: Execute, frame: Frame) -> ClientStep {
        let Lookup::Found(portal) = self.find_portal(&execute.portal) else {
            if self.is_open() {
                return self.execute_unknown(&execute, frame);
            }
            let name = execute.portal.escape_ascii();
            return self.fail(NO_PORTAL, format!("portal \"{name}\" does not exist"));
        };
        if let Err(refusal) = self.begin(&portal.statement) {
            let error = ErrorFields::error(refusal.code, refusal.reason);
            return ClientStep::Forward(self.deny(&error));
        }
        let name = Bytes::copy_from_slice(&execute.portal);
        let columns = self.columns_of(&portal);
        let Some(obliged) = self.running.get(&portal.operation).map(|running| running.obliged.clone()) else {
            if portal.bound {
                // Nobody counts its rows any more.
                return self.fail(NO_PORTAL, format!("portal \"{}\" is over", execute.portal.escape_ascii()));
            }
            self.unsecured();
            let run = (portal.operation, portal.statement);
            return ClientStep::Forward(self.forward_execute(name, run, columns, frame.into_raw()));
        };
        match self.make_read_only(&portal.statement, &obliged, false) {
            Ok(mut out) => {
                self.count_on(portal.operation);
                let run = (portal.operation, portal.statement);
                let bytes = self.forward_execute(name, run, columns, frame.into_raw());
                if out.is_empty() {
                    return ClientStep::Forward(bytes);
                }
                out.extend_from_slice(&bytes);
                ClientStep::Forward(out.freeze())
            }
            Err(refusal) => {
                let error = ErrorFields::error(refusal.code, refusal.reason);
                ClientStep::Forward(self.deny(&error))
            }
        }
    }

    pub(super) fn forward_execute(
        &mut self,
        name: Bytes,
        (operation, statement): (OperationId, Arc<Statement>),
        columns: Option<Columns>,
        raw: Bytes,
    ) -> Bytes {
        let mut out = BytesMut::new();
        if columns.is_none() && !self.columns_are_coming(&name) {
            // Masks and the recording need the columns, and the client has not asked for them.
            write::describe_portal(&mut out, &name);
            self.expect(Expected::DescribePortal { name: name.clone(), hidden: true });
        }
        self.expect(Expected::Execute { name, operation, statement, columns });
        if out.is_empty() {
            return raw;
        }
        out.extend_from_slice(&raw);
        out.freeze()
    }

    /// Fails as the server would: it may know a name that the session does not, and must not use it.
    fn fail(&mut self, sqlstate: &'static str, message: String) -> ClientStep {
        let mut error = ErrorFields::error(postern_core::Code::Unclassifiable, message);
        error.sqlstate = sqlstate;
        ClientStep::Forward(self.deny(&error))
    }
}

fn belongs_to_copy(message: &Message) -> bool {
    matches!(
        message,
        Message::CopyData | Message::CopyDone | Message::CopyFail | Message::Sync | Message::Flush | Message::Terminate
    )
}
