//! Session tokens and their links, proofs of possession, and what service accounts say of themselves: as strangers write them, and with any claims under
//! a signature that is right.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // a target panics where something is wrong

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::service_account::ServiceAccount;
use postern_core::snapshot::Snapshot;
use postern_core::token::{
    Confirmation, Delegation, LINK_TYPE, MAX_DEPTH, SCOPED_TOKEN_TYPE, SESSION_TOKEN_MAX_TTL, SESSION_TOKEN_TYPE,
};
use postern_core::{Name, Timestamp};
use postern_runtime::jwt::{
    ClientAssertion, Proof, Proofs, Verified, Verifier, lets_act, unverified_binding, unverified_issuer,
};
use serde_json::{Value, json};

use super::Bytes;

const NOW: u64 = 1_800_000_000;
const REQUEST: (&str, &str) = ("POST", "https://postern.example/oauth/token");
const AUDIENCES: [&str; 2] = ["https://postern.example", REQUEST.1];

struct Known {
    cluster: Ed25519KeyPair,
    holder: Ed25519KeyPair,
    verifier: Verifier,
    account: ServiceAccount,
    proofs: Proofs,
    /// With a delegation key, the holder's, and bound to it; and good for two targets.
    parent: String,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let key = |seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key");
    let (cluster, holder) = (key(7), key(8));
    let jwk = |key: &Ed25519KeyPair, kid: &str| {
        let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x})
    };
    let session_token_jwks = json!({"keys": [jwk(&cluster, "k")]}).to_string();
    let verifier = Verifier::from_snapshot(&Snapshot { session_token_jwks, ..Snapshot::empty("c", "i") });
    let account = ServiceAccount { jwks: json!({"keys": [jwk(&holder, "h")]}).to_string(), ..Default::default() };
    let proofs = Proofs::new(false, Timestamp::from_secs(NOW - 600)).expect("random bytes");
    let mut claims = token_claims();
    claims["dlg"] = json!(Delegation::new(holder.public_key().as_ref(), MAX_DEPTH));
    claims["cnf"] = json!(Confirmation::key(&[7; 32]));
    let parent = signed(&cluster, &json!({"alg": "EdDSA", "kid": "k", "typ": SCOPED_TOKEN_TYPE}), &claims);
    Known { cluster, holder, verifier, account, proofs, parent }
});

fn now() -> Timestamp {
    Timestamp::from_secs(NOW)
}

pub(super) fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let (which, said) = (bytes.byte(), bytes.rest());
    let text = std::str::from_utf8(said).unwrap_or_default();
    match which % 9 {
        0 => stranger(text),
        1 => token(said),
        2 => link(said),
        3 => {
            // One that is taken is one that a seed's key has signed.
            if let Ok(mut proof) = Proof::verify(text, REQUEST, now()) {
                assert_eq!(proof.confirmation(), own_proof().confirmation());
                let _ = KNOWN.proofs.spend(&mut proof, now());
            }
        }
        4 => proof(said),
        5 => {
            // Any header, under the right signature.
            let header: Value = serde_json::from_slice(said).unwrap_or_default();
            if Proof::verify(&signed(&KNOWN.holder, &header, &proof_claims()), REQUEST, now()).is_ok() {
                assert_eq!(header["typ"].as_str().map(str::to_ascii_lowercase).as_deref(), Some("dpop+jwt"));
                assert!(header["jwk"].get("d").is_none() && header["crit"].is_null(), "{header}");
            }
        }
        6 => {
            if let Ok(shown) = ClientAssertion::verify(text, ("ci", &KNOWN.account), &AUDIENCES, now()) {
                assert_eq!(shown.id, "one");
            }
        }
        7 => assertion(said),
        _ => urls(text),
    }
}

/// What somebody writes who has no key.
fn stranger(text: &str) {
    let _ = (unverified_issuer(text), unverified_binding(text), KNOWN.verifier.claimed_issuers(text));
    let _ = lets_act(text, text);
    for taken in [KNOWN.verifier.verify(text, now()), KNOWN.verifier.look(text, now())].into_iter().flatten() {
        assert_eq!(&*taken.principal.id.subject, "robot");
    }
}

