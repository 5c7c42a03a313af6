//! Tokens whose key the policy does not have yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::issuer::Issuer;
use postern_core::snapshot::Snapshot;
use postern_runtime::clock;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey as _};
use serde_json::json;

use crate::house::{House, db};

pub(crate) const URL: &str = "https://id.example";

pub(crate) struct Key {
    kid: &'static str,
    pair: KeyPair,
}

impl Key {
    pub(crate) fn new(kid: &'static str) -> Self {
        Self { kid, pair: KeyPair::generate_for(&PKCS_ED25519).unwrap() }
    }

    pub(crate) fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key_raw());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.kid}]}).to_string()
    }

    fn token(&self, kid: &str) -> String {
        let now = clock::now().secs();
        self.token_of(kid, Some(now), now + 600)
    }

    pub(crate) fn token_of(&self, kid: &str, iat: Option<u64>, exp: u64) -> String {
        let mut claims = json!({"iss": URL, "aud": "postern", "sub": "ada", "groups": ["readers"], "exp": exp});
        if let Some(iat) = iat {
            claims["iat"] = iat.into();
        }
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "EdDSA", "kid": kid})), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{signature}")
    }
}

fn with_keys(snapshot: &mut Snapshot, key: &Key) {
    snapshot.issuers.insert("corp".parse().unwrap(), (Issuer::new_oidc(URL, ["postern"]), Some(key.jwks())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_new_key_waits_for_it_and_random_ones_make_no_work() {
    let house = House::start().await;
    let (old, new) = (Key::new("k1"), Key::new("k2"));
    house.apply(|snapshot| with_keys(snapshot, &old));
    let began = Instant::now();
    while let Err(error) = house.try_connect("db", &old.token("k1")).await {
        assert!(began.elapsed() < Duration::from_secs(15), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A token of no known issuer leads to no question.
    assert!(house.control.keys_asked.borrow().is_empty());

    // The control plane finds the new key, and the client that brought it gets in by it, with no second try.
    let before = house.control.policy.borrow().clone().unwrap();
    let mut after = Snapshot { revision: before.revision + 1, ..(*before).clone() };
    with_keys(&mut after, &new);
    house.control.with_new_keys.send_replace(Some(Arc::new(after)));
    let client = house.try_connect("db", &new.token("k2")).await.unwrap();
    assert_eq!(client.sql.query("SELECT id FROM public.items", &[]).await.unwrap().len(), 20);
    assert_eq!(*house.control.keys_asked.borrow(), ["corp"]);

    // The key that was withdrawn is one of those that are not there, and so are random ones. Together they lead to a question in five seconds.
    let began = Instant::now();
    let mut tokens = vec![old.token("k1")];
    tokens.extend((0..20).map(|n| new.token(&format!("random-{n}"))));
    for token in &tokens {
        let refused = house.try_connect("db", token).await.err().unwrap();
        assert_eq!(db(&refused).0, "28P01", "{refused:?}");
    }
    let most = 1 + began.elapsed().as_secs() / 5 + 1;
    assert!(u64::try_from(house.control.keys_asked.borrow().len()).unwrap() <= most);
}
