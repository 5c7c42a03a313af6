//! Errors, notices and notifications: what they end, and how much of them is shown.

use bytes::{BufMut as _, BytesMut};
use postern_core::id::OperationId;

use super::flight::Expected;
use super::results::{NOT_RUN, NOT_RUN_MESSAGE};
use super::{ProtocolError, Session};
use crate::postgres::analyze::{Statement, StatementKind};
use crate::postgres::codec::backend::{self, Fields};
use crate::postgres::codec::{Frame, write};
use crate::postgres::mask::{self, Scrub};

impl Session {
    pub(super) fn error(&mut self, frame: &Frame, to_client: &mut BytesMut) -> Result<(), ProtocolError> {
        let fields = backend::message_fields(frame).map_err(ProtocolError::Server)?;
        if is_fatal(&fields) {
            // The server goes away: what is in flight stays unknown.
            self.said_last = true;
            self.pass_message(frame, fields, to_client);
            return Ok(());
        }
        if matches!(self.flight.head(), Some(Expected::Own(_))) {
            self.group_failed = true;
            let fields = self.pass_message(frame, fields, to_client);
            self.own_failed(failure(&fields));
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
                let fields = self.pass_error(frame, fields, to_client);
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
                let fields = self.pass_error(frame, fields, to_client);
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

    /// The server's error, or what is said in its place; returns what was said.
    fn pass_error(&mut self, frame: &Frame, fields: Fields, to_client: &mut BytesMut) -> Fields {
        match self.error_instead(&fields) {
            Some(error) => {
                error.encode(to_client);
                error.fields()
            }
            None => self.pass_message(frame, fields, to_client),
        }
    }

    pub(super) fn failed(&mut self, operation: OperationId, failure: (String, String)) {
        if let Some(running) = self.running.get_mut(&operation) {
            running.failed = Some(failure);
            self.over(operation);
        }
    }

    /// After an error the server skips what it reads up to Sync (section "Extended Query").
    pub(super) fn skip_group(&mut self) {
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
    pub(super) fn pass_message(&self, frame: &Frame, fields: Fields, to_client: &mut BytesMut) -> Fields {
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
    pub(super) fn notification(&self, frame: &Frame, to_client: &mut BytesMut) -> Result<(), ProtocolError> {
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
    pub(super) fn message_scrub(&self) -> Scrub {
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
