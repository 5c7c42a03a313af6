use postern_core::Timestamp;
use postern_core::access::{AutoApprove, Hours};
use postern_core::principal::Link;
use postern_core::scope::Scope;

use super::super::testing::*;
use super::super::{PutResources, RaiseFeatureLevel};
use super::*;
use crate::outcome::Effect;

fn refused(fixture: &mut Fixture, command: RequestAccess) -> Refusal {
    fixture.run(command).unwrap_err()
}

#[test]
fn the_same_request_twice_is_one_and_times_are_the_clusters() {
    let mut fixture = Fixture::on_request(reviewed_by(&["dba"]));
    fixture.now = 5_000;
    let asked = request_access(1);
    let done = Ok(Success::Access { id: access_id(1), automatic: None });
    assert_eq!(fixture.run(asked.clone()), done);
    assert!(!fixture.effects.contains(&Effect::PolicyChanged), "nothing is granted");
    let access = fixture.state.access(access_id(1)).unwrap().clone();
    assert_eq!((access.state, access.policy.as_str(), access.duration), (AccessState::Pending, "jit", Ttl(60)));
    assert_eq!(access.expires_at, Timestamp::from_millis(15_000));
    assert_eq!(fixture.state.next_deadline(), Some(access.expires_at));
    assert_eq!(fixture.run(asked.clone()), done);
    assert_eq!(fixture.state.accesses().count(), 1);
    let of_another = RequestAccess { requester: principal("eve", &["dev"]), ..asked };
    assert!(matches!(refused(&mut fixture, of_another), Refusal::AlreadyExists { .. }));
}

#[test]
fn there_is_one_answer_for_what_is_not_there_and_what_cannot_be_asked_for() {
    let mut fixture = Fixture::on_request(reviewed_by(&["dba"]));
    fixture.run(PutResources { resources: vec![target("other", None, 0)] }).unwrap();
    let ask = |target: &str, who: &[&str]| RequestAccess {
        target: name(target),
        requester: principal("alice", who),
        ..request_access(1)
    };
    let mut narrowed = ask("db", &["dev"]);
    let scope = Scope::of_targets([name("other")]);
    narrowed.requester.chain.push(Link { token: "tok_1".into(), actor: None, scope });
    for asked in [
        ask("none", &["dev"]),
        ask("other", &["dev"]),
        ask("db", &["guests"]),
        narrowed,
        RequestAccess { policy: Some(name("none")), ..request_access(1) },
    ] {
        let what = format!("target {} that access can be asked for", asked.target);
        assert_eq!(refused(&mut fixture, asked), Refusal::NotFound { what });
    }
}

#[test]
fn what_is_asked_for_is_bounded_and_reasoned() {
    let mut fixture = Fixture::on_request(reviewed_by(&["dba"]));
    for (asked, field) in [
        (RequestAccess { reason: " a \n".into(), ..request_access(1) }, "reason"),
        (RequestAccess { reason: "x".repeat(MAX_REASON + 1), ..request_access(1) }, "reason"),
        (RequestAccess { duration: Ttl(61), ..request_access(1) }, "duration_seconds"),
    ] {
        let Refusal::Invalid(faults) = refused(&mut fixture, asked) else { panic!() };
        assert_eq!(faults[0].path, field);
    }
    let mut heavy = request_access(1);
    heavy.requester.groups.extend((0..20_000_u32).map(|n| format!("a-long-name-of-a-group-{n}").into()));
    assert!(matches!(refused(&mut fixture, heavy), Refusal::Limit(_)));
    let each = Limits::STANDARD.live_access_each;
    for n in 0..each {
        fixture.run(request_access(n as u128 + 1)).unwrap();
    }
    assert!(matches!(refused(&mut fixture, request_access(1_000)), Refusal::Limit(_)));
    let other = RequestAccess { requester: principal("bob", &["dev"]), ..request_access(1_000) };
    fixture.run(other).unwrap();
}

#[test]
fn of_two_policies_one_is_to_be_named() {
    let mut fixture = Fixture::on_request(reviewed_by(&["dba"]));
    fixture.run(PutResources { resources: vec![on_request("wider", reviewed_by(&["lead"]), 0)] }).unwrap();
    let Refusal::Invalid(faults) = refused(&mut fixture, request_access(1)) else { panic!() };
    assert_eq!(faults[0].message, "which one? jit, wider permit on request there");
    fixture.run(RequestAccess { policy: Some(name("wider")), ..request_access(1) }).unwrap();
    assert_eq!(fixture.state.access(access_id(1)).unwrap().policy, name("wider"));
}

