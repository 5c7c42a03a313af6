//! What policies ask of a statement, of what the target expects, and of what was granted.

use super::*;
use crate::action::Calls;

/// On-call access was granted, for an incident.
pub(super) fn granted() -> Granted {
    let grant = crate::access::Grant {
        id: crate::id::AccessId::new(NOW, 1),
        principal: alice().id,
        chain: Vec::new(),
        target: "shop".parse().unwrap(),
        policy: "on-call".parse().unwrap(),
        ends_at: Timestamp::from_secs(NOW.secs() + 60),
        reason: "INC-7: orders stand still".into(),
    };
    Granted::of([&grant], &alice(), &"shop".parse().unwrap())
}

/// What is decided of a read of `columns`, with a LIMIT or without.
fn read_of(slice: &mut PolicySlice, columns: Option<&[&str]>, limit: Option<u64>) -> Outcome {
    let columns = columns.map(|columns| columns.iter().map(|column| Arc::from(*column)).collect());
    let action = Action { columns, limit, ..on(Verb::SqlSelect, "orders") };
    decide_at(slice, vec![action], &at()).0
}

#[test]
fn columns_limits_and_grants_can_be_asked_for() {
    let permit = |condition: &str| {
        format!("permit (principal, action == Action::\"sql:select\", resource) when {{ {condition} }};")
    };
    let known = r#"context has columns && ["id", "note"].containsAll(context.columns)"#;
    let mut slice = slice_of(&alice(), &[&permit(known)]);
    assert_eq!(read_of(&mut slice, Some(&["id"]), None), Outcome::Permit);
    assert_eq!(read_of(&mut slice, Some(&[]), None), Outcome::Permit);
    // Remembered apart, and what is not known is not permitted.
    assert_eq!(read_of(&mut slice, Some(&["id", "total"]), None), Outcome::Deny);
    assert_eq!(read_of(&mut slice, None, None), Outcome::Deny);
    assert_eq!(read_of(&mut slice, Some(&["note"]), None), Outcome::Permit);
    let mut slice = slice_of(&alice(), &[&permit("context has limit && context.limit <= 100")]);
    assert_eq!(read_of(&mut slice, None, Some(100)), Outcome::Permit);
    assert_eq!(read_of(&mut slice, None, Some(u64::MAX)), Outcome::Deny);
    assert_eq!(read_of(&mut slice, None, None), Outcome::Deny);
    let asked =
        r#"context.granted.contains("on-call") && context has justification && context.justification like "INC-*""#;
    let mut slice = slice_of(&alice(), &[&permit(asked)]);
    assert_eq!(read_of(&mut slice, None, None), Outcome::Deny);
    let mut with = slice.clone().with(granted());
    assert_eq!(read_of(&mut with, None, None), Outcome::Permit);
    // What was remembered with the grant is not known without it.
    assert_eq!(read_of(&mut with.with(Granted::default()), None, None), Outcome::Deny);
    let mut keeps_out = slice_of(
        &alice(),
        &[
            "permit (principal, action, resource is Table);",
            r#"forbid (principal, action == Action::"session:open", resource) unless { context.granted.contains("on-call") };"#,
        ],
    );
    assert!(keeps_out.forbids_session(&at()).is_some());
    keeps_out = keeps_out.with(granted());
    assert!(keeps_out.forbids_session(&at()).is_none());
}

#[test]
fn estimates_are_asked_for_where_a_policy_makes_use_of_them() {
    let few = r#"forbid (principal, action in Action::"sql:write", resource) unless { context has estimatedRows && context.estimatedRows <= 100 };"#;
    let all = "permit (principal, action, resource is Table);";
    let mut slice = slice_of(&alice(), &[all, few]);
    let (writes, reads) = ([on(Verb::SqlDelete, "orders")], [on(Verb::SqlSelect, "orders")]);
    assert!(slice.asks_for_estimate(&writes) && !slice.asks_for_estimate(&reads) && !slice.asks_for_estimate(&[]));
    assert!(!slice_of(&alice(), &[all]).asks_for_estimate(&writes));
    for (rows, expected) in
        [(Some(100), Outcome::Permit), (Some(101), Outcome::Deny), (None, Outcome::Deny), (Some(3), Outcome::Permit)]
    {
        assert_eq!(decide_at(&mut slice, writes.to_vec(), &at().estimated(rows)).0, expected, "{rows:?}");
        assert_eq!(decide_at(&mut slice, reads.to_vec(), &at().estimated(rows)).0, Outcome::Permit);
    }
    // In whatever words.
    let escaped =
        r#"forbid (principal, action == Action::"sql:delete", resource) when { context has "estimated\u{52}ows" };"#;
    assert!(slice_of(&alice(), &[all, escaped]).asks_for_estimate(&writes));
    assert!(Rule::parse(&few.replace("context has estimatedRows && ", "")).is_err());
    assert!(!Rule::parse(few).unwrap().is_of_level_4());
}

#[test]
fn calls_can_be_asked_for_and_what_is_not_known_counts_as_any() {
    let calm = r#"permit (principal, action == Action::"sql:select", resource) when { !context.callsVolatile };"#;
    let own = r#"forbid (principal, action, resource is Table) when { context.callsDefiner };"#;
    let mut slice = slice_of(&alice(), &[calm, own]);
    let mut decide = |calls| {
        let action = Action { calls, ..on(Verb::SqlSelect, "orders") };
        decide_at(&mut slice, vec![action], &at()).0
    };
    let calls = |volatile, definer| Some(Calls { volatile, definer });
    // Remembered apart.
    for _ in 0..2 {
        assert_eq!(decide(calls(false, false)), Outcome::Permit);
        assert_eq!(decide(calls(true, false)), Outcome::Deny);
        assert_eq!(decide(calls(false, true)), Outcome::Deny);
        assert_eq!(decide(None), Outcome::Deny);
    }
    assert!(!Rule::parse(calm).unwrap().is_of_level_4() && !Rule::parse(own).unwrap().is_of_level_4());
}

#[test]
fn what_may_be_missing_has_to_be_asked_for_first() {
    for condition in ["context.columns.contains(\"id\")", "context.limit < 5", "context.justification == \"x\""] {
        let text = format!("permit (principal, action == Action::\"sql:select\", resource) when {{ {condition} }};");
        assert!(Rule::parse(&text).is_err(), "{condition}");
    }
}

#[test]
fn what_older_gateways_know_is_told_apart() {
    for (condition, older) in [
        ("context.readOnly", true),
        // A word is not yet a use of it.
        ("resource.name == \"columns\"", true),
        ("context has columns && context.columns.contains(\"id\")", false),
        ("context has limit && context.limit < 5", false),
        ("context has \"l\\u{69}mit\"", false),
        ("context.granted.contains(\"p\")", false),
        ("context has justification", false),
        ("context.callsVolatile", false),
        ("context[\"callsDefiner\"]", false),
        // It would be valid without, and decide otherwise.
        ("context.readOnly || (context has columns && context.columns.contains(\"id\"))", false),
        ("!(context has estimatedRows && context.estimatedRows < 5)", false),
        ("(if context.readOnly then context else context) has limit", false),
    ] {
        let text = format!("forbid (principal, action == Action::\"sql:select\", resource) when {{ {condition} }};");
        let rule = Rule::parse(&text).unwrap();
        assert_eq!(rule.is_of_level_4(), older, "{condition}");
        let instead = rule.forbidding("too old").unwrap();
        assert!(instead.is_of_level_4() && instead.effect() == Effect::Deny, "{condition}");
        assert_eq!(instead.text().contains("when"), older, "{condition}");
    }
}
