//! Proofs of possession, signed by another implementation than the one under test.

use jsonwebtoken::jwk::ThumbprintHash;
use postern_core::token::{Confirmation, MAX_DEPTH};

use super::*;

const HERE: (&str, &str) = ("POST", "https://postern.example/oauth/token");

/// The thumbprint by the other implementation.
fn thumbprint(public: &Value) -> String {
    serde_json::from_value::<Jwk>(public.clone()).unwrap().thumbprint(ThumbprintHash::SHA256).unwrap()
}

/// A client with a key.
struct Holder(Idp);

impl Holder {
    fn new(alg: Alg) -> Self {
        let mut idp = Idp::new(alg, "x");
        let members = idp.public.as_object_mut().unwrap();
        members.retain(|name, _| ["kty", "crv", "x", "y", "n", "e"].contains(&name.as_str()));
        Self(idp)
    }

    fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": format!("{:?}", self.0.alg), "jwk": self.0.public})
    }

    fn signed(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = jsonwebtoken::crypto::sign(text.as_bytes(), &self.0.signing, self.0.alg).unwrap();
        format!("{text}.{signature}")
    }

    fn proof(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({"jti": "one", "htm": HERE.0, "htu": HERE.1, "iat": NOW});
        change(&mut claims);
        self.signed(&self.header(), &claims)
    }
}

fn proofs(demands: bool) -> Proofs {
    Proofs::new(demands, Timestamp::from_secs(NOW - 1_000)).unwrap()
}

fn verify(proof: &str) -> Result<Proof, ProofError> {
    Proof::verify(proof, HERE, now())
}

#[test]
fn whoever_has_the_key_proves_it_for_one_request() {
    for alg in [Alg::ES256, Alg::ES384, Alg::EdDSA, Alg::PS256, Alg::RS256] {
        let holder = Holder::new(alg);
        let proof = verify(&holder.proof(|_| {})).unwrap();
        assert_eq!(proof.confirmation(), Confirmation::Key(thumbprint(&holder.0.public)), "{alg:?}");
        assert_eq!(proof.until().secs(), NOW + 60);
        // Another's signature, and another's key.
        let other = Holder::new(alg);
        let stolen = other.signed(&holder.header(), &json!({"jti": "a", "htm": HERE.0, "htu": HERE.1, "iat": NOW}));
        assert_eq!(verify(&stolen), Err(ProofError::Signature), "{alg:?}");
    }
}

#[test]
fn what_is_no_proof_is_none() {
    let holder = Holder::new(Alg::ES256);
    let claims = json!({"jti": "one", "htm": HERE.0, "htu": HERE.1, "iat": NOW});
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header = holder.header();
        change(&mut header);
        verify(&holder.signed(&header, &claims)).unwrap_err()
    };
    for typ in [json!(null), json!("JWT"), json!("postern-session+jwt")] {
        assert_eq!(with(&|header| header["typ"] = typ.clone()), ProofError::Malformed);
    }
    assert_eq!(with(&|header| header["crit"] = json!(["x"])), ProofError::Malformed);
    assert_eq!(with(&|header| _ = header.as_object_mut().unwrap().remove("jwk")), ProofError::Malformed);
    assert_eq!(with(&|header| header["jwk"] = json!("x")), ProofError::Malformed);
    for private in ["d", "k", "p", "oth"] {
        assert_eq!(with(&|header| header["jwk"][private] = json!("AAAA")), ProofError::Key);
    }
    for (member, value) in [
        ("kty", json!("oct")),
        ("crv", json!("P-384")),
        ("x", json!("AA")),
        ("use", json!("enc")),
        ("alg", json!("ES384")),
    ] {
        assert_eq!(with(&|header| header["jwk"][member] = value.clone()), ProofError::Algorithm, "{member}");
    }
    let newer = Holder::new(Alg::EdDSA);
    let mut header = newer.header();
    (header["alg"], header["jwk"]["alg"]) = (json!("Ed25519"), json!("Ed25519"));
    verify(&newer.signed(&header, &claims)).unwrap();
    for alg in ["none", "HS256", "Ed25519", "EdDSA", "RS512", "ES384"] {
        assert_eq!(with(&|header| header["alg"] = json!(alg)), ProofError::Algorithm, "{alg}");
    }
    let long = holder.proof(|claims| claims["more"] = json!("x".repeat(8_192)));
    for proof in ["", "a.b.c", "x", &long, &holder.proof(|_| {}).replace('.', "~")] {
        assert_eq!(verify(proof).unwrap_err(), ProofError::Malformed);
    }
}

