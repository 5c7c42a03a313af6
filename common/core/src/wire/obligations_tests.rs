use super::*;
use crate::delta::Delta;
use crate::name::Name;
use crate::policy::cedar::Rule;
use crate::policy::{ActionPattern, Pattern, Policy, PrincipalSelector};
use crate::resource::{Resource, Spec};
use crate::snapshot::Snapshot;
use crate::target::TargetSelector;
use crate::wire::older;
use crate::wire::resource::{from_proto, to_proto};
use crate::wire::snapshot;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn asked() -> Obligations {
    let masks = ["contact", "salary"].into_iter().map(name).collect();
    let groups = ["dba", "security"].map(str::to_owned).into_iter().collect();
    Obligations {
        row_limit: NonZeroU64::new(10),
        statement_timeout: Some(Ttl(30)),
        read_only: true,
        durability: None,
        masks,
        reviews: [ReviewAfterwards { groups, within: Ttl(7_200) }].into_iter().collect(),
    }
}

fn selects(obligations: Obligations) -> Policy {
    Policy {
        principals: PrincipalSelector { groups: vec!["analysts".into()], ..Default::default() },
        targets: TargetSelector { names: vec!["shop".into()], ..Default::default() },
        actions: vec![ActionPattern::parse("sql:select").unwrap()],
        resources: vec![Pattern::parse("public.*").unwrap()],
        obligations,
        ..Policy::new(Effect::Permit)
    }
}

fn in_cedar(text: &str) -> Policy {
    let spec = pb::PolicySpec { effect: pb::Effect::Cedar.into(), cedar: text.into(), ..Default::default() };
    let metadata = pb::Metadata { name: "c".into(), ..Default::default() };
    let resource = pb::Resource { metadata: Some(metadata), spec: Some(pb::resource::Spec::Policy(spec)) };
    match from_proto(resource).unwrap().spec {
        Spec::Policy(policy) => policy,
        _ => unreachable!(),
    }
}

fn resource(of: &str, policy: Policy) -> Resource {
    let metadata = from_proto(pb::Resource {
        metadata: Some(pb::Metadata { name: of.into(), ..Default::default() }),
        spec: Some(pb::resource::Spec::Policy(pb::PolicySpec {
            effect: pb::Effect::Permit.into(),
            principals: Some(pb::PrincipalSelector { groups: vec!["x".into()], ..Default::default() }),
            targets: Some(pb::TargetSelector { names: vec!["x".into()], ..Default::default() }),
            actions: vec!["*".into()],
            ..Default::default()
        })),
    });
    Resource { metadata: metadata.unwrap().metadata, spec: Spec::Policy(policy) }
}

const CEDAR: &str = "@rowLimit(\"10\")@statementTimeout(\"30s\")@readOnly@mask(\"salary, contact\")@review(\"security, dba\")@reviewWithin(\"2h\") permit (principal in Group::\"analysts\", action in Action::\"sql:read\", resource) when { resource has name && resource.name != \"payroll\" };";

#[test]
fn obligations_come_back_as_they_went() {
    let policy = resource("p", selects(asked()));
    assert_eq!(from_proto(to_proto(&policy)), Ok(policy.clone()));
    let in_cedar = in_cedar(CEDAR);
    assert_eq!(in_cedar.obligations, asked());
    let resource = resource("c", in_cedar);
    // Said by the text alone.
    let proto = to_proto(&resource);
    let Some(pb::resource::Spec::Policy(spec)) = &proto.spec else { panic!() };
    assert_eq!(spec.obligations, None);
    assert_eq!(from_proto(proto), Ok(resource));
}

