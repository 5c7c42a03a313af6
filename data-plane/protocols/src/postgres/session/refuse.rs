//! Decisions come back: an operation is forwarded, or refused as the server would refuse it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use postern_core::Code;
use postern_core::id::OperationId;
use postern_core::policy::Obliged;
use postern_core::recording::{Completed, OperationOutcome};

use super::flight::Expected;
use super::names::Portal;
use super::results::Running;
use super::step::Message;
use super::{Pending, Refused, ResultEvent, Session};
use crate::postgres::analyze::{SessionEffect, Statement, Unclassifiable};
use crate::postgres::codec::backend::TransactionStatus;
use crate::postgres::codec::write;
use crate::postgres::errors::ErrorFields;

impl Session {
    /// The operation may run: what to forward, after the recorder has it (I2). `operation` names it in the results; for a
    /// [`super::ClientStep::Prepare`] it is not used. It runs by `obliged` only. What could not be classified is never forwarded.
    #[must_use = "the bytes are the operation"]
    pub fn permit(&mut self, pending: Box<Pending>, operation: OperationId, obliged: Obliged) -> Bytes {
        let Pending { text, classified, message, generation, .. } = *pending;
        self.deciding = false;
        let statement = match classified {
            Ok(statement) => statement,
            Err(refusal) => {
                let error = ErrorFields::error(refusal.code, refusal.reason);
                return self.refuse_in_place(&message, &error);
            }
        };
        if self.skipping {
            // An earlier message of the group failed meanwhile: the server would skip this one.
            if !matches!(message, Message::Parse { .. }) {
                self.not_run(operation);
            }
            return Bytes::new();
        }
        let statement = match self.still(&message, &text, statement, generation) {
            Ok(statement) => statement,
            Err(refusal) => {
                if !matches!(message, Message::Parse { .. }) {
                    self.not_run(operation);
                }
                let error = ErrorFields::error(refusal.code, refusal.reason);
                return self.refuse_in_place(&message, &error);
            }
        };
        let obliged = match message {
            Message::Parse { .. } => Obliged::default(),
            _ => self.bound(&statement, obliged),
        };
        let is_function_call = matches!(message, Message::FunctionCall { .. });
        match message {
            Message::Query { raw } | Message::FunctionCall { raw } => {
                if let Err(refusal) = self.begin(&statement) {
                    self.not_run(operation);
                    return self.deny_query(&ErrorFields::error(refusal.code, refusal.reason));
                }
                let mut out = match self.make_read_only(&statement, &obliged, true) {
                    Ok(out) => out,
                    Err(refusal) => {
                        self.not_run(operation);
                        return self.deny_query(&ErrorFields::error(refusal.code, refusal.reason));
                    }
                };
                let mut running = Running::new(Arc::clone(&statement), text);
                running.is_function_call = is_function_call;
                running.obliged = obliged;
                self.running.insert(operation, running);
                self.count_on(operation);
                self.flushed = false;
                self.group_open = false;
                self.flight.push(Expected::Query { operation, statement });
                if out.is_empty() {
                    return raw;
                }
                out.extend_from_slice(&raw);
                out.freeze()
            }
            Message::Parse { raw, name, prepared } => {
                let Some(prepared) = prepared else {
                    return self.deny(&ErrorFields::of(Code::Internal));
                };
                self.note_prepared(&name, &text, &statement);
                self.expect(Expected::Parse { name, prepared });
                raw
            }
            Message::Bind { raw, name, source, formats } => {
                let mut out = match self.make_read_only(&statement, &obliged, false) {
                    Ok(out) => out,
                    Err(refusal) => {
                        self.not_run(operation);
                        return self.deny(&ErrorFields::error(refusal.code, refusal.reason));
                    }
                };
                let bound = !obliged.is_empty();
                let mut running = Running::new(Arc::clone(&statement), text);
                running.obliged = obliged;
                self.running.insert(operation, running);
                self.expect(Expected::Bind { name, portal: Portal { operation, statement, source, formats, bound } });
                if out.is_empty() {
                    return raw;
                }
                out.extend_from_slice(&raw);
                out.freeze()
            }
            Message::Execute { raw, name } => {
                if let Err(refusal) = self.begin(&statement) {
                    self.not_run(operation);
                    return self.deny(&ErrorFields::error(refusal.code, refusal.reason));
                }
                // Only where everything is granted, and nothing is bound.
                self.running.insert(operation, Running::new(Arc::clone(&statement), text));
                self.forward_execute(name, (operation, statement), None, raw)
            }
        }
    }

    /// The operation does not run; the client sees `error`, at the place and with the effects of an error of the server's.
    #[must_use = "the client waits for its error"]
    pub fn refuse(&mut self, pending: Box<Pending>, error: &ErrorFields) -> Refused {
        self.deciding = false;
        self.refuse_message(&pending.message, error)
    }

