use std::net::IpAddr;

use bytes::Bytes;
use cedar_policy::{Entities, Entity, Request};
use proptest::prelude::*;

use super::*;
use crate::action::{Action, Object, ObjectKind, Verb};
use crate::id::{DecisionId, OperationId, SessionId};
use crate::kept::KeptClaims;
use crate::operation::Operation;
use crate::policy::{Circumstances, Freshness, Granted, Outcome, Policy, PolicySlice, Verdict};
use crate::principal::{Actor, Link, PrincipalId};
use crate::snapshot::Table;
use crate::time::Timestamp;
use crate::wire::resource::{from_proto, to_proto};

/// Sunday the 22nd of November 2026, 08:30 UTC.
const NOW: Timestamp = Timestamp::from_secs(1_795_336_200);

fn alice() -> Principal {
    let mut claims = KeptClaims::default();
    assert!(claims.keep("repository", vec!["acme/shop".into()]));
    Principal {
        id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "alice".into() },
        groups: ["analysts".into()].into(),
        token_id: Some("tok_1".into()),
        expires_at: None,
        chain: Vec::new(),
        claims,
    }
}

fn labels() -> BTreeMap<String, String> {
    [("env".to_owned(), "prod".to_owned())].into()
}

fn policy(text: &str) -> Policy {
    let spec = postern_proto::resource::v1::PolicySpec {
        effect: postern_proto::resource::v1::Effect::Cedar.into(),
        cedar: text.to_owned(),
        ..Default::default()
    };
    let metadata = postern_proto::resource::v1::Metadata { name: "p".into(), ..Default::default() };
    let spec = Some(postern_proto::resource::v1::resource::Spec::Policy(spec));
    let object = postern_proto::resource::v1::Resource { metadata: Some(metadata), spec };
    let read = from_proto(object).unwrap_or_else(|faults| panic!("{text}: {faults:?}"));
    // It comes back as it went.
    assert_eq!(from_proto(to_proto(&read)).unwrap(), read);
    match read.spec {
        crate::resource::Spec::Policy(policy) => policy,
        _ => panic!(),
    }
}

fn slice_of(principal: &Principal, texts: &[&str]) -> PolicySlice {
    let named = texts.iter().enumerate();
    let policies: Table<Policy> =
        named.map(|(place, text)| (format!("p{place}").parse().unwrap(), policy(text))).collect();
    PolicySlice::new(7, policies.shared(), principal, &"shop".parse().unwrap(), &labels())
}

fn on(verb: Verb, table: &str) -> Action {
    let bounded = (verb == Verb::SqlDelete).then_some(true);
    Action::new(verb, Object::new(ObjectKind::Relation, ["shop", "public", table])).bounded(bounded)
}

fn operation(actions: Vec<Action>) -> Operation {
    Operation::new(OperationId::new(NOW, 2), SessionId::new(NOW, 1), Bytes::from_static(b"x"), vec![], actions)
}

fn at() -> Circumstances {
    Circumstances::new(NOW, Freshness::CONFIRMED)
}

fn decide_at(slice: &mut PolicySlice, actions: Vec<Action>, at: &Circumstances) -> (Outcome, String) {
    match slice.decide(&operation(actions), DecisionId::new(NOW, 3), at) {
        Verdict::Permit(_, record) => (record.outcome, record.reason),
        Verdict::Hold(held) => (held.decision.outcome, held.decision.reason),
        Verdict::Deny(denial) => (denial.decision.outcome, denial.decision.reason),
    }
}

fn decide(texts: &[&str], verb: Verb, table: &str) -> Outcome {
    decide_at(&mut slice_of(&alice(), texts), vec![on(verb, table)], &at()).0
}

const READS: &str =
    r#"permit (principal in Group::"analysts", action in Action::"sql:read", resource in Target::"shop");"#;

