use postern_core::approval::{Approval, ApprovalState};
use postern_core::resource::FieldFault;
use postern_core::time::Ttl;
use postern_core::wire::identity::{approval_from_proto, approval_to_proto};
use postern_proto::state::v1 as pb;

use crate::entry::fault;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::{Context, Limits, approval_bytes};

/// The longest that a request may stay unanswered, in seconds.
const MAX_EXPIRY: u32 = 86_400;

/// Asks for review of a held operation. The same id twice is one approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestApproval {
    /// What is asked; state, reviews, times and revision are set when applied.
    pub approval: Approval,
    /// How long it may stay unanswered or untaken.
    pub expires: Ttl,
}

impl RequestApproval {
    pub(crate) fn to_proto(&self) -> pb::RequestApproval {
        pb::RequestApproval { approval: Some(approval_to_proto(&self.approval)), expires_seconds: self.expires.0 }
    }

    pub(crate) fn from_proto(proto: pb::RequestApproval) -> Result<Self, Vec<FieldFault>> {
        let approval = proto.approval.ok_or_else(|| vec![FieldFault::new("approval", "is missing")])?;
        Ok(Self { approval: approval_from_proto(approval).map_err(fault)?, expires: Ttl(proto.expires_seconds) })
    }

    /// Level 5: with what else reviewers are told.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        if self.approval.background.is_some() { 5 } else { 1 }
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let mut approval = self.approval;
        if let Some(known) = cx.state.approval(approval.id) {
            let same = known.session == approval.session
                && known.operation == approval.operation
                && known.digest == approval.digest;
            return if same {
                Ok(Success::Approval(approval.id))
            } else {
                Err(Refusal::AlreadyExists { what: format!("approval {}", approval.id) })
            };
        }
        if approval.requirement.groups.is_empty() {
            return Err(Refusal::invalid("approval.reviewer_groups", "is empty: nobody could review it"));
        }
        if self.expires.0 == 0 || self.expires.0 > MAX_EXPIRY {
            return Err(Refusal::invalid("expires_seconds", format!("must be 1 to {MAX_EXPIRY}")));
        }
        if approval_bytes(&approval) > Limits::STANDARD.approval_bytes {
            return Err(Refusal::Limit(format!("{} bytes in one approval", Limits::STANDARD.approval_bytes)));
        }
        if cx.state.deadlines.len() >= Limits::STANDARD.live_approvals {
            return Err(Refusal::Limit(format!("{} approvals that wait", Limits::STANDARD.live_approvals)));
        }
        let id = approval.id;
        approval.state = ApprovalState::Pending;
        approval.reviews = Vec::new();
        approval.withdrawn_because = String::new();
        approval.requirement.count = approval.requirement.count.max(1);
        approval.requirement.expires = self.expires;
        approval.requested_at = cx.state.now;
        approval.expires_at = cx.state.now.plus(self.expires.duration());
        approval.revision = cx.state.index;
        cx.state.put_approval(approval, cx.effects);
        Ok(Success::Approval(id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_same_request_twice_is_one() {
        let mut fixture = Fixture::new();
        let asked = RequestApproval { approval: approval(1), expires: Ttl(60) };
        let id = asked.approval.id;
        assert_eq!(fixture.run(asked.clone()), Ok(Success::Approval(id)));
        let revision = fixture.state.approval(id).unwrap().revision;
        assert_eq!(fixture.run(asked.clone()), Ok(Success::Approval(id)));
        assert_eq!(fixture.state.approval(id).unwrap().revision, revision);
        let mut other = asked;
        other.approval.digest.0[0] ^= 1;
        assert!(matches!(fixture.run(other), Err(Refusal::AlreadyExists { .. })));
    }

    #[test]
    fn a_gateway_cannot_bring_its_own_reviews_or_state() {
        let mut fixture = Fixture::new();
        let mut asked = RequestApproval { approval: approval(1), expires: Ttl(60) };
        asked.approval.state = ApprovalState::Approved;
        asked.approval.reviews.push(postern_core::approval::Review {
            reviewer: principal("eve", &["dba"]),
            verdict: postern_core::approval::ReviewVerdict::Approve,
            comment: String::new(),
            at: postern_core::Timestamp::default(),
        });
        fixture.run(asked.clone()).unwrap();
        let stored = fixture.state.approval(asked.approval.id).unwrap();
        assert_eq!((stored.state, stored.reviews.len()), (ApprovalState::Pending, 0));
    }

    #[test]
    fn bad_requests_are_refused() {
        let mut fixture = Fixture::new();
        let mut asked = RequestApproval { approval: approval(1), expires: Ttl(0) };
        assert!(matches!(fixture.run(asked.clone()), Err(Refusal::Invalid(_))));
        asked.expires = Ttl(60);
        asked.approval.text = "x".repeat(Limits::STANDARD.approval_bytes);
        assert!(matches!(fixture.run(asked.clone()), Err(Refusal::Limit(_))));
        asked.approval = approval(1);
        asked.approval.requirement.groups.clear();
        assert!(matches!(fixture.run(asked), Err(Refusal::Invalid(_))));
    }
}
