//! Tokens of OIDC issuers.

use super::*;

#[test]
fn accepts_each_algorithm_of_the_list() {
    for (alg, algorithm) in [
        (Alg::RS256, Algorithm::Rs256),
        (Alg::RS512, Algorithm::Rs512),
        (Alg::PS256, Algorithm::Ps256),
        (Alg::ES256, Algorithm::Es256),
        (Alg::ES384, Algorithm::Es384),
        (Alg::EdDSA, Algorithm::EdDsa),
    ] {
        let idp = Idp::new(alg, "k1");
        let principal = verifier(&idp, algorithm).verify(&idp.sign(Some("k1"), &claims()), now()).unwrap();
        assert_eq!(principal.id.to_string(), "ci/repo:acme/app");
        let groups: Vec<&str> = principal.groups.iter().map(AsRef::as_ref).collect();
        assert_eq!(groups, ["ci:deployers", "ci:readers"]);
        assert_eq!(principal.token_id.as_deref(), Some("t-1"));
        assert_eq!(principal.expires_at, Some(Timestamp::from_secs(NOW + 600)));
        assert!(principal.chain.is_empty());
    }
}

#[test]
fn refuses_an_algorithm_that_is_not_on_the_list() {
    let idp = Idp::new(Alg::RS256, "k1");
    let other = Idp { signing: idp.signing.clone(), public: json!({}), pem: String::new(), alg: Alg::RS384 };
    let token = other.sign(Some("k1"), &claims());
    assert_eq!(verifier(&idp, Algorithm::Rs256).verify(&token, now()), Err(TokenError::Algorithm));
}

#[test]
fn refuses_no_algorithm_and_hmac_by_the_public_key() {
    let idp = Idp::new(Alg::RS256, "k1");
    let verifier = verifier(&idp, Algorithm::Rs256);
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        for signature in [&b""[..], b"x"] {
            let token = raw(&json!({"alg": alg, "kid": "k1"}), &claims(), signature);
            assert_eq!(verifier.verify(&token, now()), Err(TokenError::Algorithm), "{alg}");
        }
    }
    let mut header = Header::new(Alg::HS256);
    header.kid = Some("k1".to_owned());
    let modulus = URL_SAFE_NO_PAD.decode(idp.public["n"].as_str().unwrap()).unwrap();
    for secret in [idp.jwks().into_bytes(), idp.public.to_string().into_bytes(), modulus] {
        let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap();
        assert_eq!(verifier.verify(&token, now()), Err(TokenError::Algorithm));
    }
}

#[test]
fn refuses_a_tampered_payload_or_signature() {
    let idp = Idp::new(Alg::ES256, "k1");
    let verifier = verifier(&idp, Algorithm::Es256);
    let token = idp.sign(Some("k1"), &claims());
    let parts: Vec<&str> = token.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(with(json!({"sub": "root"})).to_string());
    let tampered = format!("{}.{other}.{}", parts[0], parts[2]);
    assert_eq!(verifier.verify(&tampered, now()), Err(TokenError::Signature));
    for signature in [String::new(), URL_SAFE_NO_PAD.encode([0_u8; 64]), URL_SAFE_NO_PAD.encode([0_u8; 63])] {
        let forged = format!("{}.{}.{signature}", parts[0], parts[1]);
        assert_eq!(verifier.verify(&forged, now()), Err(TokenError::Signature));
    }
    let stranger = Idp::new(Alg::ES256, "k1");
    assert_eq!(verifier.verify(&stranger.sign(Some("k1"), &claims()), now()), Err(TokenError::Signature));
}

#[test]
fn no_character_of_a_token_can_be_changed() {
    let idp = Idp::new(Alg::EdDSA, "k1");
    let verifier = verifier(&idp, Algorithm::EdDsa);
    let signer = SessionSigner::generate().unwrap();
    let sessions = SessionVerifier::new("c1", &signer.jwks()).unwrap();
    let (token, session) = (idp.sign(Some("k1"), &claims()), signer.sign(&session_claims()).unwrap());
    let changed = |token: &str, index: usize, to: char| {
        let mut bytes = token.as_bytes().to_vec();
        let differs = bytes[index] != to as u8;
        bytes[index] = to as u8;
        differs.then(|| String::from_utf8(bytes).unwrap())
    };
    for to in ['A', 'B', 'g', 'w', '-', '_', '.', '=', '+', ' '] {
        for bent in (0..token.len()).filter_map(|index| changed(&token, index, to)) {
            assert!(verifier.verify(&bent, now()).is_err(), "{bent}");
        }
        for bent in (0..session.len()).filter_map(|index| changed(&session, index, to)) {
            assert!(sessions.verify(&bent, now()).is_err(), "{bent}");
        }
    }
    for end in 0..token.len() {
        assert!(verifier.verify(&token[..end], now()).is_err(), "prefix {end}");
    }
}

