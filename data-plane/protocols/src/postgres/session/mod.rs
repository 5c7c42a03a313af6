//! A session between a client and its target, without I/O (I1, I4).
//!
//! The gateway owns two byte buffers, one from each side. [`Session::next_client`] turns the client's bytes into steps: what holds no
//! operation is forwarded as it is, an operation is handed out as a [`Pending`] and nothing of it is forwarded until it comes back
//! through [`Session::permit`]. [`Session::next_server`] turns the server's bytes into the client's, masks laid over, and into
//! [`ResultEvent`]s for the recording.
//!
//! What the server will answer to is kept in a queue, so each reply is known by the message that caused it. The session
//! never guesses what the server took a name for: where that depends on a reply which is not here yet, it waits ([`ClientStep::Wait`]).
//!
//! A denied operation looks like one that the server refused: where the server keeps state (a pipeline, a transaction), a message that
//! always fails is sent in its place, and the server's error is replaced by Postern's. Order, skipping until Sync and the transaction's
//! fate then are the server's own.

mod begun;
mod classify;
mod client;
mod flight;
mod functions;
mod linger;
mod messages;
mod names;
mod oblige;
mod open;
mod plannable;
mod refuse;
mod results;
mod rows;
mod server;
mod step;
mod through;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use postern_core::action::Action;
use postern_core::id::OperationId;

use super::analyze::{AnalyzeContext, SessionNames, Statement};
use super::codec::backend::TransactionStatus;
use super::codec::{self, Frame, frontend};
use super::mask::Masking;
use crate::sql::StatementKind;
use flight::Flight;
use names::{OwnTexts, Portals, Statements};
use results::{CopyOut, ResultSet, Running};

pub use begun::{Begun, QUERY as BEGUN};
pub use plannable::Plannable;
pub use step::{ClientStep, Pending, ProtocolError, Refused, ResultEvent, ServerProgress};

/// How much a session may hold (I11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest frames.
    pub frames: codec::Limits,
    /// Rows of each operation that go into the recording.
    pub recorded_rows: u64,
    /// Bytes of those rows.
    pub recorded_bytes: u64,
    /// Whether the recording has a digest of the rows that it leaves out.
    pub digest_omitted: bool,
    /// When this much waits for the client, [`Session::next_server`] returns [`ServerProgress::Full`].
    pub high_water: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frames: codec::Limits::default(),
            recorded_rows: 1_000,
            recorded_bytes: 1 << 20,
            digest_omitted: true,
            high_water: 64 << 10,
        }
    }
}

/// The state of one session.
pub struct Session {
    limits: Limits,
    context: Arc<AnalyzeContext>,
    masking: Arc<Masking>,
    /// What SQL names mean in this session.
    names: SessionNames,
    /// Grows when what names mean has changed.
    generation: u64,
    statements: Statements,
    portals: Portals,
    own_texts: OwnTexts,
    /// What the server will answer to, oldest first.
    flight: Flight,
    /// Operations that are permitted and not over.
    running: BTreeMap<OperationId, Running>,
    /// The result that the server is sending.
    result: Option<ResultSet>,
    copy_out: Option<CopyOut>,
    /// The server takes the rows of COPY FROM STDIN.
    copy_in: bool,
    status: TransactionStatus,
    /// Extended messages were forwarded, and no Sync since.
    group_open: bool,
    /// The server skips everything until Sync, and so does the session.
    skipping: bool,
    /// Flush was sent after the last message.
    flushed: bool,
    /// A [`Pending`] is out.
    deciding: bool,
    /// A message that was taken from the buffer and has to wait.
    stashed: Option<(frontend::Message, Frame)>,
    /// An error came since the last ReadyForQuery.
    group_failed: bool,
    /// The server has said why it ends the session.
    said_last: bool,
    /// Statements with effects that completed since the last ReadyForQuery.
    effects: Vec<(Arc<Statement>, Bytes)>,
    /// How much of the server's messages may be shown at the transaction's end.
    scrub: super::mask::Scrub,
    catalog_changes: u64,
    catalog_known: u64,
    /// OIDs of tables that the catalog did not know.
    strangers: BTreeSet<u32>,
    /// Events that came about while taking a client's step.
    deferred: Vec<ResultEvent>,
    /// Names the statement that never exists.
    nonce: u128,
    openness: open::Openness,
    through: through::Through,
    oblige: oblige::Oblige,
}

impl Session {
    /// A session whose login is over. `nonce` is fresh randomness: it makes a name that no client can guess.
    #[must_use]
    pub fn new(limits: Limits, context: Arc<AnalyzeContext>, masking: Arc<Masking>, nonce: u128) -> Self {
        Self {
            limits,
            context,
            masking,
            names: SessionNames::default(),
            generation: 0,
            statements: Statements::default(),
            portals: Portals::default(),
            own_texts: OwnTexts::default(),
            flight: Flight::default(),
            running: BTreeMap::new(),
            result: None,
            copy_out: None,
            copy_in: false,
            status: TransactionStatus::Idle,
            group_open: false,
            skipping: false,
            flushed: false,
            deciding: false,
            stashed: None,
            group_failed: false,
            said_last: false,
            effects: Vec::new(),
            scrub: super::mask::Scrub::Nothing,
            catalog_changes: 0,
            catalog_known: 0,
            strangers: BTreeSet::new(),
            deferred: Vec::new(),
            nonce,
            openness: open::Openness::default(),
            through: through::Through::default(),
            oblige: oblige::Oblige::default(),
        }
    }

