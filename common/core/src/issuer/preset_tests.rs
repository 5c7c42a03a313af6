//! What presets fill in and demand, as a declaration meets them.

use postern_proto::resource::v1 as pb;

use super::*;
use crate::resource::{FieldFault, Spec};
use crate::wire::resource::{from_proto, to_proto};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";

fn spec(preset: &str, url: &str, required: &[(&str, &[&str])]) -> pb::IssuerSpec {
    let required = required.iter().map(|(claim, values)| pb::RequiredClaim {
        claim: (*claim).to_owned(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    });
    pb::IssuerSpec {
        preset: preset.into(),
        url: url.into(),
        audiences: vec!["postern".into()],
        required_claims: required.collect(),
        ..Default::default()
    }
}

fn read(spec: pb::IssuerSpec) -> Result<Issuer, Vec<FieldFault>> {
    let metadata = Some(pb::Metadata { name: "ci".into(), ..Default::default() });
    let read = from_proto(pb::Resource { metadata, spec: Some(pb::resource::Spec::Issuer(spec)) })?;
    // What was filled in is written down: it reads back as the same, whatever later releases would fill in.
    assert_eq!(from_proto(to_proto(&read)).as_ref(), Ok(&read));
    match read.spec {
        Spec::Issuer(issuer) => Ok(issuer),
        _ => panic!(),
    }
}

fn paths(spec: pb::IssuerSpec) -> Vec<String> {
    read(spec).unwrap_err().into_iter().map(|fault| fault.path).collect()
}

#[test]
fn a_forge_or_cloud_must_be_narrowed_to_ones_own() {
    let td = "https://oidc.acme.example";
    for (preset, url, claim, value) in [
        ("github-actions", "", "repository", "acme/app"),
        ("github-actions", "", "repository", "acme/*"),
        ("github-actions", "https://github.acme.example/_services/token", "repository_owner", "acme"),
        ("github-actions", "", "repository_owner_id", "1342004"),
        ("github-actions", "", "sub", "repo:acme/*:environment:production"),
        ("gitlab-ci", "", "project_path", "acme/team/app"),
        ("gitlab-ci", "", "namespace_path", "acme/**"),
        ("gitlab-ci", "", "namespace_path", "acme"),
        ("gitlab-ci", "https://gitlab.acme.example", "sub", "project_path:acme/app:ref_type:branch:ref:main"),
        ("google", "", "hd", "acme.example"),
        ("google", "", "email", "robot@shop.iam.gserviceaccount.com"),
        ("google", "", "email", "*@shop.iam.gserviceaccount.com"),
        ("google", "", "google.compute_engine.project_id", "shop"),
        ("google", "", "/google/compute_engine/project_id", "shop"),
        ("spiffe", td, "sub", "spiffe://acme.example/**"),
    ] {
        assert!(read(spec(preset, url, &[(claim, &[value])])).is_ok(), "{preset} {claim} {value}");
    }
    for (preset, url, claim, value) in [
        ("github-actions", "", "repository", "*/app"),
        ("github-actions", "", "repository", "acme*/app"),
        ("github-actions", "", "repository", "**"),
        ("github-actions", "", "repository_owner", "acme*"),
        ("github-actions", "", "ref", "refs/heads/main"),
        ("github-actions", "", "job_workflow_ref", "acme/flows/.github/workflows/x.yml@refs/heads/main"),
        ("github-actions", "", "sub", "repo:*"),
        ("github-actions", "", "sub", "repo:/x"),
        ("gitlab-ci", "", "namespace_path", "*"),
        ("gitlab-ci", "", "user_login", "alice"),
        ("google", "", "hd", "*.example"),
        ("google", "", "email", "*@acme.example"),
        ("google", "", "email", "*-compute@developer.gserviceaccount.com"),
        ("google", "", "email", "*@*.iam.gserviceaccount.com"),
        ("google", "", "email", "*.iam.gserviceaccount.com"),
        ("spiffe", td, "sub", "spiffe://*/ci"),
    ] {
        assert_eq!(paths(spec(preset, url, &[(claim, &[value])])), ["spec.requiredClaims"], "{preset} {claim} {value}");
    }
    // Alternatives: one that is too wide is one too many.
    let wide = spec("github-actions", "", &[("repository", &["acme/app", "*/app"])]);
    assert_eq!(paths(wide), ["spec.requiredClaims"]);
    for preset in ["github-actions", "gitlab-ci", "google"] {
        assert_eq!(paths(spec(preset, "", &[])), ["spec.requiredClaims"], "{preset}");
    }
    assert_eq!(paths(spec("gitlab", "https://gitlab.com", &[])), ["spec.preset"]);
}

#[test]
fn a_tenant_a_cluster_and_a_trust_domain_are_ones_own_by_their_url() {
    for host in ["https://login.microsoftonline.com/TENANT/v2.0", "https://sts.windows.net/TENANT/"] {
        let issuer = read(spec("azure", &host.replace("TENANT", TENANT), &[])).unwrap();
        let oidc = issuer.oidc().unwrap();
        assert_eq!(oidc.subject.as_str(), "oid");
        assert_eq!((oidc.required[0].claim.as_str(), oidc.required[0].values[0].as_str()), ("tid", TENANT));
        for everybody in ["common", "organizations", "consumers", "acme.example"] {
            assert_eq!(paths(spec("azure", &host.replace("TENANT", everybody), &[])), ["spec.url"], "{everybody}");
        }
    }

    let cluster = "https://k8s.acme.example";
    assert!(read(spec("kubernetes", cluster, &[])).is_ok());
    for own in [cluster, "https://kubernetes.default.svc.cluster.local"] {
        let spec = pb::IssuerSpec { audiences: vec!["postern".into(), own.into()], ..spec("kubernetes", cluster, &[]) };
        assert_eq!(paths(spec), ["spec.audiences"], "{own}");
    }
    assert_eq!(paths(spec("kubernetes", "", &[])), ["spec.url"]);

    let domain = "spiffe://acme.example";
    assert_eq!(paths(spec("spiffe", domain, &[])), ["spec.jwksUri"]);
    let bundle = pb::IssuerSpec { jwks_uri: "https://spire.acme.example/bundle".into(), ..spec("spiffe", domain, &[]) };
    assert!(read(bundle.clone()).unwrap().is_trust_domain());
    for other in ["spiffe://", "spiffe://acme.example/ci", "spiffe://a?b"] {
        assert_eq!(paths(pb::IssuerSpec { url: other.into(), ..bundle.clone() })[0], "spec.url", "{other}");
    }
    // It takes the preset: without, whoever holds a key of the bundle would choose the subject's trust domain.
    assert_eq!(paths(pb::IssuerSpec { preset: String::new(), ..bundle })[0], "spec.url");
}

#[test]
fn what_is_said_goes_before_what_is_usual() {
    let usual = read(spec("github-actions", "", &[("repository", &["acme/app"])])).unwrap();
    let oidc = usual.oidc().unwrap();
    assert_eq!(usual.url, "https://token.actions.githubusercontent.com");
    assert_eq!(oidc.algorithms, [Algorithm::Rs256]);
    let groups: Vec<(&str, &str)> = oidc.groups.iter().map(|from| (from.claim.as_str(), &*from.prefix)).collect();
    assert_eq!(groups, [("repository", "repository:"), ("repository_owner", "owner:")]);

    let mut said = spec("github-actions", "https://ghes.example/_services/token", &[("repository", &["acme/app"])]);
    said.algorithms = vec!["ES512".into()];
    said.subject_claim = "job_workflow_ref".into();
    said.groups_claim = "environment".into();
    let said = read(said).unwrap();
    let oidc = said.oidc().unwrap();
    assert_eq!(said.url, "https://ghes.example/_services/token");
    assert_eq!(oidc.algorithms, [Algorithm::Es512]);
    assert_eq!(oidc.subject.as_str(), "job_workflow_ref");
    assert_eq!(oidc.groups, [GroupsClaim::list(ClaimPath::of_name("environment"))]);

    let required = |issuer: &Issuer| issuer.oidc().unwrap().required.len();
    let person = read(spec("google", "", &[("hd", &["acme.example"])])).unwrap();
    let robot = read(spec("google", "", &[("email", &["r@shop.iam.gserviceaccount.com"])])).unwrap();
    assert_eq!((required(&person), required(&robot)), (1, 2));
    let robot = robot.oidc().unwrap();
    assert_eq!(robot.required[1].claim.as_str(), "email_verified");
    assert!(robot.required[1].values[0].fits("true") && !robot.required[1].values[0].fits("false"));
}

#[test]
fn keys_and_claims_of_a_declaration_are_looked_at() {
    let plain = || spec("", "https://id.example", &[]);
    let jwks = |jwks: &str| pb::IssuerSpec { jwks: jwks.into(), ..plain() };
    assert!(matches!(read(jwks(r#"{"keys": []}"#)).unwrap().oidc().unwrap().keys, KeySource::Inline(_)));
    for bad in ["x", "{}", r#"{"keys": 1}"#, &format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(300_000))] {
        assert_eq!(paths(jwks(bad)), ["spec.jwks"], "{}", bad.len());
    }
    let secret = jwks(r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "d": "hush"}]}"#);
    assert!(!format!("{:?}", read(secret.clone())).contains("hush"));
    assert_eq!(paths(secret), ["spec.jwks"]);
    let both = pb::IssuerSpec { jwks_uri: "https://id.example/keys".into(), ..jwks(r#"{"keys": []}"#) };
    assert_eq!(paths(both), ["spec.jwks"]);
    let clear = pb::IssuerSpec { jwks_uri: "http://id.example/keys".into(), ..plain() };
    assert_eq!(paths(clear), ["spec.jwksUri"]);
    let claims = pb::IssuerSpec {
        subject_claim: "/a~".into(),
        claim_groups: vec![
            pb::ClaimGroups::default(),
            pb::ClaimGroups { claim: "a".into(), form: 9, ..Default::default() },
        ],
        required_claims: vec![
            pb::RequiredClaim::default(),
            pb::RequiredClaim { claim: "a".into(), values: vec![String::new()] },
        ],
        ..plain()
    };
    let mut found = paths(claims);
    found.sort();
    assert_eq!(
        found,
        [
            "spec.claimGroups[0].claim",
            "spec.claimGroups[1].form",
            "spec.requiredClaims[0].claim",
            "spec.requiredClaims[0].values",
            "spec.requiredClaims[1].values[0]",
            "spec.subjectClaim",
        ]
    );
    // What could be said before is the same bytes as before, and needs no newer cluster.
    let old = read(pb::IssuerSpec { groups_claim: "realm.roles".into(), ..plain() }).unwrap();
    assert!(!old.oidc().unwrap().is_of_level_3());
    for newer in [
        jwks(r#"{"keys": []}"#),
        pb::IssuerSpec { subject_claim: "email".into(), ..plain() },
        pb::IssuerSpec { algorithms: vec!["ES512".into()], ..plain() },
        spec("", "https://id.example", &[("a", &["b"])]),
        spec("kubernetes", "https://k8s.example", &[]),
    ] {
        assert!(read(newer).unwrap().oidc().unwrap().is_of_level_3());
    }
}
