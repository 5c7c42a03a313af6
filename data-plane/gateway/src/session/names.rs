//! What names and masks mean, kept up with the catalog and with policy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::OperationId;
use postern_core::action::Action;
use postern_core::policy::Verdict;
use postern_core::recording::OperationOutcome;
use postern_protocols::postgres::catalog::Catalog;
use postern_protocols::postgres::mask::Masking;
use postern_protocols::postgres::session::{Pending, ResultEvent};
use postern_runtime::clock;
use postern_runtime::supervisor::OnEnd;
use tokio::sync::oneshot;

use super::End;
use super::relay::Relay;
use crate::catalogs::{CatalogsError, Dated, FRESH};
use crate::policy_feed::Standing;

/// A catalog is not read again for a name that it lacks before it is this old.
const DOUBTED: Duration = Duration::from_secs(1);
/// How long a statement waits for the catalog that it needs.
const WAIT: Duration = Duration::from_secs(20);

/// Relations in no catalog that a session remembers (I11).
const MAX_UNLISTED: usize = 64;

/// A reading of the catalog that is under way.
#[derive(Debug)]
pub(super) struct Refresh {
    answer: oneshot::Receiver<Result<Dated, CatalogsError>>,
    /// The change of the session's own that it follows.
    change: Option<u64>,
}

impl Refresh {
    /// The outcome. Cancel-safe.
    pub(super) async fn done(&mut self) -> Option<Dated> {
        match (&mut self.answer).await {
            Ok(Ok(dated)) => Some(dated),
            Ok(Err(error)) => {
                // Names stay in doubt, so what needs them is denied; the next statement tries again.
                tracing::warn!(%error, "the catalog could not be read anew");
                None
            }
            Err(_) => None,
        }
    }
}

/// What stands before the next of the client's messages: after a change of the session's own it waits for the catalog. The session goes on
/// meanwhile.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// One message goes on by names as they are known: the reading has ended, well or not, or is not waited for.
    open: bool,
    /// The client wants cancelled what comes next.
    cancel: bool,
}

impl Gate {
    /// Whether the operation that was just read is to be cancelled. Whatever it was, the one after is not.
    pub(super) fn cancels(&mut self) -> bool {
        std::mem::take(&mut self.cancel)
    }
}

/// A name that is in no schema known here. (`?.?` is what a CASCADE reaches: no catalog tells that.)
fn is_unresolved(action: &Action) -> bool {
    let mut parts = action.object.path.iter().rev().map(|part| &**part);
    parts.next() != Some("?") && parts.any(|part| part == "?")
}

/// The masking rules that hold, resolved on this catalog.
pub(super) fn masking(standing: &Standing, catalog: &Arc<Catalog>, database: &str) -> Arc<Masking> {
    Arc::new(Masking::compile(&standing.masks, Arc::clone(catalog), database, standing.mask_key.expose()))
}

impl Relay {
    /// Before the next statement is looked at: a catalog that this session changed must be read anew, an old one should be. False: the
    /// statement waits for that.
    pub(super) fn keep_names(&mut self) -> bool {
        let stale = self.session.catalog_stale();
        if std::mem::take(&mut self.gate.open) {
            return true;
        }
        let old = self.catalog.read_at.elapsed() > FRESH;
        if self.session.is_open() {
            // Nothing is denied for a name: none is waited for.
            if old && self.refresh.is_none() {
                self.read_catalog(Instant::now(), stale);
            }
            return true;
        }
        if (stale.is_some() || old) && self.refresh.as_ref().is_none_or(|refresh| refresh.change != stale) {
            // For an own change, read after it; else whatever another session has read lately.
            let since = if stale.is_some() { Some(Instant::now()) } else { Instant::now().checked_sub(FRESH) };
            self.read_catalog(since.unwrap_or_else(Instant::now), stale);
        }
        stale.is_none()
    }

    /// Whether what the client has sent waits for the catalog.
    pub(super) fn awaits_names(&self) -> bool {
        self.refresh.as_ref().is_some_and(|refresh| refresh.change.is_some())
    }

    /// What waits for the catalog is to be cancelled: it goes on at once, and no further than that.
    pub(super) const fn cancel_at_gate(&mut self) {
        self.gate = Gate { open: true, cancel: true };
    }

