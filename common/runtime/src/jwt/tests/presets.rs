//! Tokens with the claims that well-known issuers' documentation shows, signed by a key of the test.

use postern_core::issuer::Issuer;
use postern_core::resource::Spec;
use postern_core::wire::resource::from_proto;
use postern_proto::resource::v1 as pb;

use super::*;

const TENANT: &str = "11111111-2222-3333-4444-555555555555";

/// Keys of RSA are dear to make.
fn idp() -> &'static Idp {
    static IDP: std::sync::OnceLock<Idp> = std::sync::OnceLock::new();
    IDP.get_or_init(|| Idp::new(Alg::RS256, "k1"))
}

fn declared(preset: &str, url: &str, required: &[(&str, &str)]) -> Issuer {
    let required = required
        .iter()
        .map(|(claim, value)| pb::RequiredClaim { claim: (*claim).to_owned(), values: vec![(*value).to_owned()] });
    let spec = pb::IssuerSpec {
        preset: preset.into(),
        url: url.into(),
        audiences: vec!["postern".into()],
        required_claims: required.collect(),
        jwks: idp().jwks(),
        ..Default::default()
    };
    let metadata = Some(pb::Metadata { name: "ci".into(), ..Default::default() });
    match from_proto(pb::Resource { metadata, spec: Some(pb::resource::Spec::Issuer(spec)) }).unwrap().spec {
        Spec::Issuer(issuer) => issuer,
        _ => panic!(),
    }
}

/// Who `claims` are, by way of all that a gateway goes by; and that another of each of `others` is nobody.
#[track_caller]
fn is(issuer: &Issuer, claims: &Value, subject: &str, groups: &[&str], others: &[(&str, Value)]) {
    let snapshot = Snapshot {
        issuers: [(name("ci"), (issuer.clone(), None))].into_iter().collect(),
        ..Snapshot::empty("c1", "i1")
    };
    let verifier = Verifier::from_snapshot(&snapshot);
    let mut claims = claims.clone();
    for (claim, value) in [("iat", NOW), ("nbf", NOW), ("exp", NOW + 600)] {
        claims[claim] = json!(value);
    }
    let verify = |claims: &Value| verifier.verify(&idp().sign(Some("k1"), claims), now());
    let principal = verify(&claims).unwrap().principal;
    assert_eq!(&*principal.id.subject, subject);
    assert_eq!(principal.groups.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), groups);
    let audience = ("aud", json!("https://elsewhere.example"));
    for (claim, value) in others.iter().chain([&audience]) {
        let mut other = claims.clone();
        match claim.strip_prefix('/') {
            Some(_) => *other.pointer_mut(claim).unwrap() = value.clone(),
            None => other[*claim] = value.clone(),
        }
        assert!(verify(&other).is_err(), "{claim} {value}");
    }
}

/// docs.github.com, "OpenID Connect reference".
#[test]
fn github_actions() {
    let url = "https://token.actions.githubusercontent.com";
    let token = json!({
        "jti": "example-id", "sub": "repo:octo-org/octo-repo:environment:prod", "environment": "prod", "aud": "postern",
        "ref": "refs/heads/main", "sha": "example-sha", "repository": "octo-org/octo-repo", "repository_owner": "octo-org",
        "actor_id": "12", "repository_visibility": "private", "repository_id": "74", "repository_owner_id": "65",
        "run_id": "example-run-id", "run_number": "10", "run_attempt": "2", "runner_environment": "github-hosted",
        "actor": "octocat", "workflow": "example-workflow", "head_ref": "", "base_ref": "",
        "event_name": "workflow_dispatch", "ref_type": "branch",
        "job_workflow_ref": "octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main", "iss": url,
    });
    let groups = ["owner:octo-org", "repository:octo-org/octo-repo"];
    let strangers = [("repository", json!("evil/octo-repo")), ("repository", json!("octo-organ/octo-repo"))];
    for required in
        [&[("repository", "octo-org/*")][..], &[("repository", "octo-org/octo-repo"), ("ref", "refs/heads/main")]]
    {
        is(
            &declared("github-actions", "", required),
            &token,
            "repo:octo-org/octo-repo:environment:prod",
            &groups,
            &strangers,
        );
    }
    let main = declared("github-actions", "", &[("repository_owner", "octo-org"), ("ref", "refs/heads/main")]);
    let others =
        [("ref", json!("refs/heads/evil")), ("ref", json!("refs/pull/1/merge")), ("repository_owner", json!("evil"))];
    is(&main, &token, "repo:octo-org/octo-repo:environment:prod", &groups, &others);
}

