use postern_core::Name;
use postern_core::resource::{FieldFault, Kind};
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// Messages settled with one command.
const MAX_SETTLED: usize = 1_000;
/// Bytes of why a try failed.
const MAX_FAILURE: usize = 500;

/// Says what became of tries to deliver to a webhook: what was taken is not told again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleWebhook {
    /// Which.
    pub webhook: Name,
    /// Sequences of the messages that were taken.
    pub delivered: Vec<u64>,
    /// Why the last try failed; empty when it did not.
    pub failure: String,
}

impl SettleWebhook {
    pub(crate) fn to_proto(&self) -> pb::SettleWebhook {
        pb::SettleWebhook {
            webhook: self.webhook.to_string(),
            delivered: self.delivered.clone(),
            failure: self.failure.clone(),
        }
    }

    pub(crate) fn from_proto(proto: pb::SettleWebhook) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { webhook: parse("webhook", &proto.webhook)?, delivered: proto.delivered, failure: proto.failure })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        if cx.state.resource(Kind::Webhook, &self.webhook).is_none() {
            return Err(Refusal::not_found(format!("Webhook {}", self.webhook)));
        }
        if self.delivered.len() > MAX_SETTLED || self.failure.len() > MAX_FAILURE {
            return Err(Refusal::invalid("delivered", "or failure is longer than may be"));
        }
        let now = cx.state.now;
        cx.state.webhooks.settle(&self.webhook, &self.delivered, self.failure, now);
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use postern_core::Timestamp;
    use postern_core::resource::{Metadata, Resource, Spec};
    use postern_core::webhook::{Webhook, WebhookEvent, WebhookFormat};

    use super::super::testing::*;
    use super::super::{DeleteResource, PutResources, RaiseFeatureLevel, WithdrawApproval};
    use super::*;
    use crate::entry::FEATURE_LEVEL;
    use crate::state::State;

    fn webhook(name: &str, events: Vec<WebhookEvent>) -> Resource {
        Resource {
            metadata: Metadata {
                name: name.parse().unwrap(),
                labels: BTreeMap::new(),
                revision: 0,
                created_at: Timestamp::default(),
                updated_at: Timestamp::default(),
            },
            spec: Spec::Webhook(Webhook {
                url: "https://hooks.example/".into(),
                events,
                targets: Default::default(),
                format: WebhookFormat::Slack,
                secret: None,
                ca_pem: None,
                disabled: false,
            }),
        }
    }

    fn waiting(fixture: &Fixture, hook: &str) -> Vec<(u64, &'static str)> {
        let waiting = fixture.state.webhook_waiting(&name(hook), 10_000);
        waiting.iter().map(|one| (one.sequence, one.event.as_str())).collect()
    }

    #[test]
    fn each_change_is_told_once_to_those_who_want_it() {
        let mut fixture = Fixture::new();
        fixture.run(RaiseFeatureLevel { level: FEATURE_LEVEL }).unwrap();
        let hooks = vec![webhook("all", vec![]), webhook("ends", vec![WebhookEvent::Withdrawn])];
        fixture.run(PutResources { resources: hooks }).unwrap();
        let id = fixture.ask(1);
        fixture.approve(id);
        fixture.run(WithdrawApproval { id, because: "gone".into() }).unwrap();
        assert_eq!(
            waiting(&fixture, "all"),
            [(1, "approval.requested"), (2, "approval.approved"), (3, "approval.withdrawn")]
        );
        assert_eq!(waiting(&fixture, "ends"), [(4, "approval.withdrawn")]);
        // A new leader, from a snapshot, knows what is left.
        fixture.state = State::restore(&fixture.state.snapshot()).unwrap();
        let settle = |delivered: &[u64], failure: &str| SettleWebhook {
            webhook: name("all"),
            delivered: delivered.to_vec(),
            failure: failure.into(),
        };
        fixture.run(settle(&[1, 3], "")).unwrap();
        fixture.run(settle(&[1], "it is away")).unwrap();
        assert_eq!(waiting(&fixture, "all"), [(2, "approval.approved")]);
        let (status, left) = fixture.state.webhook_status(&name("all"));
        assert_eq!((status.delivered, status.dropped, &*status.failure, left), (2, 0, "it is away", 1));
        let restored = State::restore(&fixture.state.snapshot()).unwrap();
        assert_eq!(restored.hash(), fixture.state.hash());
        assert_eq!(restored.webhook_status(&name("all")), fixture.state.webhook_status(&name("all")));
        // What is deleted is forgotten.
        fixture.run(DeleteResource { kind: Kind::Webhook, name: name("all"), expected_revision: 0 }).unwrap();
        assert!(waiting(&fixture, "all").is_empty());
        assert!(matches!(fixture.run(settle(&[2], "")), Err(Refusal::NotFound { .. })));
        assert_eq!(waiting(&fixture, "ends").len(), 1);
    }

    #[test]
    fn what_is_too_old_or_too_much_is_given_up() {
        let mut fixture = Fixture::new();
        fixture.run(RaiseFeatureLevel { level: FEATURE_LEVEL }).unwrap();
        fixture.run(PutResources { resources: vec![webhook("all", vec![])] }).unwrap();
        fixture.ask(1);
        fixture.now += 24 * 3_600_000;
        fixture.ask(2);
        let (status, _) = fixture.state.webhook_status(&name("all"));
        assert_eq!(status.dropped, 1);
        assert_eq!(waiting(&fixture, "all").first(), Some(&(2, "approval.expired")));
        let approval = fixture.state.approvals().next().unwrap().clone();
        for _ in 0..crate::webhooks::MAX_WAITING {
            let mut approval = postern_core::approval::Approval::clone(&approval);
            approval.id = postern_core::ApprovalId::from_bytes(
                fixture.state.webhooks.sequence.to_be_bytes().repeat(2).try_into().unwrap(),
            );
            fixture.state.tell_webhooks(&approval);
        }
        assert_eq!(waiting(&fixture, "all").len(), crate::webhooks::MAX_WAITING);
        assert!(fixture.state.webhook_status(&name("all")).0.dropped > 1);
    }
}