    /// Whether the catalog must be read anew before `pending` is decided, and after how long: where it would be denied for a name that could not be
    /// resolved, or masks would have to take what they do not know for masked. The name may be newer than the catalog. It is read at most once in
    /// [`DOUBTED`], for which such statements wait: names that are not there must not become a load on the target.
    pub(super) fn doubts(&mut self, pending: &Pending) -> Option<Duration> {
        // The common way out, before anything is built.
        let named = pending.actions().is_ok_and(|actions| actions.iter().any(is_unresolved));
        let strange = self.session.strangers(pending);
        if strange.is_empty() && !(named && self.is_denied(pending)) {
            return None;
        }
        let age = self.catalog.read_at.elapsed();
        // What is there and in no catalog, such as a temporary table that a function made, does not wait each time.
        if !strange.is_empty() && age < DOUBTED && strange.iter().all(|name| self.unlisted.contains(name)) {
            return None;
        }
        Some(DOUBTED.saturating_sub(age))
    }

    /// Before an operation runs that reads what no catalog has, even one that was read for it.
    pub(super) fn note_strangers(&mut self, operation: OperationId, pending: &Pending) {
        let strange = self.session.strangers(pending);
        if !strange.is_empty() {
            self.doubted = Some((operation, strange));
        }
    }

    /// Of what happened to operations: whether what was read in doubt is there all the same.
    pub(super) fn note_outcomes(&mut self) {
        for event in &self.events {
            if let ResultEvent::Completed(completed) = event {
                self.history.over(completed);
            }
        }
        let Some((operation, _)) = &self.doubted else { return };
        let ended = self.events.iter().find_map(|event| match event {
            ResultEvent::Completed(completed) if completed.operation == *operation => Some(&completed.outcome),
            _ => None,
        });
        let Some(outcome) = ended else { return };
        let there = matches!(outcome, OperationOutcome::Done { .. });
        if let Some((_, strange)) = self.doubted.take().filter(|_| there) {
            if self.unlisted.len().saturating_add(strange.len()) > MAX_UNLISTED {
                self.unlisted.clear();
            }
            self.unlisted.extend(strange.into_iter().take(MAX_UNLISTED));
        }
    }

    fn is_denied(&mut self, pending: &Pending) -> bool {
        let operation = pending.operation(clock::operation_id(), self.to.session);
        operation.is_ok_and(|operation| {
            let circumstances = self.circumstances_of(pending);
            let verdict = self.slice.decide(&operation, clock::decision_id(), &circumstances);
            matches!(verdict, Verdict::Deny(_))
        })
    }

    /// Has the catalog read that a statement waits for; how long that may take.
    pub(super) fn read_names(&mut self) -> Duration {
        if self.refresh.as_ref().is_none_or(|refresh| refresh.change.is_none()) {
            self.read_catalog(Instant::now(), None);
        }
        WAIT
    }

    fn read_catalog(&mut self, since: Instant, change: Option<u64>) {
        let (to, answer) = oneshot::channel();
        let (catalogs, of) = (self.shared.catalogs.clone(), self.to.clone());
        self.shared.supervisor.spawn("catalog", OnEnd::EndSession, async move {
            let read = tokio::time::timeout(WAIT, catalogs.get(&of, since)).await;
            // The session may have ended meanwhile.
            let _ = to.send(read.unwrap_or(Err(CatalogsError::TimedOut)));
        });
        self.refresh = Some(Refresh { answer, change });
    }

    /// A reading that was under way is over.
    pub(super) async fn refreshed(&mut self, dated: Option<Dated>) -> Result<(), End> {
        let change = self.refresh.take().and_then(|refresh| refresh.change);
        // Also when it could not be read: what is in doubt is denied or masked, and the next statement tries again.
        self.gate.open |= change.is_some();
        self.take_catalog(dated, change);
        self.names_came().await
    }

    fn take_catalog(&mut self, dated: Option<Dated>, change: Option<u64>) {
        let Some(dated) = dated else {
            // Not again at once.
            self.catalog.read_at = Instant::now();
            return;
        };
        let newer = !Arc::ptr_eq(&dated.catalog, &self.catalog.catalog);
        self.catalog = dated;
        if newer {
            self.context = self.beginning.context(&self.to.database, &self.catalog.catalog).0;
            self.apply_masking();
        }
        if let Some(change) = change {
            self.session.catalog_renewed(change);
        }
    }

    /// Puts the current rules and catalog in force.
    pub(super) fn apply_masking(&mut self) {
        let masking = masking(&self.standing, &self.catalog.catalog, &self.to.database);
        self.session.set_context(Arc::clone(&self.context), masking);
    }
}