/// docs.gitlab.com, "OpenID Connect (OIDC) authentication using ID tokens".
#[test]
fn gitlab_ci() {
    let token = json!({
        "namespace_id": "72", "namespace_path": "my-group", "project_id": "20", "project_path": "my-group/my-project",
        "user_id": "1", "user_login": "sample-user", "user_email": "sample-user@example.com",
        "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}], "pipeline_id": "574",
        "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main",
        "ref_protected": "true", "groups_direct": ["mygroup/mysubgroup"], "environment": "production",
        "environment_protected": "true", "deployment_tier": "production", "environment_action": "start", "runner_id": 1,
        "runner_environment": "self-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "project_visibility": "public", "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "ci_config_ref_uri": "gitlab.example.com/my-group/my-project//.gitlab-ci.yml@refs/heads/main",
        "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b", "iss": "https://gitlab.example.com", "aud": "postern",
        "sub": "project_path:my-group/my-project:ref_type:branch:ref:main",
    });
    let issuer = declared(
        "gitlab-ci",
        "https://gitlab.example.com",
        &[("project_path", "my-group/**"), ("ref_protected", "true")],
    );
    let subject = "project_path:my-group/my-project:ref_type:branch:ref:main";
    is(
        &issuer,
        &token,
        subject,
        &["namespace:my-group", "project:my-group/my-project"],
        &[
            ("project_path", json!("my-group-evil/x")),
            ("project_path", json!("evil/my-group/x")),
            ("ref_protected", json!("false")),
            ("iss", json!("https://gitlab.com")),
        ],
    );
}

