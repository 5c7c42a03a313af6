use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::access::{OnRequest, Reviewers};
use crate::action::{Action, Object, ObjectKind, Verb};
use crate::allowance::Allowance;
use crate::id::{DecisionId, OperationId, SessionId};
use crate::operation::Operation;
use crate::policy::{
    ActionPattern, Circumstances, Conditions, DecisionRecord, Denial, Freshness, PrincipalSelector, Staleness, Verdict,
};
use crate::principal::PrincipalId;
use crate::snapshot::Table;
use crate::target::TargetSelector;
use crate::time::Ttl;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn alice() -> Principal {
    Principal {
        id: PrincipalId { issuer: name("corp"), subject: "alice".into() },
        groups: ["dev".into()].into(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: Default::default(),
    }
}

fn policy(effect: Effect, actions: &[&str], on_request: bool) -> Policy {
    let asked = OnRequest {
        review: vec![Reviewers { groups: vec!["dba".into()], count: 1 }],
        max_duration: Ttl(60),
        expires: Ttl(60),
        min_reason: 1,
        auto_approve: Vec::new(),
    };
    Policy {
        effect,
        principals: PrincipalSelector { groups: vec!["dev".into()], ..Default::default() },
        targets: TargetSelector { names: vec!["shop".into()], ..Default::default() },
        actions: actions.iter().map(|text| ActionPattern::parse(text).unwrap()).collect(),
        resources: Vec::new(),
        when: Conditions::default(),
        approval: None,
        waits: false,
        staleness: Staleness::default(),
        limits: Allowance { sessions: if on_request { 1 } else { 0 }, ..Default::default() },
        on_request: on_request.then(|| Box::new(asked)),
        reason: None,
        cedar: None,
        obligations: crate::policy::Obligations::default(),
    }
}

fn slice(policies: Vec<(&str, Policy)>, grants: &[Grant]) -> PolicySlice {
    let policies: Table<Policy> = policies.into_iter().map(|(of, policy)| (name(of), policy)).collect();
    let slice = PolicySlice::new(7, policies.shared(), &alice(), &name("shop"), &BTreeMap::new());
    slice.with(Granted::of(grants, &alice(), &name("shop")))
}

fn grant(of: &str, n: u128, ends_at: u64) -> Grant {
    Grant {
        id: AccessId::new(Timestamp::from_millis(1), n),
        principal: alice().id,
        chain: Vec::new(),
        target: name("shop"),
        policy: name(of),
        ends_at: Timestamp::from_millis(ends_at),
        reason: "INC-7".into(),
    }
}

fn action(verb: Verb) -> Action {
    let object = Object::new(ObjectKind::Relation, ["app", "public", "orders"]);
    Action::new(verb, object)
}

fn decided(slice: &PolicySlice, verb: Verb, now: u64) -> Result<DecisionRecord, Box<Denial>> {
    let at = Timestamp::from_millis(1);
    let operation = Operation::new(
        OperationId::new(at, 1),
        SessionId::new(at, 1),
        Bytes::from_static(b"x"),
        Vec::new(),
        vec![action(verb)],
    );
    match slice.clone().decide(
        &operation,
        DecisionId::new(at, 1),
        &Circumstances::new(Timestamp::from_millis(now), Freshness::CONFIRMED),
    ) {
        Verdict::Permit(_, record) => Ok(record),
        Verdict::Deny(denial) => Err(Box::new(denial)),
        Verdict::Hold(held) => panic!("{held:?}"),
    }
}

#[test]
fn permits_who_was_granted_it_until_the_end_and_says_by_which_grant() {
    let policies = || {
        vec![
            ("plain", policy(Effect::Permit, &["sql:select"], false)),
            ("write", policy(Effect::Permit, &["sql:update"], true)),
        ]
    };
    let without = slice(policies(), &[]);
    assert!(without.permits_anything());
    let reason = decided(&without, Verb::SqlUpdate, 5).unwrap_err().decision.reason;
    assert!(
        reason.ends_with("policy write does on request: postern access request --target shop --policy write"),
        "{reason}"
    );
    let other = slice(policies(), &[grant("plain", 1, 10), Grant { target: name("other"), ..grant("write", 2, 10) }]);
    assert!(decided(&other, Verb::SqlUpdate, 5).is_err());

    let granted = slice(policies(), &[grant("write", 1, 10), grant("write", 2, 20), grant("write", 3, 15)]);
    let record = decided(&granted, Verb::SqlUpdate, 19).unwrap();
    assert_eq!(record.grants, [grant("write", 2, 20).id], "the one that lasts longest");
    assert!(decided(&granted, Verb::SqlSelect, 19).unwrap().grants.is_empty());
    assert!(decided(&granted, Verb::SqlUpdate, 20).is_err(), "the end is no longer in it");
    assert_eq!(granted.next_end(), Some(Timestamp::from_millis(20)));
    assert!(granted.without_ended(Timestamp::from_millis(19)).is_none());
    let after = granted.without_ended(Timestamp::from_millis(20)).unwrap();
    assert!(
        after.denies(&[action(Verb::SqlUpdate)], &Circumstances::new(Timestamp::from_millis(1), Freshness::CONFIRMED))
            && after.permits_anything()
    );
    assert!(!after.says_the_same(&granted) && after.says_the_same(&without));
}

#[test]
fn what_was_not_granted_opens_nothing_and_limits_nothing() {
    let policies = || vec![("write", policy(Effect::Permit, &["*"], true))];
    let without = slice(policies(), &[]);
    assert!(
        !without.permits_anything() && !without.opens(Freshness::CONFIRMED) && !without.keeps(Freshness::CONFIRMED)
    );
    assert_eq!((without.limits(), without.on_request().count()), (Allowance::default(), 1));
    let granted = slice(policies(), &[grant("write", 1, 10)]);
    assert!(granted.opens(Freshness::CONFIRMED) && granted.on_request().next().is_none());
    assert_eq!(granted.limits().sessions, 1);
}

#[test]
fn a_deny_outranks_what_was_granted() {
    let deny = policy(Effect::Deny, &["sql:update"], false);
    let granted =
        slice(vec![("deny", deny), ("write", policy(Effect::Permit, &["*"], true))], &[grant("write", 1, 10)]);
    assert!(decided(&granted, Verb::SqlUpdate, 5).is_err() && decided(&granted, Verb::SqlSelect, 5).is_ok());
}