#[test]
fn refuses_claims_that_do_not_fit() {
    let idp = Idp::new(Alg::EdDSA, "k1");
    let verifier = verifier(&idp, Algorithm::EdDsa);
    let long = "x".repeat(256);
    let claims_error = |text: &str| TokenError::Claims(text.to_owned());
    let unfit = |what: &str| claims_error(&format!("{what} is empty, too long or has control characters"));
    let not_names = claims_error("the groups claim is not a list of names");
    for (claims, expected) in [
        (with(json!({"aud": "someone"})), TokenError::Audience),
        (with(json!({"aud": ["someone", "else"]})), TokenError::Audience),
        (with(json!({"aud": []})), TokenError::Audience),
        (with(json!({"aud": {"postern": 1}})), TokenError::Audience),
        (without("aud"), TokenError::Audience),
        (with(json!({"iss": "https://idp.example/realms/CI"})), TokenError::Issuer),
        (with(json!({"iss": "https://idp.example/realms/ci/"})), TokenError::Issuer),
        (without("iss"), TokenError::Issuer),
        (with(json!({"exp": NOW - 10})), TokenError::Expired),
        (with(json!({"exp": 0})), TokenError::Expired),
        (without("exp"), claims_error("exp is missing")),
        (with(json!({"exp": "never"})), claims_error("exp")),
        (with(json!({"exp": -5})), claims_error("exp")),
        (with(json!({"nbf": NOW + 11})), TokenError::NotYetValid),
        (with(json!({"iat": NOW + 11})), TokenError::NotYetValid),
        (with(json!({"nbf": [1]})), claims_error("nbf")),
        (with(json!({"iat": NOW - 3700})), TokenError::TooOld),
        (without("iat"), claims_error("iat is missing")),
        (without("sub"), claims_error("sub is missing")),
        (with(json!({"sub": 7})), claims_error("sub is missing")),
        (with(json!({"sub": ""})), unfit("sub")),
        (with(json!({"sub": "a\nb"})), unfit("sub")),
        (with(json!({"sub": long})), unfit("sub")),
        (with(json!({"jti": 7})), claims_error("jti")),
        (with(json!({"realm_access": {"roles": [1]}})), not_names.clone()),
        (with(json!({"realm_access": {"roles": {"admin": true}}})), not_names),
        (with(json!({"realm_access": {"roles": ["a\u{0}"]}})), unfit("the groups claim")),
        (with(json!({"realm_access": {"roles": vec!["g"; 1025]}})), claims_error("too many groups")),
        (json!("text"), claims_error("they are not a JSON object")),
    ] {
        assert_eq!(verifier.verify(&idp.sign(Some("k1"), &claims), now()), Err(expected), "{claims}");
    }
}

#[test]
fn accepts_what_the_leeway_covers() {
    let idp = Idp::new(Alg::EdDSA, "k1");
    let verifier = verifier(&idp, Algorithm::EdDsa);
    for claims in [
        with(json!({"exp": NOW - 9})),
        with(json!({"nbf": NOW + 10, "iat": NOW + 10})),
        with(json!({"iat": NOW - 3610})),
        with(json!({"exp": (NOW as f64) + 0.5, "aud": ["x", "other"], "jti": null, "nbf": null})),
    ] {
        assert!(verifier.verify(&idp.sign(Some("k1"), &claims), now()).is_ok(), "{claims}");
    }
    // A date beyond all time saturates.
    let far = with(json!({"exp": u64::MAX}));
    assert!(verifier.verify(&idp.sign(Some("k1"), &far), now()).is_ok());
}

