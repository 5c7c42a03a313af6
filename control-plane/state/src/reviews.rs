//! Reviews after the fact: opened before anything runs that asks for them, and open until somebody closes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_core::node::NodeRole;
use postern_core::principal::PrincipalId;
use postern_core::review::ReviewItem;
use postern_core::webhook::WebhookEvent;
use postern_core::{ReviewId, SessionId, Timestamp};

use crate::outcome::Effect;
use crate::state::{Limits, State};
use crate::tree::{Set, Tree};

/// Part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reviews {
    all: Tree<ReviewId, Arc<ReviewItem>>,
    // Derived. Of those that are open: when they are due and are not told to be overdue; by session; how many each principal has.
    due: Set<(Timestamp, ReviewId)>,
    of_sessions: Set<(SessionId, ReviewId)>,
    counts: BTreeMap<PrincipalId, usize>,
    // Of those that are closed: the oldest first, and their weight.
    closed: Set<(u64, ReviewId)>,
    closed_bytes: usize,
}

impl Reviews {
    /// Puts `item` in the place of what was there of that id, which was open.
    pub(crate) fn index(&mut self, item: ReviewItem) {
        let id = item.id;
        if let Some(was) = self.all.remove(&id) {
            self.due.remove(&(was.due_at, id));
            self.of_sessions.remove(&(was.session, id));
            if let Some(count) = self.counts.get_mut(&was.principal.id) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.counts.remove(&was.principal.id);
                }
            }
        }
        if item.closed.is_some() {
            self.closed.insert((item.revision, id), ());
            self.closed_bytes = self.closed_bytes.saturating_add(item.weight());
        } else {
            if !item.overdue {
                self.due.insert((item.due_at, id), ());
            }
            self.of_sessions.insert((item.session, id), ());
            let count = self.counts.entry(item.principal.id.clone()).or_default();
            *count = count.saturating_add(1);
        }
        self.all.insert(id, Arc::new(item));
    }

    /// Forgets the oldest that are closed. Those that are open never are.
    fn forget(&mut self) {
        let limits = Limits::STANDARD;
        while self.closed.len() > limits.closed_reviews || self.closed_bytes > limits.closed_review_bytes {
            let Some(((_, id), ())) = self.closed.pop_first() else { break };
            if let Some(gone) = self.all.remove(&id) {
                self.closed_bytes = self.closed_bytes.saturating_sub(gone.weight());
            }
        }
    }

    /// How many are open.
    pub(crate) const fn open(&self) -> usize {
        self.of_sessions.len()
    }

    /// How many of these are `principal`'s.
    pub(crate) fn open_of(&self, principal: &PrincipalId) -> usize {
        self.counts.get(principal).copied().unwrap_or_default()
    }

    /// Those of `session` that are open.
    pub(crate) fn of_session(&self, session: SessionId) -> Vec<Arc<ReviewItem>> {
        let least = ReviewId::from_bytes([0; 16]);
        let from = self.of_sessions.after(Some((session, least)));
        let ids = from.map(|((of, id), ())| (*of, *id)).take_while(|(of, _)| *of == session);
        // One of that very id is passed by above.
        let first = self.of_sessions.contains_key(&(session, least)).then_some(least);
        let all = first.into_iter().chain(ids.map(|(_, id)| id));
        all.filter_map(|id| self.all.get(&id).cloned()).collect()
    }

    /// Whether what is derived is the same.
    #[cfg(test)]
    pub(crate) fn derives_the_same(&self, other: &Self) -> bool {
        (&self.due, &self.of_sessions, &self.counts, &self.closed, self.closed_bytes)
            == (&other.due, &other.of_sessions, &other.counts, &other.closed, other.closed_bytes)
    }
}

impl State {
    /// One review.
    #[must_use]
    pub fn review(&self, id: ReviewId) -> Option<&Arc<ReviewItem>> {
        self.reviews.all.get(&id)
    }

    /// All that are remembered, oldest first.
    pub fn reviews(&self) -> impl DoubleEndedIterator<Item = &Arc<ReviewItem>> {
        self.reviews.all.values()
    }

    /// How many are open, and how many of these are overdue.
    #[must_use]
    pub const fn open_reviews(&self) -> (usize, usize) {
        let open = self.reviews.open();
        (open, open.saturating_sub(self.reviews.due.len()))
    }

    /// When the next of them is due, if nothing comes before.
    pub(crate) fn next_review_due(&self) -> Option<Timestamp> {
        self.reviews.due.first_key_value().map(|((at, _), ())| *at)
    }

    /// Stores `item`, and has webhooks told of `event`.
    pub(crate) fn put_review(&mut self, mut item: ReviewItem, event: Option<WebhookEvent>, effects: &mut Vec<Effect>) {
        item.revision = self.index;
        Effect::ApprovalsChanged.add_to(effects);
        if let Some(event) = event {
            self.tell_webhooks_of_review(&item, event);
        }
        self.reviews.index(item);
        self.reviews.forget();
    }

    /// Says of reviews that are due and open that they are overdue: once, they stay open.
    pub(crate) fn mark_overdue_reviews(&mut self, effects: &mut Vec<Effect>) {
        while let Some(((due, id), ())) = self.reviews.due.first_key_value() {
            let (due, id) = (*due, *id);
            if due > self.now {
                break;
            }
            self.reviews.due.remove(&(due, id));
            if let Some(known) = self.review(id) {
                let item = ReviewItem { overdue: true, ..ReviewItem::clone(known) };
                self.put_review(item, Some(WebhookEvent::ReviewOverdue), effects);
            }
        }
    }

    /// A session has ended: there is no more of it to be reviewed.
    pub(crate) fn end_reviewed_session(&mut self, session: SessionId, effects: &mut Vec<Effect>) {
        for known in self.reviews.of_session(session) {
            let item = ReviewItem { session_over: true, ..ReviewItem::clone(&known) };
            self.put_review(item, None, effects);
        }
    }

    /// Whether a session of `gateway` may still do anything: one that has no certificate any more reaches nobody, and will not say how its sessions ended.
    pub(crate) fn gateway_lives(&self, gateway: &str) -> bool {
        gateway.parse().is_ok_and(|name| !self.members.good_certificates(NodeRole::Gateway, &name).is_empty())
    }
}
