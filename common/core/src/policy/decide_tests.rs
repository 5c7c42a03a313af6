use bytes::Bytes;

use super::*;
use crate::action::{Object, ObjectKind, Verb};
use crate::allowance::Allowance;
use crate::approval::{Approval, ApprovalState};
use crate::id::{ApprovalId, OperationId, SessionId};
use crate::snapshot::Table;
use std::time::Duration;

use crate::policy::{
    ActionPattern, Conditions, ConsumedApproval, MIN_STALENESS, Mismatch, OnStale, Pattern, PrincipalSelector,
    Staleness,
};
use crate::principal::{Link, PrincipalId};
use crate::scope::Scope;
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
        claims: crate::KeptClaims::default(),
    }
}

fn policy(effect: Effect, actions: &[&str], resources: &[&str]) -> Policy {
    Policy {
        effect,
        principals: PrincipalSelector { groups: vec!["analysts".into()], subjects: vec![], tokens: Vec::new() },
        targets: TargetSelector { names: vec!["shop".into()], ..Default::default() },
        actions: actions.iter().map(|text| ActionPattern::parse(text).unwrap()).collect(),
        resources: resources.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        when: Conditions::default(),
        approval: None,
        waits: false,
        staleness: Staleness::default(),
        limits: Allowance::default(),
        on_request: None,
        reason: None,
        cedar: None,
        obligations: crate::policy::Obligations::default(),
    }
}

fn held(groups: &[&str]) -> Policy {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    let approval = Some(ApprovalRequirement { groups, count: 1, expires: Ttl(60) });
    Policy { approval, ..policy(Effect::Permit, &["sql:delete"], &["public.*"]) }
}

fn slice(policies: Vec<Policy>) -> PolicySlice {
    let named = policies.into_iter().enumerate();
    let policies: Table<Policy> = named.map(|(place, policy)| (format!("p{place}").parse().unwrap(), policy)).collect();
    PolicySlice::new(7, policies.shared(), &alice(), &"shop".parse().unwrap(), &BTreeMap::new())
}

fn action(verb: Verb, table: &str) -> Action {
    let bounded = (verb == Verb::SqlDelete).then_some(true);
    Action::new(verb, Object::new(ObjectKind::Relation, ["shop", "public", table])).bounded(bounded)
}

fn operation(actions: Vec<Action>) -> Operation {
    let session = SessionId::new(NOW, 1);
    Operation::new(OperationId::new(NOW, 2), session, Bytes::from_static(b"x"), vec![], actions)
}

fn decide(policies: Vec<Policy>, actions: Vec<Action>) -> Verdict {
    slice(policies).decide(&operation(actions), DecisionId::new(NOW, 3), &Circumstances::new(NOW, Freshness::CONFIRMED))
}

fn outcome(policies: Vec<Policy>, actions: Vec<Action>) -> Outcome {
    match decide(policies, actions) {
        Verdict::Permit(_, record) => record.outcome,
        Verdict::Hold(held) => held.decision.outcome,
        Verdict::Deny(denial) => denial.decision.outcome,
    }
}

#[test]
fn a_slice_follows_what_changed_as_if_it_were_made_anew() {
    let (target, labels) = ("shop".parse().unwrap(), BTreeMap::new());
    let whole = |table: &Table<Policy>| PolicySlice::new(2, table.shared(), &alice(), &target, &labels);
    let name = |text: &str| text.parse::<Name>().unwrap();
    let mine = |action: &str| policy(Effect::Permit, &[action], &[]);
    let mut others = mine("*");
    others.principals.groups = vec!["others".into()];
    let before: Table<Policy> =
        [(name("b"), mine("sql:select")), (name("d"), others.clone()), (name("f"), mine("*"))].into();
    type Step = fn(&mut Table<Policy>, Policy, Policy);
    let steps: [(Step, bool); 6] = [
        (|table, mine, _| table.insert("a".parse().unwrap(), mine), true),
        (|table, mine, _| table.insert("f".parse().unwrap(), mine), true),
        (|table, _, others| table.insert("b".parse().unwrap(), others), true),
        (|table, mine, _| table.insert("d".parse().unwrap(), mine), true),
        (|table, _, _| table.remove(&"b".parse().unwrap()), true),
        (|table, _, others| table.insert("c".parse().unwrap(), others), false),
    ];
    for (place, (step, concerns)) in steps.into_iter().enumerate() {
        let mut now = before.clone();
        step(&mut now, mine("sql:delete"), others.clone());
        let after = whole(&before).after(2, &now.differences(&before), &alice(), &target, &labels);
        assert_eq!(after.is_some(), concerns, "{place}");
        assert_eq!(after.unwrap_or_else(|| whole(&before)).policies, whole(&now).policies, "{place}");
    }
    let none = Table::default();
    let all = before.differences(&none);
    assert_eq!(
        PolicySlice::default().after(2, &all, &alice(), &target, &labels).unwrap().policies,
        whole(&before).policies
    );
}

