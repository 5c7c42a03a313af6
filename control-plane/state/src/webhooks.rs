//! What webhooks are still to be told.
//!
//! A message is in the state from the entry that it comes of until its delivery is: whoever leads goes on where the last leader stopped, and at worst
//! says the same thing twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postern_core::approval::Approval;
use postern_core::resource::{Kind, Spec};
use postern_core::review::ReviewItem;
use postern_core::webhook::{Delivery, Subject, WebhookEvent, WebhookStatus};
use postern_core::{Name, Timestamp};

use crate::state::State;
use crate::tree::Tree;

/// Messages that wait for one webhook (I11). With one more, the oldest is given up.
pub(crate) const MAX_WAITING: usize = 1_000;
/// How long a message is tried.
const TRIED: Duration = Duration::from_secs(24 * 3600);

/// Part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Webhooks {
    pub(crate) waiting: Tree<(Name, u64), Arc<Delivery>>,
    pub(crate) statuses: BTreeMap<Name, Arc<WebhookStatus>>,
    /// Of the next message.
    pub(crate) sequence: u64,
    // Derived: how many wait for each.
    counts: BTreeMap<Name, usize>,
}

impl Webhooks {
    pub(crate) fn put(&mut self, delivery: Delivery) {
        let count = self.counts.entry(delivery.webhook.clone()).or_default();
        *count = count.saturating_add(1);
        self.waiting.insert((delivery.webhook.clone(), delivery.sequence), Arc::new(delivery));
    }

    fn remove(&mut self, webhook: &Name, sequence: u64) -> bool {
        if self.waiting.remove(&(webhook.clone(), sequence)).is_none() {
            return false;
        }
        if let Some(count) = self.counts.get_mut(webhook) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(webhook);
            }
        }
        true
    }

    fn oldest(&self, webhook: &Name) -> Option<Arc<Delivery>> {
        let mut from = self.waiting.after(Some((webhook.clone(), 0)));
        // Sequences begin at 1.
        from.next().filter(|((of, _), _)| of == webhook).map(|(_, delivery)| Arc::clone(delivery))
    }

    fn add(&mut self, webhook: &Name, event: WebhookEvent, of: Subject, now: Timestamp) {
        self.sequence = self.sequence.saturating_add(1);
        self.put(Delivery { webhook: webhook.clone(), sequence: self.sequence, event, of, at: now });
        if self.count(webhook) > MAX_WAITING
            && let Some(oldest) = self.oldest(webhook)
        {
            self.give_up(&oldest);
        }
    }

    fn give_up(&mut self, delivery: &Delivery) {
        if self.remove(&delivery.webhook, delivery.sequence) {
            let status = Arc::make_mut(self.statuses.entry(delivery.webhook.clone()).or_default());
            status.dropped = status.dropped.saturating_add(1);
        }
    }

    /// Gives up what has been tried for long enough.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        if self.counts.is_empty() {
            return;
        }
        let names: Vec<Name> = self.counts.keys().cloned().collect();
        for name in names {
            while let Some(oldest) = self.oldest(&name).filter(|oldest| oldest.at.plus(TRIED) <= now) {
                self.give_up(&oldest);
            }
        }
    }

    /// Messages of `webhook` were taken.
    pub(crate) fn settle(&mut self, webhook: &Name, taken: &[u64], failure: String, now: Timestamp) {
        let count = taken.iter().filter(|sequence| self.remove(webhook, **sequence)).count();
        let status = Arc::make_mut(self.statuses.entry(webhook.clone()).or_default());
        if count > 0 {
            status.delivered = status.delivered.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            status.delivered_at = Some(now);
            status.failure.clear();
        }
        if !failure.is_empty() {
            (status.failure, status.failed_at) = (failure, Some(now));
        }
    }

    /// Forgets all of a webhook that is gone.
    pub(crate) fn forget(&mut self, webhook: &Name) {
        while let Some(oldest) = self.oldest(webhook) {
            self.remove(webhook, oldest.sequence);
        }
        self.statuses.remove(webhook);
    }

    pub(crate) fn count(&self, webhook: &Name) -> usize {
        self.counts.get(webhook).copied().unwrap_or_default()
    }
}

impl State {
    /// Has webhooks told of a change to an approval. `approval` is not in the state yet.
    pub(crate) fn tell_webhooks(&mut self, approval: &Approval) {
        // A review that does not decide is no event.
        if self.approval(approval.id).is_some_and(|known| known.state == approval.state) {
            return;
        }
        self.tell(Subject::Approval(approval.id), WebhookEvent::of(approval.state), &approval.target);
    }

    /// Has webhooks told of what became of a review after the fact.
    pub(crate) fn tell_webhooks_of_review(&mut self, item: &ReviewItem, event: WebhookEvent) {
        self.tell(Subject::Review(item.id), event, &item.target);
    }

    fn tell(&mut self, of: Subject, event: WebhookEvent, target: &Name) {
        if self.resources.count(Kind::Webhook) == 0 {
            return;
        }
        let labels = self.resource(Kind::Target, target).map(|target| target.metadata.labels.clone());
        let labels = labels.unwrap_or_default();
        let told: Vec<Name> = self
            .resources(Kind::Webhook)
            .filter(|resource| match &resource.spec {
                Spec::Webhook(webhook) => {
                    let selector = &webhook.targets;
                    !webhook.disabled
                        && (webhook.events.is_empty() || webhook.events.contains(&event))
                        && ((selector.names.is_empty() && selector.labels.is_empty())
                            || selector.matches(target, &labels))
                }
                _ => false,
            })
            .map(|resource| resource.metadata.name.clone())
            .collect();
        let now = self.now;
        for name in told {
            self.webhooks.add(&name, event, of, now);
        }
    }

    /// How deliveries to a webhook go, and how many messages wait.
    #[must_use]
    pub fn webhook_status(&self, webhook: &Name) -> (WebhookStatus, usize) {
        let status = self.webhooks.statuses.get(webhook).map(|status| WebhookStatus::clone(status)).unwrap_or_default();
        (status, self.webhooks.count(webhook))
    }

    /// The oldest messages that wait for a webhook, at most `most`.
    #[must_use]
    pub fn webhook_waiting(&self, webhook: &Name, most: usize) -> Vec<Arc<Delivery>> {
        let from = self.webhooks.waiting.after(Some((webhook.clone(), 0)));
        from.take_while(|((of, _), _)| of == webhook).take(most).map(|(_, delivery)| Arc::clone(delivery)).collect()
    }

    /// The webhooks for which messages wait.
    pub fn webhooks_waited_for(&self) -> impl Iterator<Item = &Name> {
        self.webhooks.counts.keys()
    }
}