#[test]
fn a_rule_approves_in_place_of_people_and_the_audit_log_says_which() {
    let mut asked = reviewed_by(&["dba"]);
    asked.auto_approve.push(AutoApprove {
        name: "short".into(),
        groups: vec!["dev".into()],
        labels: BTreeMap::new(),
        hours: Some(Hours { from: 0, to: 1, days: 0b111_1111 }),
        max_duration: Some(Ttl(30)),
        max_per_day: None,
    });
    let mut fixture = Fixture::on_request(asked);
    fixture.run(RequestAccess { duration: Ttl(31), ..request_access(1) }).unwrap();
    assert_eq!(fixture.access_state(1), AccessState::Pending, "it is too long for the rule");
    let entry = crate::entry::Entry {
        proposed_at: Timestamp::from_millis(fixture.now),
        request_id: None,
        command: RequestAccess { duration: Ttl(30), ..request_access(2) }.into(),
        audit: Some(audit("RequestAccess")),
    };
    let applied = fixture.state.apply(fixture.state.index() + 1, &entry.encode()).unwrap();
    assert!(applied.effects.contains(&Effect::PolicyChanged));
    assert_eq!(applied.outcome, Ok(Success::Access { id: access_id(2), automatic: Some("short".into()) }));
    let grant = fixture.state.access(access_id(2)).unwrap().grant().unwrap();
    assert_eq!(grant.ends_at, Timestamp::from_millis(31_000));
    assert_eq!(fixture.state.audit().next_back().unwrap().reason, "approved by rule \"short\", by nobody");
    fixture.now = 60_000;
    fixture.run(RequestAccess { duration: Ttl(30), ..request_access(3) }).unwrap();
    assert_eq!(fixture.access_state(3), AccessState::Pending, "a minute past midnight it is not in its hours");
}

#[test]
fn where_nobody_reviews_a_rule_must_approve() {
    let mut asked = reviewed_by(&[]);
    asked.auto_approve.push(AutoApprove {
        name: "ops".into(),
        groups: vec!["ops".into()],
        labels: BTreeMap::new(),
        hours: None,
        max_duration: None,
        max_per_day: None,
    });
    let mut fixture = Fixture::on_request(asked);
    assert!(matches!(refused(&mut fixture, request_access(1)), Refusal::InvalidState(_)));
    let ops = RequestAccess { requester: principal("olga", &["dev", "ops"]), ..request_access(1) };
    fixture.run(ops).unwrap();
    assert_eq!(fixture.access_state(1), AccessState::Active);
}

/// Anybody may have what `rule` approves, so often a day.
fn so_often(rule: &str, max_per_day: Option<u32>) -> AutoApprove {
    AutoApprove {
        name: rule.into(),
        groups: Vec::new(),
        labels: BTreeMap::new(),
        hours: None,
        max_duration: None,
        max_per_day,
    }
}

#[test]
fn a_rule_approves_so_often_a_day_for_each() {
    let mut asked = reviewed_by(&["dba"]);
    asked.auto_approve = vec![so_often("twice", Some(2)), so_often("once", Some(1))];
    let mut fixture = Fixture::on_request(asked);
    fixture.now = 86_400_000 - 10_000;
    let rule = |fixture: &mut Fixture, n: u128, who: &str| {
        let ask = RequestAccess { requester: principal(who, &["dev"]), ..request_access(n) };
        fixture.run(ask).unwrap();
        fixture.state.access(access_id(n)).unwrap().automatic.clone()
    };
    let rules: Vec<_> = (1..6).map(|n| rule(&mut fixture, n, "alice")).collect();
    let of = |names: [Option<&str>; 5]| names.map(|name| name.map(str::to_owned)).to_vec();
    assert_eq!(rules, of([Some("twice"), Some("twice"), Some("once"), None, None]));
    // The same request again takes nothing; another's count is another; it is in the snapshot.
    assert_eq!(rule(&mut fixture, 3, "alice").as_deref(), Some("once"));
    assert_eq!(rule(&mut fixture, 6, "bob").as_deref(), Some("twice"));
    fixture.state = State::restore(&fixture.state.snapshot()).unwrap();
    assert_eq!(rule(&mut fixture, 7, "alice"), None);
    // What ended early is used all the same; what is another token of the same principal is the same principal.
    let end = super::super::EndAccess { id: access_id(1), by: "alice".into(), because: String::new() };
    fixture.run(end).unwrap();
    let mut handed_on = RequestAccess { requester: principal("alice", &["dev"]), ..request_access(8) };
    handed_on.requester.chain.push(handed_to("robot"));
    fixture.run(handed_on).unwrap();
    assert_eq!(fixture.access_state(8), AccessState::Pending);
    // A new day. What was counted before is forgotten.
    fixture.now = 86_400_000;
    assert_eq!(rule(&mut fixture, 9, "alice").as_deref(), Some("twice"));
    assert_eq!(fixture.state.rule_uses.len(), 1);
    let resumed = State::restore(&fixture.state.snapshot()).unwrap();
    assert_eq!(resumed.hash(), fixture.state.hash());
}

#[test]
fn where_only_rules_approve_it_is_said_that_one_has_done_so_enough() {
    let mut asked = reviewed_by(&[]);
    asked.auto_approve = vec![so_often("once", Some(1))];
    let mut fixture = Fixture::on_request(asked);
    fixture.run(request_access(1)).unwrap();
    let Refusal::InvalidState(why) = refused(&mut fixture, request_access(2)) else { panic!() };
    assert!(why.contains("rule once has approved 1 today"), "{why}");
}

#[test]
fn needs_level_4() {
    let mut fixture = Fixture::new();
    fixture.run(RaiseFeatureLevel { level: 3 }).unwrap();
    let put = PutResources { resources: vec![target("db", None, 0), on_request("jit", reviewed_by(&["dba"]), 0)] };
    assert_eq!(fixture.run(put), Err(Refusal::FeatureLevel { needed: 4, level: 3 }));
    assert_eq!(fixture.run(request_access(1)), Err(Refusal::FeatureLevel { needed: 4, level: 3 }));
}
