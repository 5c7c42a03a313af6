use super::*;
use crate::time::Timestamp;
use crate::wire::snapshot as wire;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn object(text: &str, spec: Spec) -> Resource {
    let at = Timestamp::default();
    let labels = BTreeMap::new();
    Resource { metadata: Metadata { name: name(text), labels, revision: 0, created_at: at, updated_at: at }, spec }
}

fn rule(group: &str) -> Spec {
    Spec::MaskingRule(MaskingRule {
        targets: crate::target::TargetSelector { names: vec!["*".into()], ..Default::default() },
        columns: vec![crate::policy::Pattern::parse("public.people.email").unwrap()],
        mask: crate::masking::MaskFunction::Null,
        exempt_groups: vec![group.to_owned()],
        ..Default::default()
    })
}

fn issuer() -> Spec {
    Spec::Issuer(Issuer::new_oidc("https://x", ["postern"]))
}

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot { revision: 10, ..Snapshot::empty("c", "i1") };
    snapshot.put(object("a", rule("x"))).unwrap();
    snapshot.put(object("corp", issuer())).unwrap();
    snapshot.set_keys(&name("corp"), Some("{}".into()));
    snapshot
}

fn delta(from: u64, to: u64) -> Delta {
    Delta { incarnation: "i1".into(), from_revision: from, revision: to, ..Delta::default() }
}

#[test]
fn a_delta_changes_what_it_names_and_shares_the_rest() {
    let before = snapshot();
    let change = Delta {
        upserts: vec![object("b", rule("y"))],
        deletes: vec![(Kind::MaskingRule, name("a"))],
        revoked: vec!["0a".into()],
        ..delta(10, 12)
    };
    let after = before.apply(change).unwrap();
    assert_eq!(after.revision, 12);
    assert!(after.masking.get(&name("a")).is_none() && after.masking.get(&name("b")).is_some());
    assert!(after.revoked.contains("0a") && before.revoked.is_empty());
    assert!(after.issuers.is_same(&before.issuers) && !after.masking.is_same(&before.masking));
    // The former one is as it was.
    assert!(before.masking.contains_key(&name("a")) && before.masking.len() == 1);
}

#[test]
fn an_issuer_keeps_its_keys_until_they_are_said_to_be_gone() {
    let keys = |snapshot: &Snapshot| snapshot.issuers.get(&name("corp")).unwrap().1.clone();
    let changed = snapshot().apply(Delta { upserts: vec![object("corp", issuer())], ..delta(10, 11) }).unwrap();
    assert_eq!(keys(&changed).as_deref(), Some("{}"));
    let gone = changed.apply(Delta { issuer_keys: vec![(name("corp"), None)], ..delta(11, 12) }).unwrap();
    assert_eq!(keys(&gone), None);
}

#[test]
fn what_does_not_follow_is_refused() {
    let before = snapshot();
    assert_eq!(before.apply(delta(9, 11)).unwrap_err(), DeltaError::Gap { ours: 10, from: 9 });
    assert_eq!(before.apply(delta(11, 12)).unwrap_err(), DeltaError::Gap { ours: 10, from: 11 });
    assert_eq!(before.apply(delta(10, 10)).unwrap_err(), DeltaError::Backwards { from: 10, to: 10 });
    let other = Delta { incarnation: "i2".into(), ..delta(10, 11) };
    assert!(matches!(before.apply(other), Err(DeltaError::Incarnation { .. })));
    let secret = Delta { deletes: vec![(Kind::Secret, name("pw"))], ..delta(10, 11) };
    assert_eq!(before.apply(secret).unwrap_err(), DeltaError::NotForGateways(Kind::Secret));
}

#[test]
fn credentials_are_replaced_or_changed() {
    let secret = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
    let whole = Credentials {
        whole: true,
        passwords: [(name("a"), secret("1")), (name("b"), secret("2"))].into(),
        mask_key: Some(secret("k")),
        ..Credentials::default()
    };
    let first = snapshot().with_credentials(whole.clone());
    let change =
        Credentials { passwords: [(name("a"), secret("3"))].into(), removed: vec![name("b")], ..Default::default() };
    let second = first.with_credentials(change);
    assert_eq!(second.credentials, [(name("a"), secret("3"))].into());
    assert_eq!(second.mask_key, secret("k"));
    assert_eq!(second.with_credentials(whole).credentials.len(), 2);
}