#[test]
fn groups_come_as_a_list_a_string_or_not_at_all() {
    let idp = Idp::new(Alg::EdDSA, "k1");
    let groups = |claim: &str, claims: &Value| {
        let rules = issuer_with(|oidc| oidc.groups = vec![GroupsClaim::list(path(claim))]);
        let verifier = IssuerVerifier::new(&name("ci"), &rules, &idp.jwks()).unwrap();
        let principal = verifier.verify(&idp.sign(Some("k1"), claims), now()).unwrap();
        principal.groups.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(groups("groups", &with(json!({"groups": ["b", "a", "a"]}))), ["ci:a", "ci:b"]);
    assert_eq!(groups("groups", &with(json!({"groups": "one two"}))), ["ci:one two"]);
    assert!(groups("groups", &claims()).is_empty());
    assert!(groups("groups", &with(json!({"groups": null}))).is_empty());
    assert!(groups("realm_access.missing.deep", &claims()).is_empty());
    assert!(groups("sub.deeper", &claims()).is_empty());
    assert_eq!(groups("https://acme.example/groups", &with(json!({"https://acme.example/groups": ["x"]}))), ["ci:x"]);
}

#[test]
fn keys_are_found_by_their_id_and_never_by_the_tokens_headers() {
    let (one, two) = (Idp::new(Alg::ES256, "k1"), Idp::new(Alg::ES256, "k2"));
    let both = json!({"keys": [one.public, two.public]}).to_string();
    let verifier = IssuerVerifier::new(&name("ci"), &issuer(&[Algorithm::Es256]), &both).unwrap();
    assert!(verifier.verify(&two.sign(Some("k2"), &claims()), now()).is_ok());
    assert_eq!(verifier.verify(&two.sign(Some("k1"), &claims()), now()), Err(TokenError::Signature));
    assert_eq!(verifier.verify(&two.sign(Some("k3"), &claims()), now()), Err(TokenError::UnknownKey));
    let alone = super::tests::verifier(&one, Algorithm::Es256);
    assert_eq!(alone.verify(&two.sign(None, &claims()), now()), Err(TokenError::UnknownKey));
    // The first key of an algorithm that is accepted: unknown, and not of the wrong algorithm.
    let first = Idp::new(Alg::EdDSA, "k3");
    let rules = issuer(&[Algorithm::Es256, Algorithm::EdDsa]);
    let before = IssuerVerifier::new(&name("ci"), &rules, &both).unwrap();
    assert_eq!(before.verify(&first.sign(Some("k3"), &claims()), now()), Err(TokenError::UnknownKey));
    assert_eq!(before.verify(&first.sign(Some("k1"), &claims()), now()), Err(TokenError::Algorithm));
    // With several keys a token has to say which; with one it need not.
    assert_eq!(verifier.verify(&two.sign(None, &claims()), now()), Err(TokenError::UnknownKey));
    assert!(super::tests::verifier(&one, Algorithm::Es256).verify(&one.sign(None, &claims()), now()).is_ok());

    // A stranger's key in jwk, jku, x5u or x5c is not even read.
    let stranger = Idp::new(Alg::ES256, "k1");
    let mut header = Header::new(Alg::ES256);
    header.kid = Some("k1".to_owned());
    header.jwk = serde_json::from_value(stranger.public.clone()).unwrap();
    header.jku = Some("https://evil.example/jwks".to_owned());
    header.x5u = Some("https://evil.example/x".to_owned());
    let token = jsonwebtoken::encode(&header, &claims(), &stranger.signing).unwrap();
    assert_eq!(verifier.verify(&token, now()), Err(TokenError::Signature));
    let honest = jsonwebtoken::encode(&header, &claims(), &one.signing).unwrap();
    assert!(verifier.verify(&honest, now()).is_ok());
}

#[test]
fn refuses_what_is_no_compact_jwt() {
    let idp = Idp::new(Alg::EdDSA, "k1");
    let verifier = verifier(&idp, Algorithm::EdDsa);
    let good = idp.sign(Some("k1"), &claims());
    assert!(verifier.verify(&good, now()).is_ok());
    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "a.b".to_owned(),
        format!("{good}."),
        format!("{good}.x"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        good.replace('.', "\u{ff0e}"),
        raw(&json!({"alg": "EdDSA", "kid": "k1", "crit": ["exp"], "exp": 1}), &claims(), b"x"),
        raw(&json!({"alg": 7}), &claims(), b"x"),
        raw(&json!({"kid": "k1"}), &claims(), b"x"),
        raw(&json!([]), &claims(), b"x"),
        "{\"a\":".repeat(1000),
    ] {
        assert_eq!(verifier.verify(&token, now()), Err(TokenError::Malformed), "{token}");
    }
    let huge = idp.sign(Some("k1"), &with(json!({"pad": "x".repeat(MAX_TOKEN)})));
    assert_eq!(verifier.verify(&huge, now()), Err(TokenError::Malformed));
    let deep = raw(&json!({"alg": "EdDSA", "kid": "k1"}), &json!(0), b"x");
    assert_eq!(verifier.verify(&deep, now()), Err(TokenError::Signature));
}

#[test]
fn accepts_id_and_access_tokens_only() {
    let idp = Idp::new(Alg::EdDSA, "k1");
    let verifier = verifier(&idp, Algorithm::EdDsa);
    let typed = |typ: Option<&str>| {
        let mut header = Header::new(Alg::EdDSA);
        header.kid = Some("k1".to_owned());
        header.typ = typ.map(str::to_owned);
        verifier.verify(&jsonwebtoken::encode(&header, &claims(), &idp.signing).unwrap(), now())
    };
    for typ in [None, Some("JWT"), Some("jwt"), Some("at+jwt"), Some("application/at+jwt")] {
        assert!(typed(typ).is_ok(), "{typ:?}");
    }
    for typ in [Some("logout+jwt"), Some("secevent+jwt"), Some(SESSION_TOKEN_TYPE), Some("")] {
        assert_eq!(typed(typ), Err(TokenError::claims("typ")), "{typ:?}");
    }
}

#[test]
fn unfit_keys_are_passed_over() {
    let idp = Idp::new(Alg::ES256, "k1");
    let rules = issuer(&[Algorithm::Es256, Algorithm::Rs256]);
    let new = |jwks: &Value| IssuerVerifier::new(&name("ci"), &rules, &jwks.to_string());
    let mut encryption = idp.public.clone();
    encryption["use"] = json!("enc");
    let mut other_alg = idp.public.clone();
    other_alg["alg"] = json!("ES384");
    let mut short = idp.public.clone();
    short["x"] = json!("AAAA");
    let mut off_curve = idp.public.clone();
    off_curve["x"] = json!(URL_SAFE_NO_PAD.encode([1_u8; 32]));
    let weak = json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xff_u8; 128]), "e": "AQAB", "kid": "w"});
    let unfit = [encryption, other_alg, short, off_curve, weak, json!({"kty": "oct", "k": "c2VjcmV0"}), json!(7)];
    for jwk in &unfit {
        assert_eq!(new(&json!({"keys": [jwk]})).unwrap_err(), KeyError::NoUsableKey, "{jwk}");
    }
    let mut all = unfit.to_vec();
    all.push(idp.public.clone());
    assert!(new(&json!({"keys": all})).unwrap().verify(&idp.sign(Some("k1"), &claims()), now()).is_ok());
    assert_eq!(new(&json!({"keys": vec![idp.public.clone(); 65]})).unwrap_err(), KeyError::TooLarge);
    assert_eq!(new(&json!({"key": []})).unwrap_err(), KeyError::NotJwks);
    assert_eq!(new(&json!(["x".repeat(300_000)])).unwrap_err(), KeyError::TooLarge);
}