#[test]
fn what_means_nothing_is_refused() {
    let faults = |change: &dyn Fn(&mut pb::PolicySpec)| {
        let mut proto = to_proto(&resource("p", selects(asked())));
        let Some(pb::resource::Spec::Policy(spec)) = &mut proto.spec else { panic!() };
        change(spec);
        from_proto(proto).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert!(faults(&|spec| spec.effect = pb::Effect::Deny.into()).contains("spec.obligations: has no meaning"));
    assert!(faults(&|spec| spec.obligations = Some(pb::Obligations::default())).contains("at least one obligation"));
    let too_long = |spec: &mut pb::PolicySpec| {
        spec.obligations.as_mut().unwrap().statement_timeout_seconds = 86_401;
    };
    assert!(faults(&too_long).contains("spec.obligations.statementTimeout: must be at most 86400"));
    let nobody = |spec: &mut pb::PolicySpec| {
        spec.obligations.as_mut().unwrap().reviews_afterwards = vec![pb::ReviewAfterwards::default()];
    };
    assert!(faults(&nobody).contains("spec.obligations.reviewAfterwards.groups: must name at least one group"));
    let late = |spec: &mut pb::PolicySpec| {
        spec.obligations.as_mut().unwrap().reviews_afterwards[0].within_seconds = 2_592_001;
    };
    assert!(faults(&late).contains("spec.obligations.reviewAfterwards.within: must be at most 2592000"));
    for (annotation, says) in [
        ("@rowLimit(\"0\")", "at least 1"),
        ("@rowLimit(\"many\")", "at least 1"),
        ("@statementTimeout(\"0s\")", "1s to 24h"),
        ("@statementTimeout(\"30\")", "must be a duration"),
        ("@statementTimeout(\"25h\")", "1s to 24h"),
        ("@readOnly(\"no\")", "says all by its name"),
        ("@mask(\"\")", "at least one MaskingRule"),
        ("@mask(\"Not a name\")", "must name MaskingRules"),
        ("@review(\" , \")", "at least one group of reviewers"),
        ("@reviewWithin(\"2h\")", "at least one group of reviewers"),
        ("@review(\"dba\")@reviewWithin(\"0s\")", "1s to 30d"),
        ("@review(\"dba\")@reviewWithin(\"31d\")", "1s to 30d"),
        ("@durability(\"fast\")", "must be \"quorum\", \"spooled\" or \"buffered\""),
        ("@readonly", "no annotation that Postern knows"),
    ] {
        let told = Rule::parse(&format!("{annotation} permit (principal, action, resource);")).unwrap_err().to_string();
        assert!(told.contains(says), "{annotation}: {told}");
        let forbids = Rule::parse(&format!("{annotation} forbid (principal, action, resource);"));
        assert!(forbids.is_err());
    }
}

/// A gateway of level 4 passes over fields that it does not know.
fn as_level_4(mut proto: postern_proto::gateway::v1::Snapshot) -> postern_proto::gateway::v1::Snapshot {
    proto.newer = Vec::new();
    proto
}

#[test]
fn a_gateway_that_does_not_know_obligations_denies_what_they_bind() {
    let mut known = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    known.put(resource("p", selects(asked()))).unwrap();
    known.put(resource("c", in_cedar(CEDAR))).unwrap();
    known.put(resource("plain", selects(Obligations::default()))).unwrap();
    let proto = snapshot::to_proto(&known);
    assert_eq!(snapshot::from_proto(proto.clone()).unwrap().policies, known.policies);
    let older = snapshot::from_proto(as_level_4(proto)).unwrap();
    let p = older.policies.get(&name("p")).unwrap();
    assert_eq!(
        (p.effect, &p.actions, &p.obligations),
        (Effect::Deny, &selects(asked()).actions, &Obligations::default())
    );
    let c = older.policies.get(&name("c")).unwrap();
    assert_eq!(c.effect, Effect::Deny);
    let text = c.cedar.as_ref().unwrap().text();
    assert!(text.contains("forbid") && text.contains("payroll") && !text.contains("rowLimit"), "{text}");
    assert_eq!(older.policies.get(&name("plain")).unwrap().effect, Effect::Permit);
}

#[test]
fn a_gateway_that_does_not_know_classes_of_durability_denies_what_they_bind() {
    let quorum = Obligations { durability: Some(Durability::Quorum), ..asked() };
    let cedar = in_cedar("@durability(\"buffered\") permit (principal, action, resource);");
    assert_eq!(cedar.obligations, Obligations { durability: Some(Durability::Buffered), ..Obligations::default() });
    let mut known = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    known.put(resource("p", selects(quorum.clone()))).unwrap();
    known.put(resource("c", cedar.clone())).unwrap();
    known.put(resource("known", selects(asked()))).unwrap();
    let proto = snapshot::to_proto(&known);
    assert_eq!(snapshot::from_proto(proto.clone()).unwrap().policies, known.policies);
    // A gateway of level 5 passes over the field, and one of level 4 over both.
    for newer in [proto.newer.clone(), Vec::new()] {
        let knows = !newer.is_empty();
        let seen = postern_proto::gateway::v1::Snapshot { newer, newest: Vec::new(), ..proto.clone() };
        let seen = snapshot::from_proto(seen).unwrap();
        let effect = |of| seen.policies.get(&name(of)).unwrap().effect;
        assert_eq!((effect("p"), effect("c")), (Effect::Deny, Effect::Deny));
        assert_eq!(effect("known") == Effect::Permit, knows);
    }
    let mut before = Snapshot { revision: 3, ..Snapshot::empty("c", "i") };
    before.put(resource("p", selects(asked()))).unwrap();
    let delta = Delta {
        incarnation: "i".into(),
        from_revision: 3,
        revision: 4,
        upserts: vec![resource("p", selects(quorum.clone())), resource("c", cedar)],
        ..Delta::default()
    };
    let proto = snapshot::delta_to_proto(&delta);
    let now = before.apply(snapshot::delta_from_proto(proto.clone()).unwrap()).unwrap();
    assert_eq!(now.policies.get(&name("p")).unwrap().obligations, quorum);
    let seen = postern_proto::gateway::v1::Delta { newest: Vec::new(), ..proto };
    let seen = before.apply(snapshot::delta_from_proto(seen).unwrap()).unwrap();
    for of in ["p", "c"] {
        assert_eq!(seen.policies.get(&name(of)).unwrap().effect, Effect::Deny, "{of}");
    }
}

#[test]
fn a_class_that_is_not_known_is_refused() {
    let mut proto = to_proto(&resource("p", selects(asked())));
    if let Some(pb::resource::Spec::Policy(policy)) = &mut proto.spec {
        policy.obligations = Some(pb::Obligations { durability: 9, ..Default::default() });
    }
    let faults = from_proto(proto).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].path, "spec.obligations.durability");
}