#[test]
fn of_several_limits_the_smallest_holds() {
    let limited = |sessions, operations_per_second| {
        let limits = Allowance { sessions, operations_per_second, ..Allowance::default() };
        Policy { limits, ..policy(Effect::Permit, &["sql:select"], &[]) }
    };
    let limits = slice(vec![limited(5, 0), limited(9, 100), policy(Effect::Permit, &["*"], &[])]).limits();
    assert_eq!(limits, limited(5, 100).limits);
    let mut others = limited(1, 1);
    others.principals.groups = vec!["others".into()];
    assert_eq!(slice(vec![others]).limits(), Allowance::default());
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
        background: None,
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

fn aged(secs: u64) -> Freshness {
    Freshness { age: Duration::from_secs(secs), limit: Duration::from_secs(600) }
}

fn stale(max: Option<u64>, then: OnStale, actions: &[&str]) -> Policy {
    let staleness = Staleness { max: max.map(Duration::from_secs), then };
    Policy { staleness, ..policy(Effect::Permit, actions, &[]) }
}

fn code_at(slice: &PolicySlice, verb: Verb, fresh: Freshness) -> Option<Code> {
    match slice.clone().decide(
        &operation(vec![action(verb, "orders")]),
        DecisionId::new(NOW, 3),
        &Circumstances::new(NOW, fresh),
    ) {
        Verdict::Deny(denial) => Some(denial.code),
        Verdict::Permit(..) | Verdict::Hold(_) => None,
    }
}

#[test]
fn what_is_too_old_opens_nothing_and_permits_what_it_says() {
    let slice = slice(vec![
        stale(Some(60), OnStale::End, &["sql:select"]),
        stale(None, OnStale::Keep, &["sql:insert"]),
        policy(Effect::Deny, &["sql:drop"], &[]),
    ]);
    let all = |secs| [Verb::SqlSelect, Verb::SqlInsert, Verb::SqlDrop].map(|verb| code_at(&slice, verb, aged(secs)));
    assert_eq!(all(60), [None, None, Some(Code::Denied)]);
    assert_eq!(all(61), [Some(Code::PolicyUnavailable), None, Some(Code::Denied)]);
    assert_eq!(all(601), [Some(Code::PolicyUnavailable), None, Some(Code::Denied)]);
    assert_eq!((slice.opens(aged(600)), slice.opens(aged(601)), slice.keeps(aged(601))), (true, false, true));
    let next = |secs| slice.next_stale(aged(secs)).map(|age| age.as_secs());
    assert_eq!([next(0), next(60), next(61), next(601)], [Some(60), Some(60), Some(600), None]);
}

#[test]
fn what_holds_goes_on_holding_when_it_is_too_old() {
    let Staleness { max, .. } = Staleness { max: Some(Duration::from_secs(60)), then: OnStale::End };
    let mut asks = held(&["dba"]);
    asks.staleness.max = max;
    let actions = asks.actions.clone();
    let verb = |slice: &PolicySlice, secs| {
        let run = operation(vec![action(Verb::SqlDelete, "orders")]);
        match slice.clone().decide(&run, DecisionId::new(NOW, 3), &Circumstances::new(NOW, aged(secs))) {
            Verdict::Permit(..) => "permit",
            Verdict::Hold(_) => "hold",
            Verdict::Deny(denial) => denial.code.as_str(),
        }
    };
    // What another policy permits still needs its reviewers.
    let both = slice(vec![asks.clone(), Policy { actions, ..stale(None, OnStale::Keep, &[]) }]);
    assert_eq!([verb(&both, 60), verb(&both, 61), verb(&both, 601)], ["hold"; 3]);
    let alone = slice(vec![asks]);
    assert_eq!([verb(&alone, 60), verb(&alone, 61)], ["hold", Code::PolicyUnavailable.as_str()]);
}

#[test]
fn a_limit_is_lowered_by_policy_and_never_raised() {
    let limit = |max, limit| Staleness { max, then: OnStale::End }.limit(Duration::from_secs(limit)).as_secs();
    assert_eq!(limit(None, 600), 600);
    assert_eq!(limit(Some(Duration::from_secs(30)), 600), 30);
    assert_eq!(limit(Some(Duration::from_secs(3_600)), 600), 600);
    // Only while the control plane confirms, which it does every few seconds.
    assert_eq!(limit(Some(Duration::ZERO), 600), MIN_STALENESS.as_secs());
    assert_eq!(limit(Some(Duration::ZERO), 5), 5);
}

#[test]
fn sessions_end_when_nothing_that_is_fresh_permits_anything() {
    let ends = slice(vec![stale(Some(20), OnStale::End, &["*"])]);
    assert!(ends.keeps(aged(20)) && !ends.keeps(aged(21)) && !ends.opens(aged(21)));
    let begin =
        |fresh| ends.clone().decide(&operation(vec![]), DecisionId::new(NOW, 3), &Circumstances::new(NOW, fresh));
    assert!(matches!(begin(aged(20)), Verdict::Permit(_, DecisionRecord { policy_age_ms: Some(20_000), .. })));
    assert!(matches!(begin(aged(21)), Verdict::Deny(Denial { code: Code::PolicyUnavailable, .. })));
}

#[test]
fn who_is_denied_everything_is_permitted_nothing() {
    let permit = || policy(Effect::Permit, &["*"], &[]);
    let deny = |actions: &[&str], resources: &[&str]| policy(Effect::Deny, actions, resources);
    assert!(!slice(vec![permit(), deny(&["*"], &[])]).permits_anything());
    assert!(!slice(vec![permit(), deny(&["*"], &[])]).opens(Freshness::CONFIRMED));
    for narrower in [deny(&["sql:*"], &[]), deny(&["*"], &["public.*"])] {
        assert!(slice(vec![permit(), narrower]).permits_anything());
    }
    let bounded = Policy { when: Conditions { bounded: Some(true), ..Conditions::default() }, ..deny(&["*"], &[]) };
    assert!(slice(vec![permit(), bounded]).permits_anything());
}

#[test]
fn a_hold_waits_only_when_all_that_hold_say_so() {
    let waits = |policies| match decide(policies, vec![action(Verb::SqlDelete, "orders")]) {
        Verdict::Hold(held) => held.waits,
        other => panic!("{other:?}"),
    };
    let patient = || Policy { waits: true, ..held(&["dba"]) };
    assert!(waits(vec![patient()]));
    assert!(waits(vec![patient(), patient()]));
    assert!(!waits(vec![patient(), held(&["dba"])]));
    assert!(!waits(vec![held(&["dba"]), patient()]));
}

#[test]
fn a_token_is_denied_by_its_id() {
    let mut deny = policy(Effect::Deny, &["*"], &[]);
    deny.principals = PrincipalSelector { tokens: vec!["tok_1".into()], ..Default::default() };
    let policies = Table::from([
        ("deny".parse().unwrap(), deny),
        ("permit".parse().unwrap(), policy(Effect::Permit, &["*"], &[])),
    ]);
    let permitted = |token: Option<&str>| {
        let who = Principal { token_id: token.map(Into::into), ..alice() };
        PolicySlice::new(7, policies.shared(), &who, &"shop".parse().unwrap(), &BTreeMap::new()).permits_anything()
    };
    assert_eq!([permitted(None), permitted(Some("tok_2")), permitted(Some("tok_1"))], [true, true, false]);
}

#[test]
fn what_is_denied_to_a_token_is_denied_to_its_children() {
    let mut deny = policy(Effect::Deny, &["*"], &[]);
    deny.principals = PrincipalSelector { tokens: vec!["lnk_2".into()], ..Default::default() };
    let policies = Table::from([
        ("deny".parse().unwrap(), deny),
        ("permit".parse().unwrap(), policy(Effect::Permit, &["*"], &[])),
    ]);
    let permitted = |tokens: &[&str]| {
        let link = |token: &&str| Link { token: (*token).into(), actor: None, scope: Scope::default() };
        let chain = tokens.iter().map(link).collect();
        let who = Principal { token_id: tokens.last().map(|&last| last.into()), chain, ..alice() };
        PolicySlice::new(7, policies.shared(), &who, &"shop".parse().unwrap(), &BTreeMap::new()).permits_anything()
    };
    assert!(permitted(&["tok_1"]) && permitted(&["tok_1", "lnk_3"]));
    assert!(!permitted(&["tok_1", "lnk_2"]) && !permitted(&["tok_1", "lnk_2", "lnk_3"]));
}

/// I6: policy permits all of it; the token does not.
#[test]
fn a_scope_narrows_what_policy_permits() {
    let everything = Table::from([("all".parse().unwrap(), policy(Effect::Permit, &["*"], &[]))]);
    let with = |scope: Scope| {
        let link = |scope| Link { token: "tok_1".into(), actor: None, scope };
        // Whatever its child says.
        let who = Principal { chain: vec![link(scope), link(Scope::default())], ..alice() };
        PolicySlice::new(7, everything.shared(), &who, &"shop".parse().unwrap(), &BTreeMap::new())
    };
    let decided = |scope: Scope, actions: Vec<Action>| match with(scope).decide(
        &operation(actions),
        DecisionId::new(NOW, 3),
        &Circumstances::new(NOW, Freshness::CONFIRMED),
    ) {
        Verdict::Deny(denial) => Err(denial.decision.reason),
        _ => Ok(()),
    };
    let reads = || Scope { actions: vec![ActionPattern::parse("sql:select").unwrap()], ..Scope::default() };
    let select = || action(Verb::SqlSelect, "orders");
    assert_eq!(decided(reads(), vec![select()]), Ok(()));
    let mixed = decided(reads(), vec![select(), action(Verb::SqlDelete, "orders")]).unwrap_err();
    assert!(mixed.contains("outside of the token's scope"), "{mixed}");
    let orders = || Scope { resources: vec![Pattern::parse("orders").unwrap()], ..Scope::default() };
    assert_eq!(decided(orders(), vec![select()]), Ok(()));
    assert!(decided(orders(), vec![action(Verb::SqlSelect, "customers")]).is_err());
    assert!(with(Scope::of_targets(["shop".parse().unwrap()])).permits_anything());
    assert!(!with(Scope::of_targets(["other".parse().unwrap()])).permits_anything());
}