/// kubernetes.io, "Managing Service Accounts", the schema of bound tokens.
#[test]
fn kubernetes() {
    let url = "https://oidc.k8s.acme.example";
    let token = json!({
        "aud": ["postern"], "iss": url, "jti": "aed34954-b33a-4142-b1ec-389d6bbb4936",
        "kubernetes.io": {
            "namespace": "shop", "node": {"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
            "pod": {"name": "migrate-7", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
            "serviceaccount": {"name": "migrate", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
        },
        "sub": "system:serviceaccount:shop:migrate",
    });
    let cluster = declared("kubernetes", url, &[]);
    is(
        &cluster,
        &token,
        "system:serviceaccount:shop:migrate",
        &["namespace:shop"],
        &[("iss", json!("https://kubernetes.default.svc"))],
    );
    let one = declared(
        "kubernetes",
        url,
        &[("/kubernetes.io/serviceaccount/name", "migrate"), ("/kubernetes.io/namespace", "shop")],
    );
    is(
        &one,
        &token,
        "system:serviceaccount:shop:migrate",
        &["namespace:shop"],
        &[
            ("/kubernetes.io/serviceaccount/name", json!("default")),
            ("/kubernetes.io/namespace", json!("evil")),
            ("kubernetes.io", json!({})),
        ],
    );
}

/// JWT-SVID: no `iss`; keys of a bundle say `jwt-svid`.
#[test]
fn spiffe() {
    let mut key = idp().public.clone();
    key["use"] = json!("jwt-svid");
    let bundle =
        |key: &Value| json!({"keys": [key], "spiffe_sequence": 1, "spiffe_refresh_hint": 2_419_200}).to_string();
    let mut issuer = declared("spiffe", "spiffe://acme.example", &[]);
    let set = |issuer: &mut Issuer, jwks: String| {
        issuer.oidc_mut().unwrap().keys = postern_core::issuer::KeySource::Inline(jwks);
    };
    set(&mut issuer, bundle(&key));
    let token = json!({"sub": "spiffe://acme.example/ns/shop/sa/migrate", "aud": ["postern"]});
    let others = [
        ("sub", json!("spiffe://acme.example.evil/ns/shop")),
        ("sub", json!("spiffe://evil.example/spiffe://acme.example/x")),
        ("sub", json!("spiffe://acme.exampl/x")),
        ("sub", json!("acme.example/x")),
    ];
    is(&issuer, &token, "spiffe://acme.example/ns/shop/sa/migrate", &[], &others);
    // One that SPIRE names itself in does not count for less.
    let named = json!({"sub": "spiffe://acme.example/ci", "aud": "postern", "iss": "https://spire.acme.example"});
    is(&issuer, &named, "spiffe://acme.example/ci", &[], &others);
    key["use"] = json!("x509-svid");
    set(&mut issuer, bundle(&key));
    let unusable = IssuerVerifier::new(&name("ci"), &issuer, "");
    assert_eq!(unusable.unwrap_err(), KeyError::NoUsableKey);

    let by_url = declared("spiffe", "https://spire.acme.example", &[("sub", "spiffe://acme.example/**")]);
    is(&by_url, &named, "spiffe://acme.example/ci", &[], &others);
}

/// cloud.google.com, "Verify the identity of instances", and developers.google.com, "OpenID Connect".
#[test]
fn google() {
    let url = "https://accounts.google.com";
    let robot = json!({
        "iss": url, "iat": 1, "sub": "107517467455664443765", "azp": "107517467455664443765", "aud": "postern",
        "email": "migrate@shop.iam.gserviceaccount.com", "email_verified": true,
        "google": {"compute_engine": {
            "project_id": "shop", "project_number": 739_419_398_126_u64, "zone": "us-west1-a",
            "instance_id": "152986662232938449", "instance_name": "example", "instance_creation_timestamp": 1_496_952_205,
        }},
    });
    let of_project = declared("google", "", &[("email", "*@shop.iam.gserviceaccount.com")]);
    is(
        &of_project,
        &robot,
        "107517467455664443765",
        &[],
        &[
            ("email", json!("migrate@evil.iam.gserviceaccount.com")),
            ("email", json!("x@shop.iam.gserviceaccount.com.evil.example")),
            ("email_verified", json!(false)),
            ("email_verified", Value::Null),
        ],
    );
    let of_machine = declared("google", "", &[("google.compute_engine.project_id", "shop")]);
    is(&of_machine, &robot, "107517467455664443765", &[], &[("/google/compute_engine/project_id", json!("evil"))]);
    let person = json!({
        "iss": url, "azp": "1234987819200.apps.googleusercontent.com", "aud": "postern", "sub": "10769150350006150715113082367",
        "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q", "hd": "acme.example", "email": "jsmith@acme.example", "email_verified": true,
    });
    let people = declared("google", "", &[("hd", "acme.example")]);
    is(
        &people,
        &person,
        "10769150350006150715113082367",
        &["domain:acme.example"],
        &[("hd", json!("evil.example")), ("hd", Value::Null)],
    );
}

/// learn.microsoft.com, "Access token claims reference", version 2.0, of a managed identity.
#[test]
fn azure() {
    let url = format!("https://login.microsoftonline.com/{TENANT}/v2.0");
    let token = json!({
        "aud": "postern", "iss": url, "aio": "E2ZgYDBP", "azp": "a0000000-0000-0000-0000-000000000001", "azpacr": "2",
        "oid": "b0000000-0000-0000-0000-000000000002", "rh": "0.AX", "roles": ["Db.Read"],
        "sub": "b0000000-0000-0000-0000-000000000002", "tid": TENANT, "uti": "x", "ver": "2.0",
        "groups": ["c0000000-0000-0000-0000-000000000003"],
    });
    let groups = ["c0000000-0000-0000-0000-000000000003", "role:Db.Read"];
    let others = [
        ("tid", json!("99999999-2222-3333-4444-555555555555")),
        ("iss", json!("https://login.microsoftonline.com/99999999-2222-3333-4444-555555555555/v2.0")),
        ("oid", Value::Null),
        ("_claim_names", json!({"roles": "src1"})),
    ];
    let issuer = declared("azure", &url, &[]);
    is(&issuer, &token, "b0000000-0000-0000-0000-000000000002", &groups, &others[..3]);
    let mut overage = token.clone();
    overage.as_object_mut().unwrap().remove("roles");
    is(&issuer, &overage, "b0000000-0000-0000-0000-000000000002", &groups[..1], &others);
}