#[test]
fn it_follows_changes_likewise() {
    let mut before = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    for of in ["p", "c"] {
        before.put(resource(of, selects(Obligations::default()))).unwrap();
    }
    let delta = Delta {
        incarnation: "i".into(),
        from_revision: 4,
        revision: 5,
        upserts: vec![resource("p", selects(asked())), resource("c", in_cedar(CEDAR))],
        ..Delta::default()
    };
    let proto = snapshot::delta_to_proto(&delta);
    let now = before.apply(snapshot::delta_from_proto(proto.clone()).unwrap()).unwrap();
    assert_eq!(now.policies.get(&name("p")).unwrap().obligations, asked());
    assert_eq!(now.policies.get(&name("c")).unwrap().obligations, asked());
    let mut older = proto;
    older.newer = Vec::new();
    let older = before.apply(snapshot::delta_from_proto(older).unwrap()).unwrap();
    for of in ["p", "c"] {
        assert_eq!(older.policies.get(&name(of)).unwrap().effect, Effect::Deny, "{of}");
    }
    // And back.
    let back =
        Delta { from_revision: 5, revision: 6, upserts: vec![resource("p", selects(Obligations::default()))], ..delta };
    let back = snapshot::delta_from_proto(snapshot::delta_to_proto(&back)).unwrap();
    assert_eq!(older.apply(back.clone()).unwrap().policies.get(&name("p")).unwrap().effect, Effect::Permit);
    assert!(now.apply(back).unwrap().policies.get(&name("p")).unwrap().obligations.is_empty());
}

#[test]
fn what_is_permitted_on_request_is_gone_there() {
    let asked_for = pb::OnRequest {
        review: vec![pb::Reviewers { groups: vec!["dba".into()], count: 1 }],
        ..pb::OnRequest::default()
    };
    let on_request = crate::wire::access::on_request(asked_for, &mut Faults::default());
    let mut known = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    let policy = Policy { on_request: Some(Box::new(on_request)), ..selects(asked()) };
    known.put(resource("p", policy.clone())).unwrap();
    assert!(older::instead_of(&policy).is_none());
    let older = snapshot::from_proto(as_level_4(snapshot::to_proto(&known))).unwrap();
    assert!(older.policies.is_empty());
}

