//! The decision: a few policies or a thousand; the slice is taken once per session and revision.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use postern_core::action::{Action, Object, ObjectKind, Verb};
use postern_core::id::{DecisionId, OperationId, SessionId};
use postern_core::operation::Operation;
use postern_core::policy::cedar::Rule;
use postern_core::policy::{
    ActionPattern, Circumstances, Conditions, Effect, Freshness, Pattern, Policy, PolicySlice, PrincipalSelector,
    Verdict,
};
use postern_core::principal::{Principal, PrincipalId};
use postern_core::snapshot::Table;
use postern_core::target::TargetSelector;
use postern_core::time::Timestamp;

pub(crate) fn principal() -> Principal {
    Principal {
        id: PrincipalId { issuer: "dev".parse().unwrap(), subject: "ci".into() },
        groups: ["robots".into(), "g7".into()].into(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    }
}

/// `count` policies on tables of their own; the last permits what is asked. One in ten speaks of other principals.
fn policies(count: usize) -> Table<Policy> {
    let policy = |place: usize| {
        let group = if place % 10 == 3 { format!("others-{place}") } else { "robots".to_owned() };
        let resources = if place + 1 == count { "public.orders".to_owned() } else { format!("app{place}.*") };
        Policy {
            effect: if place.is_multiple_of(7) && place + 1 != count { Effect::Deny } else { Effect::Permit },
            principals: PrincipalSelector { groups: vec![group], subjects: Vec::new(), tokens: Vec::new() },
            targets: TargetSelector { names: vec!["*".into()], ..Default::default() },
            actions: ["sql:select", "sql:update"].map(|verb| ActionPattern::parse(verb).unwrap()).into(),
            resources: vec![Pattern::parse(&resources).unwrap()],
            when: Conditions::default(),
            approval: None,
            waits: false,
            staleness: postern_core::policy::Staleness::default(),
            limits: postern_core::allowance::Allowance::default(),
            on_request: None,
            cedar: None,
            obligations: postern_core::policy::Obligations::default(),
            reason: None,
        }
    };
    (0..count).map(|place| (format!("policy-{place}").parse().unwrap(), policy(place))).collect()
}

/// As [`policies`], in Cedar.
fn in_cedar(count: usize) -> Table<Policy> {
    let policy = |place: usize| {
        let group = if place % 10 == 3 { format!("others-{place}") } else { "robots".to_owned() };
        let last = place + 1 == count;
        let what = if last {
            r#"== Table::"shop/shop.public.orders""#.to_owned()
        } else {
            format!(r#"in Schema::"shop/shop.app{place}""#)
        };
        let effect = if place.is_multiple_of(7) && !last { "forbid" } else { "permit" };
        let text = format!(
            r#"{effect} (principal in Group::"{group}", action in [Action::"sql:select", Action::"sql:update"], resource {what}) when {{ principal.depth == 0 }};"#
        );
        let rule = Rule::parse(&text).unwrap();
        let effect = rule.effect();
        Policy { cedar: Some(Arc::new(rule)), ..Policy::new(effect) }
    };
    (0..count).map(|place| (format!("policy-{place}").parse().unwrap(), policy(place))).collect()
}

fn operation() -> Operation {
    let at = Timestamp::from_millis(1);
    let orders = || Object::new(ObjectKind::Relation, ["shop", "public", "orders"]);
    let action = |verb, bounded| Action::new(verb, orders()).bounded(bounded);
    let actions = vec![action(Verb::SqlSelect, None), action(Verb::SqlUpdate, Some(true))];
    let text = Bytes::from_static(b"UPDATE orders SET status = 'paid' WHERE id = 7");
    Operation::new(OperationId::new(at, 1), SessionId::new(at, 1), text, Vec::new(), actions)
}

/// Every bench of this file.
pub(crate) fn all(bench: &mut Criterion) {
    let (principal, target, operation) = (principal(), "shop".parse().unwrap(), operation());
    let (id, now) = (DecisionId::new(Timestamp::from_millis(1), 1), Timestamp::from_millis(1));
    for count in [3, 100, 1000] {
        let policies = policies(count);
        let mut slice = PolicySlice::new(1, policies.shared(), &principal, &target, &BTreeMap::new());
        assert!(matches!(
            slice.decide(&operation, id, &Circumstances::new(now, Freshness::CONFIRMED)),
            Verdict::Permit(..)
        ));
        bench.bench_function(&format!("decide/{count} policies"), |b| {
            b.iter(|| black_box(slice.decide(&operation, id, &Circumstances::new(now, Freshness::CONFIRMED))))
        });
        bench.bench_function(&format!("slice/{count} policies"), |b| {
            b.iter(|| black_box(PolicySlice::new(1, policies.shared(), &principal, &target, &BTreeMap::new())));
        });
    }
    for count in [3, 100, 1000] {
        let policies = in_cedar(count);
        let mut slice = PolicySlice::new(1, policies.shared(), &principal, &target, &BTreeMap::new());
        let at = Circumstances::new(now, Freshness::CONFIRMED);
        assert!(matches!(slice.decide(&operation, id, &at), Verdict::Permit(..)));
        bench.bench_function(&format!("decide/{count} policies in Cedar, asked before"), |b| {
            b.iter(|| black_box(slice.decide(&operation, id, &at)))
        });
        // A copy remembers nothing.
        bench.bench_function(&format!("decide/{count} policies in Cedar, for the first time"), |b| {
            b.iter_batched(
                || slice.clone(),
                |mut slice| black_box(slice.decide(&operation, id, &at)),
                BatchSize::SmallInput,
            )
        });
        bench.bench_function(&format!("slice/{count} policies in Cedar"), |b| {
            b.iter(|| black_box(PolicySlice::new(1, policies.shared(), &principal, &target, &BTreeMap::new())));
        });
    }
}
