//! Session tokens, and both kinds together.

use postern_core::principal::Link;
use postern_core::scope::Scope;

use super::*;

#[test]
fn session_tokens_round_trip() {
    let signer = SessionSigner::generate().unwrap();
    let verifier = SessionVerifier::new("c1", &signer.jwks()).unwrap();
    let token = signer.sign(&session_claims()).unwrap();
    let found = verifier.verify(&token, now()).unwrap();
    let mut expected = session_claims().principal;
    expected.token_id = Some("tok_1".into());
    expected.expires_at = Some(Timestamp::from_secs(NOW + 900));
    let scope = Scope::of_targets([name("orders")]);
    expected.chain.push(Link { token: "tok_1".into(), actor: None, scope });
    expected.claims.live(900);
    let (issued_at, depth) = (Timestamp::from_secs(NOW), Some(0));
    let bearer = Bearer::new(&expected, true, None, issued_at);
    let signers = vec![Revoked::SigningKey(signer.kid().into()).key()];
    let bearer = bearer.signed_by(&signers);
    let (confirmation, origin) = (None, None);
    assert_eq!(found, Verified { principal: expected, issued_at, depth, confirmation, origin, signers, bearer });
    // What is remembered of it says the same.
    assert_eq!(verifier.known(), 1);
    assert_eq!(verifier.verify(&token, now()).unwrap(), found);

    let again = SessionSigner::from_pem(&signer.to_pem()).unwrap();
    assert_eq!((again.kid(), again.jwks()), (signer.kid(), signer.jwks()));
    assert!(verifier.verify(&again.sign(&session_claims()).unwrap(), now()).is_ok());
    assert_eq!(verifier.verify(&token, Timestamp::from_secs(NOW + 900)), Err(TokenError::Expired));
    assert!(verifier.verify(&token, Timestamp::from_secs(NOW - 30)).is_ok());
    assert_eq!(verifier.verify(&token, Timestamp::from_secs(NOW - 31)), Err(TokenError::NotYetValid));
}

#[test]
fn several_keys_verify_and_one_that_is_gone_does_not() {
    let signers: Vec<SessionSigner> = (0..3).map(|_| SessionSigner::generate().unwrap()).collect();
    let jwks = |of: &[&SessionSigner]| {
        let keys: Vec<String> = of.iter().map(|signer| signer.jwk()).collect();
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    };
    let all = SessionVerifier::new("c1", &jwks(&[&signers[0], &signers[1], &signers[2]])).unwrap();
    let tokens: Vec<String> = signers.iter().map(|signer| signer.sign(&session_claims()).unwrap()).collect();
    for (token, signer) in tokens.iter().zip(&signers) {
        let found = all.verify(token, now()).unwrap();
        assert_eq!(found.signers, [Revoked::SigningKey(signer.kid().into()).key()]);
    }
    let rest = SessionVerifier::new("c1", &jwks(&[&signers[0], &signers[2]])).unwrap();
    let found: Vec<bool> = tokens.iter().map(|token| rest.verify(token, now()).is_ok()).collect();
    assert_eq!(found, [true, false, true]);
    assert_eq!(rest.verify(&tokens[1], now()), Err(TokenError::UnknownKey));
    // A token names its key; the name of another does not help.
    let (header, rest_of) = tokens[1].split_once('.').unwrap();
    let decoded = String::from_utf8(URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    let renamed = URL_SAFE_NO_PAD.encode(decoded.replace(signers[1].kid(), signers[0].kid()));
    assert_eq!(all.verify(&format!("{renamed}.{rest_of}"), now()), Err(TokenError::Signature));
}

#[test]
fn a_token_stands_for_the_keys_of_what_it_was_made_of() {
    let signer = SessionSigner::generate().unwrap();
    let verifier = SessionVerifier::new("c1", &signer.jwks()).unwrap();
    let (own, former) = (Revoked::SigningKey(signer.kid().into()).key(), Revoked::SigningKey("former".into()).key());
    let with = |signers: Vec<RevocationKey>| {
        let token = signer.sign(&SessionClaims { signers, ..session_claims() }).unwrap();
        verifier.verify(&token, now())
    };
    let found = with(vec![former, own]).unwrap();
    assert_eq!(found.signers, [own, former]);
    assert!(found.signers.iter().all(|signer| found.bearer.keys().contains(signer)));
    assert!(matches!(with(vec![former; 17]), Err(TokenError::Claims(_))));
}

#[test]
fn a_session_signers_thumbprint_is_that_of_rfc_7638() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let signer = SessionSigner::generate_for(algorithm).unwrap();
        let jwks: Value = serde_json::from_str(&signer.jwks()).unwrap();
        let jwk: Jwk = serde_json::from_value(jwks["keys"][0].clone()).unwrap();
        assert_eq!(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap(), signer.kid());
    }
    assert!(SessionSigner::generate_for(Algorithm::Rs256).is_err());
}

