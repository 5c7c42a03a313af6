//! By an issuer that signs with another implementation than the one under test.

mod claims;
mod client;
mod dpop;
mod issuer;
mod link;
mod presets;
mod session;

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm as Alg, EncodingKey, Header};
use postern_core::Name;
use postern_core::issuer::{Algorithm, ClaimPath, GroupsClaim, IssuerKind, OidcIssuer};
use postern_core::principal::PrincipalId;
use postern_core::token::{SESSION_TOKEN_ISSUER, SESSION_TOKEN_TYPE, SessionClaims};
use serde_json::{Value, json};

use super::*;

const URL: &str = "https://idp.example/realms/ci";
const NOW: u64 = 1_795_255_200;

/// An issuer that signs by another implementation than the one under test.
struct Idp {
    signing: EncodingKey,
    public: Value,
    pem: String,
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
        Self { signing, public, pem: key.public_key_pem(), alg }
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
    issuer_with(|oidc| oidc.algorithms = algorithms.to_vec())
}

fn issuer_with(change: impl FnOnce(&mut OidcIssuer)) -> Issuer {
    let mut oidc = OidcIssuer::new(["postern", "other"]);
    oidc.groups = vec![GroupsClaim::list(path("realm_access.roles"))];
    change(&mut oidc);
    Issuer {
        url: URL.to_owned(),
        groups_prefix: "ci:".to_owned(),
        leeway: Duration::from_secs(10),
        max_age: Some(Duration::from_secs(3600)),
        max_token_ttl: None,
        token_ttl: None,
        keep: Vec::new(),
        kind: IssuerKind::Oidc(oidc),
    }
}

fn path(text: &str) -> ClaimPath {
    ClaimPath::parse(text).unwrap()
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

fn session_claims() -> SessionClaims {
    let principal = Principal {
        id: PrincipalId { issuer: name("ci"), subject: "robot".into() },
        groups: BTreeSet::from(["ci:deployers".into()]),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    };
    let claims = SessionClaims::new("c1", "tok_1", principal, (now(), Timestamp::from_secs(NOW + 900)));
    SessionClaims { targets: vec![name("orders")], ..claims }
}