#[test]
fn may_act_names_who_may() {
    let part = |claims: &Value| URL_SAFE_NO_PAD.encode(claims.to_string());
    let token = |claims: Value| format!("{}.{}.{}", part(&json!({"alg": "ES256"})), part(&claims), "AAAA");
    let subject = |may_act: Value| token(json!({"iss": URL, "sub": "alice", "may_act": may_act}));
    let actor = |iss: &str, sub: &str| token(json!({"iss": iss, "sub": sub}));
    assert!(lets_act(&token(json!({"iss": URL, "sub": "alice"})), &actor(URL, "anybody")));
    assert!(lets_act("an assertion", &actor(URL, "anybody")));
    let own = subject(json!({"sub": "planner"}));
    assert!(lets_act(&own, &actor(URL, "planner")) && !lets_act(&own, &actor("https://other", "planner")));
    let other = subject(json!({"sub": "planner", "iss": "https://other"}));
    assert!(lets_act(&other, &actor("https://other", "planner")) && !lets_act(&other, &actor(URL, "planner")));
    // What says somebody and not whom lets nobody.
    for odd in [json!({}), json!(null), json!("planner"), json!({"sub": 7}), json!({"iss": URL})] {
        assert!(!lets_act(&subject(odd.clone()), &actor(URL, "planner")), "{odd}");
    }
    // By the token that the cluster signed, whatever was handed on of it.
    let linked = format!("{}~{}", actor(URL, "planner"), actor(URL, "somebody"));
    assert!(lets_act(&own, &linked));
}
