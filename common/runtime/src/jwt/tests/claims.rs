//! What claims come to.

use postern_core::issuer::{ClaimPattern, GroupsForm, KeySource, RequiredClaim};
use proptest::prelude::*;

use super::*;

fn verify(change: impl FnOnce(&mut OidcIssuer), claims: &Value) -> Result<Principal, TokenError> {
    let idp = Idp::new(Alg::EdDSA, "k1");
    let rules = issuer_with(change);
    IssuerVerifier::new(&name("ci"), &rules, &idp.jwks()).unwrap().verify(&idp.sign(Some("k1"), claims), now())
}

fn groups_of(from: Vec<GroupsClaim>, claims: &Value) -> Result<Vec<String>, TokenError> {
    let principal = verify(|oidc| oidc.groups = from, claims)?;
    Ok(principal.groups.iter().map(ToString::to_string).collect())
}

fn from(claim: &str, prefix: &str, form: GroupsForm) -> GroupsClaim {
    GroupsClaim { claim: path(claim), prefix: prefix.to_owned(), form }
}

fn required(claim: &str, values: &[&str]) -> RequiredClaim {
    RequiredClaim {
        claim: path(claim),
        values: values.iter().map(|value| ClaimPattern::parse(value).unwrap()).collect(),
    }
}

#[test]
fn groups_come_of_several_claims_in_several_forms() {
    let claims = with(json!({
        "realm_access": {"roles": ["dev", "ops"]},
        "scope": "read  write",
        "teams": "blue, red,",
        "urn:roles": {"admin": {"x": 1}, "viewer": false},
        "kubernetes.io": {"namespace": "shop"},
    }));
    let all = vec![
        GroupsClaim::list(path("realm_access.roles")),
        from("scope", "scope:", GroupsForm::Spaces),
        from("teams", "", GroupsForm::Commas),
        from("urn:roles", "role/", GroupsForm::Keys),
        from("/kubernetes.io/namespace", "ns:", GroupsForm::List),
        from("absent", "x:", GroupsForm::Keys),
    ];
    assert_eq!(
        groups_of(all, &claims).unwrap(),
        [
            "ci:blue",
            "ci:dev",
            "ci:ns:shop",
            "ci:ops",
            "ci:red",
            "ci:role/admin",
            "ci:role/viewer",
            "ci:scope:read",
            "ci:scope:write",
        ]
    );
}

#[test]
fn what_policy_and_revocation_go_by_is_kept() {
    let claims = with(json!({
        "acr": "mfa", "amr": ["pwd", "otp"], "auth_time": NOW - 60, "email": "a@acme.example", "run": {"id": 7},
        "repository": "acme/app", "roles": ["dev", "x1", "x2"], "other": "is not kept",
    }));
    let rules = |keep: &[&str]| {
        let keep = keep.iter().map(|text| path(text)).collect();
        let required = vec![required("repository", &["acme/*"]), required("roles", &["x*"])];
        let mut rules = issuer_with(|oidc| oidc.required = required);
        rules.keep = keep;
        rules
    };
    let idp = Idp::new(Alg::EdDSA, "k1");
    let kept = |keep: &[&str], claims: &Value| {
        let verifier = IssuerVerifier::new(&name("ci"), &rules(keep), &idp.jwks()).unwrap();
        verifier.verify(&idp.sign(Some("k1"), claims), now()).map(|principal| principal.claims)
    };
    let all = kept(&["email", "/run/id", "absent"], &claims).unwrap();
    let shown: Vec<String> = all.iter().map(|(name, values)| format!("{name}={}", values.join(","))).collect();
    assert_eq!(
        shown,
        [
            "/run/id=7",
            "acr=mfa",
            "amr=pwd,otp",
            &format!("auth_time={}", NOW - 60),
            "email=a@acme.example",
            "repository=acme/app",
            "roles=x1,x2",
        ]
    );
    // What is to be kept and cannot be would escape a revocation; what is only usual may be of any shape.
    for unfit in [json!({"a": 1}), json!("a\u{7}"), json!("x".repeat(1_025)), json!(vec!["x"; 33]), json!(1.5)] {
        let mut claims = claims.clone();
        (claims["email"], claims["acr"]) = (unfit.clone(), unfit.clone());
        assert!(matches!(kept(&["email"], &claims), Err(TokenError::Claims(_))), "{unfit}");
        assert!(kept(&[], &claims).unwrap().values("acr").is_empty(), "{unfit}");
    }
}

