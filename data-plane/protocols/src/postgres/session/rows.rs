//! Results: rows, COPY TO STDOUT, and the end of each command.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, BytesMut};
use postern_core::id::OperationId;
use postern_core::recording::Value;

use super::flight::Expected;
use super::names::Columns;
use super::oblige::is_copied_row;
use super::results::ResultSet;
use super::server::{copies, forget_prepared};
use super::{ProtocolError, ResultEvent, Session};
use crate::postgres::analyze::CopyDirection;
use crate::postgres::codec::{self, Frame, HEADER, Origin, backend, write};

/// The message at the end of what waits for the client, whose body begins at `body_at`.
fn message(to_client: &BytesMut, body_at: usize) -> &[u8] {
    to_client.get(body_at.saturating_sub(HEADER)..).unwrap_or_default()
}

/// Tables for which the catalog is read anew; a session's temporary tables never appear in it.
const MAX_STRANGERS: usize = 64;

impl Session {
    /// Many rows at once, where none is masked and the recording takes no more of them: nothing is allocated for each.
    pub(super) fn pass_rows(
        &mut self,
        from_server: &mut BytesMut,
        to_client: &mut BytesMut,
    ) -> Result<bool, ProtocolError> {
        let Some(result) = self.result.as_ref().filter(|result| result.is_plain()) else {
            return Ok(false);
        };
        let Some(running) = self
            .running
            .get_mut(&result.operation)
            .filter(|running| running.is_full(&self.limits) && !running.is_limited())
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
        let messages = from_server.get(..end).unwrap_or_default();
        running.omit(messages, &self.limits);
        to_client.put_slice(messages);
        from_server.advance(end);
        Ok(true)
    }

    pub(super) fn open_result(
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
    pub(super) fn note_tables(&mut self, columns: &Columns) {
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
    pub(super) fn open_portal_result(&mut self, tag: u8, out: &mut Vec<ResultEvent>) -> Result<(), ProtocolError> {
        let Some(Expected::Execute { name, operation, columns, .. }) = self.flight.head() else {
            return Err(ProtocolError::Unexpected(tag));
        };
        let operation = *operation;
        let columns = columns.clone().or_else(|| {
            let portal = self.portals.get(name).filter(|portal| portal.operation == operation)?;
            self.columns_of(portal)
        });
        // Rows may have no columns at all.
        let told = columns.filter(|columns| tag == backend::DATA_ROW || !columns.is_empty());
        let columns = told.ok_or(ProtocolError::Unexpected(tag))?;
        self.open_result(operation, columns, out)
    }

    pub(super) fn row(
        &mut self,
        frame: &Frame,
        to_client: &mut BytesMut,
        out: &mut Vec<ResultEvent>,
    ) -> Result<(), ProtocolError> {
        if self.result.is_none() {
            self.open_portal_result(backend::DATA_ROW, out)?;
        }
        let result = self.result.as_ref().ok_or(ProtocolError::Unexpected(backend::DATA_ROW))?;
        let operation = result.operation;
        if self.running.get_mut(&operation).is_some_and(|running| !running.admits()) {
            self.cut(operation);
            return Ok(());
        }
        let body_at = result.write(frame.raw(), to_client)?;
        let body = to_client.get(body_at..).unwrap_or_default();
        let Some(running) = self.running.get_mut(&result.operation) else { return Ok(()) };
        if running.takes(body.len(), &self.limits) {
            let values = result.values(body).map_err(ProtocolError::Server)?;
            out.push(ResultEvent::Row { operation: result.operation, values });
        } else {
            running.omit(message(to_client, body_at), &self.limits);
        }
        Ok(())
    }

    pub(super) fn command_complete(&mut self, frame: &Frame, out: &mut Vec<ResultEvent>) -> Result<(), ProtocolError> {
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
    pub(super) fn over(&mut self, operation: OperationId) {
        self.counted(operation);
        let Some(running) = self.running.remove(&operation) else {
            return;
        };
        let statement = &running.statement;
        if statement.unfollowed.is_some() && !running.was_no_statement() {
            self.openness.lose();
            self.generation = self.generation.wrapping_add(1);
        }
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
    pub(super) fn copied(
        &mut self,
        tag: u8,
        frame: &Frame,
        to_client: &mut BytesMut,
        out: &mut Vec<ResultEvent>,
    ) -> Result<(), ProtocolError> {
        let copy = self.copy_out.as_mut().ok_or(ProtocolError::Unexpected(tag))?;
        let first = std::mem::take(&mut copy.first);
        let operation = copy.operation;
        if tag == backend::COPY_DATA
            && let Some(running) = self.running.get_mut(&operation).filter(|running| running.is_limited())
            && is_copied_row(Some(&running.statement), copy.binary, first, &frame.body())
            && !running.admits()
        {
            self.cut(operation);
            return Ok(());
        }
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
        {
            if running.takes(rows.len(), &self.limits) {
                let values = vec![Value::from_wire(Some(rows), copy.binary)];
                out.push(ResultEvent::Row { operation: copy.operation, values });
            } else {
                running.omit(message(to_client, body_at), &self.limits);
            }
        }
        if tag == backend::COPY_DONE {
            if copy.mask.is_some() {
                to_client.put_slice(frame.raw());
            }
            self.copy_out = None;
        }
        Ok(())
    }
}
