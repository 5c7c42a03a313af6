//! Obligations: how a permitted operation may run only, whatever the client does.
//!
//! **Read only.** Before whatever a policy lets only read, the session itself sends `SET transaction_read_only = on` to the server, in the same
//! transaction. PostgreSQL lets that be said at any time and taken back only before the first query, so nothing that the operation calls can write. What is said
//! of the transaction by the client, before or after, does not matter: it is said anew each time. What could say it within the same text is refused.
//! What that leaves open is ended in `linger`.
//!
//! **Rows.** They are counted as the server sends them: of an operation, whichever portal suspensions are between, and of all cursors together for as long
//! as one may be open. What comes past the limit is not passed on, the server is asked to cancel, and the client is sent an error in the place of what is
//! left. Should the server have been faster, its transaction is made to fail. Nothing else is forwarded meanwhile.

use bytes::{Bytes, BytesMut};
use postern_core::Code;
use postern_core::id::OperationId;
use postern_core::policy::Obliged;
use postern_core::time::Ttl;

use super::flight::Expected;
use super::results::Running;
use super::{Pending, ProtocolError, Session};
use crate::postgres::analyze::{SessionEffect, Statement, StatementKind, Unclassifiable};
use crate::postgres::codec::backend::{self, Fields, TransactionStatus};
use crate::postgres::codec::frontend::Message;
use crate::postgres::codec::write;
use crate::postgres::errors::ErrorFields;
use crate::sql::CopyFormat;

/// What makes a transaction unable to write, and leaves no setting behind.
const READ_ONLY: &[u8] = b"SET transaction_read_only = on";

/// query_canceled
const CANCELED: &str = "57014";

/// Why an operation is ended before it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// More rows came than may leave: none do any more.
    Rows,
    /// It has run for too long; should it be done all the same, then it is done.
    Time,
}

/// What binds all cursors that may be open.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    obliged: Obliged,
    /// Rows that have left.
    spent: u64,
}

/// What a session does because of obligations.
#[derive(Debug, Default)]
pub(super) struct Oblige {
    /// Policy may bind what it permits.
    may: bool,
    /// Nothing more is forwarded: a cancellation is under way, which must not hit what comes next.
    cancelling: bool,
    /// The server is to be asked to cancel it.
    cancel: Option<OperationId>,
    /// The group was made unable to write, and nothing ran since that could change that.
    secured: bool,
    /// A text that was made unable to write is under way outside of any transaction of the client's.
    pub(super) lingers: bool,
    /// The transaction that it left open is being ended: Sync was sent.
    pub(super) ends: bool,
    /// What ended early was done before the server knew: the transaction, where one is open, is to fail.
    fail: bool,
    /// For the server, because of what it sent.
    pub(super) to_server: BytesMut,
    cursors: Cursors,
}

impl Running {
    /// Whether another row may leave; it is counted.
    pub(super) fn admits(&mut self) -> bool {
        let Some(limit) = &self.obliged.row_limit else { return true };
        let admits = self.spent < limit.limit.get();
        self.spent = self.spent.saturating_add(u64::from(admits));
        admits
    }

    /// Whether another row may leave.
    pub(super) fn may_admit(&self) -> bool {
        self.obliged.row_limit.as_ref().is_none_or(|limit| self.spent < limit.limit.get())
    }

    /// Whether its rows count for all cursors.
    fn is_of_cursor(&self) -> bool {
        self.is_limited() && self.statement.kinds.contains(&StatementKind::Cursor)
    }

    /// Whether rows are counted.
    pub(super) const fn is_limited(&self) -> bool {
        self.obliged.row_limit.is_some()
    }

    /// Whether nothing of it leaves any more.
    pub(super) fn is_cut(&self) -> bool {
        self.ending == Some(Ending::Rows)
    }

    /// What the client is told, where it was ended early.
    fn early_error(&self) -> Option<ErrorFields> {
        let (rows, time) = (self.obliged.row_limit.as_ref(), self.obliged.statement_timeout.as_ref());
        match self.ending? {
            Ending::Rows => rows.map(|by| {
                let message = format!("policy {} lets {} rows leave at most, and there are more", by.policy, by.limit);
                ErrorFields::error(Code::TooLarge, message).with_hint("Ask for fewer, by LIMIT or a condition.")
            }),
            Ending::Time => time.map(|by| {
                let message = format!("policy {} lets a statement run for {} s at most", by.policy, by.limit.0);
                let hint = "No setting of the session changes that.";
                ErrorFields::error(Code::Cancelled, message).with_hint(hint)
            }),
        }
    }
}

