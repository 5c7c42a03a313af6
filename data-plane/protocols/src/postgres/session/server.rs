//! The server's bytes.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use postern_core::id::OperationId;
use postern_core::recording::Value;

use super::flight::Expected;
use super::names::{Columns, Prepared};
use super::results::{CopyOut, NOT_RUN, NOT_RUN_MESSAGE, ResultSet};
use super::{ProtocolError, ResultEvent, ServerProgress, Session};
use crate::postgres::analyze::{CopyDirection, CopyFormat, SessionEffect, Statement, StatementKind};
use crate::postgres::codec::backend::{self, Fields, TransactionStatus};
use crate::postgres::codec::frontend::Named;
use crate::postgres::codec::{self, Frame, HEADER, Origin, write};
use crate::postgres::mask::{self, CopyMask, Scrub};

/// Events that wait for the recorder before the server is read on.
const MAX_EVENTS: usize = 256;
/// Tables for which the catalog is read anew; a session's temporary tables never appear in it.
const MAX_STRANGERS: usize = 64;

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

    /// Many rows at once, where none is masked and the recording takes no more of them: nothing is allocated for each.
    fn pass_rows(&mut self, from_server: &mut BytesMut, to_client: &mut BytesMut) -> Result<bool, ProtocolError> {
        let Some(result) = self.result.as_ref().filter(|result| result.is_plain()) else {
            return Ok(false);
        };
        let Some(running) = self.running.get_mut(&result.operation).filter(|running| running.is_full(&self.limits))
        else {
            return Ok(false);
        };
        let room = self.limits.high_water.saturating_sub(to_client.len());
        let (mut end, mut rows) = (0_usize, 0_u64);
        while end < room
            && let Some(rest) = from_server.get(end..)
        {
            let next = codec::peek(rest, Origin::Backend, &self.limits.frames).map_err(ProtocolError::Server)?;
            match next {
                Some((backend::DATA_ROW, whole)) if rest.len() >= whole => {
                    end = end.saturating_add(whole);
                    rows = rows.saturating_add(1);
                }
                _ => break,
            }
        }
        if rows == 0 {
            return Ok(false);
        }
        let headers = rows.saturating_mul(5);
        running.count(rows, u64::try_from(end).unwrap_or(u64::MAX).saturating_sub(headers));
        to_client.put_slice(from_server.get(..end).unwrap_or_default());
        from_server.advance(end);
        Ok(true)
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
                check_setting(frame)?;
                to_client.put_slice(frame.raw());
            }
            backend::NOTIFICATION => self.notification(frame, to_client)?,
            backend::ERROR => self.error(frame, to_client)?,
            backend::READY_FOR_QUERY => {
                self.ready(backend::ready_for_query(frame).map_err(ProtocolError::Server)?)?;
                to_client.put_slice(frame.raw());
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
                self.flight.pop();
            }
            (backend::COPY_IN_RESPONSE, Expected::Query { statement, .. } | Expected::Execute { statement, .. }) => {
                if !copies(statement, CopyDirection::In) {
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
                if !copies(statement, CopyDirection::Out) {
                    return Err(unexpected);
                }
                let mask = CopyMask::for_copy(statement, &self.masking).map_err(ProtocolError::Unmaskable)?;
                let binary = statement.copy.as_ref().is_some_and(|copy| copy.format == CopyFormat::Binary);
                self.copy_out = Some(CopyOut { operation: *operation, mask, binary });
            }
            (backend::COPY_DATA | backend::COPY_DONE, Expected::Query { .. } | Expected::Execute { .. }) => {
                return self.copied(tag, frame, to_client, out);
            }
            _ => return Err(unexpected),
        }
        to_client.put_slice(frame.raw());
        Ok(())
    }

    fn parsed(&mut self, name: Bytes, prepared: Prepared) {
        if let Ok(text) = std::str::from_utf8(&name)
            && !text.is_empty()
        {
            // It exists now, and nothing else does under the name.
            self.names.deallocate(text);
            if self.names.prepare(text, &prepared.statement).is_err() {
                self.names.deallocate(text);
            }
        }
        self.statements.insert(name, prepared);
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

    fn open_result(
        &mut self,
        operation: OperationId,
        columns: Columns,
        out: &mut Vec<ResultEvent>,
    ) -> Result<(), ProtocolError> {
        let statement = self.flight.head().and_then(Expected::statement).map(Arc::clone);
        let statement = statement.ok_or(ProtocolError::Unexpected(backend::ROW_DESCRIPTION))?;
        self.note_tables(&columns);
        let result = ResultSet::new(operation, columns, &statement, &self.masking);
        let in_text = matches!(self.flight.head(), Some(Expected::Query { .. }));
        // Of a portal that is run in parts, the columns are told once.
        if let Some(running) = self.running.get_mut(&operation)
            && (in_text || !running.columns_told)
            && !running.is_full(&self.limits)
        {
            running.columns_told = true;
            out.push(result.told());
        }
        self.result = Some(result);
        Ok(())
    }

    /// A table that the catalog does not know was made since it was read: read it anew, once for each.
    fn note_tables(&mut self, columns: &Columns) {
        if self.masking.is_empty() {
            return;
        }
        for column in columns.iter() {
            if !self.masking.knows_table(column.table)
                && self.strangers.len() < MAX_STRANGERS
                && self.strangers.insert(column.table)
            {
                self.catalog_changes = self.catalog_changes.wrapping_add(1);
            }
        }
    }

    /// The columns of the portal that runs; they were asked for before it.
    fn open_portal_result(&mut self, tag: u8, out: &mut Vec<ResultEvent>) -> Result<(), ProtocolError> {
        let Some(Expected::Execute { name, operation, columns, .. }) = self.flight.head() else {
            return Err(ProtocolError::Unexpected(tag));
        };
        let operation = *operation;
        let columns = columns.clone().or_else(|| {
            let portal = self.portals.get(name).filter(|portal| portal.operation == operation)?;
            self.columns_of(portal)
        });
        let columns = columns.filter(|columns| !columns.is_empty()).ok_or(ProtocolError::Unexpected(tag))?;
        self.open_result(operation, columns, out)
    }

    fn row(
        &mut self,
        frame: &Frame,
        to_client: &mut BytesMut,
        out: &mut Vec<ResultEvent>,
    ) -> Result<(), ProtocolError> {
        if self.result.is_none() {
            self.open_portal_result(backend::DATA_ROW, out)?;
        }
        let result = self.result.as_ref().ok_or(ProtocolError::Unexpected(backend::DATA_ROW))?;
        let body_at = result.write(frame.raw(), to_client)?;
        let body = to_client.get(body_at..).unwrap_or_default();
        if let Some(running) = self.running.get_mut(&result.operation)
            && running.takes(body.len(), &self.limits)
        {
            let values = result.values(body).map_err(ProtocolError::Server)?;
            out.push(ResultEvent::Row { operation: result.operation, values });
        }
        Ok(())
    }

    fn command_complete(&mut self, frame: &Frame, out: &mut Vec<ResultEvent>) -> Result<(), ProtocolError> {
        self.copy_in = false;
        let tag = match frame.tag() {
            backend::COMMAND_COMPLETE => Some(backend::command_tag(frame).map_err(ProtocolError::Server)?),
            _ => None,
        };
        let is_query = matches!(self.flight.head(), Some(Expected::Query { .. }));
        let Some((operation, copied_in)) = self.flight.head().and_then(|head| {
            Some((head.operation()?, head.statement().is_some_and(|statement| copies(statement, CopyDirection::In))))
        }) else {
            return Err(ProtocolError::Unexpected(frame.tag()));
        };
        if !is_query && self.result.is_none() && self.running.get(&operation).is_some_and(|run| !run.columns_told) {
            // A result without rows still has columns.
            match self.open_portal_result(frame.tag(), out) {
                Ok(()) | Err(ProtocolError::Unexpected(_)) => {}
                Err(other) => return Err(other),
            }
        }
        self.result = None;
        if let (Some(running), Some(tag)) = (self.running.get_mut(&operation), tag) {
            running.tag(&tag, copied_in);
        }
        if !is_query {
            self.flight.pop();
            self.over(operation);
        }
        Ok(())
    }

    /// The operation is over, with a reply of the server's.
    fn over(&mut self, operation: OperationId) {
        let Some(running) = self.running.remove(&operation) else {
            return;
        };
        let statement = &running.statement;
        if statement.changes_catalog {
            self.catalog_changes = self.catalog_changes.wrapping_add(1);
        }
        if !statement.effects.is_empty() {
            if running.failed.is_none() {
                self.effects.push((Arc::clone(statement), running.text.clone()));
            } else {
                // How far it came is not known.
                forget_prepared(&mut self.statements, &statement.effects);
            }
        }
        self.deferred.push(running.over(operation, true));
    }

    /// Rows of COPY TO STDOUT, and their end.
    fn copied(
        &mut self,
        tag: u8,
        frame: &Frame,
        to_client: &mut BytesMut,
        out: &mut Vec<ResultEvent>,
    ) -> Result<(), ProtocolError> {
        let copy = self.copy_out.as_mut().ok_or(ProtocolError::Unexpected(tag))?;
        let body_at = to_client.len().saturating_add(HEADER);
        let mut result = Ok(());
        match (&mut copy.mask, tag) {
            (None, _) => to_client.put_slice(frame.raw()),
            (Some(mask), backend::COPY_DATA) => {
                let start = to_client.len();
                write::frame(to_client, backend::COPY_DATA, |out| result = mask.push(&frame.body(), out));
                if to_client.len() == body_at {
                    // It ended in the middle of a row.
                    to_client.truncate(start);
                }
            }
            (Some(mask), _) => {
                let start = to_client.len();
                write::frame(to_client, backend::COPY_DATA, |out| result = mask.finish(out));
                if to_client.len() == body_at {
                    to_client.truncate(start);
                }
            }
        }
        result?;
        let rows = to_client.get(body_at..).unwrap_or_default();
        if (tag == backend::COPY_DATA || copy.mask.is_some())
            && !rows.is_empty()
            && let Some(running) = self.running.get_mut(&copy.operation)
            && running.takes(rows.len(), &self.limits)
        {
            let values = vec![Value::from_wire(Some(rows), copy.binary)];
            out.push(ResultEvent::Row { operation: copy.operation, values });
        }
        if tag == backend::COPY_DONE {
            if copy.mask.is_some() {
                to_client.put_slice(frame.raw());
            }
            self.copy_out = None;
        }
        Ok(())
    }

    fn ready(&mut self, status: TransactionStatus) -> Result<(), ProtocolError> {
        match self.flight.pop() {
            Some(Expected::Sync) => {}
            Some(Expected::Query { operation, .. }) => {
                self.over(operation);
                // A simple query forgets both (section "Extended Query").
                self.statements.remove(b"");
                self.forget_portal(b"");
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
            self.scrub = Scrub::Nothing;
        }
        Ok(())
    }

    /// The statement's effects hold.
    fn settle(&mut self, statement: &Statement, text: &Bytes, in_transaction: bool) {
        self.names.complete(&statement.effects, in_transaction);
        self.names_changed();
        for effect in &statement.effects {
            match effect {
                SessionEffect::Prepared { name, statement } => {
                    let prepared = Prepared {
                        id: self.statements.next_id(),
                        text: text.clone(),
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

    fn error(&mut self, frame: &Frame, to_client: &mut BytesMut) -> Result<(), ProtocolError> {
        let fields = backend::message_fields(frame).map_err(ProtocolError::Server)?;
        if is_fatal(&fields) {
            // The server goes away: what is in flight stays unknown.
            self.pass_message(frame, fields, to_client);
            return Ok(());
        }
        self.group_failed = true;
        self.result = None;
        self.copy_out = None;
        self.copy_in = false;
        match self.flight.head() {
            None => return Err(ProtocolError::Unexpected(backend::ERROR)),
            // The commit at its end failed.
            Some(Expected::Sync) => {
                self.pass_message(frame, fields, to_client);
            }
            Some(Expected::Query { operation, .. }) => {
                let operation = *operation;
                let fields = self.pass_message(frame, fields, to_client);
                if let Some(running) = self.running.get_mut(&operation) {
                    running.failed = Some(failure(&fields));
                }
            }
            Some(Expected::Denied { error }) => {
                to_client.put_slice(error);
                self.flight.pop();
                self.skip_group();
            }
            Some(_) => {
                let fields = self.pass_message(frame, fields, to_client);
                let mut head = self.flight.pop();
                if matches!(head, Some(Expected::DescribePortal { hidden: true, .. })) {
                    // The session's own: the Execute after it failed with it.
                    head = self.flight.pop();
                }
                if let Some(operation) = head.and_then(|head| head.operation()) {
                    self.failed(operation, failure(&fields));
                }
                self.skip_group();
            }
        }
        Ok(())
    }

    fn failed(&mut self, operation: OperationId, failure: (String, String)) {
        if let Some(running) = self.running.get_mut(&operation) {
            running.failed = Some(failure);
            self.over(operation);
        }
    }

    /// After an error the server skips what it reads up to Sync (section "Extended Query").
    fn skip_group(&mut self) {
        loop {
            match self.flight.head() {
                Some(Expected::Sync) => return,
                Some(_) => {
                    if let Some(operation) = self.flight.pop().and_then(|skipped| skipped.operation()) {
                        self.failed(operation, (NOT_RUN.into(), NOT_RUN_MESSAGE.into()));
                    }
                }
                None => {
                    self.skipping = true;
                    return;
                }
            }
        }
    }

    /// Passes an error or notice on, without what a mask hides; returns what is left of it.
    fn pass_message(&self, frame: &Frame, fields: Fields, to_client: &mut BytesMut) -> Fields {
        let scrub = self.message_scrub();
        if scrub == Scrub::Nothing {
            to_client.put_slice(frame.raw());
            return fields;
        }
        let fields = mask::scrub_fields(fields, scrub);
        write::message(to_client, frame.tag(), &fields);
        fields
    }

    /// Who sent it may have seen what this session may not: its payload is withheld while masks hold (I4).
    fn notification(&self, frame: &Frame, to_client: &mut BytesMut) -> Result<(), ProtocolError> {
        if !self.masking.hides_notifications() {
            to_client.put_slice(frame.raw());
            return Ok(());
        }
        let (pid, channel) = backend::notification(frame).map_err(ProtocolError::Server)?;
        write::frame(to_client, backend::NOTIFICATION, |out| {
            out.put_u32(pid);
            write::text(out, &channel);
            write::text(out, b"");
        });
        Ok(())
    }

    /// By the statement that runs. What ends a transaction, or sets its constraints, speaks of every statement before it.
    fn message_scrub(&self) -> Scrub {
        let ends = |statement: &Statement| {
            statement.kinds.iter().any(|kind| matches!(kind, StatementKind::Transaction | StatementKind::Setting))
        };
        match self.flight.head().and_then(Expected::statement) {
            Some(statement) if ends(statement) => self.scrub.max(self.masking.scrub(statement)),
            Some(statement) => self.masking.scrub(statement),
            None => self.scrub.max(self.masking.scrub_idle()),
        }
    }
}

fn forget_prepared(statements: &mut super::names::Statements, effects: &[SessionEffect]) {
    for effect in effects {
        if let SessionEffect::Prepared { name, .. } = effect {
            statements.remove(name.as_bytes());
        }
    }
}

fn copies(statement: &Statement, direction: CopyDirection) -> bool {
    statement.copy.as_ref().is_some_and(|copy| copy.direction == direction)
}

/// Section "Error and Notice Message Fields": V is never translated, S may be.
fn is_fatal(fields: &Fields) -> bool {
    let severity = match backend::field(fields, b'V') {
        "" => backend::field(fields, b'S'),
        severity => severity,
    };
    matches!(severity, "FATAL" | "PANIC")
}

fn failure(fields: &Fields) -> (String, String) {
    (backend::field(fields, b'C').to_owned(), backend::field(fields, b'M').to_owned())
}

/// Statements are classified as UTF-8 with standard strings: a session that leaves either cannot go on (I3).
fn check_setting(frame: &Frame) -> Result<(), ProtocolError> {
    let (name, value) = backend::parameter_status(frame).map_err(ProtocolError::Server)?;
    match (name.as_ref(), value.as_ref()) {
        (b"client_encoding", b"UTF8") | (b"standard_conforming_strings", b"on") => Ok(()),
        (b"client_encoding", _) => Err(ProtocolError::Setting("client_encoding")),
        (b"standard_conforming_strings", _) => Err(ProtocolError::Setting("standard_conforming_strings")),
        _ => Ok(()),
    }
}
