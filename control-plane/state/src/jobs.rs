//! Jobs that have not ended.

use std::sync::Arc;

use postern_core::Timestamp;
use postern_core::job::Job;
use postern_core::principal::PrincipalId;
use postern_core::revocation::Revoked;
use postern_core::token::SESSION_TOKEN_ISSUER;

use crate::state::State;
use crate::tree::{Set, Tree};

/// Those that are forgotten with one entry of the log.
const AT_ONCE: usize = 4_096;

/// Part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Jobs {
    all: Tree<Arc<str>, Arc<Job>>,
    // Derived: when each is to be heard of, and when its token ends; by the tokens that each was made from, and its own; how many each principal has.
    deadlines: Set<(Timestamp, Arc<str>)>,
    ends: Set<(Timestamp, Arc<str>)>,
    made_from: Set<(Arc<str>, Arc<str>)>,
    each: Tree<PrincipalId, usize>,
}

impl Jobs {
    pub(crate) const fn len(&self) -> usize {
        self.all.len()
    }

    /// Of one principal.
    pub(crate) fn of(&self, principal: &PrincipalId) -> usize {
        self.each.get(principal).copied().unwrap_or_default()
    }

    pub(crate) fn put(&mut self, job: Job) {
        self.remove(&job.token);
        self.deadlines.insert((job.deadline, Arc::clone(&job.token)), ());
        self.ends.insert((job.ends_at, Arc::clone(&job.token)), ());
        for token in job.principal.tokens() {
            self.made_from.insert((Arc::clone(token), Arc::clone(&job.token)), ());
        }
        self.each.insert(job.principal.id.clone(), self.of(&job.principal.id).saturating_add(1));
        self.all.insert(Arc::clone(&job.token), Arc::new(job));
    }

    pub(crate) fn remove(&mut self, token: &str) {
        let Some(job) = self.all.remove(token) else { return };
        self.deadlines.remove(&(job.deadline, Arc::clone(&job.token)));
        self.ends.remove(&(job.ends_at, Arc::clone(&job.token)));
        for token in job.principal.tokens() {
            self.made_from.remove(&(Arc::clone(token), Arc::clone(&job.token)));
        }
        match self.of(&job.principal.id) {
            0 | 1 => drop(self.each.remove(&job.principal.id)),
            more => drop(self.each.insert(job.principal.id.clone(), more.saturating_sub(1))),
        }
    }

    /// Forgets those whose token has ended by itself.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        for _ in 0..AT_ONCE {
            let Some(((end, token), ())) = self.ends.first_key_value() else { break };
            if *end > now {
                break;
            }
            let token = Arc::clone(token);
            self.remove(&token);
        }
    }

    /// Forgets those whose token is revoked with all that is made of it. What is revoked otherwise is not heard of any more, and ends by that.
    pub(crate) fn revoke(&mut self, of: &Revoked) {
        let Revoked::Subtree(name) = of else { return };
        if name.issuer.as_str() != SESSION_TOKEN_ISSUER {
            return;
        }
        // No token's id is empty.
        let from = (Arc::clone(&name.id), Arc::from(""));
        let meant = self.made_from.after(Some(from)).take_while(|((token, _), ())| *token == name.id);
        let meant: Vec<Arc<str>> = meant.map(|((_, job), ())| Arc::clone(job)).collect();
        meant.iter().for_each(|job| self.remove(job));
    }

    /// Whether what is derived is the same.
    #[cfg(test)]
    pub(crate) fn derives_the_same(&self, other: &Self) -> bool {
        (&self.deadlines, &self.ends, &self.made_from, &self.each)
            == (&other.deadlines, &other.ends, &other.made_from, &other.each)
    }
}

impl State {
    /// The job that a token is tied to.
    #[must_use]
    pub fn job(&self, token: &str) -> Option<&Arc<Job>> {
        self.jobs.all.get(token)
    }

    /// All jobs, by their tokens' ids.
    pub fn jobs(&self) -> impl ExactSizeIterator<Item = &Arc<Job>> {
        self.jobs.all.values()
    }

    /// Those that were not heard of until `at` and that `fit`, the longest unheard of first; at most `most`.
    #[must_use]
    pub fn jobs_unheard_of(&self, at: Timestamp, fit: impl Fn(&Job) -> bool, most: usize) -> Vec<Arc<Job>> {
        let late = self.jobs.deadlines.iter().take_while(|((deadline, _), ())| *deadline <= at);
        let late = late.filter_map(|((_, token), ())| self.jobs.all.get(token).cloned());
        late.filter(|job| fit(job)).take(most).collect()
    }
}