#[test]
fn both_forms_survive_the_wire_and_neither_carries_a_secret() {
    let mut with_secrets = snapshot();
    with_secrets.credentials.insert(name("a"), SecretBytes::new(b"hunter2".to_vec()));
    with_secrets.mask_key = SecretBytes::new(b"hunter2".to_vec());
    let back = wire::from_proto(wire::to_proto(&with_secrets)).unwrap();
    assert_eq!((&back.issuers, &back.masking), (&with_secrets.issuers, &with_secrets.masking));
    assert_eq!((back.revision, back.incarnation.as_str()), (10, "i1"));
    assert!(back.credentials.is_empty() && back.mask_key.expose().is_empty());
    let change = Delta {
        upserts: vec![object("b", rule("y"))],
        deletes: vec![(Kind::Policy, name("p"))],
        issuer_keys: vec![(name("corp"), None), (name("lab"), Some("{}".into()))],
        session_token_jwks: Some("{}".into()),
        revoked: vec!["0a".into()],
        ..delta(10, 12)
    };
    assert_eq!(wire::delta_from_proto(wire::delta_to_proto(&change)).unwrap(), change);
}

/// A gateway that does not know of certificates would send the key as a password.
#[test]
fn older_gateways_have_no_session_where_a_certificate_is_shown() {
    use crate::target::{Address, CredentialKind, CredentialRef, CredentialSource, Protocol, Route, Target, TargetTls};

    let mut now = snapshot();
    let source = CredentialSource::Secret(name("key"));
    let shown = Target {
        protocol: Protocol::Postgres,
        address: "db:5432".parse::<Address>().unwrap(),
        tls: TargetTls { mode: crate::target::TlsMode::Require, ca_pem: None, server_name: None, direct: false },
        credential: CredentialRef { username: "app".into(), kind: CredentialKind::Certificate, source },
        route: Route::Direct,
        databases: Vec::new(),
        disabled: false,
        limits: crate::allowance::Allowance::default(),
        spare_sessions: 0,
    };
    now.put(object("new", Spec::Target(shown.clone()))).unwrap();
    let proto = wire::to_proto(&now);
    assert_eq!(wire::from_proto(proto.clone()).unwrap().targets.get(&name("new")).unwrap().value, shown);
    let seen = wire::from_proto(postern_proto::gateway::v1::Snapshot { newer: vec![], ..proto }).unwrap();
    let seen = &seen.targets.get(&name("new")).unwrap().value;
    assert!(seen.disabled && seen.credential.secret().is_none(), "{seen:?}");

    let change = Delta { upserts: vec![object("new", Spec::Target(shown))], ..delta(10, 11) };
    let proto = wire::delta_to_proto(&change);
    assert_eq!(wire::delta_from_proto(proto.clone()).unwrap().upserts, change.upserts);
    let seen = wire::delta_from_proto(postern_proto::gateway::v1::Delta { newer: vec![], ..proto }).unwrap();
    let Spec::Target(seen) = &seen.upserts[0].spec else { panic!("a target") };
    assert!(seen.disabled && seen.credential.secret().is_none(), "{seen:?}");
}

/// A gateway that does not know of a rule's new words masks everything in its place.
#[test]
fn older_gateways_mask_more_not_less() {
    let Spec::MaskingRule(old) = rule("x") else { panic!("a masking rule") };
    let new = MaskingRule { types: vec!["inet".into()], ..old.clone() };
    let mut now = snapshot();
    now.put(object("new", Spec::MaskingRule(new.clone()))).unwrap();
    let proto = wire::to_proto(&now);
    assert_eq!(proto.newer.len(), 1);
    assert_eq!(wire::from_proto(proto.clone()).unwrap().masking.get(&name("new")), Some(&new));
    let seen = wire::from_proto(postern_proto::gateway::v1::Snapshot { newer: vec![], ..proto }).unwrap();
    let stand_in = seen.masking.get(&name("new")).unwrap();
    assert_eq!((stand_in.columns[0].as_str(), &stand_in.mask), ("*.*.*", &crate::masking::MaskFunction::Null));
    assert_eq!((&stand_in.targets, &stand_in.exempt_groups), (&new.targets, &new.exempt_groups));
    assert_eq!(seen.masking.get(&name("a")), Some(&old), "a rule of old words goes as it is");

    let change =
        Delta { upserts: vec![object("new", Spec::MaskingRule(new)), object("b", rule("y"))], ..delta(10, 11) };
    let proto = wire::delta_to_proto(&change);
    assert_eq!((proto.upserts.len(), proto.newer.len()), (2, 1));
    let mut read = wire::delta_from_proto(proto.clone()).unwrap();
    read.upserts.sort_by_key(|object| object.metadata.name != name("new"));
    assert_eq!(read.upserts, change.upserts);
    let seen = wire::delta_from_proto(postern_proto::gateway::v1::Delta { newer: vec![], ..proto }).unwrap();
    assert!(seen.upserts.iter().any(|object| object.spec == Spec::MaskingRule(stand_in.clone())));
}