/// Whether it begins, ends or saves transactions, and nothing else.
fn only_moves(statement: &Statement) -> bool {
    statement.kinds.iter().all(|kind| *kind == StatementKind::Transaction)
}

/// Whether it can write at all, and so must be kept from it.
fn runs(statement: &Statement) -> bool {
    statement.kinds.iter().any(|kind| !matches!(kind, StatementKind::Transaction | StatementKind::Setting))
}

/// Whether `statement` stays within a transaction that was made unable to write.
fn stays_read_only(statement: &Statement) -> Result<(), Unclassifiable> {
    let denied = |reason: &str| Err(Unclassifiable::doubt(reason));
    for kind in statement.kinds.iter().filter(|_| runs(statement)) {
        match kind {
            StatementKind::Transaction | StatementKind::Setting => {
                return denied(
                    "policy permits reading only: send what begins or ends transactions, and SET, by itself",
                );
            }
            // A procedure may end the transaction that it was called in.
            StatementKind::Utility | StatementKind::Definition => {
                return denied("policy permits reading only, and that may be more");
            }
            StatementKind::Select
            | StatementKind::Insert
            | StatementKind::Update
            | StatementKind::Delete
            | StatementKind::Merge
            | StatementKind::Copy
            | StatementKind::Explain
            | StatementKind::Prepare
            | StatementKind::Execute
            | StatementKind::Cursor => {}
        }
    }
    Ok(())
}

impl Pending {
    /// Whether it can run by this at all.
    ///
    /// # Errors
    /// When it is to read only and it cannot be seen that it does: refuse it (I3).
    pub fn fits(&self, obliged: &Obliged) -> Result<(), Unclassifiable> {
        match &self.classified {
            Ok(statement) if obliged.read_only.is_some() => stays_read_only(statement),
            _ => Ok(()),
        }
    }
}

impl Session {
    /// Whether policy may bind what it permits: what is sent then waits where it must be seen whether it does.
    pub const fn set_obliging(&mut self, may: bool) {
        self.oblige.may = may;
    }

    /// Whether the server is to be asked to cancel what it works at. Then nothing more is forwarded until [`Session::cancelled`].
    pub fn wants_cancel(&mut self) -> bool {
        let under_way = self.oblige.cancel.take().is_some_and(|operation| self.running.contains_key(&operation));
        self.oblige.cancelling |= under_way;
        under_way
    }

    /// The server was asked to cancel, or could not be.
    pub const fn cancelled(&mut self) {
        self.oblige.cancelling = false;
    }

    /// What the server is to be sent now, before anything else.
    pub fn take_to_server(&mut self) -> Option<Bytes> {
        (!self.oblige.to_server.is_empty()).then(|| self.oblige.to_server.split().freeze())
    }

    /// What the server is at, where that may take so long only.
    #[must_use]
    pub fn clocked(&self) -> Option<(OperationId, Ttl)> {
        let operation = self.current_operation()?;
        let running = self.running.get(&operation)?;
        Some((operation, running.obliged.statement_timeout.as_ref()?.limit))
    }

    /// The time of `operation` is over. False when it is, too.
    pub fn expire(&mut self, operation: OperationId) -> bool {
        let under_way = self.current_operation() == Some(operation);
        match self.running.get_mut(&operation).filter(|_| under_way) {
            Some(running) => {
                running.ending = running.ending.or(Some(Ending::Time));
                self.oblige.cancelling = true;
                true
            }
            None => false,
        }
    }

    /// What binds `statement`, which policy binds by `obliged`: cursors keep what they were declared under.
    pub(super) fn bound(&mut self, statement: &Statement, obliged: Obliged) -> Obliged {
        if only_moves(statement) {
            // To end a transaction is never ended early.
            return Obliged::default();
        }
        let obliged = match statement.kinds.contains(&StatementKind::Cursor) {
            true => obliged.and(self.oblige.cursors.obliged.clone()),
            false => obliged,
        };
        if statement.effects.iter().any(|effect| matches!(effect, SessionEffect::CursorDeclared { .. })) {
            let known = std::mem::take(&mut self.oblige.cursors.obliged);
            self.oblige.cursors.obliged = known.and(obliged.clone());
        }
        obliged
    }

    /// Before `operation` runs, or a part of it: what other cursors have let leave counts as well.
    pub(super) fn count_on(&mut self, operation: OperationId) {
        if let Some(running) = self.running.get_mut(&operation).filter(|running| running.is_of_cursor()) {
            running.spent = running.spent.max(self.oblige.cursors.spent);
        }
    }