#[test]
fn a_groups_claim_of_another_form_refuses_the_token() {
    for (form, value) in [
        (GroupsForm::List, json!({"a": 1})),
        (GroupsForm::List, json!([["a"]])),
        (GroupsForm::List, json!(true)),
        (GroupsForm::Spaces, json!(["a"])),
        (GroupsForm::Commas, json!(7)),
        (GroupsForm::Keys, json!(["a"])),
        (GroupsForm::Keys, json!("a")),
        (GroupsForm::Keys, json!({"a\n": 1})),
        (GroupsForm::Spaces, json!("a\u{7}")),
        (GroupsForm::Commas, json!((0..1025).map(|n| format!("g{n},")).collect::<String>())),
    ] {
        let refused = groups_of(vec![from("g", "", form)], &with(json!({"g": value})));
        assert!(matches!(refused, Err(TokenError::Claims(_))), "{form:?} {value}");
    }
    // Elsewhere is not nowhere: a rule that denies one of them would not find it.
    for away in [json!({"_claim_names": {"groups": "src1"}}), json!({"hasgroups": true})] {
        assert!(matches!(
            groups_of(vec![from("groups", "", GroupsForm::List)], &with(away)),
            Err(TokenError::Claims(_))
        ));
    }
    assert!(groups_of(vec![from("groups", "", GroupsForm::List)], &with(json!({"hasgroups": false}))).is_ok());
}

#[test]
fn the_subject_is_the_claim_that_was_chosen() {
    let subject = |claim: &str, claims: &Value| {
        verify(|oidc| oidc.subject = path(claim), claims).map(|principal| principal.id.subject.to_string())
    };
    assert_eq!(subject("oid", &with(json!({"oid": "o-1"}))).unwrap(), "o-1");
    assert_eq!(
        subject("/kubernetes.io/pod/name", &with(json!({"kubernetes.io": {"pod": {"name": "p"}}}))).unwrap(),
        "p"
    );
    for claims in [
        claims(),
        with(json!({"oid": 7})),
        with(json!({"oid": ["a"]})),
        with(json!({"oid": null})),
        with(json!({"oid": ""})),
    ] {
        assert!(matches!(subject("oid", &claims), Err(TokenError::Claims(_))), "{claims}");
    }
}

#[test]
fn every_required_claim_must_hold() {
    let holds =
        |required: Vec<RequiredClaim>, claims: Value| verify(|oidc| oidc.required = required, &with(claims)).is_ok();
    let one = || vec![required("repository", &["acme/*", "other/app"])];
    assert!(holds(one(), json!({"repository": "acme/app"})));
    assert!(holds(one(), json!({"repository": "other/app"})));
    assert!(holds(one(), json!({"repository": ["x", "acme/app"]})));
    for bad in [
        json!({}),
        json!({"repository": null}),
        json!({"repository": ""}),
        json!({"repository": "acme/app/x"}),
        json!({"repository": "evil/acme/app"}),
        json!({"repository": "ACME/app"}),
        json!({"repository": ["x"]}),
        json!({"repository": []}),
        json!({"repository": {"acme/app": "acme/app"}}),
        json!({"repository": ["acme/app", {"x": 1}]}),
        json!({"repository": ["acme/app", null]}),
        json!({"repository": [["acme/app"]]}),
        json!({"repository": format!("acme/{}", "x".repeat(2000))}),
    ] {
        assert!(!holds(one(), bad.clone()), "{bad}");
    }
    let two = || vec![required("a", &["1", "-1"]), required("b", &["true"])];
    assert!(holds(two(), json!({"a": 1, "b": true})));
    assert!(holds(two(), json!({"a": "-1", "b": "true"})));
    assert!(!holds(two(), json!({"a": 1, "b": false})));
    assert!(!holds(two(), json!({"a": 1.0, "b": true})));
    assert!(!holds(two(), json!({"b": true})));
    // A name with dots is not the nested claim when the nested one is asked for by pointer, and before it when it is not.
    let nested = || vec![required("/x/y", &["1"])];
    assert!(!holds(nested(), json!({"x.y": "1"})));
    assert!(holds(nested(), json!({"x": {"y": "1"}, "x.y": "2"})));
    assert!(holds(vec![required("x.y", &["2"])], json!({"x": {"y": "1"}, "x.y": "2"})));
}

