use postern_core::resource::FieldFault;
use postern_core::review::{MAX_REVIEW_POLICIES, MAX_REVIEW_TEXT, MAX_REVIEW_WEIGHT, ReviewItem};
use postern_core::time::Ttl;
use postern_core::webhook::WebhookEvent;
use postern_core::wire::review::{item_from_proto, item_to_proto};
use postern_proto::state::v1 as pb;

use crate::entry::fault;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::{Context, Limits};

/// The longest that a review may be due after, in seconds: 30 days.
const MAX_WITHIN: u32 = 2_592_000;

/// Opens a review after the fact. A session has one open for each set of groups: who asks again is told of it, and it is due as soon as any asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReview {
    /// What is to be reviewed; times, revision, and what became of it, are set when applied.
    pub item: ReviewItem,
    /// Until when it is due.
    pub within: Ttl,
}

impl OpenReview {
    pub(crate) fn to_proto(&self) -> pb::OpenReview {
        pb::OpenReview { item: Some(item_to_proto(&self.item)), within_seconds: self.within.0 }
    }

    pub(crate) fn from_proto(proto: pb::OpenReview) -> Result<Self, Vec<FieldFault>> {
        let item = proto.item.ok_or_else(|| vec![FieldFault::new("item", "is missing")])?;
        Ok(Self { item: item_from_proto(item).map_err(fault)?, within: Ttl(proto.within_seconds) })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let mut item = self.item;
        item.groups.sort_unstable();
        item.groups.dedup();
        item.policies.sort_unstable();
        item.policies.dedup();
        if let Some(known) = cx.state.review(item.id) {
            return if known.session == item.session && known.groups == item.groups && known.gateway == item.gateway {
                Ok(Success::Review(item.id))
            } else {
                Err(Refusal::AlreadyExists { what: format!("review {}", item.id) })
            };
        }
        if item.groups.is_empty() || item.groups.iter().any(String::is_empty) {
            return Err(Refusal::invalid("item.reviewer_groups", "is empty: nobody could close it"));
        }
        if self.within.0 == 0 || self.within.0 > MAX_WITHIN {
            return Err(Refusal::invalid("within_seconds", format!("must be 1 to {MAX_WITHIN}")));
        }
        if item.text.len() > MAX_REVIEW_TEXT || item.weight() > MAX_REVIEW_WEIGHT {
            return Err(Refusal::Limit(format!("{MAX_REVIEW_WEIGHT} bytes in one review")));
        }
        let due_at = cx.state.now.plus(self.within.duration());
        let same = cx.state.reviews.of_session(item.session).into_iter().find(|known| known.groups == item.groups);
        if let Some(known) = same {
            if known.gateway != item.gateway || known.principal.id != item.principal.id {
                return Err(Refusal::AlreadyExists { what: format!("session {}", item.session) });
            }
            return tighten(&known, item, due_at, cx);
        }
        check_policies(&item.policies)?;
        let (limits, reviews) = (Limits::STANDARD, &cx.state.reviews);
        if reviews.open() >= limits.open_reviews {
            return Err(Refusal::Limit(format!("{} reviews that are open: close some", limits.open_reviews)));
        }
        if reviews.open_of(&item.principal.id) >= limits.open_reviews_each {
            let what =
                format!("{} reviews of {} that are open: close some", limits.open_reviews_each, item.principal.id);
            return Err(Refusal::Limit(what));
        }
        let id = item.id;
        item.opened_at = cx.state.now;
        item.due_at = due_at;
        item.overdue = false;
        item.closed = None;
        item.session_over = cx.state.session(item.session).is_some_and(|session| session.end.is_some());
        cx.state.put_review(item, Some(WebhookEvent::ReviewRequested), cx.effects);
        Ok(Success::Review(id))
    }
}

/// The session has a review for the same groups, which is open: it is for these policies, too.
fn tighten(known: &ReviewItem, asked: ReviewItem, due_at: postern_core::Timestamp, cx: &mut Context<'_>) -> Outcome {
    let mut item = known.clone();
    item.policies.extend(asked.policies);
    item.policies.sort_unstable();
    item.policies.dedup();
    check_policies(&item.policies)?;
    item.due_at = item.due_at.min(due_at);
    if item != *known {
        cx.state.put_review(item, None, cx.effects);
    }
    Ok(Success::Review(known.id))
}