    /// What was decided must still be what the text does: an approval may have taken its time, and names may mean something else by now.
    fn still(
        &mut self,
        message: &Message,
        text: &[u8],
        decided: Arc<Statement>,
        then: u64,
    ) -> Result<Arc<Statement>, Unclassifiable> {
        if then == self.generation || (decided.unfollowed.is_some() && self.is_open()) {
            return Ok(decided);
        }
        let changed = || Unclassifiable::doubt("what its names mean has changed while it was decided: send it again");
        if matches!(message, Message::Bind { source, .. } if source.by_sql) {
            // Its text is that of PREPARE.
            return Err(changed());
        }
        let now = self.classify(text)?;
        if now.actions == decided.actions { Ok(now) } else { Err(changed()) }
    }

    /// By way of the server, whatever its state.
    fn refuse_in_place(&mut self, message: &Message, error: &ErrorFields) -> Bytes {
        match message {
            _ if self.skipping => Bytes::new(),
            Message::Parse { .. } | Message::Bind { .. } | Message::Execute { .. } => self.deny(error),
            Message::Query { .. } | Message::FunctionCall { .. } => self.deny_query(error),
        }
    }

    fn refuse_message(&mut self, message: &Message, error: &ErrorFields) -> Refused {
        let by_itself = matches!(message, Message::Query { .. } | Message::FunctionCall { .. });
        let forgetful = self.flight.is_empty() && !self.group_open && self.status == TransactionStatus::Idle;
        if by_itself && forgetful && !self.skipping {
            // The server has nothing to forget: it need not know.
            let mut out = BytesMut::new();
            error.encode(&mut out);
            write::ready_for_query(&mut out, TransactionStatus::Idle);
            return Refused { to_client: out.freeze(), to_server: Bytes::new() };
        }
        Refused { to_client: Bytes::new(), to_server: self.refuse_in_place(message, error) }
    }

    /// In the place of an extended message: one that always fails.
    pub(super) fn deny(&mut self, error: &ErrorFields) -> Bytes {
        let mut out = BytesMut::new();
        write::bind(&mut out, b"", &self.impossible_name(), &[]);
        self.expect(Expected::Denied { error: error.to_bytes() });
        // It fails for certain, so all that follows up to Sync is skipped: it need not be decided.
        self.skipping = true;
        out.freeze()
    }

    /// In the place of a Query: the same, and Sync, after which the server is ready as it is after a Query that failed.
    fn deny_query(&mut self, error: &ErrorFields) -> Bytes {
        let mut out = BytesMut::new();
        write::bind(&mut out, b"", &self.impossible_name(), &[]);
        write::sync(&mut out);
        self.flight.push(Expected::Denied { error: error.to_bytes() });
        self.flight.push(Expected::Sync);
        self.group_open = false;
        self.flushed = false;
        out.freeze()
    }

    /// Before `statement` runs: its effects may hold from now on.
    pub(super) fn begin(&mut self, statement: &Statement) -> Result<(), Unclassifiable> {
        self.scrub = self.scrub.max(self.masking.scrub(statement));
        if statement.effects.is_empty() {
            return Ok(());
        }
        if let Err(too_many) = self.names.begin(&statement.effects) {
            if !self.is_open() {
                return Err(too_many);
            }
            self.openness.lose();
        }
        self.names_changed();
        for effect in &statement.effects {
            // SQL's cursors and the protocol's portals share their names: the name is no longer that of what was bound.
            match effect {
                SessionEffect::CursorDeclared { name, .. } | SessionEffect::CursorClosed(Some(name)) => {
                    self.forget_portal(name.as_bytes());
                }
                SessionEffect::CursorClosed(None) | SessionEffect::Discarded => self.forget_portals(),
                _ => {}
            }
        }
        Ok(())
    }

    /// The portal is gone, and its operation over.
    pub(super) fn forget_portal(&mut self, name: &[u8]) {
        if let Some(portal) = self.portals.remove(name) {
            self.portal_over(portal.operation);
        }
    }

    /// Every portal is gone.
    pub(super) fn forget_portals(&mut self) {
        for portal in self.portals.take_all() {
            self.portal_over(portal.operation);
        }
    }

    /// Ends the operation of a portal, unless replies to it are still to come.
    pub(super) fn portal_over(&mut self, operation: OperationId) {
        if self.flight.operations().any(|in_flight| in_flight == operation) {
            return;
        }
        if let Some(running) = self.running.remove(&operation) {
            self.deferred.push(running.over(operation, true));
        }
    }

    /// It was permitted, and not forwarded after all.
    fn not_run(&mut self, operation: OperationId) {
        self.deferred.push(ResultEvent::Completed(Box::new(Completed {
            operation,
            outcome: OperationOutcome::Failed {
                sqlstate: super::results::NOT_RUN.into(),
                message: super::results::NOT_RUN_MESSAGE.into(),
            },
            rows: 0,
            bytes: 0,
            rows_omitted: 0,
            omitted_digest: None,
            rows_in: 0,
        })));
    }
}
