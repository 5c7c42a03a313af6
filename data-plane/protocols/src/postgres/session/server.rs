//! The server's bytes.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::flight::Expected;
use super::names::{Columns, Prepared};
use super::results::CopyOut;
use super::through::Passing;
use super::{ProtocolError, ResultEvent, ServerProgress, Session};
use crate::postgres::analyze::{CopyDirection, CopyFormat, SessionEffect, Statement};
use crate::postgres::codec::backend::{self, TransactionStatus};
use crate::postgres::codec::frontend::Named;
use crate::postgres::codec::{self, Frame, Origin};
use crate::postgres::mask::{CopyMask, Scrub};

/// Events that wait for the recorder before the server is read on.
const MAX_EVENTS: usize = 256;

impl Session {
    /// Turns what `from_server` holds into bytes for the client, whole messages at a time, and events for the recording. Events come in
    /// the order in which they must be recorded, before the bytes are sent.
    ///
    /// # Errors
    /// When the session cannot go on.
    pub fn next_server(
        &mut self,
        from_server: &mut BytesMut,
        to_client: &mut BytesMut,
        out: &mut Vec<ResultEvent>,
    ) -> Result<ServerProgress, ProtocolError> {
        out.append(&mut self.deferred);
        loop {
            if to_client.len() >= self.limits.high_water || out.len() >= MAX_EVENTS {
                return Ok(ServerProgress::Full);
            }
            match self.pass_through(from_server, to_client, out)? {
                Passing::No => {}
                Passing::Some => continue,
                Passing::Waits(progress) => return Ok(progress),
            }
            let next = codec::peek(from_server, Origin::Backend, &self.limits.frames).map_err(ProtocolError::Server)?;
            let Some((tag, _)) = next else {
                return Ok(ServerProgress::NeedMore);
            };
            if tag == backend::DATA_ROW && self.pass_rows(from_server, to_client)? {
                continue;
            }
            let frame = codec::next_frame(from_server, Origin::Backend, &self.limits.frames);
            let Some(frame) = frame.map_err(ProtocolError::Server)? else {
                return Ok(ServerProgress::NeedMore);
            };
            self.reply(&frame, to_client, out)?;
            out.append(&mut self.deferred);
        }
    }

    fn reply(
        &mut self,
        frame: &Frame,
        to_client: &mut BytesMut,
        out: &mut Vec<ResultEvent>,
    ) -> Result<(), ProtocolError> {
        let tag = frame.tag();
        match tag {
            backend::NOTICE => {
                let fields = backend::message_fields(frame).map_err(ProtocolError::Server)?;
                self.pass_message(frame, fields, to_client);
            }
            backend::PARAMETER_STATUS => {
                self.openness.setting(frame, self.is_open())?;
                to_client.put_slice(frame.raw());
            }
            backend::NOTIFICATION => self.notification(frame, to_client)?,
            backend::ERROR => self.error(frame, to_client)?,
            backend::READY_FOR_QUERY => {
                let status = backend::ready_for_query(frame).map_err(ProtocolError::Server)?;
                if self.ready(status, to_client)? {
                    to_client.put_slice(frame.raw());
                }
            }
            _ => self.answer(tag, frame, to_client, out)?,
        }
        Ok(())
    }