#[test]
fn a_proof_is_for_its_request_and_for_a_moment() {
    let holder = Holder::new(Alg::EdDSA);
    let said = |member: &str, value: Value| {
        verify(&holder.proof(|claims| match value {
            Value::Null => _ = claims.as_object_mut().unwrap().remove(member),
            value => claims[member] = value,
        }))
    };
    for (member, good) in [
        ("htu", json!("HTTPS://Postern.Example:443/oauth/x/%2E%2e/token?a=b#c")),
        ("iat", json!(NOW - 60)),
        ("iat", json!(NOW + 30)),
        ("exp", json!(NOW - 29)),
        ("nbf", json!(NOW + 30)),
        ("whatever", json!({"a": 1})),
    ] {
        assert!(said(member, good.clone()).is_ok(), "{member} {good}");
    }
    for (member, bad, expected) in [
        ("htm", json!("GET"), ProofError::Method),
        ("htm", json!("post"), ProofError::Method),
        ("htu", json!("https://postern.example/oauth/revoke"), ProofError::Url),
        ("htu", json!("http://postern.example/oauth/token"), ProofError::Url),
        ("htu", json!("https://evil.example/oauth/token"), ProofError::Url),
        ("htu", json!("https://postern.example:8443/oauth/token"), ProofError::Url),
        ("htu", json!("https://u@postern.example/oauth/token"), ProofError::Url),
        ("htu", json!("/oauth/token"), ProofError::Url),
        ("iat", json!(NOW - 61), ProofError::Time),
        ("iat", json!(NOW + 31), ProofError::Time),
        ("iat", json!(u64::MAX), ProofError::Time),
        ("exp", json!(NOW - 30), ProofError::Time),
        ("nbf", json!(NOW + 31), ProofError::Time),
        ("jti", json!(""), ProofError::Claims("jti")),
        ("jti", json!("x".repeat(257)), ProofError::Claims("jti")),
        ("nonce", json!("x".repeat(257)), ProofError::Claims("nonce")),
        ("ath", json!("AAAA"), ProofError::Claims("ath")),
    ] {
        assert_eq!(said(member, bad.clone()).unwrap_err(), expected, "{member} {bad}");
    }
    for member in ["jti", "htm", "htu", "iat"] {
        assert!(matches!(said(member, Value::Null), Err(ProofError::Claims(_))), "{member}");
    }
}

#[test]
fn a_proof_goes_with_its_token_alone() {
    let holder = Holder::new(Alg::ES256);
    let ath = URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"a.b.c~d"));
    let with = verify(&holder.proof(|claims| claims["ath"] = json!(ath))).unwrap();
    let without = verify(&holder.proof(|_| {})).unwrap();
    assert_eq!((with.goes_with("a.b.c~d"), with.may_go_with("a.b.c~d")), (Ok(()), Ok(())));
    assert_eq!((with.goes_with("a.b.c"), with.may_go_with("a.b.c")), (Err(ProofError::Token), Err(ProofError::Token)));
    assert_eq!((without.goes_with("a.b.c"), without.may_go_with("a.b.c")), (Err(ProofError::Token), Ok(())));
}

#[test]
fn each_proof_is_good_once_and_memory_of_it_is_bounded() {
    let (proofs, holder) = (proofs(false), Holder::new(Alg::EdDSA));
    let at = |secs: u64| Timestamp::from_secs(NOW + secs);
    let show = |jti: &str, made: u64, shown: u64| {
        let proof = holder.proof(|claims| (claims["jti"], claims["iat"]) = (json!(jti), json!(NOW + made)));
        proofs.verify(&proof, HERE, at(shown)).and_then(|mut proof| proofs.spend(&mut proof, at(shown)).map(|()| proof))
    };
    let mut first = show("a", 30, 0).unwrap();
    assert_eq!(proofs.spend(&mut first, at(1)), Ok(()), "the same request");
    // As long as it is good; after that it is refused by itself.
    for shown in [0, 1, 60, 89, 90] {
        assert_eq!(show("a", 30, shown).unwrap_err(), ProofError::Replayed, "{shown}");
        show(&format!("b{shown}"), 30, shown).unwrap();
    }
    assert_eq!(show("a", 30, 91).unwrap_err(), ProofError::Time);
    show("a", 91, 91).unwrap_err();
    let other = Holder::new(Alg::EdDSA);
    let same = other.proof(|claims| claims["iat"] = json!(NOW + 91));
    let mut same = proofs.verify(&same, HERE, at(91)).unwrap();
    assert_eq!(proofs.spend(&mut same, at(91)), Ok(()), "another's, of the same jti");
    // What nobody can show any more is forgotten.
    show("z", 1_000, 1_000).unwrap();
    assert_eq!(proofs.known(), 1);
    assert_eq!(
        proofs.verify(
            &holder.proof(|claims| claims["iat"] = json!(NOW - 1_001)),
            HERE,
            Timestamp::from_secs(NOW - 1_000)
        ),
        Err(ProofError::Time),
        "before the node began"
    );
}