#[test]
fn either_kind_of_key_signs_and_neither_passes_for_the_other() {
    let (ed, es) = (SessionSigner::generate().unwrap(), SessionSigner::generate_for(Algorithm::Es256).unwrap());
    let again = SessionSigner::from_pem(&es.to_pem()).unwrap();
    assert_eq!((again.kid(), again.algorithm(), again.jwk()), (es.kid(), Algorithm::Es256, es.jwk()));
    let both = format!(r#"{{"keys":[{},{}]}}"#, ed.jwk(), es.jwk());
    let verifier = SessionVerifier::new("c1", &both).unwrap();
    for signer in [&ed, &es, &again] {
        assert!(verifier.verify(&signer.sign(&session_claims()).unwrap(), now()).is_ok());
    }
    // Another implementation takes it.
    let token = es.sign(&session_claims()).unwrap();
    let jwk: Jwk = serde_json::from_str(&es.jwk()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(Alg::ES256);
    rules.validate_exp = false;
    rules.set_audience(&[postern_core::token::SESSION_TOKEN_AUDIENCE]);
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    assert!(jsonwebtoken::decode::<Value>(&token, &key, &rules).is_ok());
    // By the algorithm of one and the name of the other.
    let (header, rest) = token.split_once('.').unwrap();
    let header = String::from_utf8(URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    let posing = |from: &str, to: &str| format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.replace(from, to)));
    assert_eq!(verifier.verify(&posing("ES256", "EdDSA"), now()), Err(TokenError::Algorithm));
    assert_eq!(verifier.verify(&posing("ES256", "RS256"), now()), Err(TokenError::Algorithm));
    assert_eq!(verifier.verify(&posing(es.kid(), ed.kid()), now()), Err(TokenError::Algorithm));
}

#[test]
fn refuses_session_tokens_that_do_not_fit() {
    let signer = SessionSigner::generate().unwrap();
    let verifier = SessionVerifier::new("c1", &signer.jwks()).unwrap();
    let changed = |change: fn(&mut SessionClaims)| {
        let mut claims = session_claims();
        change(&mut claims);
        verifier.verify(&signer.sign(&claims).unwrap(), now())
    };
    assert_eq!(changed(|c| c.cluster = "c2".to_owned()), Err(TokenError::Issuer));
    assert_eq!(changed(|c| c.iss = "postern2".to_owned()), Err(TokenError::Issuer));
    assert_eq!(changed(|c| c.aud = "postern".to_owned()), Err(TokenError::Audience));
    assert_eq!(changed(|c| c.exp = NOW), Err(TokenError::Expired));
    assert_eq!(changed(|c| c.nbf = NOW + 31), Err(TokenError::NotYetValid));
    assert_eq!(changed(|c| c.iat = NOW + 31), Err(TokenError::NotYetValid));
    assert!(matches!(changed(|c| c.sub = "ci/root".to_owned()), Err(TokenError::Claims(_))));
    assert!(matches!(changed(|c| c.jti = String::new()), Err(TokenError::Claims(_))));
    assert!(matches!(changed(|c| c.exp = NOW + 43_201), Err(TokenError::Claims(_))));
    let stranger = SessionSigner::generate().unwrap();
    assert_eq!(verifier.verify(&stranger.sign(&session_claims()).unwrap(), now()), Err(TokenError::UnknownKey));
}

fn snapshot(issuers: Vec<(&str, Issuer, Option<String>)>, session_jwks: String) -> Snapshot {
    Snapshot {
        revision: 1,
        issuers: issuers.into_iter().map(|(n, issuer, jwks)| (name(n), (issuer, jwks))).collect(),
        session_token_jwks: session_jwks,
        ..Snapshot::empty("c1", "i1")
    }
}

#[test]
fn kinds_of_token_do_not_pass_for_each_other() {
    // The worst case: one key for both kinds, and an issuer that calls itself as session tokens do.
    let signer = SessionSigner::generate().unwrap();
    let evil = Issuer { url: SESSION_TOKEN_ISSUER.to_owned(), ..issuer(&[Algorithm::EdDsa]) };
    let snapshot = snapshot(
        vec![("evil", evil.clone(), Some(signer.jwks())), ("ci", issuer(&[Algorithm::EdDsa]), Some(signer.jwks()))],
        signer.jwks(),
    );
    let verifier = Verifier::from_snapshot(&snapshot);
    let token = signer.sign(&session_claims()).unwrap();
    let principal = verifier.verify(&token, now()).unwrap().principal;
    assert!(principal.reaches(&name("orders")) && !principal.reaches(&name("other")));

    // The session token is no issuer's.
    let oidc = IssuerVerifier::new(&name("evil"), &evil, &signer.jwks()).unwrap();
    assert_eq!(oidc.verify(&token, now()), Err(TokenError::claims("typ")));

    // An issuer's token that claims all that a session token does, signed by the very key, is none.
    let key = EncodingKey::from_ed_pem(secrecy::ExposeSecret::expose_secret(&signer.to_pem()).as_bytes()).unwrap();
    let mut header = Header::new(Alg::EdDSA);
    header.kid = Some(signer.kid().to_owned());
    let posing = jsonwebtoken::encode(&header, &session_claims(), &key).unwrap();
    assert_eq!(verifier.verify(&posing, now()), Err(TokenError::Issuer));
    let sessions = SessionVerifier::new("c1", &signer.jwks()).unwrap();
    assert_eq!(sessions.verify(&posing, now()), Err(TokenError::claims("typ")));
    // And with the type, but an issuer's claims: nor.
    header.typ = Some(SESSION_TOKEN_TYPE.to_owned());
    let typed = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
    assert!(matches!(verifier.verify(&typed, now()), Err(TokenError::Claims(_))));
}

#[test]
fn one_issuers_bad_keys_do_not_touch_the_others() {
    let idp = Idp::new(Alg::ES256, "k1");
    let rules = issuer(&[Algorithm::Es256]);
    let at = |url: &str| Issuer { url: url.to_owned(), ..rules.clone() };
    let snapshot = snapshot(
        vec![
            ("broken", at("https://broken"), Some("{".to_owned())),
            ("away", at("https://away"), None),
            ("ci", rules.clone(), Some(idp.jwks())),
            ("ci-web", issuer_with(|oidc| oidc.audiences = vec!["web".to_owned()]), Some(idp.jwks())),
        ],
        "no keys".to_owned(),
    );
    let verifier = Verifier::from_snapshot(&snapshot);
    let from = |claims: &Value| verifier.verify(&idp.sign(Some("k1"), claims), now());
    assert_eq!(from(&claims()).unwrap().principal.id.issuer, name("ci"));
    assert_eq!(from(&with(json!({"aud": "web"}))).unwrap().principal.id.issuer, name("ci-web"));
    assert_eq!(from(&with(json!({"aud": "none"}))), Err(TokenError::Audience));
    assert_eq!(from(&with(json!({"exp": NOW - 100}))), Err(TokenError::Expired));
    assert_eq!(from(&with(json!({"iss": "https://broken"}))), Err(TokenError::KeysUnavailable));
    assert_eq!(from(&with(json!({"iss": "https://away"}))), Err(TokenError::KeysUnavailable));
    assert_eq!(from(&with(json!({"iss": "https://stranger"}))), Err(TokenError::Issuer));
    let session = SessionSigner::generate().unwrap().sign(&session_claims()).unwrap();
    assert_eq!(verifier.verify(&session, now()), Err(TokenError::KeysUnavailable));
}

#[test]
fn nothing_of_a_token_or_key_is_shown() {
    let idp = Idp::new(Alg::EdDSA, "k1");
    let verifier = verifier(&idp, Algorithm::EdDsa);
    let claims = with(json!({"sub": "very-secret-subject\n", "aud": "postern"}));
    let error = verifier.verify(&idp.sign(Some("k1"), &claims), now()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("very-secret"));
    assert_eq!(error.code(), Code::TokenInvalid);
    assert_eq!(TokenError::TooOld.code(), Code::TokenExpired);
    assert_eq!(TokenError::NotYetValid.code(), Code::TokenNotYetValid);
    let signer = SessionSigner::generate().unwrap();
    assert!(!format!("{signer:?}").contains("PRIVATE"));
}

#[test]
fn the_unverified_issuer_is_only_read() {
    let idp = Idp::new(Alg::EdDSA, "k1");
    assert_eq!(unverified_issuer(&idp.sign(None, &claims())).as_deref(), Some(URL));
    assert_eq!(unverified_issuer(&idp.sign(None, &without("iss"))), None);
    assert_eq!(unverified_issuer("x"), None);
}