    /// A message that answers the oldest one in flight.
    fn answer(
        &mut self,
        tag: u8,
        frame: &Frame,
        to_client: &mut BytesMut,
        out: &mut Vec<ResultEvent>,
    ) -> Result<(), ProtocolError> {
        let unexpected = ProtocolError::Unexpected(tag);
        let head = self.flight.head().ok_or_else(|| unexpected.clone())?;
        if let Expected::Own(reply) = head {
            if *reply != tag {
                return Err(unexpected);
            }
            self.flight.pop();
            return Ok(());
        }
        if let Some(operation) = self.is_cut() {
            return self.drop_answer(operation, tag, to_client);
        }
        match (tag, head) {
            (backend::PARSE_COMPLETE, Expected::Parse { .. }) => {
                if let Some(Expected::Parse { name, prepared }) = self.flight.pop() {
                    self.parsed(name, prepared);
                }
            }
            (backend::BIND_COMPLETE, Expected::Bind { .. }) => {
                if let Some(Expected::Bind { name, portal }) = self.flight.pop()
                    && let Some(old) = self.portals.insert(name, portal)
                {
                    self.portal_over(old.operation);
                }
            }
            (backend::CLOSE_COMPLETE, Expected::Close(_)) => match self.flight.pop() {
                Some(Expected::Close(Named::Statement(name))) => {
                    self.statements.remove(&name);
                    if let Ok(name) = std::str::from_utf8(&name) {
                        self.names.deallocate(name);
                    }
                }
                Some(Expected::Close(Named::Portal(name))) => self.forget_portal(&name),
                _ => {}
            },
            (backend::PARAMETER_DESCRIPTION, Expected::DescribeStatement { .. }) => {}
            (
                backend::ROW_DESCRIPTION | backend::NO_DATA,
                Expected::DescribeStatement { .. } | Expected::DescribePortal { .. },
            ) => {
                if self.described(frame)? {
                    return Ok(());
                }
            }
            (backend::ROW_DESCRIPTION, Expected::Query { operation, .. }) => {
                let operation = *operation;
                let columns = backend::row_description(frame).map_err(ProtocolError::Server)?;
                self.open_result(operation, columns.into(), out)?;
            }
            (backend::DATA_ROW, Expected::Query { .. } | Expected::Execute { .. }) => {
                return self.row(frame, to_client, out);
            }
            (backend::COMMAND_COMPLETE | backend::EMPTY_QUERY, Expected::Query { .. } | Expected::Execute { .. }) => {
                self.command_complete(frame, out)?;
            }
            (backend::PORTAL_SUSPENDED, Expected::Execute { .. }) => {
                self.result = None;
                if let Some(operation) = self.flight.pop().and_then(|head| head.operation()) {
                    self.counted(operation);
                }
            }
            (backend::COPY_IN_RESPONSE, Expected::Query { statement, .. } | Expected::Execute { statement, .. }) => {
                if !copies(statement, CopyDirection::In) && statement.unfollowed.is_none() {
                    return Err(unexpected);
                }
                self.copy_in = true;
                // Those that came before the rows are ignored by the server.
                self.group_open = matches!(head, Expected::Execute { .. });
                self.flight.drop_syncs();
            }
            (
                backend::COPY_OUT_RESPONSE,
                Expected::Query { operation, statement } | Expected::Execute { operation, statement, .. },
            ) => {
                if !copies(statement, CopyDirection::Out) && statement.unfollowed.is_none() {
                    return Err(unexpected);
                }
                let mask = CopyMask::for_copy(statement, &self.masking).map_err(ProtocolError::Unmaskable)?;
                let binary = match &statement.copy {
                    Some(copy) => copy.format == CopyFormat::Binary,
                    // Its first byte says so.
                    None => frame.body().first() == Some(&1),
                };
                self.copy_out = Some(CopyOut { operation: *operation, mask, binary, first: true });
            }
            (backend::COPY_BOTH_RESPONSE, Expected::Query { operation, statement }) => {
                // Replication: no statement that could be followed.
                if statement.unfollowed.is_none() {
                    return Err(unexpected);
                }
                self.copy_out = Some(CopyOut { operation: *operation, mask: None, binary: true, first: true });
                self.copy_in = true;
            }
            (backend::FUNCTION_RESULT, Expected::Query { .. }) => self.function_result(frame, out)?,
            (backend::COPY_DATA | backend::COPY_DONE, Expected::Query { .. } | Expected::Execute { .. }) => {
                return self.copied(tag, frame, to_client, out);
            }
            _ => return Err(unexpected),
        }
        to_client.put_slice(frame.raw());
        Ok(())
    }

    fn parsed(&mut self, name: Bytes, prepared: Prepared) {
        // It exists now, and nothing else does under the name.
        if let Ok(name) = std::str::from_utf8(&name) {
            self.names.deallocate(name);
        }
        self.note_prepared(&name, &prepared.text, &prepared.statement);
        self.statements.insert(name, prepared);
    }

