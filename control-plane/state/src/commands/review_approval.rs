use postern_core::ApprovalId;
use postern_core::Principal;
use postern_core::approval::{Approval, ApprovalState, Review, ReviewVerdict};
use postern_core::resource::FieldFault;
use postern_core::wire::identity::{principal_from_proto, principal_to_proto, verdict_from_proto, verdict_to_proto};
use postern_proto::state::v1 as pb;

use super::reviewing::may_answer;
use crate::entry::{fault, parse};
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// A reviewer's answer. One denial denies; `count` approvals of distinct people approve (I7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewApproval {
    /// Which approval.
    pub id: ApprovalId,
    /// Who answers: verified by the node that proposes this.
    pub reviewer: Principal,
    /// The answer.
    pub verdict: ReviewVerdict,
    /// Why, in their words.
    pub comment: String,
}

impl ReviewApproval {
    pub(crate) fn to_proto(&self) -> pb::ReviewApproval {
        pb::ReviewApproval {
            id: self.id.to_string(),
            reviewer: Some(principal_to_proto(&self.reviewer)),
            verdict: verdict_to_proto(self.verdict).into(),
            comment: self.comment.clone(),
        }
    }

    pub(crate) fn from_proto(proto: pb::ReviewApproval) -> Result<Self, Vec<FieldFault>> {
        let reviewer = proto.reviewer.ok_or_else(|| vec![FieldFault::new("reviewer", "is missing")])?;
        Ok(Self {
            id: parse("id", &proto.id)?,
            reviewer: principal_from_proto(reviewer).map_err(fault)?,
            verdict: verdict_from_proto(proto.verdict).map_err(fault)?,
            comment: proto.comment,
        })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.approval(self.id) else {
            return Err(Refusal::not_found(format!("approval {}", self.id)));
        };
        let named = self.reviewer.in_any(&known.requirement.groups);
        let open =
            if known.state == ApprovalState::Pending { Ok(()) } else { Err(Refusal::ApprovalState(known.state)) };
        may_answer(&known.requester, (&self.reviewer, &self.comment), named, open, &known.reviews)?;
        let mut approval = Approval::clone(known);
        approval.reviews.push(Review {
            reviewer: self.reviewer,
            verdict: self.verdict,
            comment: self.comment,
            at: cx.state.now,
        });
        let approvals = approval.reviews.iter().filter(|review| review.verdict == ReviewVerdict::Approve).count();
        let required = usize::try_from(approval.requirement.count).unwrap_or(usize::MAX);
        approval.state = match self.verdict {
            ReviewVerdict::Deny => ApprovalState::Denied,
            ReviewVerdict::Approve if approvals >= required => ApprovalState::Approved,
            ReviewVerdict::Approve => ApprovalState::Pending,
        };
        approval.revision = cx.state.index;
        cx.state.put_approval(approval, cx.effects);
        Ok(Success::Approval(self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn review(id: ApprovalId, reviewer: Principal, verdict: ReviewVerdict) -> ReviewApproval {
        ReviewApproval { id, reviewer, verdict, comment: "seen".into() }
    }

    #[test]
    fn two_distinct_people_approve() {
        let mut fixture = Fixture::new();
        let id = fixture.ask(2);
        let state = |fixture: &Fixture| fixture.state.approval(id).unwrap().state;
        fixture.run(review(id, principal("rita", &["dba"]), ReviewVerdict::Approve)).unwrap();
        assert_eq!(state(&fixture), ApprovalState::Pending);
        // The same person again, and through a delegate.
        let twice = fixture.run(review(id, principal("rita", &["dba"]), ReviewVerdict::Approve));
        assert_eq!(twice, Err(Refusal::AlreadyReviewed));
        let mut delegate = principal("bot", &["dba"]);
        delegate.chain.push(handed_to("rita"));
        assert_eq!(fixture.run(review(id, delegate, ReviewVerdict::Approve)), Err(Refusal::AlreadyReviewed));
        fixture.run(review(id, principal("rob", &["dba"]), ReviewVerdict::Approve)).unwrap();
        assert_eq!(state(&fixture), ApprovalState::Approved);
        let late = fixture.run(review(id, principal("ron", &["dba"]), ReviewVerdict::Deny));
        assert_eq!(late, Err(Refusal::ApprovalState(ApprovalState::Approved)));
    }

    #[test]
    fn one_denial_denies() {
        let mut fixture = Fixture::new();
        let id = fixture.ask(2);
        fixture.run(review(id, principal("rita", &["dba"]), ReviewVerdict::Deny)).unwrap();
        assert_eq!(fixture.state.approval(id).unwrap().state, ApprovalState::Denied);
        assert!(fixture.state.next_deadline().is_none());
    }

    #[test]
    fn nobody_reviews_for_themselves_nor_without_the_group() {
        let mut fixture = Fixture::new();
        let id = fixture.ask(1);
        let requester = fixture.state.approval(id).unwrap().requester.id.subject.to_string();
        let own = fixture.run(review(id, principal(&requester, &["dba"]), ReviewVerdict::Approve));
        assert_eq!(own, Err(Refusal::SelfReview));
        let mut agent = principal("agent", &["dba"]);
        agent.chain.push(handed_to(&requester));
        assert_eq!(fixture.run(review(id, agent, ReviewVerdict::Approve)), Err(Refusal::SelfReview));
        let other = fixture.run(review(id, principal("rita", &["dev"]), ReviewVerdict::Approve));
        assert_eq!(other, Err(Refusal::NotAReviewer));
    }
}