#[test]
fn what_asks_for_what_older_gateways_do_not_know_is_denied_there_or_missed() {
    let asks = "when { context has columns && context.columns.contains(\"email\") }";
    let rule =
        |effect: &str| in_cedar(&format!("{effect} (principal, action == Action::\"sql:select\", resource) {asks};"));
    let mut known = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    known.put(resource("forbids", rule("forbid"))).unwrap();
    known.put(resource("holds", rule("@approval(\"dba\") permit"))).unwrap();
    known.put(resource("limits", rule("@sessions(\"1\") permit"))).unwrap();
    known.put(resource("permits", rule("permit"))).unwrap();
    let proto = snapshot::to_proto(&known);
    assert_eq!(snapshot::from_proto(proto.clone()).unwrap().policies, known.policies);
    let older = snapshot::from_proto(as_level_4(proto)).unwrap();
    for of in ["forbids", "holds", "limits"] {
        let policy = older.policies.get(&name(of)).unwrap();
        assert_eq!(policy.effect, Effect::Deny, "{of}");
        assert!(policy.is_of_level_4() && !policy.cedar.as_ref().unwrap().text().contains("columns"), "{of}");
    }
    assert!(older.policies.get(&name("permits")).is_none());
    // One that was known is gone, not kept as it was.
    let plain = in_cedar("permit (principal, action, resource);");
    let mut before = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    before.put(resource("permits", plain)).unwrap();
    let delta = Delta {
        incarnation: "i".into(),
        from_revision: 4,
        revision: 5,
        upserts: vec![resource("permits", rule("permit"))],
        ..Delta::default()
    };
    let mut proto = snapshot::delta_to_proto(&delta);
    let now = before.apply(snapshot::delta_from_proto(proto.clone()).unwrap()).unwrap();
    assert_eq!(now.policies.get(&name("permits")), Some(&rule("permit")));
    proto.newer = Vec::new();
    let older = before.apply(snapshot::delta_from_proto(proto).unwrap()).unwrap();
    assert!(older.policies.get(&name("permits")).is_none());
}

#[test]
fn a_rule_that_policies_ask_for_is_gone_where_they_are_not_known() {
    use crate::masking::{MaskFunction, MaskingRule};
    let rule = |only_by_policy| MaskingRule {
        targets: if only_by_policy { TargetSelector::default() } else { selects(asked()).targets },
        columns: Pattern::parse("public.customers.email").into_iter().collect(),
        mask: MaskFunction::Hash,
        only_by_policy,
        ..MaskingRule::default()
    };
    let object = |rule: MaskingRule| {
        let metadata = resource("contact", selects(Obligations::default())).metadata;
        Resource { metadata, spec: Spec::MaskingRule(rule) }
    };
    assert_eq!(from_proto(to_proto(&object(rule(true)))), Ok(object(rule(true))));
    let mut known = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    known.put(object(rule(true))).unwrap();
    let proto = snapshot::to_proto(&known);
    assert_eq!(snapshot::from_proto(proto.clone()).unwrap().masking, known.masking);
    assert!(snapshot::from_proto(as_level_4(proto)).unwrap().masking.is_empty());
    let mut before = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    before.put(object(rule(false))).unwrap();
    let delta = Delta {
        incarnation: "i".into(),
        from_revision: 4,
        revision: 5,
        upserts: vec![object(rule(true))],
        ..Delta::default()
    };
    let mut proto = snapshot::delta_to_proto(&delta);
    let now = before.apply(snapshot::delta_from_proto(proto.clone()).unwrap()).unwrap();
    assert_eq!(now.masking.get(&name("contact")), Some(&rule(true)));
    proto.newer = Vec::new();
    assert!(before.apply(snapshot::delta_from_proto(proto).unwrap()).unwrap().masking.is_empty());
}
