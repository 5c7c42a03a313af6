use std::collections::BTreeMap;

use super::*;

fn resource(spec: pb::resource::Spec) -> pb::Resource {
    let metadata = pb::Metadata {
        name: "one".into(),
        labels: BTreeMap::from([("env".into(), "prod".into())]),
        revision: 3,
        created_at: Some(prost_types::Timestamp { seconds: 1, nanos: 5_000_000 }),
        updated_at: Some(prost_types::Timestamp { seconds: 2, nanos: 0 }),
    };
    pb::Resource { metadata: Some(metadata), spec: Some(spec) }
}

fn policy_spec() -> pb::PolicySpec {
    pb::PolicySpec {
        effect: pb::Effect::Permit.into(),
        principals: Some(pb::PrincipalSelector {
            groups: vec!["g".into()],
            subjects: vec!["corp/a/b".into()],
            tokens: vec![],
        }),
        targets: Some(pb::TargetSelector { names: vec!["*".into()], labels: BTreeMap::new() }),
        actions: vec!["sql:select".into(), "sql:*".into(), "*".into()],
        resources: vec!["public.*".into()],
        when: Some(pb::Conditions {
            bounded: Some(true),
            authentication: Some(pb::Authentication {
                acr: vec!["gold".into()],
                amr: vec!["otp".into(), "pwd".into()],
                max_token_ttl_seconds: 1_800,
            }),
        }),
        approval: Some(pb::ApprovalRequirement {
            groups: vec!["dba".into()],
            count: 2,
            expires_seconds: 60,
            when_away: pb::WhenAway::Wait.into(),
        }),
        reason: "why".into(),
        max_staleness_seconds: Some(0),
        on_stale: pb::OnStale::Keep.into(),
        limits: Some(pb::Limits { connections_per_second: 2, in_flight_bytes: 4096, ..Default::default() }),
        on_request: None,
        cedar: String::new(),
        obligations: None,
    }
}

fn paths(result: Result<Resource, Vec<FieldFault>>) -> Vec<String> {
    result.unwrap_err().into_iter().map(|fault| fault.path).collect()
}

fn saml() -> pb::SamlIssuer {
    pb::SamlIssuer {
        metadata: "<EntityDescriptor/>".into(),
        entity_id: "https://postern.example/saml".into(),
        subject_attribute: "uid".into(),
        groups_attribute: "roles".into(),
        allow_unsolicited: true,
        require_encrypted: true,
        key_secret: "saml-key".into(),
    }
}

#[test]
fn an_issuer_of_assertions_has_nothing_of_oidc() {
    let read = |url: &str, saml: pb::SamlIssuer, ca_pem: &str| {
        let spec = pb::IssuerSpec { url: url.into(), saml: Some(saml), ca_pem: ca_pem.into(), ..Default::default() };
        from_proto(resource(pb::resource::Spec::Issuer(spec)))
    };
    let Spec::Issuer(issuer) =
        read("urn:idp", pb::SamlIssuer { groups_attribute: String::new(), ..saml() }, "").unwrap().spec
    else {
        panic!()
    };
    assert_eq!(issuer.saml().unwrap().groups_attribute, "groups");
    assert_eq!((issuer.oidc(), issuer.audiences()), (None, &["https://postern.example/saml".to_owned()][..]));
    assert_eq!(paths(read("", saml(), "pem")), ["spec.url", "spec.ca"]);
    let empty = pb::SamlIssuer { require_encrypted: true, ..Default::default() };
    let found = paths(read("urn:idp", empty, ""));
    assert_eq!(found, ["spec.saml.metadata", "spec.saml.entityId", "spec.saml.keySecret"]);
    let long = pb::SamlIssuer { metadata: "x".repeat((128 << 10) + 1), key_secret: "No Name".into(), ..saml() };
    assert_eq!(paths(read("urn:idp", long, "")), ["spec.saml.metadata", "spec.saml.keySecret"]);
}

