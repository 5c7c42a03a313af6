use bytes::Bytes;

use super::*;
use crate::action::{Object, ObjectKind};
use crate::approval::ApprovalRequirement;
use crate::id::{DecisionId, OperationId, SessionId};
use crate::operation::Operation;
use crate::policy::testing::slice;
use crate::policy::{ActionPattern, Circumstances, Freshness, Pattern, PrincipalSelector, Verdict};
use crate::target::TargetSelector;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn permits(actions: &[&str], resources: &[&str], obligations: Obligations) -> Policy {
    Policy {
        principals: PrincipalSelector { groups: vec!["*".into()], ..Default::default() },
        targets: TargetSelector { names: vec!["shop".into()], ..Default::default() },
        actions: actions.iter().map(|text| ActionPattern::parse(text).unwrap()).collect(),
        resources: resources.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        obligations,
        ..Policy::new(Effect::Permit)
    }
}

fn rows(limit: u64) -> Obligations {
    Obligations { row_limit: NonZeroU64::new(limit), ..Obligations::default() }
}

fn time(secs: u32) -> Obligations {
    Obligations { statement_timeout: Some(Ttl(secs)), ..Obligations::default() }
}

fn reads() -> Obligations {
    Obligations { read_only: true, ..Obligations::default() }
}

fn act(verb: Verb, of: &str) -> Action {
    Action::new(verb, Object::new(ObjectKind::Relation, ["shop", "public", of]))
}

fn verdict(policies: Vec<Policy>, actions: Vec<Action>) -> Verdict {
    let operation =
        Operation::new(OperationId::new(NOW, 2), SessionId::new(NOW, 1), Bytes::from_static(b"x"), vec![], actions);
    slice(policies).decide(&operation, DecisionId::new(NOW, 3), &Circumstances::new(NOW, Freshness::CONFIRMED))
}

/// What binds it; or why it is denied.
fn told(policies: Vec<Policy>, actions: Vec<Action>) -> String {
    match verdict(policies, actions) {
        Verdict::Permit(permit, record) => {
            assert_eq!(permit.obliged(), &record.obliged);
            record.obliged.to_string()
        }
        Verdict::Hold(held) => format!("held, {}", held.decision.obliged),
        Verdict::Deny(denial) => denial.decision.reason,
    }
}

#[test]
fn the_strictest_of_all_that_apply_binds() {
    let select = || vec![act(Verb::SqlSelect, "orders")];
    assert_eq!(told(vec![permits(&["*"], &[], rows(10))], select()), "at most 10 rows (p0)");
    let all = vec![permits(&["*"], &[], rows(10)), permits(&["sql:*"], &[], rows(9)), permits(&["*"], &[], rows(9))];
    assert_eq!(told(all, select()), "at most 9 rows (p1)");
    // A permit without one takes no other's back.
    let all = vec![permits(&["*"], &[], Obligations::default()), permits(&["*"], &["public.orders"], rows(10))];
    assert_eq!(told(all.clone(), select()), "at most 10 rows (p1)");
    assert_eq!(told(all.clone(), vec![act(Verb::SqlSelect, "other")]), "");
    // What is done together is bound together.
    let both = vec![act(Verb::SqlSelect, "other"), act(Verb::SqlSelect, "orders")];
    assert_eq!(told(all, both), "at most 10 rows (p1)");
    let each = vec![permits(&["*"], &[], rows(10)), permits(&["*"], &[], time(30)), permits(&["*"], &[], reads())];
    assert_eq!(told(each, select()), "at most 10 rows (p0), at most 30 s (p1), read only (p2)");
}

#[test]
fn what_is_held_is_bound_as_well() {
    let approval = Some(ApprovalRequirement { groups: vec!["dba".into()], count: 1, expires: Ttl(60) });
    let held = Policy { approval, ..permits(&["*"], &[], rows(3)) };
    assert_eq!(told(vec![held.clone()], vec![act(Verb::SqlSelect, "orders")]), "held, at most 3 rows (p0)");
    // Nobody lifts it by being too old, or by asking for more than was proven.
    let mut old = permits(&["*"], &[], rows(2));
    old.staleness.max = Some(std::time::Duration::ZERO);
    let mut of = slice(vec![old, permits(&["*"], &[], rows(5))]);
    let actions = vec![act(Verb::SqlSelect, "orders")];
    let operation = Operation::new(OperationId::new(NOW, 2), SessionId::new(NOW, 1), Bytes::new(), vec![], actions);
    let fresh = Freshness { age: std::time::Duration::from_secs(60), limit: std::time::Duration::MAX };
    let Verdict::Permit(permit, _) = of.decide(&operation, DecisionId::new(NOW, 3), &Circumstances::new(NOW, fresh))
    else {
        panic!()
    };
    assert_eq!(permit.obliged().to_string(), "at most 2 rows (p0)");
}

