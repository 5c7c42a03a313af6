//! One call of the public API: who makes it, and what the audit log will say of it.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use postern_core::audit::AuditRecord;
use postern_core::{Principal, RequestId, Timestamp};
use postern_state::{Command, Success};
use tonic::Status;

use super::access::Caller;
use super::status;
use crate::raft::{ProposeError, RaftHandle};

/// Goes along with a request, from the guard to the service and back.
pub(crate) struct Call {
    caller: Caller,
    record: Mutex<AuditRecord>,
    /// The record is in the log already, with the write's own entry.
    recorded: AtomicBool,
}

impl Call {
    pub(super) fn new(caller: Caller, method: &str, client_address: String, node: &str) -> Self {
        let record = AuditRecord {
            sequence: 0,
            at: Timestamp::default(),
            principal: caller.maybe_principal().cloned(),
            certificate: caller.node().map(ToString::to_string).unwrap_or_default(),
            client_address,
            node: node.to_owned(),
            method: method.to_owned(),
            objects: Vec::new(),
            code: String::new(),
            reason: String::new(),
            request_id: String::new(),
            dry_run: false,
            count: 1,
            hash: [0; 32],
        };
        Self { caller, record: Mutex::new(record), recorded: AtomicBool::new(false) }
    }

    /// Who calls.
    pub(crate) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// For the audit log: what the call is about, `Target/db`. At most some are kept.
    pub(crate) fn about(&self, object: impl Display) {
        let mut record = self.edit();
        if record.objects.len() < AuditRecord::MAX_OBJECTS {
            record.objects.push(object.to_string());
        }
    }

    /// For the audit log: nothing is to be changed.
    pub(crate) fn dry_run(&self, dry_run: bool) {
        self.edit().dry_run = dry_run;
    }

    /// For the audit log: a principal that the request itself proves.
    pub(super) fn identified(&self, principal: &Principal) {
        self.edit().principal.get_or_insert_with(|| principal.clone());
    }

    /// Writes; the entry carries the record of this call, so that there is no write without its record.
    ///
    /// # Errors
    /// A refusal of the state machine, or no outcome.
    pub(crate) async fn write(
        &self,
        raft: &RaftHandle,
        command: impl Into<Command>,
        request_id: Option<RequestId>,
    ) -> Result<Success, Status> {
        self.outcome(raft, command.into(), request_id).await.map_err(status::propose)?.map_err(status::refused)
    }

    /// As [`Self::write`], with a refusal as it is.
    pub(super) async fn outcome(
        &self,
        raft: &RaftHandle,
        command: Command,
        request_id: Option<RequestId>,
    ) -> Result<postern_state::Outcome, ProposeError> {
        if let Some(id) = request_id {
            self.edit().request_id = id.to_string();
        }
        let record = self.edit().clone();
        let outcome = raft.propose_audited(command, request_id, Some(record)).await;
        // Without an outcome the guard tells that there was none; the entry may still tell more.
        if outcome.is_ok() {
            self.recorded.store(true, Ordering::Release);
        }
        outcome
    }

    /// For an entry that another member writes on behalf of this call.
    pub(super) fn to_record(&self) -> AuditRecord {
        self.edit().clone()
    }

    /// The entry of [`Self::to_record`] is in the log.
    pub(super) fn mark_recorded(&self) {
        self.recorded.store(true, Ordering::Release);
    }

    /// What is left to be recorded.
    pub(super) fn unrecorded(&self) -> Option<AuditRecord> {
        (!self.recorded.load(Ordering::Acquire)).then(|| self.edit().clone())
    }

    fn edit(&self) -> std::sync::MutexGuard<'_, AuditRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