    /// Puts a newer catalog, or other masking rules, in force: for every statement from now on, prepared ones included.
    pub fn set_context(&mut self, context: Arc<AnalyzeContext>, masking: Arc<Masking>) {
        self.context = context;
        self.masking = masking;
        self.names_changed();
        // What a statement's columns are may have changed with the catalog.
        self.statements.forget_columns();
    }

    /// Sets [`Limits::high_water`] from now on.
    pub const fn set_high_water(&mut self, bytes: usize) {
        self.limits.high_water = bytes;
    }

    /// After other masking rules were put in force: lays them over the rows that are still to come of what is under way. False where that cannot be,
    /// in the middle of a COPY: the session must end.
    #[must_use]
    pub fn mask_what_is_under_way(&mut self) -> bool {
        if !self.is_idle() {
            // What was read under other rules may be quoted by messages of the transaction.
            self.scrub = super::mask::Scrub::Everything;
        }
        let statement = self.flight.head().and_then(flight::Expected::statement).map(Arc::clone);
        if let Some(copy) = &self.copy_out {
            let plain = |statement: &Arc<Statement>| {
                super::mask::CopyMask::for_copy(statement, &self.masking).is_ok_and(|mask| mask.is_none())
            };
            return copy.mask.is_none() && statement.as_ref().is_some_and(plain);
        }
        if let Some(statement) = statement
            && let Some(result) = self.result.take()
        {
            let result = ResultSet::new(result.operation, result.columns, &statement, &self.masking);
            self.deferred.push(result.told());
            self.result = Some(result);
        }
        true
    }

    /// What each operation does that was permitted and is not over: what the server works at, what comes after it, and open portals.
    pub fn under_way(&self) -> impl Iterator<Item = &[Action]> {
        self.running.values().map(|running| running.statement.actions.as_slice())
    }

    /// Set when this session has changed the catalog and is outside a transaction: read the catalog anew, then call
    /// [`Session::set_context`] and, with this number, [`Session::catalog_renewed`]. Until then changed names are in doubt.
    #[must_use]
    pub fn catalog_stale(&self) -> Option<u64> {
        let stale = self.catalog_changes != self.catalog_known && self.is_idle();
        stale.then_some(self.catalog_changes)
    }

    /// The catalog in force was read after [`Session::catalog_stale`] returned `change`.
    pub fn catalog_renewed(&mut self, change: u64) {
        if change == self.catalog_changes && self.is_idle() {
            self.catalog_known = change;
            self.names.catalog_renewed();
            self.names_changed();
        }
    }

    /// Whether the server has said why it ends the session: nothing is to be added to that.
    #[must_use]
    pub const fn said_last(&self) -> bool {
        self.said_last
    }

    /// Nothing is asked of the server, no transaction is open, and no operation is being decided: a good moment to end.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flight.is_empty()
            && !self.group_open
            && !self.deciding
            && self.stashed.is_none()
            && self.status == TransactionStatus::Idle
    }

    /// The transaction's status, as the server last said.
    #[must_use]
    pub fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether `pending` would run in a transaction block; none, when something before it or in it opens or ends one.
    #[must_use]
    pub fn in_transaction(&self, pending: &Pending) -> Option<bool> {
        let moves = |statement: &Statement| statement.kinds.contains(&StatementKind::Transaction);
        let moved = self.running.values().any(|running| moves(&running.statement));
        let known = !moved && !pending.classified.as_ref().is_ok_and(|statement| moves(statement));
        known.then_some(self.status != TransactionStatus::Idle)
    }

    /// The operation that the server is at, or that comes next.
    #[must_use]
    pub fn current_operation(&self) -> Option<OperationId> {
        self.flight.operations().next()
    }

    /// The connection to the server, or the session, is over: what was under way has an unknown outcome.
    pub fn abandon(&mut self, out: &mut Vec<ResultEvent>) {
        out.append(&mut self.deferred);
        let in_flight: Vec<OperationId> = self.flight.operations().collect();
        for (operation, running) in std::mem::take(&mut self.running) {
            let known = !in_flight.contains(&operation);
            out.push(running.over(operation, known));
        }
        self.flight.clear();
    }

    fn names_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// The name of a statement that does not exist: Bind of it always fails.
    fn impossible_name(&self) -> Vec<u8> {
        format!("postern_denied_{:032x}", self.nonce).into_bytes()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("status", &self.status)
            .field("in_flight", &self.flight.len())
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