#[test]
fn times_are_right_to_the_second() {
    // Leeway 10 s, maximum age 3600 s.
    for (claims, taken) in [
        (json!({"exp": NOW - 9}), true),
        (json!({"exp": NOW - 10}), false),
        (json!({"nbf": NOW + 10}), true),
        (json!({"nbf": NOW + 11}), false),
        (json!({"iat": NOW + 10}), true),
        (json!({"iat": NOW + 11}), false),
        (json!({"iat": NOW - 3610}), true),
        (json!({"iat": NOW - 3611}), false),
    ] {
        assert_eq!(verify(|_| {}, &with(claims.clone())).is_ok(), taken, "{claims}");
    }
}

#[test]
fn declared_keys_are_the_only_ones() {
    let (declared, fetched) = (Idp::new(Alg::ES256, "k1"), Idp::new(Alg::ES256, "k1"));
    let rules = issuer_with(|oidc| oidc.keys = KeySource::Inline(declared.jwks()));
    let snapshot = Snapshot {
        issuers: [(name("ci"), (rules, Some(fetched.jwks())))].into_iter().collect(),
        ..Snapshot::empty("c1", "i1")
    };
    let verifier = Verifier::from_snapshot(&snapshot);
    assert!(verifier.verify(&declared.sign(Some("k1"), &claims()), now()).is_ok());
    assert_eq!(verifier.verify(&fetched.sign(Some("k1"), &claims()), now()), Err(TokenError::Signature));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c/.*]{0,6}".prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c.]{0,3}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever a signed token says: no panic, and whoever is let in has said all that is required.
    #[test]
    fn any_claims_are_taken_or_refused(a in any_json(), b in any_json(), extra in any_json()) {
        let idp = thread_idp();
        let rules = issuer_with(|oidc| {
            oidc.groups = vec![from("b", "b:", GroupsForm::List), from("/a/b", "ab:", GroupsForm::Keys)];
            oidc.required = vec![required("a", &["a*"])];
        });
        let verifier = IssuerVerifier::new(&name("ci"), &rules, &idp.jwks()).unwrap();
        let claims = with(json!({"a": a.clone(), "b": b, "x": extra}));
        if let Ok(principal) = verifier.verify(&idp.sign(Some("k1"), &claims), now()) {
            let texts: Vec<&str> = match &a {
                Value::String(text) => vec![text],
                Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            prop_assert!(texts.iter().any(|text| text.starts_with('a') && !text.contains('/')), "{a}");
            prop_assert!(principal.groups.iter().all(|group| group.starts_with("ci:b:") || group.starts_with("ci:ab:")));
        }
    }
}

/// Keys are dear to make.
fn thread_idp() -> &'static Idp {
    static IDP: std::sync::OnceLock<Idp> = std::sync::OnceLock::new();
    IDP.get_or_init(|| Idp::new(Alg::EdDSA, "k1"))
}
