//! Tokens, keys and declarations of issuers, and what is made of claims.

#![allow(clippy::expect_used)] // a target panics where something is wrong

use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::issuer::{ClaimPath, ClaimPattern, GroupsClaim, GroupsForm, Issuer, RequiredClaim};
use postern_core::snapshot::Snapshot;
use postern_core::wire::resource::{from_proto, to_proto};
use postern_core::{Name, Timestamp};
use postern_proto::resource::v1 as pb;
use postern_runtime::jwt::{IssuerVerifier, Verifier, unverified_issuer};
use prost::Message as _;
use serde_json::{Value, json};

use super::Bytes;

const URL: &str = "https://id.example";
const NOW: u64 = 1_800_000_000;

struct Known {
    key: Ed25519KeyPair,
    issuer: Issuer,
    name: Name,
    by_issuer: IssuerVerifier,
    by_all: Verifier,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}).to_string();
    let mut issuer = Issuer::new_oidc(URL, ["postern"]);
    let path = |text: &str| ClaimPath::parse(text).expect("a path");
    let oidc = issuer.oidc_mut().expect("an issuer of tokens");
    let groups = |claim: &str, form| GroupsClaim { claim: path(claim), prefix: format!("{claim}="), form };
    oidc.groups = vec![
        groups("groups", GroupsForm::List),
        groups("scope", GroupsForm::Spaces),
        groups("teams", GroupsForm::Commas),
        groups("/a.b/c", GroupsForm::Keys),
    ];
    let values = ["acme/*", "x**y*"].into_iter().filter_map(ClaimPattern::parse).collect();
    oidc.required = vec![RequiredClaim { claim: path("repository"), values }];
    let name: Name = "ci".parse().expect("a name");
    let by_issuer = IssuerVerifier::new(&name, &issuer, &jwks).expect("usable keys");
    let snapshot = Snapshot {
        issuers: [(name.clone(), (issuer.clone(), Some(jwks)))].into_iter().collect(),
        ..Snapshot::empty("c", "i")
    };
    Known { key, issuer, name, by_issuer, by_all: Verifier::from_snapshot(&snapshot) }
});

pub(super) fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let (which, said) = (bytes.byte(), bytes.rest());
    let now = Timestamp::from_secs(NOW);
    match which % 5 {
        0 => {
            let Ok(token) = std::str::from_utf8(said) else { return };
            let _ = (unverified_issuer(token), KNOWN.by_all.claimed_issuers(token));
            // One that is taken is one that the key has signed; all that the seeds have signed is the same.
            if let Ok(verified) = KNOWN.by_all.verify(token, now) {
                assert_eq!(&*verified.principal.id.subject, "ada");
            }
        }
        1 => claims(said, now),
        2 => {
            let Ok(jwks) = std::str::from_utf8(said) else { return };
            if let Ok(verifier) = IssuerVerifier::new(&KNOWN.name, &KNOWN.issuer, jwks) {
                let taken = verifier.verify(&signed(&seed_claims().to_string()), now);
                assert!(taken.is_err() || jwks.contains("Ed25519"), "by a key that is not there");
            }
        }
        3 => {
            let Ok(declared) = pb::Resource::decode(said) else { return };
            // What was taken once is written down, and must be taken again: it lies in logs and snapshots.
            if let Ok(read) = from_proto(declared) {
                assert_eq!(from_proto(to_proto(&read)).as_ref(), Ok(&read));
            }
        }
        _ => {
            let Ok(text) = std::str::from_utf8(said) else { return };
            let (pattern, value) = text.split_once('\n').unwrap_or((text, text));
            let _ = ClaimPath::parse(pattern);
            if let Some(pattern) = ClaimPattern::parse(pattern) {
                let (literal, wild) = pattern.literal();
                if pattern.fits(value) {
                    assert!(value.starts_with(literal) && value.ends_with(pattern.literal_end()));
                    assert!(wild || value == literal);
                }
            }
        }
    }
}

/// Claims that the issuer has signed, whatever they are.
fn claims(said: &[u8], now: Timestamp) {
    let Ok(principal) = KNOWN.by_issuer.verify(&signed_bytes(said), now) else { return };
    let claims: Value = serde_json::from_slice(said).expect("what was taken is JSON");
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    assert_eq!((text("iss"), text("sub")), (Some(URL), Some(&*principal.id.subject)));
    let repository = claims.get("repository").expect("it is required");
    assert!(repository.is_string() || repository.is_array(), "{repository}");
    assert!(principal.expires_at.is_some() && principal.groups.len() <= 1024);
    assert!(principal.groups.iter().all(|group| group.contains('=') && !group.chars().any(char::is_control)));
}

fn signed(claims: &str) -> String {
    signed_bytes(claims.as_bytes())
}

fn signed_bytes(claims: &[u8]) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"k","typ":"JWT"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(KNOWN.key.sign(signed.as_bytes()).as_ref());
    format!("{signed}.{signature}")
}

fn seed_claims() -> Value {
    json!({
        "iss": URL, "aud": ["postern"], "sub": "ada", "iat": NOW, "nbf": NOW, "exp": NOW + 60, "jti": "t",
        "repository": ["acme/app"], "groups": ["dev"], "scope": "read write", "teams": "a, b", "a.b": {"c": {"x": 1}},
    })
}

/// One of each, as it should be.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let of = |which: u8, said: &[u8]| [&[which][..], said].concat();
    let x = URL_SAFE_NO_PAD.encode(KNOWN.key.public_key().as_ref());
    let jwks = json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x, "use": "sig", "alg": "EdDSA"},
        {"kty": "EC", "crv": "P-256", "x": x, "y": x, "kid": "e"},
        {"kty": "RSA", "n": "x".repeat(342), "e": "AQAB", "kid": "r"},
    ]});
    let required = pb::RequiredClaim { claim: "repository".into(), values: vec!["acme/*".into()] };
    let spec = |preset: &str, url: &str| pb::IssuerSpec {
        preset: preset.into(),
        url: url.into(),
        audiences: vec!["postern".into()],
        jwks: jwks.to_string(),
        subject_claim: "/a~1b/c".into(),
        claim_groups: vec![pb::ClaimGroups { claim: "g".into(), prefix: "p".into(), form: 3 }],
        required_claims: vec![required.clone()],
        ..Default::default()
    };
    let declared = |spec: pb::IssuerSpec| {
        let metadata = Some(pb::Metadata { name: "ci".into(), ..Default::default() });
        of(3, &pb::Resource { metadata, spec: Some(pb::resource::Spec::Issuer(spec)) }.encode_to_vec())
    };
    vec![
        of(0, signed(&seed_claims().to_string()).as_bytes()),
        of(1, seed_claims().to_string().as_bytes()),
        of(2, jwks.to_string().as_bytes()),
        declared(spec("github-actions", "")),
        declared(spec("spiffe", "spiffe://acme.example")),
        declared(spec("azure", "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0")),
        declared(spec("kubernetes", "https://k8s.example")),
        of(4, b"refs/*/release-**\nrefs/heads/release-1/2"),
    ]
}