#[test]
fn heads_are_followed() {
    for (text, permits) in [
        (READS, true),
        (r#"permit (principal, action, resource);"#, true),
        (r#"permit (principal == Principal::"corp/alice", action == Action::"sql:select", resource);"#, true),
        (r#"permit (principal in Issuer::"corp", action in Action::"sql:*", resource is Table);"#, true),
        (r#"permit (principal in Token::"tok_1", action, resource in Schema::"shop/shop.public");"#, true),
        (r#"permit (principal, action, resource == Table::"shop/shop.public.orders");"#, true),
        (r#"permit (principal, action, resource in Database::"shop/shop");"#, true),
        (r#"permit (principal in Group::"dba", action, resource);"#, false),
        (r#"permit (principal == Principal::"corp/bob", action, resource);"#, false),
        (r#"permit (principal in Issuer::"ci", action, resource);"#, false),
        (r#"permit (principal in Token::"tok_2", action, resource);"#, false),
        (r#"permit (principal, action in Action::"sql:write", resource);"#, false),
        (r#"permit (principal, action, resource in Target::"bank");"#, false),
        (r#"permit (principal, action, resource in Schema::"shop/shop.private");"#, false),
        (r#"permit (principal, action, resource is Function);"#, false),
    ] {
        let expected = if permits { Outcome::Permit } else { Outcome::Deny };
        assert_eq!(decide(&[text], Verb::SqlSelect, "orders"), expected, "{text}");
    }
}

#[test]
fn conditions_are_followed() {
    let inside: IpAddr = "10.1.2.3".parse().unwrap();
    let mut child = alice();
    child.chain = vec![
        Link { token: "tok_0".into(), actor: None, scope: Default::default() },
        Link {
            token: "tok_1".into(),
            actor: Some(Actor { issuer: None, name: "planner".into() }),
            scope: Default::default(),
        },
    ];
    for (condition, holds) in [
        (r#"principal.hasTag("repository") && principal.getTag("repository").contains("acme/shop")"#, true),
        (r#"principal.hasTag("branch")"#, false),
        (r#"resource.target.hasTag("env") && resource.target.getTag("env") == "prod""#, true),
        (r#"resource is Table && resource.schema == "public" && resource.name like "ord*""#, true),
        (r#"resource is Table && resource.schema == "private""#, false),
        ("context.weekday == 7 && context.hour == 8 && context.minute == 30", true),
        ("context.hour < 8 || context.hour >= 18", false),
        (r#"context.now < datetime("2026-11-23")"#, true),
        (r#"context.now.toDate() > datetime("2026-11-23")"#, false),
        (r#"context has source && context.source.isInRange(ip("10.0.0.0/8"))"#, true),
        (r#"context has source && context.source.isInRange(ip("10.9.0.0/16"))"#, false),
        ("context.readOnly", true),
        ("context has inTransaction && context.inTransaction", true),
        ("context has bounded", false),
        (r#"principal.depth == 1 && principal.actors.contains("planner")"#, true),
        ("principal.depth > 1", false),
        (r#"principal in Token::"tok_0""#, true),
    ] {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        // session:open has no resource with a schema and no statement: the condition is for statements.
        let text = text.replace("action,", "action == Action::\"sql:select\",");
        let expected = if holds { Outcome::Permit } else { Outcome::Deny };
        let at = at().from(inside).in_transaction(Some(true));
        let found = decide_at(&mut slice_of(&child, &[&text]), vec![on(Verb::SqlSelect, "orders")], &at);
        assert_eq!(found.0, expected, "{condition}: {}", found.1);
    }
}

#[test]
fn what_forbids_outranks_what_permits_and_says_why() {
    let forbids =
        r#"@reason("ask the owners") forbid (principal, action in Action::"sql:write", resource in Target::"shop");"#;
    let both = ["permit (principal, action, resource);", forbids];
    assert_eq!(decide(&both, Verb::SqlSelect, "orders"), Outcome::Permit);
    let found = decide_at(&mut slice_of(&alice(), &both), vec![on(Verb::SqlDelete, "orders")], &at());
    let reason = "sql:delete on shop.public.orders is denied by policy p1: ask the owners";
    assert_eq!(found, (Outcome::Deny, reason.to_owned()));
    // All that is sent together is decided together.
    let together = vec![on(Verb::SqlSelect, "orders"), on(Verb::SqlDelete, "orders")];
    assert_eq!(decide_at(&mut slice_of(&alice(), &both), together, &at()).0, Outcome::Deny);
}

#[test]
fn annotations_say_what_follows() {
    let held = r#"@id("x") @approval("dba, leads") @approvalCount("2") @approvalExpires("5m") @approvalWhenAway("wait")
        @reason("writes are reviewed") @maxStaleness("30s") @onStale("keep") @sessions("3") @operationsPerSecond("50")
        permit (principal, action, resource);"#;
    let read = policy(held);
    let asked = read.approval.clone().unwrap();
    assert_eq!((asked.groups.join("+").as_str(), asked.count, asked.expires.0), ("dba+leads", 2, 300));
    assert!(read.waits && read.staleness.max.unwrap().as_secs() == 30);
    assert_eq!((read.limits.sessions, read.limits.operations_per_second), (3, 50));
    assert_eq!(decide(&[held], Verb::SqlDelete, "orders"), Outcome::Hold);
    assert_eq!(decide(&[held, "permit (principal, action, resource);"], Verb::SqlDelete, "orders"), Outcome::Hold);
}

#[test]
fn what_is_wrong_is_refused_with_a_reason() {
    let text = |annotations: &str| format!("{annotations} permit (principal, action, resource);");
    let when = |condition: &str| format!("permit (principal, action, resource) when {{ {condition} }};");
    for (text, says) in [
        (String::new(), "not one policy"),
        ("permit (principal, action, resource); permit (principal, action, resource);".into(), "not one policy"),
        ("permit (principal == ?principal, action, resource);".into(), "not one policy"),
        (when("resource.color == \"red\""), "color"),
        (when("principal.depth == \"1\""), ""),
        (when("principal.getTag(\"repository\").contains(\"x\")"), "tag"),
        (r#"permit (principal, action == Action::"sql:selct", resource);"#.into(), "sql:selct"),
        (r#"permit (principal in Team::"x", action, resource);"#.into(), "Team"),
        (r#"permit (principal, action == Action::"sql:notify", resource is Table);"#.into(), "unable to find"),
        (when("false"), "impossible"),
        (text(r#"@aproval("dba")"#), "no annotation that Postern knows"),
        (text(r#"@approval("")"#), "at least one group"),
        (text(r#"@approvalCount("2")"#), "at least one group"),
        (text(r#"@approval("dba") @approvalCount("0")"#), "1 to 16"),
        (text(r#"@approval("dba") @approvalExpires("2d")"#), "1s to 24h"),
        (text(r#"@maxStaleness("soon")"#), "duration"),
        (text(r#"@sessions("0")"#), "at least 1"),
        (r#"@approval("dba") forbid (principal, action, resource);"#.into(), "no meaning with what forbids"),
        (when(&format!("{}true{}", "(".repeat(80), ")".repeat(80))), "nested deeper"),
        (when(&format!("principal.subject == \"{}\"", "x".repeat(MAX_POLICY))), "longer than"),
    ] {
        let error = Rule::parse(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{}: {error}", start(&text));
    }
}

#[test]
fn a_file_names_its_policies() {
    let file = "// Two.\n@id(\"one\")\npermit (principal, action, resource);\n\n@id(\"two\")\nforbid (principal, action, resource);\n";
    let rules = Rule::parse_all(file).unwrap();
    let named: Vec<(&str, Effect)> = rules.iter().map(|(name, rule)| (name.as_str(), rule.effect())).collect();
    assert_eq!(named, [("one", Effect::Permit), ("two", Effect::Deny)]);
    for (file, says) in [
        ("permit (principal, action, resource);", "no @id"),
        (r#"@id("A b") permit (principal, action, resource);"#, "A b"),
        (r#"@id("a") permit (principal, action, resource); @id("a") permit (principal, action, resource);"#, "two"),
        (r#"@id("a") permit (principal, action, resource) when { context.color };"#, "policy a"),
    ] {
        let error = Rule::parse_all(file).unwrap_err().to_string();
        assert!(error.contains(says), "{file}: {error}");
    }
}

/// Cedar passes by what it cannot evaluate. What was to forbid would then permit (I3).
#[test]
fn what_cannot_be_evaluated_permits_nothing() {
    let overflows = r#"forbid (principal, action, resource) when { 9223372036854775807 + context.hour > 0 };"#;
    let found = decide_at(&mut slice_of(&alice(), &[READS, overflows]), vec![on(Verb::SqlSelect, "orders")], &at());
    assert_eq!(found, (Outcome::Deny, "policy p1 cannot be evaluated here".to_owned()));
    assert!(slice_of(&alice(), &[READS, overflows]).forbids_session(&at()).is_some());
}

#[test]
fn a_session_is_forbidden_by_what_speaks_of_it() {
    let outside = r#"@reason("from the office only") forbid (principal, action, resource)
        when { !(context has source && context.source.isInRange(ip("10.0.0.0/8"))) };"#;
    let slice = slice_of(&alice(), &[READS, outside]);
    let forbidden = |at: &Circumstances| slice.forbids_session(at).map(|(_, said)| said);
    assert_eq!(forbidden(&at().from("10.0.0.1".parse().unwrap())), None);
    let said = "sessions are denied by policy p1: from the office only";
    assert_eq!(forbidden(&at().from("192.0.2.1".parse().unwrap())).as_deref(), Some(said));
    assert_eq!(forbidden(&at()).as_deref(), Some(said));
    // What forbids some actions leaves the session.
    let writes = r#"forbid (principal, action in Action::"sql:write", resource);"#;
    assert!(slice_of(&alice(), &[READS, writes]).forbids_session(&at()).is_none());
    let all = slice_of(&alice(), &[READS, r#"forbid (principal, action, resource in Target::"shop");"#]);
    assert!(!all.permits_anything());
    assert!(
        slice_of(&alice(), &[READS, r#"forbid (principal in Group::"dba", action, resource);"#]).permits_anything()
    );
}

#[test]
fn time_is_asked_for_anew() {
    let mornings = r#"permit (principal, action, resource) when { context.hour < 9 };"#;
    let mut slice = slice_of(&alice(), &[mornings]);
    let mut then = |minutes: u64| {
        let at = Circumstances::new(Timestamp::from_secs(NOW.secs() + minutes * 60), Freshness::CONFIRMED);
        decide_at(&mut slice, vec![on(Verb::SqlSelect, "orders")], &at).0
    };
    assert_eq!(
        (then(0), then(29), then(30), then(0)),
        (Outcome::Permit, Outcome::Permit, Outcome::Deny, Outcome::Permit)
    );
    for (text, timed) in [
        ("context.hour", true),
        ("context[\"minute\"]", true),
        ("context == {}", true),
        ("context.readOnly && context has bounded", false),
        ("principal.depth", false),
    ] {
        assert_eq!(Asks::of(text).time, timed, "{text}");
    }
}

/// What is told to Cedar is what the schema says, or a checked policy could still fail.
#[test]
fn everything_asked_is_of_the_schema() {
    let schema = VALIDATOR.as_ref().unwrap().schema();
    let types = Types::get().unwrap();
    let (target, alice) = ("shop".parse().unwrap(), alice());
    let mut kinds = 0;
    for action in schema.actions() {
        let name = action.id().unescaped();
        let Ok(verb) = name.parse::<Verb>() else { continue };
        let mut groups: Vec<&str> = schema
            .action_groups()
            .filter(|group| Entities::is_ancestor_of(&schema.action_entities().unwrap(), group, action))
            .map(|group| group.id().unescaped())
            .collect();
        groups.sort_unstable();
        let mut ours = entities::groups_of(verb).to_vec();
        ours.sort_unstable();
        assert_eq!(groups, ours, "{name}");
        for kind in schema.resources_for_action(action).unwrap() {
            let (kind, path): (_, &[&str]) = match kind.to_string().as_str() {
                "Table" => (ObjectKind::Relation, &["shop", "public", "odd.name"]),
                "Function" => (ObjectKind::Routine, &["shop", "public", "f"]),
                "Schema" => (ObjectKind::Schema, &["shop", "public"]),
                "Database" => (ObjectKind::Database, &["shop"]),
                "Role" => (ObjectKind::Role, &["owner"]),
                "Setting" => (ObjectKind::Setting, &["work_mem"]),
                "Channel" => (ObjectKind::Channel, &["c"]),
                "Server" => (ObjectKind::Server, &["system", "load"]),
                other => panic!("{other}"),
            };
            kinds += 1;
            let resource = types.resource_entity(&target, &Object::new(kind, path.iter().copied())).unwrap();
            let entities: Vec<Entity> = vec![
                types.principal_entity(&alice).unwrap(),
                types.target_entity(&target, &labels()).unwrap(),
                resource.clone(),
            ];
            Entities::from_entities(entities, Some(schema)).unwrap();
            let mut action_of = Action::new(verb, Object::new(kind, path.iter().copied())).bounded(Some(true));
            if matches!(verb, Verb::SqlSelect | Verb::SqlInsert | Verb::SqlUpdate) {
                action_of.columns = Some(["id".into()].into_iter().collect());
                action_of.limit = Some(7);
            }
            let at = at().in_transaction(Some(false)).estimated(Some(9));
            let context = rules::context_of_statement(true, &action_of, &at, &facts::granted()).unwrap();
            Request::new(types.principal(&alice), action.clone(), resource.uid(), context, Some(schema)).unwrap();
        }
    }
    assert!(
        kinds > 40
            && Verb::ALL.iter().all(|verb| schema.actions().any(|known| known.id().unescaped() == verb.as_str()))
    );
}

#[test]
fn names_that_hold_dots_are_told_apart() {
    let types = Types::get().unwrap();
    let id = |path: &[&str]| {
        let object = Object::new(ObjectKind::Relation, path.iter().copied());
        types.resource_entity(&"shop".parse().unwrap(), &object).unwrap().uid().id().unescaped().to_owned()
    };
    assert_eq!(id(&["shop", "public", "orders"]), "shop/shop.public.orders");
    assert_eq!(id(&["shop", "a.b", "c"]), r#"shop/shop."a.b".c"#);
    assert_ne!(id(&["shop", "a", "b.c"]), id(&["shop", "a.b", "c"]));
    assert_ne!(id(&["shop", "a", "\"b\""]), id(&["shop", "a", "b"]));
}

fn a_rule() -> impl Strategy<Value = String> {
    let whom = prop::sample::select(vec![
        "principal",
        "principal is Principal",
        r#"principal == Principal::"corp/alice""#,
        r#"principal == Principal::"corp/bob""#,
        r#"principal in Group::"analysts""#,
        r#"principal in Group::"dba""#,
        r#"principal is Principal in Token::"tok_1""#,
    ]);
    let does = prop::sample::select(vec![
        "action",
        r#"action == Action::"sql:select""#,
        r#"action in Action::"sql:*""#,
        r#"action in [Action::"sql:write", Action::"sql:select"]"#,
    ]);
    let what = prop::sample::select(vec![
        "resource",
        "resource is Table",
        r#"resource in Target::"shop""#,
        r#"resource in Target::"bank""#,
        r#"resource in Schema::"shop/shop.public""#,
        r#"resource == Table::"shop/shop.public.orders""#,
        r#"resource == Table::"bank/shop.public.orders""#,
        r#"resource is Table in Database::"bank/shop""#,
    ]);
    let when = prop::sample::select(vec!["", "", "when { context.hour < 9 }", "unless { principal.depth > 0 }"]);
    (any::<bool>(), whom, does, what, when).prop_map(|(permits, whom, does, what, when)| {
        format!("{} ({whom}, {does}, {what}) {when};", if permits { "permit" } else { "forbid" })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Slicing takes away what cannot apply, and nothing else; answers that are remembered are those that would be given.
    #[test]
    fn a_slice_decides_as_cedar_does_over_everything(texts in prop::collection::vec(a_rule(), 1..6), which in 0..3_usize, hours in 0..3_u64) {
        let action = on([Verb::SqlSelect, Verb::SqlDelete, Verb::SqlCreate][which], "orders");
        let now = Timestamp::from_secs(NOW.secs() + hours * 3_600);
        let at = Circumstances::new(now, Freshness::CONFIRMED);
        let texts: Vec<&str> = texts.iter().map(String::as_str).filter(|text| Rule::parse(text).is_ok()).collect();
        let all: Vec<(Name, Arc<Policy>)> =
            texts.iter().enumerate().map(|(place, text)| (format!("p{place}").parse().unwrap(), Arc::new(policy(text)))).collect();
        let whole = Rules::of(&all, &alice(), &"shop".parse().unwrap(), &labels()).unwrap();
        let answer = whole.map(|rules| rules.on_action(&action, action.verb == Verb::SqlSelect, &at, &Granted::default())).unwrap_or_default();
        let applies = |effect| all.iter().enumerate().any(|(place, (_, policy))| policy.effect == effect && answer.applies(place));
        let expected = if applies(Effect::Permit) && !applies(Effect::Deny) { Outcome::Permit } else { Outcome::Deny };
        let mut slice = slice_of(&alice(), &texts);
        for _ in 0..2 {
            prop_assert_eq!(decide_at(&mut slice, vec![action.clone()], &at).0, expected);
        }
    }
}

#[path = "facts_tests.rs"]
mod facts;
