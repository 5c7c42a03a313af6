use postern_core::approval::ReviewVerdict::{Approve, Deny};
use postern_core::{AccessId, Timestamp};
use proptest::prelude::*;

use super::super::testing::*;
use super::super::{EndAccess, ExpireApprovals, RequestAccess};
use super::*;
use crate::entry::{Command, Entry};
use crate::outcome::Effect;
use crate::state::State;

#[test]
fn people_of_each_group_agree_and_from_then_on_it_counts() {
    let mut fixture = Fixture::on_request(reviewed_by(&["dba", "security"]));
    fixture.run(request_access(1)).unwrap();
    let both = review_access(1, "rita", &["dba", "security"], Approve);
    fixture.run(both.clone()).unwrap();
    assert_eq!(fixture.access_state(1), AccessState::Pending, "one person is one");
    assert_eq!(fixture.run(both), Err(Refusal::AlreadyReviewed));
    let mut delegate = review_access(1, "bot", &["security"], Approve);
    delegate.reviewer.chain.push(handed_to("rita"));
    assert_eq!(fixture.run(delegate), Err(Refusal::AlreadyReviewed));
    fixture.now = 4_000;
    fixture.run(review_access(1, "sam", &["dba"], Approve)).unwrap();
    assert!(fixture.effects.contains(&Effect::PolicyChanged));
    let grant = fixture.state.access(access_id(1)).unwrap().grant().unwrap();
    assert_eq!((grant.ends_at, grant.policy), (Timestamp::from_millis(64_000), name("jit")));
    let late = fixture.run(review_access(1, "sue", &["security"], Deny));
    assert_eq!(late, Err(Refusal::AccessState(AccessState::Active)));
    // It ends by the log's time alone.
    fixture.now = 63_999;
    fixture.run(ExpireApprovals).unwrap();
    assert_eq!(fixture.access_state(1), AccessState::Active);
    fixture.now = 64_000;
    fixture.run(ExpireApprovals).unwrap();
    assert_eq!(fixture.access_state(1), AccessState::Over);
    assert!(fixture.effects.contains(&Effect::PolicyChanged) && fixture.state.next_deadline().is_none());
    assert_eq!(fixture.state.policy_revision(), fixture.state.index());
}

#[test]
fn nobody_reviews_for_themselves_nor_without_the_group() {
    let mut fixture = Fixture::on_request(reviewed_by(&["dba"]));
    let mut agent = request_access(1);
    agent.requester.chain.push(handed_to("planner"));
    fixture.run(agent).unwrap();
    for own in ["alice", "planner"] {
        assert_eq!(fixture.run(review_access(1, own, &["dba"], Approve)), Err(Refusal::SelfReview), "{own}");
    }
    assert_eq!(fixture.run(review_access(1, "rita", &["dev"], Approve)), Err(Refusal::NotAReviewer));
    fixture.run(review_access(1, "rita", &["dba"], Deny)).unwrap();
    assert_eq!(fixture.access_state(1), AccessState::Denied);
    let late = fixture.run(review_access(1, "rob", &["dba"], Approve));
    assert_eq!(late, Err(Refusal::AccessState(AccessState::Denied)));
    assert_eq!(fixture.run(review_access(2, "rob", &["dba"], Approve)).unwrap_err().code(), "NOT_FOUND");
}

#[test]
fn what_nobody_answers_lapses() {
    let mut fixture = Fixture::on_request(reviewed_by(&["dba"]));
    fixture.run(request_access(1)).unwrap();
    fixture.now += 10_000;
    let late = fixture.run(review_access(1, "rita", &["dba"], Approve));
    assert_eq!(late, Err(Refusal::AccessState(AccessState::Expired)));
    assert!(fixture.state.next_deadline().is_none());
}

/// Alice, an agent of hers and reviewers of two groups, some of both, do what they like.
fn command() -> impl Strategy<Value = Command> {
    let ids = 0_u128..3;
    let people = prop::sample::select(vec!["alice", "planner", "rita", "rob", "sam"]);
    let groups = prop::sample::select(vec![&["dba"][..], &["security"], &["dba", "security"], &["dev"], &[]]);
    prop_oneof![
        2 => (ids.clone(), 0_u32..70).prop_map(|(n, duration)| {
            let mut asked = RequestAccess { duration: postern_core::Ttl(duration), ..request_access(n) };
            asked.requester.chain.push(handed_to("planner"));
            asked.into()
        }),
        6 => (ids.clone(), people, groups, prop::bool::weighted(0.9)).prop_map(|(n, who, groups, approve)| {
            review_access(n, who, groups, if approve { Approve } else { Deny }).into()
        }),
        1 => ids.prop_map(|n| EndAccess { id: access_id(n), by: "x".into(), because: String::new() }.into()),
        1 => Just(ExpireApprovals.into()),
        1 => any::<bool>().prop_map(|other| {
            let asked = reviewed_by(if other { &["dba", "security"] } else { &["security", "dba"] });
            super::super::PutResources { resources: vec![on_request("jit", asked, postern_core::resource::ANY_REVISION)] }.into()
        }),
    ]
}

proptest! {
    /// I7: whatever is said and by whom, what was granted was agreed to by two people, one of each group, neither being the requester nor acting for them;
    /// and nothing that is over comes back.
    #[test]
    fn fewer_people_than_are_asked_for_never_grant_it(log in prop::collection::vec((0_u64..4_000, command()), 1..60)) {
        let mut fixture = Fixture::on_request(reviewed_by(&["dba", "security"]));
        for (later, command) in log {
            fixture.now += later;
            let before: Vec<(AccessId, AccessState)> = fixture.state.accesses().map(|it| (it.id, it.state)).collect();
            let proposed_at = Timestamp::from_millis(fixture.now);
            let entry = Entry { proposed_at, request_id: None, command, audit: None };
            fixture.state.apply(fixture.state.index() + 1, &entry.encode()).unwrap();
            for access in fixture.state.accesses() {
                let was = before.iter().find(|(id, _)| *id == access.id).map(|(_, state)| *state);
                prop_assert!(!was.is_some_and(AccessState::is_final) || was == Some(access.state));
                if access.granted_at.is_none() {
                    continue;
                }
                let yes: Vec<&Principal> = access.reviews.iter().map(|review| &review.reviewer).collect();
                let of = |group: &'static str| yes.iter().filter(move |who| who.in_any([group])).map(|who| &who.id.subject);
                prop_assert!(of("dba").any(|one| of("security").any(|other| one != other)));
                prop_assert!(yes.iter().all(|who| !access.requester.shares_identity_with(who)));
                prop_assert!(access.state != AccessState::Active || access.ends_at.unwrap() > fixture.state.now());
            }
        }
        // The same on a member that begins with a snapshot.
        let resumed = State::restore(&fixture.state.snapshot()).unwrap();
        prop_assert_eq!(resumed.hash(), fixture.state.hash());
        prop_assert!(resumed.accesses.derives_the_same(&fixture.state.accesses));
    }
}
