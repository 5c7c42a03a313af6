use postern_core::service_account::ServiceAccount;

use super::*;

const AUDIENCES: [&str; 2] = ["https://postern.example", "https://postern.example/oauth/token"];

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({"iss": "ci", "sub": "ci", "aud": AUDIENCES[1], "exp": NOW + 60, "iat": NOW, "jti": "one"});
    change(&mut claims);
    claims
}

fn verify(account: &ServiceAccount, assertion: &str) -> Result<ClientAssertion, TokenError> {
    ClientAssertion::verify(assertion, ("ci", account), &AUDIENCES, Timestamp::from_secs(NOW))
}

#[test]
fn whoever_has_one_of_the_keys_is_the_client() {
    for alg in [Alg::EdDSA, Alg::ES256, Alg::ES384, Alg::PS256, Alg::RS256] {
        let (own, other) = (Idp::new(alg, "a"), Idp::new(alg, "b"));
        let by_set = ServiceAccount { jwks: own.jwks(), ..ServiceAccount::default() };
        let public_keys = vec![other.pem.clone(), own.pem.clone()];
        let by_pem = ServiceAccount { public_keys, ..ServiceAccount::default() };
        for account in [&by_set, &by_pem] {
            for kid in [None, Some("a"), Some("whatever")] {
                let good = verify(account, &own.sign(kid, &claims(|_| ()))).unwrap();
                assert_eq!((&*good.id, good.until.secs()), ("one", NOW + 90), "{alg:?}");
            }
        }
        assert_eq!(verify(&by_set, &other.sign(Some("a"), &claims(|_| ()))), Err(TokenError::Signature), "{alg:?}");
    }
    let nothing =
        ServiceAccount { public_keys: vec!["-----BEGIN PUBLIC KEY-----".into()], ..ServiceAccount::default() };
    let own = Idp::new(Alg::EdDSA, "a");
    assert_eq!(verify(&nothing, &own.sign(None, &claims(|_| ()))), Err(TokenError::KeysUnavailable));
}

#[test]
fn an_assertion_is_for_this_server_by_this_client_for_a_short_while() {
    let own = Idp::new(Alg::EdDSA, "a");
    let account = ServiceAccount { jwks: own.jwks(), ..ServiceAccount::default() };
    let shown = |member: &str, value: Value| {
        let change = |claims: &mut Value| match value {
            Value::Null => _ = claims.as_object_mut().unwrap().remove(member),
            value => claims[member] = value,
        };
        verify(&account, &own.sign(None, &claims(change)))
    };
    for (member, good) in [
        ("aud", json!(AUDIENCES[0])),
        ("aud", json!([AUDIENCES[1]])),
        ("exp", json!(NOW - 29)),
        ("exp", json!(NOW + 600)),
        ("iat", json!(null)),
    ] {
        shown(member, good).unwrap();
    }
    for (member, bad, expected) in [
        ("aud", json!("https://other.example"), TokenError::Audience),
        ("aud", json!([AUDIENCES[0], "https://other.example"]), TokenError::Audience),
        ("aud", json!([]), TokenError::Audience),
        ("exp", json!(NOW - 30), TokenError::Expired),
        ("iat", json!(NOW + 31), TokenError::NotYetValid),
        ("nbf", json!(u64::MAX), TokenError::NotYetValid),
    ] {
        assert_eq!(shown(member, bad), Err(expected));
    }
    for (member, bad) in [
        ("iss", json!("other")),
        ("sub", json!("other")),
        ("jti", json!("")),
        ("jti", json!("x".repeat(257))),
        ("exp", json!(NOW + 631)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(null)),
        ("jti", json!(null)),
        ("aud", json!(null)),
    ] {
        assert!(matches!(shown(member, bad.clone()), Err(TokenError::Claims(_))), "{member} {bad}");
    }
    for alg in ["none", "HS256"] {
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.", part(json!({"alg": alg}).to_string()), part(claims(|_| ()).to_string()));
        assert_eq!(verify(&account, &token), Err(TokenError::Algorithm));
    }
}
