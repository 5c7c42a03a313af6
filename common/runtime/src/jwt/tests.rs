use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm as Alg, EncodingKey, Header};
use postern_core::issuer::{Algorithm, Issuer};
use postern_core::principal::PrincipalId;
use postern_core::secret::SecretBytes;
use postern_core::token::{SESSION_TOKEN_AUDIENCE, SESSION_TOKEN_ISSUER, SESSION_TOKEN_TYPE, SessionClaims};
use serde_json::{Value, json};

use super::*;

const URL: &str = "https://idp.example/realms/ci";
const NOW: u64 = 1_795_255_200;

/// An issuer that signs by another implementation than the one under test.
struct Idp {
    signing: EncodingKey,
    public: Value,
    alg: Alg,
}

impl Idp {
    fn new(alg: Alg, kid: &str) -> Self {
        let key = match alg {
            Alg::ES256 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Alg::ES384 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Alg::EdDSA => rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519),
            _ => rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
        }
        .unwrap();
        let signing = match alg {
            Alg::ES256 | Alg::ES384 => EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()),
            Alg::EdDSA => EncodingKey::from_ed_pem(key.serialize_pem().as_bytes()),
            _ => EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()),
        }
        .unwrap();
        let mut public = match alg {
            Alg::EdDSA => json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(key.public_key_raw())}),
            _ => serde_json::to_value(Jwk::from_encoding_key(&signing, alg).unwrap()).unwrap(),
        };
        public["kid"] = json!(kid);
        public["use"] = json!("sig");
        Self { signing, public, alg }
    }

    fn jwks(&self) -> String {
        json!({"keys": [self.public]}).to_string()
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.alg);
        header.kid = kid.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.signing).unwrap()
    }
}

fn issuer(algorithms: &[Algorithm]) -> Issuer {
    Issuer {
        url: URL.to_owned(),
        audiences: vec!["postern".to_owned(), "other".to_owned()],
        groups_claim: "realm_access.roles".to_owned(),
        groups_prefix: "ci:".to_owned(),
        algorithms: algorithms.to_vec(),
        leeway: Duration::from_secs(10),
        max_age: Some(Duration::from_secs(3600)),
        ca_pem: None,
    }
}

fn claims() -> Value {
    json!({"iss": URL, "sub": "repo:acme/app", "aud": "postern", "exp": NOW + 600, "iat": NOW - 5, "nbf": NOW - 5,
           "jti": "t-1", "realm_access": {"roles": ["deployers", "readers"]}})
}

fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn now() -> Timestamp {
    Timestamp::from_secs(NOW)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn verifier(idp: &Idp, algorithm: Algorithm) -> IssuerVerifier {
    IssuerVerifier::new(&name("ci"), &issuer(&[algorithm]), &idp.jwks()).unwrap()
}

fn raw(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode(signature))
}

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
    let other = Idp { signing: idp.signing.clone(), public: json!({}), alg: Alg::RS384 };
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
        let rules = Issuer { groups_claim: claim.to_owned(), ..issuer(&[Algorithm::EdDsa]) };
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

// Session tokens.

fn session_claims() -> SessionClaims {
    SessionClaims {
        iss: SESSION_TOKEN_ISSUER.to_owned(),
        aud: SESSION_TOKEN_AUDIENCE.to_owned(),
        sub: "ci/robot".to_owned(),
        exp: NOW + 900,
        nbf: NOW,
        iat: NOW,
        jti: "tok_1".to_owned(),
        cluster: "c1".to_owned(),
        principal: Principal {
            id: PrincipalId { issuer: name("ci"), subject: "robot".into() },
            groups: BTreeSet::from(["ci:deployers".into()]),
            token_id: None,
            expires_at: None,
            chain: vec![PrincipalId { issuer: name("ci"), subject: "parent".into() }],
        },
        targets: vec![name("orders")],
    }
}

#[test]
fn session_tokens_round_trip() {
    let signer = SessionSigner::generate().unwrap();
    let verifier = SessionVerifier::new("c1", &signer.jwks()).unwrap();
    let token = signer.sign(&session_claims()).unwrap();
    let found = verifier.verify(&token, now()).unwrap();
    let mut expected = session_claims();
    expected.principal.token_id = Some("tok_1".into());
    expected.principal.expires_at = Some(Timestamp::from_secs(NOW + 900));
    assert_eq!(found, expected);

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
        cluster_id: "c1".to_owned(),
        issuers: issuers.into_iter().map(|(n, issuer, jwks)| (name(n), (issuer, jwks))).collect(),
        targets: BTreeMap::new(),
        policies: BTreeMap::new(),
        masking: BTreeMap::new(),
        credentials: BTreeMap::new(),
        session_token_jwks: session_jwks,
        mask_key: SecretBytes::new(vec![0; 32]),
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
    assert_eq!(verifier.verify(&token, now()).unwrap().targets, [name("orders")]);

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
            ("ci-web", Issuer { audiences: vec!["web".to_owned()], ..rules }, Some(idp.jwks())),
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