#[test]
fn whole_objects_round_trip() {
    let specs = [
        pb::resource::Spec::Policy(policy_spec()),
        pb::resource::Spec::Issuer(pb::IssuerSpec {
            url: "https://id.example".into(),
            audiences: vec!["postern".into()],
            groups_claim: "realm.roles".into(),
            groups_prefix: "corp:".into(),
            algorithms: vec!["ES256".into()],
            leeway_seconds: Some(0),
            max_age_seconds: 60,
            ca_pem: "pem".into(),
            ..Default::default()
        }),
        pb::resource::Spec::Issuer(pb::IssuerSpec {
            url: "https://ci.example".into(),
            audiences: vec!["postern".into()],
            algorithms: vec!["RS256".into(), "ES512".into()],
            leeway_seconds: Some(30),
            jwks_uri: "https://ci.example/keys".into(),
            subject_claim: "/a~1b/c".into(),
            claim_groups: vec![
                pb::ClaimGroups { claim: "groups".into(), prefix: "g:".into(), form: pb::ClaimForm::Keys.into() },
                pb::ClaimGroups { claim: "scope".into(), form: pb::ClaimForm::Spaces.into(), ..Default::default() },
            ],
            required_claims: vec![pb::RequiredClaim { claim: "repository".into(), values: vec!["acme/*".into()] }],
            preset: "github-actions".into(),
            ..Default::default()
        }),
        pb::resource::Spec::Issuer(pb::IssuerSpec {
            url: "https://id.example".into(),
            audiences: vec!["postern".into(), "cli".into()],
            groups_claim: "groups".into(),
            algorithms: vec!["ES256".into()],
            leeway_seconds: Some(30),
            login: Some(pb::IssuerLogin { client_id: "cli".into(), scopes: vec!["openid".into(), "email".into()] }),
            ..Default::default()
        }),
        pb::resource::Spec::Issuer(pb::IssuerSpec {
            url: "urn:example:idp".into(),
            leeway_seconds: Some(30),
            saml: Some(saml()),
            ..Default::default()
        }),
        pb::resource::Spec::Target(pb::TargetSpec {
            protocol: pb::Protocol::Postgres.into(),
            address: "[::1]:5432".into(),
            tls: Some(pb::TargetTls {
                mode: pb::TlsMode::VerifyFull.into(),
                ca_pem: "pem".into(),
                server_name: "db".into(),
                direct: true,
            }),
            credential: Some(pb::TargetCredential {
                username: "app".into(),
                source: Some(pb::target_credential::Source::Secret("pw".into())),
                r#type: pb::CredentialType::Certificate.into(),
            }),
            agent_pool: "lab".into(),
            databases: vec!["shop".into()],
            disabled: true,
            limits: Some(pb::Limits { sessions: 1, operations_per_second: 3, ..Default::default() }),
            spare_sessions: 2,
        }),
        pb::resource::Spec::MaskingRule(pb::MaskingRuleSpec {
            targets: Some(pb::TargetSelector {
                names: vec![],
                labels: BTreeMap::from([("env".into(), "prod".into())]),
            }),
            columns: vec!["public.customers.email".into()],
            mask: Some(pb::Mask { function: Some(pb::mask::Function::Partial(pb::PartialMask { keep_last: 4 })) }),
            exempt_groups: vec!["dba".into()],
            ..Default::default()
        }),
        masking_rule(pb::mask::Function::Truncate(pb::TruncateMask { to: "quarter".into() })),
        masking_rule(pb::mask::Function::Bucket(pb::BucketMask { width: 100 })),
        masking_rule(pb::mask::Function::Digits(pb::DigitsMask { luhn: true })),
        pb::resource::Spec::Secret(pb::SecretSpec {
            source: Some(pb::secret_spec::Source::Sealed(pb::Sealed {
                kek_id: "k".into(),
                wrapped_key: vec![1],
                nonce: vec![2],
                ciphertext: vec![3],
            })),
        }),
    ];
    for spec in specs {
        let proto = resource(spec);
        assert_eq!(kind_of(&proto), Some(from_proto(proto.clone()).unwrap().spec.kind()));
        assert_eq!(to_proto(&from_proto(proto.clone()).unwrap()), proto);
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let broken = pb::PolicySpec {
        effect: 9,
        principals: Some(pb::PrincipalSelector {
            groups: vec![String::new()],
            subjects: vec!["nobody".into()],
            tokens: vec!["eyJ.eyJ.sig".into()],
        }),
        targets: None,
        actions: vec!["sql:fly".into()],
        resources: vec!["a..b".into()],
        approval: Some(pb::ApprovalRequirement { groups: vec![], count: 99, expires_seconds: 100_000, when_away: 7 }),
        max_staleness_seconds: Some(100_000),
        on_stale: 9,
        limits: Some(pb::Limits { in_flight_bytes: 1, ..Default::default() }),
        ..policy_spec()
    };
    let mut proto = resource(pb::resource::Spec::Policy(broken));
    proto.metadata = Some(pb::Metadata { name: "Not A Name".into(), ..Default::default() });
    let found = paths(from_proto(proto));
    for path in [
        "metadata.name",
        "spec.effect",
        "spec.principals.groups[0]",
        "spec.principals.subjects[0]",
        "spec.principals.tokens[0]",
        "spec.targets",
        "spec.actions[0]",
        "spec.resources[0]",
        "spec.approval",
        "spec.approval.groups",
        "spec.approval.count",
        "spec.approval.expires",
        "spec.approval.whenAway",
        "spec.maxStaleness",
        "spec.onStale",
        "spec.limits",
        "spec.limits.inFlightBytes",
    ] {
        assert!(found.iter().any(|known| known == path), "{path} is not in {found:?}");
    }
}

#[test]
fn an_issuer_off_loopback_needs_https() {
    let issuer = |url: &str| {
        let spec = pb::IssuerSpec { url: url.into(), audiences: vec!["a".into()], ..Default::default() };
        from_proto(resource(pb::resource::Spec::Issuer(spec)))
    };
    for good in ["https://id.example", "http://127.0.0.1:8080", "http://localhost/realm", "http://[::1]:1"] {
        assert!(issuer(good).is_ok(), "{good}");
    }
    for bad in ["http://id.example", "http://127.0.0.1.evil.example", "http://localhost.evil", "ftp://x", "https://x?y"]
    {
        assert_eq!(paths(issuer(bad)), ["spec.url"], "{bad}");
    }
}

#[test]
fn a_secret_never_leaves_and_never_enters_in_clear() {
    let clear = pb::SecretSpec { source: Some(pb::secret_spec::Source::Value("hunter2".into())) };
    assert_eq!(paths(from_proto(resource(pb::resource::Spec::Secret(clear)))), ["spec.value"]);

    let sealed = pb::SecretSpec { source: Some(pb::secret_spec::Source::Sealed(pb::Sealed::default())) };
    let resource = from_proto(resource(pb::resource::Spec::Secret(sealed))).unwrap();
    let Some(pb::resource::Spec::Secret(shown)) = public_proto(&resource).spec else { panic!() };
    assert_eq!(shown.source, Some(pb::secret_spec::Source::Stored(true)));
}

#[test]
fn a_service_account_holds_public_keys_and_says_so_itself() {
    let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n";
    let spec = |change: fn(&mut pb::ServiceAccountSpec)| {
        let mut spec = pb::ServiceAccountSpec { public_keys: vec![pem.into()], ..Default::default() };
        change(&mut spec);
        from_proto(resource(pb::resource::Spec::ServiceAccount(spec)))
    };
    let full = spec(|spec| {
        spec.description = "ci".into();
        spec.jwks = r#"{"keys":[]}"#.into();
        spec.groups = vec!["dba".into()];
        spec.networks = vec!["10.0.0.0/8".into()];
        spec.max_token_ttl_seconds = 600;
        spec.disabled = true;
    });
    let full = full.unwrap();
    assert_eq!(from_proto(to_proto(&full)).unwrap(), full);
    for (change, path) in [
        ((|spec| spec.public_keys.clear()) as fn(&mut pb::ServiceAccountSpec), "spec.publicKeys"),
        (|spec| spec.public_keys = vec!["AAAA".into()], "spec.publicKeys[0]"),
        (|spec| spec.jwks = "{}".into(), "spec.jwks"),
        (|spec| spec.groups = vec!["*".into()], "spec.groups"),
        (|spec| spec.networks = vec!["10.0.0.0/40".into()], "spec.networks[0]"),
        (|spec| spec.max_token_ttl_seconds = 43_201, "spec.maxTokenTtl"),
    ] {
        assert_eq!(paths(spec(change)), [path]);
    }
    // Whoever gives away a private key is told so, and not its text (I5).
    let private = spec(|spec| spec.public_keys = vec!["-----BEGIN PRIVATE KEY-----\nhush\n".into()]).unwrap_err();
    assert!(private[0].message.contains("compromised") && !private[0].message.contains("hush"));
}

/// The paths of what is wrong with it.
fn faults_of(spec: pb::resource::Spec) -> Vec<String> {
    let faults = from_proto(resource(spec)).err().unwrap_or_default();
    faults.into_iter().map(|fault| fault.path).collect()
}

#[test]
fn people_log_in_as_a_client_that_is_an_audience() {
    let faults = |client_id: &str, scopes: &[&str]| {
        faults_of(pb::resource::Spec::Issuer(pb::IssuerSpec {
            url: "https://id.example".into(),
            audiences: vec!["cli".into()],
            login: Some(pb::IssuerLogin {
                client_id: client_id.into(),
                scopes: scopes.iter().map(|&scope| scope.into()).collect(),
            }),
            ..Default::default()
        }))
    };
    assert_eq!(faults("cli", &["email"]), Vec::<String>::new());
    for bad in ["", "other", "c li", "cli\n"] {
        assert_eq!(faults(bad, &[]), ["spec.login.clientId"], "{bad:?}");
    }
    assert_eq!(faults("cli", &["a b"]), ["spec.login.scopes[0]"]);
    assert_eq!(faults("cli", &["x"; 33]), ["spec.login.scopes"]);
    let saml = pb::IssuerSpec {
        url: "urn:idp".into(),
        saml: Some(saml()),
        login: Some(pb::IssuerLogin { client_id: "cli".into(), scopes: Vec::new() }),
        ..Default::default()
    };
    assert_eq!(faults_of(pb::resource::Spec::Issuer(saml)), ["spec.login"]);
}

#[test]
fn a_login_is_asked_for_where_something_is_permitted() {
    let faults = |effect: pb::Effect, acr: &[&str]| {
        let acr = acr.iter().map(|&acr| acr.into()).collect();
        faults_of(pb::resource::Spec::Policy(pb::PolicySpec {
            effect: effect.into(),
            actions: vec!["*".into()],
            principals: Some(pb::PrincipalSelector { groups: vec!["*".into()], ..Default::default() }),
            targets: Some(pb::TargetSelector { names: vec!["*".into()], ..Default::default() }),
            when: Some(pb::Conditions {
                bounded: None,
                authentication: Some(pb::Authentication { acr, ..Default::default() }),
            }),
            ..Default::default()
        }))
    };
    assert_eq!(faults(pb::Effect::Permit, &["gold"]), Vec::<String>::new());
    assert_eq!(faults(pb::Effect::Deny, &["gold"]), ["spec.when.authentication"]);
    assert_eq!(faults(pb::Effect::Permit, &[]), ["spec.when.authentication"]);
    assert_eq!(faults(pb::Effect::Permit, &["gold", ""]), ["spec.when.authentication.acr[1]"]);
    assert_eq!(faults(pb::Effect::Permit, &["x"; 17]), ["spec.when.authentication.acr"]);
}

#[test]
fn a_life_of_tokens_is_one_that_a_token_can_have() {
    let faults = |most: u32, usual: u32| {
        faults_of(pb::resource::Spec::Issuer(pb::IssuerSpec {
            url: "https://id.example".into(),
            audiences: vec!["a".into()],
            max_token_ttl_seconds: most,
            token_ttl_seconds: usual,
            ..Default::default()
        }))
    };
    for (most, usual) in [(0, 0), (60, 0), (43_200, 43_200), (0, 60), (600, 600)] {
        assert_eq!(faults(most, usual), Vec::<String>::new(), "{most} {usual}");
    }
    assert_eq!(faults(59, 0), ["spec.maxTokenTtl"]);
    assert_eq!(faults(43_201, 0), ["spec.maxTokenTtl"]);
    assert_eq!(faults(0, 59), ["spec.tokenTtl"]);
    assert_eq!(faults(600, 601), ["spec.tokenTtl"]);
    let asked = |seconds: u32| {
        faults_of(pb::resource::Spec::Policy(pb::PolicySpec {
            effect: pb::Effect::Permit.into(),
            actions: vec!["*".into()],
            principals: Some(pb::PrincipalSelector { groups: vec!["*".into()], ..Default::default() }),
            targets: Some(pb::TargetSelector { names: vec!["*".into()], ..Default::default() }),
            when: Some(pb::Conditions {
                bounded: None,
                authentication: Some(pb::Authentication { max_token_ttl_seconds: seconds, ..Default::default() }),
            }),
            ..Default::default()
        }))
    };
    assert_eq!(asked(1_800), Vec::<String>::new());
    assert_eq!(asked(59), ["spec.when.authentication.maxTokenTtl"]);
}

fn masking_rule(function: pb::mask::Function) -> pb::resource::Spec {
    pb::resource::Spec::MaskingRule(pb::MaskingRuleSpec {
        targets: Some(pb::TargetSelector { names: vec!["*".into()], ..Default::default() }),
        mask: Some(pb::Mask { function: Some(function) }),
        columns_matching: vec!["(?i)email$".into()],
        types: vec!["inet".into()],
        labels: vec!["^pii$".into()],
        opaque: true,
        ..Default::default()
    })
}

#[test]
fn masking_rules_are_checked() {
    let bucket = pb::mask::Function::Bucket(pb::BucketMask { width: 0 });
    let mut proto = resource(masking_rule(bucket));
    let Some(pb::resource::Spec::MaskingRule(spec)) = &mut proto.spec else { panic!("a masking rule") };
    spec.columns_matching.push("(".into());
    spec.types.push("varchar(20)".into());
    spec.labels.push(String::new());
    let paths: Vec<String> = from_proto(proto.clone()).unwrap_err().into_iter().map(|fault| fault.path).collect();
    assert_eq!(paths, ["spec.mask", "spec.columnsMatching[1]", "spec.types[1]", "spec.labels[1]"]);
    let Some(pb::resource::Spec::MaskingRule(spec)) = &mut proto.spec else { panic!("a masking rule") };
    *spec = pb::MaskingRuleSpec { targets: spec.targets.clone(), mask: spec.mask.clone(), ..Default::default() };
    let faults = from_proto(proto).unwrap_err();
    assert!(faults.iter().any(|fault| fault.path == "spec.columns"), "{faults:?}");
    let mut proto = resource(masking_rule(pb::mask::Function::Hash(pb::HashMask {})));
    let Some(pb::resource::Spec::MaskingRule(spec)) = &mut proto.spec else { panic!("a masking rule") };
    (spec.columns_matching, spec.types, spec.labels, spec.opaque) = (vec![], vec![], vec![], false);
    spec.detect = vec!["credit-card".into(), "cloud-key".into()];
    assert_eq!(to_proto(&from_proto(proto.clone()).unwrap()), proto);
    let Some(pb::resource::Spec::MaskingRule(spec)) = &mut proto.spec else { panic!("a masking rule") };
    spec.detect.push("passport".into());
    spec.types.push("text".into());
    spec.opaque = true;
    spec.mask = Some(pb::Mask { function: Some(pb::mask::Function::Bucket(pb::BucketMask { width: 10 })) });
    let paths: Vec<String> = from_proto(proto).unwrap_err().into_iter().map(|fault| fault.path).collect();
    assert_eq!(paths, ["spec.detect", "spec.opaque", "spec.mask", "spec.detect[2]"]);
}
