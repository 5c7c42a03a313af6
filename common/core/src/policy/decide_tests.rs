use bytes::Bytes;

use super::*;
use crate::action::{Object, ObjectKind, Verb};
use crate::approval::{Approval, ApprovalState};
use crate::id::{ApprovalId, OperationId, SessionId};
use crate::policy::{ActionPattern, Conditions, ConsumedApproval, Mismatch, Pattern, PrincipalSelector};
use crate::principal::PrincipalId;
use crate::target::TargetSelector;
use crate::time::Ttl;

const NOW: Timestamp = Timestamp::from_millis(1_000);

fn alice() -> Principal {
    Principal {
        id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "alice".into() },
        groups: ["analysts".into()].into(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
    }
}

fn policy(effect: Effect, actions: &[&str], resources: &[&str]) -> Policy {
    Policy {
        effect,
        principals: PrincipalSelector { groups: vec!["analysts".into()], subjects: vec![] },
        targets: TargetSelector { names: vec!["shop".into()], ..Default::default() },
        actions: actions.iter().map(|text| ActionPattern::parse(text).unwrap()).collect(),
        resources: resources.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        when: Conditions::default(),
        approval: None,
        reason: None,
    }
}

fn held(groups: &[&str]) -> Policy {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    let approval = Some(ApprovalRequirement { groups, count: 1, expires: Ttl(60) });
    Policy { approval, ..policy(Effect::Permit, &["sql:delete"], &["public.*"]) }
}

fn slice(policies: Vec<Policy>) -> PolicySlice {
    let named = policies.into_iter().enumerate();
    let policies: BTreeMap<Name, Policy> =
        named.map(|(place, policy)| (format!("p{place}").parse().unwrap(), policy)).collect();
    PolicySlice::new(7, &policies, &alice(), &"shop".parse().unwrap(), &BTreeMap::new())
}

fn action(verb: Verb, table: &str) -> Action {
    let bounded = (verb == Verb::SqlDelete).then_some(true);
    Action { verb, object: Object::new(ObjectKind::Relation, ["shop", "public", table]), bounded }
}

fn operation(actions: Vec<Action>) -> Operation {
    let session = SessionId::new(NOW, 1);
    Operation::new(OperationId::new(NOW, 2), session, Bytes::from_static(b"x"), vec![], actions)
}

fn decide(policies: Vec<Policy>, actions: Vec<Action>) -> Verdict {
    slice(policies).decide(&operation(actions), DecisionId::new(NOW, 3), NOW)
}

fn outcome(policies: Vec<Policy>, actions: Vec<Action>) -> Outcome {
    match decide(policies, actions) {
        Verdict::Permit(_, record) => record.outcome,
        Verdict::Hold(held) => held.decision.outcome,
        Verdict::Deny(denial) => denial.decision.outcome,
    }
}

#[test]
fn nothing_is_permitted_by_default() {
    assert_eq!(outcome(vec![], vec![action(Verb::SqlSelect, "orders")]), Outcome::Deny);
    assert_eq!(outcome(vec![], vec![]), Outcome::Deny);
    let deny_only = policy(Effect::Deny, &["sql:drop"], &[]);
    assert_eq!(outcome(vec![deny_only], vec![]), Outcome::Deny);
}

#[test]
fn every_action_needs_its_permit() {
    let read = || policy(Effect::Permit, &["sql:select"], &["public.orders"]);
    assert_eq!(outcome(vec![read()], vec![action(Verb::SqlSelect, "orders")]), Outcome::Permit);
    assert_eq!(outcome(vec![read()], vec![]), Outcome::Permit);
    let both = vec![action(Verb::SqlSelect, "orders"), action(Verb::SqlSelect, "salaries")];
    assert_eq!(outcome(vec![read()], both), Outcome::Deny);
    assert_eq!(outcome(vec![read()], vec![action(Verb::SqlDelete, "orders")]), Outcome::Deny);
}