    /// EXECUTE of the name may run `text`; where that cannot be kept, it is in doubt.
    pub(super) fn note_prepared(&mut self, name: &[u8], text: &[u8], statement: &Arc<Statement>) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        let text = std::str::from_utf8(text).map(Arc::from);
        if !name.is_empty() && text.is_ok_and(|text| self.names.prepare(name, statement, &text).is_err()) {
            self.names.deallocate(name);
        }
    }

    /// Takes the columns of a statement or portal; whether the client is not to see the message.
    fn described(&mut self, frame: &Frame) -> Result<bool, ProtocolError> {
        let columns: Columns = match frame.tag() {
            backend::ROW_DESCRIPTION => backend::row_description(frame).map_err(ProtocolError::Server)?.into(),
            _ => Columns::from([]),
        };
        match self.flight.pop() {
            Some(Expected::DescribeStatement { name, id }) => self.statements.set_columns(&name, id, &columns),
            Some(Expected::DescribePortal { name, hidden }) => {
                self.flight.tell_columns(&name, &columns);
                if let Some(portal) = self.portals.get_mut(&name) {
                    self.statements.set_columns(&portal.source.name, portal.source.id, &columns);
                    portal.source.columns = Some(columns);
                }
                return Ok(hidden);
            }
            _ => {}
        }
        Ok(false)
    }

    /// The end of a group or text; whether the client is told so now.
    fn ready(&mut self, status: TransactionStatus, to_client: &mut BytesMut) -> Result<bool, ProtocolError> {
        if matches!(self.flight.head(), Some(Expected::Query { .. })) && self.end_lingering(status) {
            return Ok(false);
        }
        match self.flight.pop() {
            Some(Expected::Sync) => {}
            Some(Expected::Query { operation, .. }) => {
                self.text_over(operation, to_client);
                let called = self.running.get(&operation).is_some_and(|running| running.is_function_call);
                self.over(operation);
                if !called {
                    // A simple query forgets both (section "Extended Query").
                    self.statements.remove(b"");
                    self.forget_portal(b"");
                }
            }
            _ => return Err(ProtocolError::Unexpected(backend::READY_FOR_QUERY)),
        }
        self.result = None;
        self.copy_out = None;
        self.status = status;
        let idle = status == TransactionStatus::Idle;
        let failed = std::mem::take(&mut self.group_failed);
        for (statement, text) in std::mem::take(&mut self.effects) {
            if failed {
                forget_prepared(&mut self.statements, &statement.effects);
            } else {
                self.settle(&statement, &text, !idle);
            }
        }
        if idle {
            // Portals live no longer than their transaction.
            self.forget_portals();
            self.names.transaction_ended();
            self.forget_cursors();
            self.scrub = Scrub::Nothing;
        }
        Ok(!self.fail_transaction(status))
    }

    /// The statement's effects hold.
    fn settle(&mut self, statement: &Statement, text: &Bytes, in_transaction: bool) {
        self.names.complete(&statement.effects, in_transaction);
        self.names_changed();
        for effect in &statement.effects {
            match effect {
                SessionEffect::Prepared { name, statement, .. } => {
                    let prepared = Prepared {
                        id: self.statements.next_id(),
                        text: text.clone(),
                        types: Bytes::new(),
                        statement: Arc::clone(statement),
                        generation: self.generation,
                        columns: None,
                        by_sql: true,
                    };
                    let name = Bytes::copy_from_slice(name.as_bytes());
                    if self.statements.admits(&name, &prepared.text) {
                        self.statements.insert(name, prepared);
                    } else {
                        self.statements.remove(&name);
                    }
                }
                SessionEffect::Deallocated(Some(name)) => self.statements.remove(name.as_bytes()),
                SessionEffect::Deallocated(None) | SessionEffect::Discarded => self.statements.clear(),
                _ => {}
            }
        }
    }
}

pub(super) fn forget_prepared(statements: &mut super::names::Statements, effects: &[SessionEffect]) {
    for effect in effects {
        if let SessionEffect::Prepared { name, .. } = effect {
            statements.remove(name.as_bytes());
        }
    }
}

pub(super) fn copies(statement: &Statement, direction: CopyDirection) -> bool {
    statement.copy.as_ref().is_some_and(|copy| copy.direction == direction)
}
