use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::principal::PrincipalId;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn who(groups: &[&str]) -> Principal {
    Principal {
        id: PrincipalId { issuer: name("corp"), subject: "alice".into() },
        groups: groups.iter().map(|group| (*group).into()).collect(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: Default::default(),
    }
}

fn rule(column: &str, mask: MaskFunction, only_by_policy: bool) -> MaskingRule {
    MaskingRule {
        targets: TargetSelector {
            names: if only_by_policy { Vec::new() } else { vec!["*".into()] },
            ..TargetSelector::default()
        },
        columns: Pattern::parse(column).into_iter().collect(),
        mask,
        exempt_groups: vec!["privacy".into()],
        only_by_policy,
        ..MaskingRule::default()
    }
}

fn slice(rules: &[(&str, MaskingRule)], asked: &[&str], principal: &Principal) -> MaskSlice {
    let rules: Vec<(Name, MaskingRule)> = rules.iter().map(|(of, rule)| (name(of), rule.clone())).collect();
    let asked: BTreeSet<Name> = asked.iter().map(|of| name(of)).collect();
    MaskSlice::with(rules.iter().map(|(name, rule)| (name, rule)), &asked, principal, &name("shop"), &BTreeMap::new())
}

fn mask<'a>(slice: &'a MaskSlice, column: &str) -> Option<&'a MaskFunction> {
    slice.column(&NamedColumn { path: ["shop", "public", "customers", column], is_of: &|_| false, labels: Some(&[]) })
}

#[test]
fn what_policies_ask_for_holds_only_then() {
    let rules = [("contact", rule("public.customers.email", MaskFunction::Hash, true))];
    assert!(slice(&rules, &[], &who(&[])).is_empty());
    let asked = slice(&rules, &["contact"], &who(&[]));
    assert_eq!((mask(&asked, "email"), mask(&asked, "id")), (Some(&MaskFunction::Hash), None));
    assert!(slice(&rules, &["contact"], &who(&["privacy"])).is_empty());
    assert!(!asked.says_the_same(&slice(&rules, &[], &who(&[]))));
    // Another target than its own.
    let mut elsewhere = rule("public.customers.email", MaskFunction::Hash, true);
    elsewhere.targets.names = vec!["bank".into()];
    let rules = [("contact", elsewhere)];
    assert_eq!(mask(&slice(&rules, &["contact"], &who(&[])), "email"), Some(&MaskFunction::Hash));
}

#[test]
fn what_is_not_there_masks_everything() {
    let slice = slice(&[], &["gone"], &who(&["privacy"]));
    assert_eq!(mask(&slice, "email"), Some(&MaskFunction::Null));
    assert!(slice.touches_relation(["shop", "public", "customers"]));
}

#[test]
fn the_strictest_counts_where_a_policy_asks() {
    let kept = |n| MaskFunction::Partial { keep_last: n };
    let rules = [
        ("a", rule("public.customers.email", kept(4), false)),
        ("b", MaskingRule { opaque: true, ..rule("public.customers.email", kept(2), true) }),
        ("c", rule("public.customers.email", MaskFunction::Redact("x".into()), true)),
        ("d", rule("public.customers.phone", MaskFunction::Hash, true)),
    ];
    let column = NamedColumn { path: ["shop", "public", "customers", "email"], is_of: &|_| false, labels: Some(&[]) };
    // By name, as ever.
    assert_eq!(slice(&rules, &[], &who(&[])).column(&column), Some(&kept(4)));
    for (asked, expected, opaque) in [
        (&["b"][..], kept(2), true),
        (&["c"], MaskFunction::Redact("x".into()), false),
        (&["b", "c"], MaskFunction::Redact("x".into()), true),
        (&["d"], kept(4), false),
        (&["b", "gone"], MaskFunction::Null, true),
    ] {
        let slice = slice(&rules, asked, &who(&[]));
        assert_eq!((slice.column(&column), slice.is_opaque(&column)), (Some(&expected), opaque), "{asked:?}");
    }
}

#[test]
fn the_order_of_masks_is_that_of_what_they_hide() {
    let stricter = [
        MaskFunction::Null,
        MaskFunction::Redact("x".into()),
        MaskFunction::Hash,
        MaskFunction::Digits { luhn: true },
        MaskFunction::Truncate(DateUnit::Year),
        MaskFunction::Truncate(DateUnit::Hour),
        MaskFunction::Bucket(1000.try_into().unwrap()),
        MaskFunction::Bucket(10.try_into().unwrap()),
        MaskFunction::Partial { keep_last: 2 },
        MaskFunction::Partial { keep_last: 4 },
    ];
    assert!(stricter.windows(2).all(|pair| pair[0].strictness() > pair[1].strictness()));
}