/// Any claims that the cluster has signed.
fn token(said: &[u8]) {
    for typ in [SESSION_TOKEN_TYPE, SCOPED_TOKEN_TYPE] {
        let token = signed_bytes(&KNOWN.cluster, &json!({"alg": "EdDSA", "kid": "k", "typ": typ}), said);
        let Ok(taken) = KNOWN.verifier.look(&token, now()) else { continue };
        let claims: Value = serde_json::from_slice(said).expect("what was taken is JSON");
        assert_eq!((claims["cluster"].as_str(), claims["aud"].as_str()), (Some("c"), Some("postern:session")));
        assert_eq!(claims["sub"].as_str(), Some(&*taken.principal.id.to_string()));
        assert_eq!(claims["cnf"].is_null(), taken.confirmation.is_none());
        let (begun, end) = (claims["iat"].as_u64().expect("iat"), claims["exp"].as_u64().expect("exp"));
        assert!(end > NOW && end.saturating_sub(begun) <= u64::from(SESSION_TOKEN_MAX_TTL));
        assert!(KNOWN.verifier.verify(&token, now()).is_err() || claims["dlg"].is_null(), "it is only handed on");
    }
}

/// Any claims that the parent has signed: the child is no more than the parent (I6).
fn link(said: &[u8]) {
    let Ok(Value::Object(mut claims)) = serde_json::from_slice::<Value>(said) else { return };
    let digest = digest(&SHA256, KNOWN.parent.as_bytes());
    claims.insert("par".to_owned(), URL_SAFE_NO_PAD.encode(digest.as_ref()).into());
    let link = signed(&KNOWN.holder, &json!({"alg": "EdDSA", "typ": LINK_TYPE}), &claims.into());
    let child = format!("{}~{link}", KNOWN.parent);
    let Ok(taken) = KNOWN.verifier.look(&child, now()) else { return };
    let parent = KNOWN.verifier.look(&KNOWN.parent, now()).expect("the parent");
    narrower(&taken, &parent);
}

fn narrower(child: &Verified, parent: &Verified) {
    assert_eq!((&child.principal.id, &child.principal.groups), (&parent.principal.id, &parent.principal.groups));
    assert!(child.principal.expires_at <= parent.principal.expires_at);
    assert!(child.confirmation.is_some(), "the binding is gone");
    assert!(child.shown_from(None).is_err());
    let targets: [Name; 3] = ["db", "shop", "other"].map(|name| name.parse().expect("a name"));
    for target in &targets {
        assert!(!child.principal.reaches(target) || parent.principal.reaches(target), "{target}");
    }
    assert!(child.principal.chain.starts_with(&parent.principal.chain));
    assert_eq!(child.depth, parent.depth.map(|depth| depth + 1));
}

/// Any claims under the right header and signature.
fn proof(said: &[u8]) {
    let header = proof_header();
    let Ok(taken) = Proof::verify(&signed_bytes(&KNOWN.holder, &header, said), REQUEST, now()) else { return };
    let claims: Value = serde_json::from_slice(said).expect("what was taken is JSON");
    assert_eq!(claims["htm"].as_str(), Some("POST"));
    let url = claims["htu"].as_str().expect("htu").to_ascii_lowercase();
    assert!(url.starts_with("https://postern.example"), "{url}");
    assert!(taken.made_at().secs() >= NOW - 60 && taken.made_at().secs() <= NOW + 30);
    assert_eq!(claims["ath"].is_null(), taken.may_go_with("another").is_ok());
}

fn assertion(said: &[u8]) {
    let shown = signed_bytes(&KNOWN.holder, &json!({"alg": "EdDSA", "typ": "JWT"}), said);
    let Ok(taken) = ClientAssertion::verify(&shown, ("ci", &KNOWN.account), &AUDIENCES, now()) else { return };
    let claims: Value = serde_json::from_slice(said).expect("what was taken is JSON");
    assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("ci"), Some("ci")));
    assert!(!taken.id.is_empty() && taken.until > now() && taken.until.secs() <= NOW + 700);
}

