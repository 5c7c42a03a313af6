use postern_core::resource::FieldFault;
use postern_core::review::{Closing, Finding, ReviewItem};
use postern_core::webhook::WebhookEvent;
use postern_core::wire::identity::{principal_from_proto, principal_to_proto};
use postern_core::wire::review::{finding_from_proto, finding_to_proto};
use postern_core::{Principal, ReviewId};
use postern_proto::state::v1 as pb;

use super::reviewing::may_answer;
use crate::entry::{fault, parse};
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// A reviewer's word on what was done. It closes the review; nobody reviews what they did themselves, or had done (I7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReview {
    /// Which.
    pub id: ReviewId,
    /// Who: verified by the node that proposes this.
    pub reviewer: Principal,
    /// What they found.
    pub finding: Finding,
    /// Why, in their words.
    pub comment: String,
}

impl CloseReview {
    pub(crate) fn to_proto(&self) -> pb::CloseReview {
        pb::CloseReview {
            id: self.id.to_string(),
            reviewer: Some(principal_to_proto(&self.reviewer)),
            finding: finding_to_proto(self.finding).into(),
            comment: self.comment.clone(),
        }
    }

    pub(crate) fn from_proto(proto: pb::CloseReview) -> Result<Self, Vec<FieldFault>> {
        let reviewer = proto.reviewer.ok_or_else(|| vec![FieldFault::new("reviewer", "is missing")])?;
        Ok(Self {
            id: parse("id", &proto.id)?,
            reviewer: principal_from_proto(reviewer).map_err(fault)?,
            finding: finding_from_proto(proto.finding).map_err(fault)?,
            comment: proto.comment,
        })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.review(self.id).cloned() else {
            return Err(Refusal::not_found(format!("review {}", self.id)));
        };
        let open = match &known.closed {
            None => Ok(()),
            Some(closed) => Err(Refusal::InvalidState(format!("the review was closed by {}", closed.by))),
        };
        let named = self.reviewer.in_any(&known.groups);
        may_answer(&known.principal, (&self.reviewer, &self.comment), named, open, &[])?;
        if self.finding == Finding::Concern && self.comment.trim().is_empty() {
            return Err(Refusal::invalid("comment", "is needed: a concern is about something"));
        }
        // What came after would be reviewed by nobody.
        if !known.session_over && cx.state.gateway_lives(&known.gateway) {
            let why = format!("session {} goes on: close its review when it has ended", known.session);
            return Err(Refusal::InvalidState(why));
        }
        let closed = Closing { by: self.reviewer, finding: self.finding, comment: self.comment, at: cx.state.now };
        let item = ReviewItem { closed: Some(closed), ..ReviewItem::clone(&known) };
        cx.state.put_review(item, Some(WebhookEvent::ReviewClosed), cx.effects);
        Ok(Success::Review(self.id))
    }
}

#[cfg(test)]
mod tests {
    use postern_core::node::NodeRole;

    use super::super::testing::*;
    use super::super::{RecordCertificate, RevokeCertificates};
    use super::*;
    use crate::state::{Limits, State};

    fn close(n: u128, reviewer: Principal, finding: Finding) -> CloseReview {
        CloseReview { id: open_review(n).item.id, reviewer, finding, comment: "seen".into() }
    }

    #[test]
    fn somebody_else_of_the_groups_closes_it_once() {
        let mut fixture = Fixture::newest();
        fixture.run(open_review(1)).unwrap();
        let ok = |who: &str, groups: &[&str]| close(1, principal(who, groups), Finding::Ok);
        assert_eq!(fixture.run(ok("alice", &["dba"])), Err(Refusal::SelfReview));
        assert_eq!(fixture.run(ok("rita", &["dev"])), Err(Refusal::NotAReviewer));
        // Whoever acts for them.
        let mut agent = principal("agent", &["dba"]);
        agent.chain.push(handed_to("alice"));
        assert_eq!(fixture.run(close(1, agent, Finding::Ok)), Err(Refusal::SelfReview));
        let mut silent = close(1, principal("rita", &["dba"]), Finding::Concern);
        silent.comment = " ".into();
        assert!(matches!(fixture.run(silent), Err(Refusal::Invalid(_))));
        fixture.run(close(1, principal("rita", &["dba"]), Finding::Concern)).unwrap();
        let known = fixture.state.review(open_review(1).item.id).unwrap().clone();
        let closed = known.closed.as_ref().unwrap();
        assert_eq!((&*closed.by.id.subject, closed.finding, &*closed.comment), ("rita", Finding::Concern, "seen"));
        assert!(matches!(fixture.run(ok("rob", &["dba"])), Err(Refusal::InvalidState(_))));
        assert_eq!(fixture.state.review(known.id).unwrap(), &known);
        assert!(fixture.state.next_deadline().is_none());
        assert!(matches!(
            fixture.run(close(2, principal("rob", &["dba"]), Finding::Ok)),
            Err(Refusal::NotFound { .. })
        ));
        let restored = State::restore(&fixture.state.snapshot()).unwrap();
        assert_eq!(restored.hash(), fixture.state.hash());
        assert!(restored.reviews.derives_the_same(&fixture.state.reviews));
        // What the session does after that is reviewed by itself.
        let mut next = open_review(2);
        next.item.session = known.session;
        assert_eq!(fixture.run(next.clone()), Ok(Success::Review(next.item.id)));
    }

    /// By a delegate: neither who had it done nor who did it.
    #[test]
    fn nobody_of_the_chain_reviews() {
        let mut fixture = Fixture::newest();
        let mut asked = open_review(1);
        asked.item.principal.chain.push(handed_to("robot"));
        fixture.run(asked).unwrap();
        for who in ["alice", "robot"] {
            assert_eq!(fixture.run(close(1, principal(who, &["dba"]), Finding::Ok)), Err(Refusal::SelfReview), "{who}");
        }
        fixture.run(close(1, principal("rita", &["dba"]), Finding::Ok)).unwrap();
    }

    #[test]
    fn not_while_the_session_goes_on() {
        let mut fixture = Fixture::newest();
        fixture.run(RecordCertificate { certificate: certificate("1a", NodeRole::Gateway, "g1") }).unwrap();
        fixture.run(open_review(1)).unwrap();
        let done = || close(1, principal("rita", &["dba"]), Finding::Ok);
        let refused = fixture.run(done()).unwrap_err();
        assert!(refused.to_string().contains("goes on"), "{refused}");
        // Its gateway is gone for good: it will not say how the session ended.
        let revoke = RevokeCertificates { serials: vec!["1a".into()], node: None, by: "x".into(), because: "y".into() };
        fixture.run(revoke).unwrap();
        fixture.run(done()).unwrap();
    }

    #[test]
    fn the_oldest_closed_ones_are_forgotten_and_open_ones_never() {
        let mut fixture = Fixture::newest();
        let most = u128::try_from(Limits::STANDARD.closed_reviews).unwrap();
        fixture.run(open_review(most + 9)).unwrap();
        for n in 0..=most {
            fixture.run(open_review(n)).unwrap();
            fixture.run(close(n, principal("rita", &["dba"]), Finding::Ok)).unwrap();
        }
        assert!(fixture.state.review(open_review(0).item.id).is_none());
        assert!(fixture.state.review(open_review(1).item.id).is_some());
        assert!(fixture.state.review(open_review(most + 9).item.id).unwrap().closed.is_none());
    }
}