#[test]
fn who_may_only_read_writes_nothing() {
    let all =
        || vec![permits(&["*"], &[], Obligations::default()), permits(&["sql:select"], &["public.orders"], reads())];
    assert_eq!(told(all(), vec![act(Verb::SqlInsert, "notes")]), "");
    assert_eq!(told(all(), vec![act(Verb::SqlSelect, "orders")]), "read only (p1)");
    let copies = vec![act(Verb::SqlInsert, "notes"), act(Verb::SqlSelect, "orders")];
    assert_eq!(told(all(), copies), "policy p1 permits reading only, and sql:insert on shop.public.notes is more");
    let everything = vec![permits(&["*"], &[], reads())];
    let routine = |schema: &str| Action::new(Verb::SqlCall, Object::new(ObjectKind::Routine, ["shop", schema, "f"]));
    assert_eq!(told(everything.clone(), vec![routine("public")]), "read only (p0)");
    for verb in Verb::ALL {
        let told = told(everything.clone(), vec![act(*verb, "x")]);
        let reads = matches!(verb, Verb::SqlSelect | Verb::SqlSet | Verb::SqlSetRole | Verb::SqlCall);
        assert_eq!(told.contains("permits reading only"), !reads, "{verb}: {told}");
    }
    // Advisory locks, signals, large objects; and what could not be resolved.
    for schema in ["pg_catalog", "?"] {
        assert!(told(everything.clone(), vec![routine(schema)]).contains("permits reading only"));
    }
}

#[test]
fn what_does_nothing_still_takes_its_time() {
    let all = vec![permits(&["sql:select"], &["public.orders"], rows(1)), permits(&["*"], &["public.x"], time(30))];
    assert_eq!(told(all.clone(), Vec::new()), "at most 30 s (p1)");
    assert!(slice(all).may_oblige());
    assert!(!slice(vec![permits(&["*"], &[], Obligations::default())]).may_oblige());
}

#[test]
fn two_together_are_as_strict_as_each() {
    let by = |limit| Some(By { limit: NonZeroU64::new(limit).unwrap(), policy: "a".parse().unwrap() });
    let one = Obliged { row_limit: by(5), ..Obliged::default() };
    let other = Obliged { row_limit: by(3), read_only: Some("b".parse().unwrap()), ..Obliged::default() };
    let both = one.clone().and(other.clone());
    assert_eq!((both.clone(), both.to_string()), (other.clone().and(one), "at most 3 rows (a), read only (b)".into()));
    assert_eq!(serde_json::to_string(&Obliged::default()).unwrap(), "{}");
    let text = serde_json::to_string(&both).unwrap();
    assert_eq!(serde_json::from_str::<Obliged>(&text).unwrap(), both);
}

#[test]
fn of_classes_of_durability_the_strictest_holds() {
    let select = || vec![act(Verb::SqlSelect, "orders")];
    let class = |class| Obligations { durability: Some(class), ..Obligations::default() };
    let bulk = permits(&["*"], &["public.*"], class(Durability::Buffered));
    let plain = permits(&["*"], &["public.*"], Obligations::default());
    assert_eq!(told(vec![bulk.clone(), plain], select()), "recorded as buffered (p0)");
    let quorum = permits(&["sql:select"], &["public.orders"], class(Durability::Quorum));
    assert_eq!(told(vec![bulk.clone(), quorum.clone()], select()), "recorded as quorum (p1)");
    // What begins or ends a transaction of it is as durable, but no less so because of what else there is.
    assert_eq!(told(vec![bulk.clone(), quorum], Vec::new()), "recorded as quorum (p1)");
    assert_eq!(told(vec![bulk], Vec::new()), "");
}

#[test]
fn masks_are_those_of_all_policies_that_speak_of_somebody() {
    let masks = |of: &[&str]| Obligations {
        masks: of.iter().map(|mask| mask.parse().unwrap()).collect(),
        ..Obligations::default()
    };
    let policies = vec![
        permits(&["sql:select"], &["public.orders"], masks(&["a", "b"])),
        permits(&["sql:insert"], &[], masks(&["b", "c"])),
    ];
    let asked = slice(policies.clone());
    let names: Vec<String> = asked.masks().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a", "b", "c"]);
    // They bind what is seen, not how it runs.
    assert!(!asked.may_oblige() && !asked.grants_everything(Freshness::CONFIRMED));
    assert_eq!(
        told(policies, vec![act(Verb::SqlSelect, "orders")]),
        "masked by a (p0), masked by b (p0), masked by c (p1)"
    );
}
