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
    let (issued_at, depth) = (Timestamp::from_secs(NOW), Some(0));
    let bearer = Bearer::new(&expected, true, None, issued_at);
    assert_eq!(found, Verified { principal: expected, issued_at, depth, confirmation: None, origin: None, bearer });
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
fn a_session_signers_thumbprint_is_that_of_rfc_7638() {
    let signer = SessionSigner::generate().unwrap();
    let jwks: Value = serde_json::from_str(&signer.jwks()).unwrap();
    let jwk: Jwk = serde_json::from_value(jwks["keys"][0].clone()).unwrap();
    assert_eq!(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap(), signer.kid());
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