#[test]
fn deny_outranks_hold_outranks_permit() {
    let all = || policy(Effect::Permit, &["*"], &[]);
    let no_deletes = || policy(Effect::Deny, &["sql:delete"], &[]);
    let delete = || vec![action(Verb::SqlDelete, "orders")];
    assert_eq!(outcome(vec![all(), held(&["dba"])], delete()), Outcome::Hold);
    assert_eq!(outcome(vec![held(&["dba"]), all()], delete()), Outcome::Hold);
    assert_eq!(outcome(vec![all(), held(&["dba"]), no_deletes()], delete()), Outcome::Deny);
    let mixed = vec![action(Verb::SqlSelect, "orders"), action(Verb::SqlDelete, "orders")];
    assert_eq!(outcome(vec![all(), held(&["dba"])], mixed), Outcome::Hold);
}

#[test]
fn an_unbounded_delete_can_be_denied_alone() {
    let all = policy(Effect::Permit, &["*"], &[]);
    let mut unbounded = policy(Effect::Deny, &["sql:delete", "sql:update"], &[]);
    unbounded.when.bounded = Some(false);
    let policies = vec![all, unbounded];
    let mut delete = action(Verb::SqlDelete, "orders");
    assert_eq!(outcome(policies.clone(), vec![delete.clone()]), Outcome::Permit);
    delete.bounded = Some(false);
    assert_eq!(outcome(policies.clone(), vec![delete]), Outcome::Deny);
    assert_eq!(outcome(policies, vec![action(Verb::SqlSelect, "orders")]), Outcome::Permit);
}

#[test]
fn several_holds_ask_for_reviewers_in_common() {
    let delete = || vec![action(Verb::SqlDelete, "orders")];
    match decide(vec![held(&["dba", "leads"]), held(&["leads", "security"])], delete()) {
        Verdict::Hold(held) => assert_eq!(held.requirement.groups, ["leads"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(outcome(vec![held(&["dba"]), held(&["security"])], delete()), Outcome::Deny);
}

#[test]
fn a_permit_names_its_operation_and_an_approval_must_too() {
    let Verdict::Permit(permit, record) =
        decide(vec![policy(Effect::Permit, &["sql:*"], &["public.*"])], vec![action(Verb::SqlSelect, "orders")])
    else {
        panic!("expected a permit");
    };
    assert_eq!(permit.digest(), operation(vec![]).digest);
    assert_eq!((record.revision, record.policies.len()), (7, 1));

    let hold = || match decide(vec![held(&["dba"])], vec![action(Verb::SqlDelete, "orders")]) {
        Verdict::Hold(held) => held,
        other => panic!("{other:?}"),
    };
    let first = hold();
    let mut approval = Approval {
        id: ApprovalId::new(NOW, 4),
        state: ApprovalState::Approved,
        requester: alice(),
        target: "shop".parse().unwrap(),
        session: SessionId::new(NOW, 1),
        operation: first.operation(),
        digest: first.digest(),
        text: String::new(),
        parameters: vec![],
        actions: vec![],
        policies: vec![],
        reason: String::new(),
        requirement: first.requirement.clone(),
        reviews: vec![],
        requested_at: NOW,
        expires_at: NOW,
        revision: 1,
        withdrawn_because: String::new(),
    };
    // Approved is not consumed: another gateway may take it.
    assert!(ConsumedApproval::from_answer(&approval).is_none());
    approval.state = ApprovalState::Consumed;
    let permit = first.release(ConsumedApproval::from_answer(&approval).unwrap()).unwrap();
    assert_eq!(permit.approval(), Some(approval.id));

    approval.digest.0[0] ^= 1;
    assert_eq!(hold().release(ConsumedApproval::from_answer(&approval).unwrap()).unwrap_err(), Mismatch);
}

#[test]
fn a_denial_tells_reason_and_decision() {
    let Verdict::Deny(denial) = decide(vec![], vec![action(Verb::SqlDrop, "orders")]) else { panic!() };
    let message = denial.client_message();
    assert!(message.contains("sql:drop on shop.public.orders"), "{message}");
    assert!(message.contains(&denial.decision.id.to_string()), "{message}");
}