#[test]
fn one_key_has_not_all_the_room() {
    let (proofs, holder) = (proofs(false), Holder::new(Alg::EdDSA));
    let proof = verify(&holder.proof(|_| {})).unwrap();
    let numbered = |n: u32| {
        let mut numbered = proof.clone();
        numbered.renumber(n);
        numbered
    };
    for n in 0..8_192 {
        proofs.spend(&mut numbered(n), now()).unwrap();
    }
    assert_eq!(proofs.spend(&mut numbered(8_192), now()), Err(ProofError::Busy));
    let mut other = verify(&Holder::new(Alg::EdDSA).proof(|_| {})).unwrap();
    assert_eq!(proofs.spend(&mut other, now()), Ok(()));
    assert_eq!(proofs.spend(&mut numbered(8_193), Timestamp::from_secs(NOW + 91)), Ok(()), "after a while");
}

#[test]
fn a_nonce_is_of_this_node_and_for_a_while() {
    let (proofs, other, holder) = (proofs(true), proofs(true), Holder::new(Alg::ES256));
    let given = proofs.nonce(now()).unwrap();
    let shown = |nonce: Option<&str>, at: u64| {
        let at = Timestamp::from_secs(NOW + at);
        let proof = holder.proof(|claims| {
            claims["iat"] = json!(at.secs());
            if let Some(nonce) = nonce {
                claims["nonce"] = json!(nonce);
            }
        });
        proofs.verify(&proof, HERE, at).map(drop)
    };
    assert_eq!((shown(Some(&given), 0), shown(Some(&given), 299)), (Ok(()), Ok(())));
    let foreign = other.nonce(now()).unwrap();
    for bad in [None, Some(""), Some("AAAA"), Some("x y"), Some(&*foreign), Some(&given[1..])] {
        assert_eq!(shown(bad, 0), Err(ProofError::Nonce), "{bad:?}");
    }
    assert_eq!(shown(Some(&given), 300), Err(ProofError::Nonce));
    let later = proofs.nonce(Timestamp::from_secs(NOW + 9)).unwrap();
    assert_eq!(shown(Some(&later), 8), Err(ProofError::Nonce));
    assert_eq!(Proofs::new(false, now()).unwrap().nonce(now()), None);
}

#[test]
fn a_bound_token_is_good_with_its_key_alone_and_so_are_its_children() {
    let (own, other) = (Holder::new(Alg::ES256), Holder::new(Alg::ES256));
    let proof = verify(&own.proof(|_| {})).unwrap();
    let stranger = verify(&other.proof(|_| {})).unwrap();
    let signer = SessionSigner::generate().unwrap();
    let verifier = SessionVerifier::new("c1", &signer.jwks()).unwrap();
    let claims = SessionClaims { cnf: Some(proof.confirmation()), ..session_claims() };
    let good = |token: &str, key: &Proof| {
        let verified = verifier.verify(token, now()).unwrap();
        assert_eq!(verified.shown_from(None), Err(TokenError::Unproven), "without a proof");
        assert_eq!(verified.shown_with(None, Some(&[7; 32])), Err(TokenError::Unproven), "by a certificate");
        verified.shown_by(None, None, Some(key.key()))
    };
    let token = signer.sign(&claims).unwrap();
    assert_eq!((good(&token, &proof), good(&token, &stranger)), (Ok(()), Err(TokenError::Unproven)));

    // Handed on offline: bound like its parent; or to what whoever has the delegation key says; never to nothing.
    let key = DelegationKey::generate().unwrap();
    let claims = SessionClaims { dlg: Some(key.delegation(MAX_DEPTH)), targets: Vec::new(), ..claims };
    let root = signer.sign(&claims).unwrap();
    let link =
        |confirmation| NewLink { confirmation, expires_at: Timestamp::from_secs(NOW + 60), ..NewLink::default() };
    let child = key.hand_on(&root, link(None), now()).unwrap();
    assert_eq!((super::unverified_binding(&child), super::unverified_binding("x")), (Some(proof.confirmation()), None));
    assert_eq!((good(&child, &proof), good(&child, &stranger)), (Ok(()), Err(TokenError::Unproven)));
    let another = key.hand_on(&root, link(Some(stranger.confirmation())), now()).unwrap();
    assert_eq!((good(&another, &stranger), good(&another, &proof)), (Ok(()), Err(TokenError::Unproven)));
    assert_eq!(super::unverified_binding(&another), Some(stranger.confirmation()));
    let by_certificate = key.hand_on(&root, link(Some(Confirmation::certificate(&[7; 32]))), now()).unwrap();
    let verified = verifier.verify(&by_certificate, now()).unwrap();
    assert_eq!(verified.shown_with(None, Some(&[7; 32])), Ok(()));
    assert_eq!(verified.shown_by(None, None, Some(proof.key())), Err(TokenError::Unconfirmed));
    // Who has the token and another key has no child of it.
    let thief = DelegationKey::generate().unwrap();
    let forged = thief.hand_on(&root, link(Some(stranger.confirmation())), now()).unwrap();
    assert_eq!(verifier.verify(&forged, now()), Err(TokenError::Signature));
}