    /// It has stopped, for now or for good.
    pub(super) fn counted(&mut self, operation: OperationId) {
        if let Some(running) = self.running.get(&operation).filter(|running| running.is_of_cursor()) {
            self.oblige.cursors.spent = self.oblige.cursors.spent.max(running.spent);
        }
    }

    /// No transaction is open.
    pub(super) fn forget_cursors(&mut self) {
        if !self.names.has_cursors() {
            self.oblige.cursors = Cursors::default();
        }
    }

    /// What has to be sent before `statement`, which may read only.
    ///
    /// # Errors
    /// When that would not keep it from writing.
    pub(super) fn make_read_only(
        &mut self,
        statement: &Statement,
        obliged: &Obliged,
        by_itself: bool,
    ) -> Result<BytesMut, Unclassifiable> {
        let mut out = BytesMut::new();
        if obliged.read_only.is_none() {
            self.oblige.secured = false;
            return Ok(out);
        }
        stays_read_only(statement)?;
        let secured = std::mem::take(&mut self.oblige.secured);
        // In a transaction that has failed nothing runs.
        if !runs(statement) || self.status == TransactionStatus::Failed {
            return Ok(out);
        }
        self.oblige.secured = !by_itself;
        if secured {
            return Ok(out);
        }
        if by_itself && !self.flight.is_empty() {
            return Err(Unclassifiable::doubt("policy has changed while it was under way: send it again"));
        }
        self.oblige.lingers = by_itself && !self.group_open && self.status == TransactionStatus::Idle;
        let name = self.own_name();
        write::parse(&mut out, name.as_bytes(), READ_ONLY, b"");
        write::bind(&mut out, name.as_bytes(), name.as_bytes(), &[]);
        write::execute(&mut out, name.as_bytes());
        write::close(&mut out, b'P', name.as_bytes());
        write::close(&mut out, b'S', name.as_bytes());
        let replies = [
            backend::PARSE_COMPLETE,
            backend::BIND_COMPLETE,
            backend::COMMAND_COMPLETE,
            backend::CLOSE_COMPLETE,
            backend::CLOSE_COMPLETE,
        ];
        for reply in replies {
            self.expect(Expected::Own(reply));
        }
        Ok(out)
    }

    /// Nothing is known of the transaction any more.
    pub(super) const fn unsecured(&mut self) {
        self.oblige.secured = false;
    }

    /// Whether `message` waits because of what binds an operation before it.
    pub(super) fn waits_for_bound(&self, message: &Message) -> bool {
        let asks = matches!(
            message,
            Message::Query(_)
                | Message::FunctionCall(_)
                | Message::Parse(_)
                | Message::Bind(_)
                | Message::Execute(_)
                | Message::Describe(_)
                | Message::Close(_)
        );
        if self.oblige.lingers || self.oblige.ends {
            return asks || (matches!(message, Message::Sync) && !self.copy_in);
        }
        if !asks {
            return false;
        }
        if self.oblige.cancelling {
            return true;
        }
        if self.flight.is_empty() {
            return false;
        }
        let limited = |operation| self.running.get(&operation).is_some_and(Running::is_limited);
        self.flight.runs().any(limited)
            // It may have to be preceded by what must not fail.
            || (self.oblige.may && matches!(message, Message::Query(_) | Message::FunctionCall(_)))
    }

    /// More rows came than may leave.
    pub(super) fn cut(&mut self, operation: OperationId) {
        self.result = None;
        self.copy_out = None;
        self.group_failed = true;
        if let Some(running) = self.running.get_mut(&operation) {
            running.ending = Some(Ending::Rows);
            running.failed = running.early_error().map(|error| (error.sqlstate.to_owned(), error.message));
            self.oblige.cancel = Some(operation);
        }
    }

    /// The operation that the server answers, where nothing of it leaves any more.
    pub(super) fn is_cut(&self) -> Option<OperationId> {
        let operation = self.flight.head().filter(|head| head.runs().is_some())?.operation()?;
        self.running.get(&operation).filter(|running| running.is_cut()).map(|_| operation)
    }

    /// Whether a long row that begins now may not leave.
    pub(super) fn past_limit(&mut self) -> bool {
        let head = self.flight.head().filter(|head| head.runs().is_some()).and_then(Expected::operation);
        let Some(operation) = head else { return false };
        let Some(running) = self.running.get_mut(&operation) else { return false };
        if !running.is_cut() {
            // A row that fits will be counted when it passes, whichever way that is.
            if running.may_admit() {
                return false;
            }
            self.cut(operation);
        }
        true
    }