fn check_policies(policies: &[String]) -> Result<(), Refusal> {
    if policies.len() > MAX_REVIEW_POLICIES {
        return Err(Refusal::Limit(format!("{MAX_REVIEW_POLICIES} policies of one review")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_core::Timestamp;
    use postern_core::review::{Closing, Finding};

    use super::super::testing::*;
    use super::super::{ExpireApprovals, OpenSession, RaiseFeatureLevel, SealSession};
    use super::*;
    use crate::state::State;

    fn restored(fixture: &Fixture) {
        let restored = State::restore(&fixture.state.snapshot()).unwrap();
        assert_eq!(restored.hash(), fixture.state.hash());
        assert!(restored.reviews.derives_the_same(&fixture.state.reviews));
    }

    #[test]
    fn one_for_each_session_and_set_of_groups() {
        let mut fixture = Fixture::new();
        fixture.now = 1_000_000;
        assert!(matches!(fixture.run(open_review(1)), Err(Refusal::FeatureLevel { needed: 5, .. })));
        fixture.run(RaiseFeatureLevel { level: 5 }).unwrap();
        let first = open_review(1);
        let id = first.item.id;
        assert_eq!(fixture.run(first.clone()), Ok(Success::Review(id)));
        let known = fixture.state.review(id).unwrap().clone();
        assert_eq!((known.opened_at.millis(), known.due_at.millis()), (1_000_000, 1_060_000));
        // A retry, and another gateway's try of the same session under another id.
        assert_eq!(fixture.run(first.clone()), Ok(Success::Review(id)));
        let mut again = open_review(2);
        again.item.session = first.item.session;
        assert_eq!(fixture.run(again.clone()), Ok(Success::Review(id)));
        assert_eq!(fixture.state.review(id).unwrap(), &known);
        // Due sooner, and for another policy: the same item.
        fixture.now += 10_000;
        again.within = Ttl(20);
        again.item.policies = vec!["other".into()];
        assert_eq!(fixture.run(again.clone()), Ok(Success::Review(id)));
        let tightened = fixture.state.review(id).unwrap();
        assert_eq!((tightened.due_at.millis(), tightened.opened_at.millis()), (1_030_000, 1_000_000));
        assert_eq!(tightened.policies, ["break-glass", "other"]);
        restored(&fixture);
        // Another set of groups is another review, and so is another session.
        again.item.groups = vec!["dba".into(), "audit".into()];
        assert_eq!(fixture.run(again.clone()), Ok(Success::Review(again.item.id)));
        assert_eq!(fixture.state.review(again.item.id).unwrap().groups, ["audit", "dba"]);
        fixture.run(open_review(3)).unwrap();
        assert_eq!(fixture.state.reviews().count(), 3);
        restored(&fixture);
    }

    #[test]
    fn a_gateway_says_neither_when_nor_how_it_ended() {
        let mut fixture = Fixture::newest();
        let mut asked = open_review(1);
        asked.item.overdue = true;
        asked.item.session_over = true;
        asked.item.due_at = Timestamp::from_millis(u64::MAX);
        asked.item.closed = Some(Closing {
            by: principal("eve", &["dba"]),
            finding: Finding::Ok,
            comment: String::new(),
            at: Timestamp::default(),
        });
        fixture.run(asked.clone()).unwrap();
        let known = fixture.state.review(asked.item.id).unwrap();
        assert!(known.closed.is_none() && !known.overdue && !known.session_over);
        assert_eq!(known.due_at, known.opened_at.plus(Ttl(60).duration()));
        // Nor does another gateway say anything of it, nor by another principal.
        let mut other = open_review(2);
        other.item.session = asked.item.session;
        other.item.gateway = "g2".into();
        assert!(matches!(fixture.run(other.clone()), Err(Refusal::AlreadyExists { .. })));
        other.item.gateway = "g1".into();
        other.item.principal = principal("mallory", &[]);
        assert!(matches!(fixture.run(other), Err(Refusal::AlreadyExists { .. })));
        let mut other = open_review(1);
        other.item.session = postern_core::SessionId::from_bytes([9; 16]);
        assert!(matches!(fixture.run(other), Err(Refusal::AlreadyExists { .. })));
    }

    #[test]
    fn bad_ones_are_refused() {
        let mut fixture = Fixture::newest();
        let mut refused = |change: &dyn Fn(&mut OpenReview)| {
            let mut asked = open_review(1);
            change(&mut asked);
            fixture.run(asked).unwrap_err()
        };
        assert!(matches!(refused(&|asked| asked.item.groups.clear()), Refusal::Invalid(_)));
        assert!(matches!(refused(&|asked| asked.within = Ttl(0)), Refusal::Invalid(_)));
        assert!(matches!(refused(&|asked| asked.within = Ttl(MAX_WITHIN + 1)), Refusal::Invalid(_)));
        assert!(matches!(refused(&|asked| asked.item.text = "x".repeat(MAX_REVIEW_TEXT + 1)), Refusal::Limit(_)));
        let many = |asked: &mut OpenReview| asked.item.parameters = vec!["x".repeat(MAX_REVIEW_WEIGHT)];
        assert!(matches!(refused(&many), Refusal::Limit(_)));
        let policies = |asked: &mut OpenReview| asked.item.policies = (0..101).map(|n| n.to_string()).collect();
        assert!(matches!(refused(&policies), Refusal::Limit(_)));
        assert_eq!(fixture.state.reviews().count(), 0);
    }

    #[test]
    fn one_principal_does_not_fill_it_up_for_all() {
        let mut fixture = Fixture::newest();
        let each = u128::try_from(Limits::STANDARD.open_reviews_each).unwrap();
        for n in 0..each {
            fixture.run(open_review(n)).unwrap();
        }
        assert!(matches!(fixture.run(open_review(each)), Err(Refusal::Limit(_))));
        let mut other = open_review(each);
        other.item.principal = principal("bob", &[]);
        fixture.run(other).unwrap();
    }

    #[test]
    fn overdue_once_and_open_all_the_same() {
        let mut fixture = Fixture::newest();
        let asked = open_review(1);
        fixture.run(asked.clone()).unwrap();
        let due = fixture.state.next_deadline().unwrap();
        assert_eq!(due, fixture.state.review(asked.item.id).unwrap().due_at);
        fixture.now = due.millis();
        fixture.run(ExpireApprovals).unwrap();
        let known = fixture.state.review(asked.item.id).unwrap().clone();
        assert!(known.overdue && known.closed.is_none() && fixture.state.next_deadline().is_none());
        assert_eq!(fixture.state.open_reviews(), (1, 1));
        restored(&fixture);
        fixture.now += 1_000_000_000;
        fixture.run(ExpireApprovals).unwrap();
        assert_eq!(fixture.state.review(asked.item.id).unwrap(), &known);
    }

    #[test]
    fn it_is_known_when_there_is_no_more_to_come() {
        let mut fixture = Fixture::newest();
        let asked = open_review(1);
        fixture.run(OpenSession { session: session(1) }).unwrap();
        fixture.run(asked.clone()).unwrap();
        let over = |fixture: &Fixture| fixture.state.review(asked.item.id).unwrap().session_over;
        assert!(!over(&fixture));
        let end = postern_core::session::SessionEnd {
            ending: postern_core::session::Ending::Orderly,
            at: Timestamp::from_millis(9),
            reason: "r".into(),
            events: 3,
            head: postern_core::operation::Digest([1; 32]),
        };
        fixture.run(SealSession { id: asked.item.session, end }).unwrap();
        assert!(over(&fixture));
        restored(&fixture);
        // It had ended before the review came.
        let mut late = open_review(2);
        (late.item.session, late.item.groups) = (asked.item.session, vec!["audit".into()]);
        fixture.run(late.clone()).unwrap();
        assert!(fixture.state.review(late.item.id).unwrap().session_over);
    }
}