/// Whether two URLs are one does not hang on which of them a proof names.
fn urls(text: &str) {
    let (one, other) = text.split_once('\n').unwrap_or((text, text));
    let same = |shown: &str, here: &str| {
        let mut claims = proof_claims();
        claims["htu"] = shown.into();
        Proof::verify(&signed(&KNOWN.holder, &proof_header(), &claims), ("POST", here), now()).is_ok()
    };
    assert_eq!(same(one, other), same(other, one));
    let host = |url: &str| url.split('/').nth(2).map(str::to_ascii_lowercase);
    if same(one, other) {
        let bare = |url| host(url).map(|host| host.split([':', '?', '#']).next().map(str::to_owned));
        assert!(one.contains('[') || bare(one) == bare(other), "{one} is not {other}");
    }
}

fn own_proof() -> Proof {
    let proof = signed(&KNOWN.holder, &proof_header(), &proof_claims());
    Proof::verify(&proof, REQUEST, now()).expect("a good proof")
}

fn proof_header() -> Value {
    let x = URL_SAFE_NO_PAD.encode(KNOWN.holder.public_key().as_ref());
    json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": {"kty": "OKP", "crv": "Ed25519", "x": x}})
}

fn proof_claims() -> Value {
    let ath = URL_SAFE_NO_PAD.encode(digest(&SHA256, b"a.b.c"));
    json!({"jti": "one", "htm": REQUEST.0, "htu": REQUEST.1, "iat": NOW, "ath": ath, "nonce": "n"})
}

fn token_claims() -> Value {
    json!({
        "iss": "postern", "aud": "postern:session", "sub": "ci/robot", "exp": NOW + 900, "nbf": NOW, "iat": NOW,
        "jti": "tok_1", "cluster": "c", "principal": {"id": {"issuer": "ci", "subject": "robot"}, "groups": ["dev"]},
        "targets": ["db", "shop"],
    })
}

fn link_claims() -> Value {
    json!({
        "par": "", "exp": NOW + 60, "iat": NOW, "name": "child", "scope": {"targets": ["db"], "networks": ["10.0.0.0/8"]},
        "dlg": Delegation::new(KNOWN.holder.public_key().as_ref(), 2), "cnf": Confirmation::certificate(&[7; 32]),
    })
}

fn signed(key: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
    signed_bytes(key, header, claims.to_string().as_bytes())
}

fn signed_bytes(key: &Ed25519KeyPair, header: &Value, claims: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).as_ref());
    format!("{signed}.{signature}")
}

/// One of each, as it should be.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let of = |which: u8, said: &str| [&[which][..], said.as_bytes()].concat();
    let header = |typ: &str| json!({"alg": "EdDSA", "kid": "k", "typ": typ});
    let token = signed(&KNOWN.cluster, &header(SCOPED_TOKEN_TYPE), &token_claims());
    let plain = signed(&KNOWN.cluster, &header(SESSION_TOKEN_TYPE), &token_claims());
    let parent = &KNOWN.parent;
    let mut claims = link_claims();
    claims["par"] = URL_SAFE_NO_PAD.encode(digest(&SHA256, parent.as_bytes())).into();
    let link = signed(&KNOWN.holder, &json!({"alg": "EdDSA", "typ": LINK_TYPE}), &claims);
    let mut chained = token_claims();
    chained["principal"]["chain"] =
        json!([{"token": "tok_0", "scope": {}}, {"token": "tok_1", "scope": {"actions": ["sql:select"]}}]);
    chained["cnf"] = json!(Confirmation::key(&[7; 32]));
    let word = json!({"iss": "ci", "sub": "ci", "aud": [AUDIENCES[0]], "exp": NOW + 60, "iat": NOW, "jti": "one"});
    let proof = signed(&KNOWN.holder, &proof_header(), &proof_claims());
    let assertion = signed(&KNOWN.holder, &json!({"alg": "EdDSA", "typ": "JWT"}), &word);
    vec![
        of(0, &token),
        of(0, &plain),
        of(0, parent),
        of(0, &format!("{parent}~{link}")),
        of(1, &token_claims().to_string()),
        of(1, &chained.to_string()),
        of(2, &link_claims().to_string()),
        of(2, &json!({"exp": NOW + 9_999, "iat": NOW}).to_string()),
        of(3, &proof),
        of(4, &proof_claims().to_string()),
        of(5, &proof_header().to_string()),
        of(6, &assertion),
        of(7, &word.to_string()),
        of(8, "https://a.example:443/x/./%7Eb?q\nHTTPS://A.example/x/~b"),
    ]
}