    /// Takes what the server still sends of it.
    pub(super) fn drop_answer(
        &mut self,
        operation: OperationId,
        tag: u8,
        to_client: &mut BytesMut,
    ) -> Result<(), ProtocolError> {
        let in_text = matches!(self.flight.head(), Some(Expected::Query { .. }));
        match tag {
            backend::COPY_IN_RESPONSE => {
                write::copy_fail(&mut self.oblige.to_server, b"the statement was ended");
                Ok(())
            }
            backend::COMMAND_COMPLETE | backend::PORTAL_SUSPENDED | backend::EMPTY_QUERY if !in_text => {
                self.done_before_cancelled(operation, to_client);
                Ok(())
            }
            backend::DATA_ROW
            | backend::ROW_DESCRIPTION
            | backend::COMMAND_COMPLETE
            | backend::EMPTY_QUERY
            | backend::COPY_OUT_RESPONSE
            | backend::COPY_DATA
            | backend::COPY_DONE => Ok(()),
            _ => Err(ProtocolError::Unexpected(tag)),
        }
    }

    /// The server was done with a portal before it knew: its transaction must fail all the same.
    fn done_before_cancelled(&mut self, operation: OperationId, to_client: &mut BytesMut) {
        let error = self.error_of_done(operation);
        self.flight.pop();
        self.over(operation);
        if self.group_open {
            let fails = self.deny(&error);
            self.oblige.to_server.extend_from_slice(&fails);
        } else {
            error.encode(to_client);
            self.oblige.fail = true;
        }
    }

    fn error_of_done(&self, operation: OperationId) -> ErrorFields {
        let running = self.running.get(&operation);
        let error = running.and_then(Running::early_error).unwrap_or_else(|| ErrorFields::of(Code::Internal));
        let writes = running.is_some_and(|running| !running.statement.facts.writes.is_empty());
        // Of a transaction block the rest fails, so nothing stays.
        if writes && !self.group_open && self.status == TransactionStatus::Idle {
            return error.with_detail("The target had done it by then: what it wrote stays.");
        }
        error
    }

    /// The end of a text: what is said of one that was cut, where the server had nothing to say.
    pub(super) fn text_over(&mut self, operation: OperationId, to_client: &mut BytesMut) {
        let Some(running) = self.running.get(&operation).filter(|running| running.is_cut()) else { return };
        if !running.told {
            self.error_of_done(operation).encode(to_client);
            self.oblige.fail = true;
        }
    }

    /// The server is ready, and in a transaction that was to fail: makes it. True when the client waits for the outcome.
    pub(super) fn fail_transaction(&mut self, status: TransactionStatus) -> bool {
        if !std::mem::take(&mut self.oblige.fail) || status != TransactionStatus::Open {
            return false;
        }
        let fails = self.impossible_name();
        write::bind(&mut self.oblige.to_server, b"", &fails, &[]);
        write::sync(&mut self.oblige.to_server);
        self.flight.push(Expected::Denied { error: Bytes::new() });
        self.flight.push(Expected::Sync);
        true
    }

    /// What the client is told in the place of the server's error, where that is because the operation was ended early.
    pub(super) fn error_instead(&mut self, fields: &Fields) -> Option<ErrorFields> {
        let operation = self.flight.head()?.operation()?;
        let running = self.running.get_mut(&operation)?;
        let because = match running.ending? {
            Ending::Rows => true,
            Ending::Time => backend::field(fields, b'C') == CANCELED,
        };
        let error = running.early_error().filter(|_| because)?;
        running.told = true;
        Some(error)
    }
}

/// Whether a CopyData of the server's is a row: it sends each in one, and of the binary format the trailer as well; of text the header line.
pub(super) fn is_copied_row(statement: Option<&Statement>, binary: bool, first: bool, body: &[u8]) -> bool {
    const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
    const END: &[u8] = b"\xff\xff";
    if binary {
        let rest = if body.starts_with(SIGNATURE) { body.get(SIGNATURE.len().saturating_add(8)..) } else { Some(body) };
        return rest != Some(END);
    }
    let header = statement.and_then(|statement| statement.copy.as_ref()).is_some_and(|copy| match &copy.format {
        CopyFormat::Text(text) | CopyFormat::Csv { text, .. } => text.header,
        CopyFormat::Binary | CopyFormat::Unknown => false,
    });
    !(header && first)
}
