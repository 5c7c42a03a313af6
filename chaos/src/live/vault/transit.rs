//! The transit engine: AES-256-GCM, as the type `aes256-gcm96`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::state::State;
use super::{Answer, Vault, random};

#[derive(Debug)]
pub(super) struct TransitKey {
    versions: Vec<Vec<u8>>,
    min_decryption_version: usize,
    /// As older servers and other types of key do.
    ignores_associated_data: bool,
}

impl TransitKey {
    fn new() -> Self {
        let versions = random(32).into_iter().collect();
        Self { versions, min_decryption_version: 1, ignores_associated_data: false }
    }

    fn cipher(&self, version: usize) -> Option<LessSafeKey> {
        let key = self.versions.get(version.checked_sub(1)?)?;
        UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
    }

    fn encrypt(&self, clear: &[u8], associated: &[u8]) -> Option<String> {
        let version = self.versions.len();
        let nonce: [u8; NONCE_LEN] = random(NONCE_LEN).ok()?.try_into().ok()?;
        let associated = if self.ignores_associated_data { &[] } else { associated };
        let mut bytes = clear.to_vec();
        let cipher = self.cipher(version)?;
        cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut bytes).ok()?;
        Some(format!("vault:v{version}:{}", STANDARD.encode([nonce.as_slice(), &bytes].concat())))
    }

    fn decrypt(&self, text: &str, associated: &[u8]) -> Result<Vec<u8>, &'static str> {
        let rest = text.strip_prefix("vault:v").ok_or("invalid ciphertext: no prefix")?;
        let (version, bytes) = rest.split_once(':').ok_or("invalid ciphertext: wrong number of fields")?;
        let version: usize = version.parse().map_err(|_| "invalid ciphertext: version number could not be decoded")?;
        if version < self.min_decryption_version {
            return Err("ciphertext or signature version is disallowed by policy (too old)");
        }
        let cipher = self.cipher(version).ok_or("invalid ciphertext: version is too new")?;
        let bytes = STANDARD.decode(bytes).map_err(|_| "invalid ciphertext: could not decode base64")?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN).ok_or("invalid ciphertext length")?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| "invalid ciphertext length")?;
        let associated = if self.ignores_associated_data { &[] } else { associated };
        let mut sealed = sealed.to_vec();
        let opened = cipher.open_in_place(nonce, Aad::from(associated), &mut sealed);
        opened.map(|clear| clear.to_vec()).map_err(|_| "cipher: message authentication failed")
    }
}

fn base64(item: &Value, field: &str) -> Result<Vec<u8>, String> {
    let text = item.get(field).and_then(Value::as_str).unwrap_or_default();
    STANDARD.decode(text).map_err(|error| format!("failed to base64-decode {field}: {error}"))
}

impl State {
    pub(super) fn encrypt(&mut self, mount: &str, key: &str, body: &Value) -> Answer {
        if body.get("plaintext").is_none() {
            return Answer::errors(400, &["missing plaintext to encrypt"]);
        }
        // A key that is not there is made: who may only `update` has been refused before.
        let key = self.transit.entry(format!("{mount}/{key}")).or_insert_with(TransitKey::new);
        match (base64(body, "plaintext"), base64(body, "associated_data")) {
            (Ok(clear), Ok(associated)) => match key.encrypt(&clear, &associated) {
                Some(text) => Answer::data(json!({"ciphertext": text, "key_version": key.versions.len()})),
                None => Answer::errors(500, &["internal error"]),
            },
            (Err(why), _) | (_, Err(why)) => Answer::errors(400, &[&why]),
        }
    }

    pub(super) fn decrypt(&self, mount: &str, key: &str, body: &Value) -> Answer {
        let Some(key) = self.transit.get(&format!("{mount}/{key}")) else {
            return Answer::errors(400, &["encryption key not found"]);
        };
        let open = |item: &Value| -> Result<String, String> {
            let text = item.get("ciphertext").and_then(Value::as_str).unwrap_or_default();
            let clear = key.decrypt(text, &base64(item, "associated_data")?).map_err(ToOwned::to_owned)?;
            Ok(STANDARD.encode(clear))
        };
        let Some(batch) = body.get("batch_input").and_then(Value::as_array) else {
            return match open(body) {
                Ok(text) => Answer::data(json!({"plaintext": text})),
                Err(why) => Answer::errors(400, &[&why]),
            };
        };
        let results: Vec<Result<String, String>> = batch.iter().map(open).collect();
        let (good, bad) = (results.iter().any(Result::is_ok), results.iter().any(Result::is_err));
        let shown: Vec<Value> = results
            .into_iter()
            .map(|result| match result {
                Ok(text) => json!({"plaintext": text}),
                Err(why) => json!({"error": why}),
            })
            .collect();
        let mut answer = Answer::data(json!({"batch_results": shown}));
        let asked = body.get("partial_failure_response_code").and_then(Value::as_u64).filter(|_| good);
        let code = asked.and_then(|code| u16::try_from(code).ok()).unwrap_or(400);
        if bad {
            answer.status = axum::http::StatusCode::from_u16(code).unwrap_or(axum::http::StatusCode::BAD_REQUEST);
        }
        answer
    }
}

impl Vault {
    /// Makes a key of the engine at `mount`.
    pub fn create_key(&self, mount: &str, key: &str) {
        self.state().transit.insert(format!("{mount}/{key}"), TransitKey::new());
    }

    /// Gives a key a new version; older ones still decrypt.
    pub fn rotate_key(&self, mount: &str, key: &str) {
        if let (Some(key), Ok(version)) = (self.state().transit.get_mut(&format!("{mount}/{key}")), random(32)) {
            key.versions.push(version);
        }
    }

    /// What a key of older versions has encrypted no longer decrypts.
    pub fn set_min_decryption_version(&self, mount: &str, key: &str, version: usize) {
        if let Some(key) = self.state().transit.get_mut(&format!("{mount}/{key}")) {
            key.min_decryption_version = version;
        }
    }

    /// Makes a key ignore associated data.
    pub fn ignore_associated_data(&self, mount: &str, key: &str) {
        if let Some(key) = self.state().transit.get_mut(&format!("{mount}/{key}")) {
            key.ignores_associated_data = true;
        }
    }
}
