use postern_core::approval::ReviewVerdict;

use super::super::testing::*;
use super::super::{DeleteResource, PutResources, ReviewApproval};
use super::*;
use crate::outcome::{Change, Effect};
use crate::state::State;

fn end(n: u128) -> EndAccess {
    EndAccess { id: access_id(n), by: "corp/alice".into(), because: "done".into() }
}

/// With a request that waits and one that was granted.
fn two() -> Fixture {
    let mut fixture = Fixture::on_request(reviewed_by(&["dba"]));
    fixture.run(request_access(1)).unwrap();
    fixture.run(request_access(2)).unwrap();
    fixture.run(review_access(2, "rita", &["dba"], ReviewVerdict::Approve)).unwrap();
    fixture
}

#[test]
fn a_request_is_withdrawn_and_a_grant_ended_once() {
    let mut fixture = two();
    fixture.run(end(1)).unwrap();
    assert!(!fixture.effects.contains(&Effect::PolicyChanged));
    fixture.now += 1;
    fixture.run(end(2)).unwrap();
    assert!(fixture.effects.contains(&Effect::PolicyChanged));
    assert_eq!((fixture.access_state(1), fixture.access_state(2)), (AccessState::Withdrawn, AccessState::Ended));
    let access = fixture.state.access(access_id(2)).unwrap().clone();
    assert_eq!((access.ends_at, access.grant()), (Some(fixture.state.now()), None));
    fixture.run(end(2)).unwrap();
    assert_eq!(fixture.state.access(access_id(2)), Some(&access));
    assert!(fixture.effects.is_empty() && fixture.state.next_deadline().is_none());
    fixture.now += 60_000;
    fixture.run(super::super::ExpireApprovals).unwrap();
    assert_eq!(fixture.access_state(2), AccessState::Ended);
    assert_eq!(fixture.run(EndAccess { by: String::new(), ..end(2) }), fixture.run(end(2)));
    assert_eq!(fixture.run(end(9)).unwrap_err().code(), "NOT_FOUND");
}

#[test]
fn what_is_over_is_not_ended() {
    let mut fixture = two();
    fixture.now += 60_000;
    assert_eq!(fixture.run(end(1)), Err(Refusal::AccessState(AccessState::Expired)));
    assert_eq!(fixture.run(end(2)), Err(Refusal::AccessState(AccessState::Over)));
}

#[test]
fn who_waits_under_a_policy_that_is_changed_asks_again() {
    let mut fixture = two();
    let revision = |fixture: &Fixture| fixture.state.resource(Kind::Policy, &name("jit")).unwrap().metadata.revision;
    let same = PutResources { resources: vec![on_request("jit", reviewed_by(&["dba"]), revision(&fixture))] };
    let Ok(Success::Put(puts)) = fixture.run(same) else { panic!() };
    assert_eq!((puts[0].change, fixture.access_state(1)), (Change::Unchanged, AccessState::Pending));
    let other = PutResources { resources: vec![on_request("jit", reviewed_by(&["lead"]), revision(&fixture))] };
    fixture.run(other).unwrap();
    assert_eq!((fixture.access_state(1), fixture.access_state(2)), (AccessState::Withdrawn, AccessState::Active));
    let ended = fixture.state.access(access_id(1)).unwrap().ended.clone().unwrap();
    assert_eq!((ended.by.as_str(), ended.because.as_str()), ("postern", "the policy was changed: ask again"));
    fixture.run(DeleteResource { kind: Kind::Policy, name: name("jit"), expected_revision: 0 }).unwrap();
    assert_eq!(fixture.access_state(2), AccessState::Ended);
}

#[test]
fn a_restored_cluster_grants_nothing() {
    let fixture = two();
    let mut reborn = State::restore(&fixture.state.snapshot()).unwrap();
    reborn.begin_anew("i2", control_node(0, "c1")).unwrap();
    assert!(reborn.accesses().all(|access| access.state.is_final()));
    assert_eq!(State::restore(&reborn.snapshot()).unwrap().hash(), reborn.hash());
}

#[test]
fn approvals_and_access_have_deadlines_of_their_own() {
    let mut fixture = two();
    let id = fixture.ask(1);
    assert_eq!(fixture.state.next_deadline(), Some(postern_core::Timestamp::from_millis(11_000)));
    let verdict = ReviewVerdict::Approve;
    let reviewer = principal("rita", &["dba"]);
    fixture.run(ReviewApproval { id, reviewer, verdict, comment: String::new() }).unwrap();
    fixture.run(end(1)).unwrap();
    fixture.run(end(2)).unwrap();
    assert_eq!(fixture.state.next_deadline(), Some(postern_core::Timestamp::from_millis(61_000)));
}

#[test]
fn what_is_revoked_ends_what_it_asked_for() {
    use postern_core::Timestamp;
    use postern_core::principal::Link;
    use postern_core::revocation::{Revocation, Revoked, TokenName};
    let revoke = |fixture: &mut Fixture, of: Revoked| {
        let until = Timestamp::from_millis(fixture.now + 60_000);
        let (issued_before, at) = (Timestamp::from_millis(fixture.now), Timestamp::default());
        let (by, because) = ("corp/admin".to_owned(), "lost".to_owned());
        let revocations = vec![Revocation { of, issued_before, until, by, because, at, revision: 0 }];
        fixture.run(super::super::RevokeTokens { revocations }).unwrap();
    };
    let mut fixture = two();
    let mut narrow = request_access(3);
    for token in ["tok_root", "tok_child"] {
        narrow.requester.chain.push(Link { token: token.into(), actor: None, scope: Default::default() });
    }
    fixture.run(narrow).unwrap();
    revoke(&mut fixture, Revoked::Subtree(TokenName::session("tok_other").unwrap()));
    assert_eq!(fixture.access_state(3), AccessState::Pending);
    revoke(&mut fixture, Revoked::Subtree(TokenName::session("tok_root").unwrap()));
    assert_eq!((fixture.access_state(3), fixture.access_state(2)), (AccessState::Withdrawn, AccessState::Active));
    revoke(&mut fixture, Revoked::Principal(principal("alice", &[]).id));
    assert_eq!((fixture.access_state(1), fixture.access_state(2)), (AccessState::Withdrawn, AccessState::Ended));
    let ended = fixture.state.access(access_id(2)).unwrap().ended.clone().unwrap();
    assert_eq!((ended.by.as_str(), ended.because.as_str()), ("corp/admin", "revoked: lost"));
}
