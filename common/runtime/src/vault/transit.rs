//! The transit engine: encrypts under a key that never leaves Vault.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use postern_core::secret::SecretBytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Vault, VaultError, part, secret_text};

/// Items of one call: far below Vault's limits on requests.
const MAX_BATCH: usize = 128;

/// A key of a transit engine. Its type must be one with associated data (`aes256-gcm96`, the default).
#[derive(Clone, Debug)]
pub struct Transit {
    vault: Vault,
    encrypt: String,
    decrypt: String,
}

/// What transit has encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// `vault:v1:...`.
    pub ciphertext: String,
    /// The version of the key, from 1.
    pub key_version: u32,
}

#[derive(Serialize)]
struct EncryptRequest<'a> {
    plaintext: &'a str,
    associated_data: String,
}

#[derive(Deserialize)]
struct EncryptAnswer {
    ciphertext: String,
    #[serde(default)]
    key_version: u32,
}

#[derive(Serialize)]
struct DecryptRequest<'a> {
    batch_input: Vec<DecryptItem<'a>>,
    /// Else a part that fails makes the whole answer a 400.
    partial_failure_response_code: u16,
}

#[derive(Serialize)]
struct DecryptItem<'a> {
    ciphertext: &'a str,
    associated_data: String,
}

#[derive(Deserialize)]
struct DecryptAnswer {
    batch_results: Vec<DecryptResult>,
}

#[derive(Deserialize)]
struct DecryptResult {
    #[serde(default, deserialize_with = "secret_text_or_none")]
    plaintext: Option<SecretBytes>,
    #[serde(default)]
    error: String,
}

fn secret_text_or_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<SecretBytes>, D::Error> {
    secret_text(from).map(Some)
}

impl Transit {
    /// The key `key` of the engine at `mount`.
    ///
    /// # Errors
    /// When one of them is no path.
    pub fn new(vault: Vault, mount: &str, key: &str) -> Result<Self, VaultError> {
        let (mount, key) = (part("mount", mount)?, part("key", key)?);
        Ok(Self { vault, encrypt: format!("{mount}/encrypt/{key}"), decrypt: format!("{mount}/decrypt/{key}") })
    }

    /// Encrypts `clear`, which opens with the same `associated` alone.
    ///
    /// # Errors
    /// When Vault does not do it.
    pub async fn encrypt(&self, clear: &[u8], associated: &str) -> Result<Wrapped, VaultError> {
        let plaintext = Zeroizing::new(STANDARD.encode(clear));
        let request = EncryptRequest { plaintext: &plaintext, associated_data: STANDARD.encode(associated) };
        let (answer, _) = self.vault.call::<EncryptAnswer>(Method::POST, &self.encrypt, Some(&request)).await?;
        let answer = answer.data.ok_or_else(|| form(&self.encrypt))?;
        if !answer.ciphertext.starts_with("vault:v") {
            return Err(form(&self.encrypt));
        }
        Ok(Wrapped { ciphertext: answer.ciphertext, key_version: answer.key_version })
    }

    /// Decrypts each `(ciphertext, associated)`; one that Vault refuses is an error of its own, in Vault's words.
    ///
    /// # Errors
    /// When Vault does not answer for all of them.
    pub async fn decrypt(&self, items: &[(&str, &str)]) -> Result<Vec<Result<SecretBytes, String>>, VaultError> {
        let mut opened = Vec::with_capacity(items.len());
        for batch in items.chunks(MAX_BATCH) {
            let batch_input: Vec<DecryptItem<'_>> = batch
                .iter()
                .map(|(ciphertext, associated)| DecryptItem {
                    ciphertext,
                    associated_data: STANDARD.encode(associated),
                })
                .collect();
            let request = DecryptRequest { batch_input, partial_failure_response_code: 200 };
            let answer = self.vault.call_batch::<DecryptAnswer>(&self.decrypt, &request).await?;
            let results = answer.data.ok_or_else(|| form(&self.decrypt))?.batch_results;
            if results.len() != batch.len() {
                return Err(form(&self.decrypt));
            }
            for result in results {
                opened.push(match result.plaintext {
                    Some(text) if result.error.is_empty() => match STANDARD.decode(text.expose()) {
                        Ok(clear) => Ok(SecretBytes::new(clear)),
                        Err(_) => return Err(form(&self.decrypt)),
                    },
                    _ => Err(result.error.chars().filter(|c| !c.is_control()).take(200).collect()),
                });
            }
        }
        Ok(opened)
    }
}

fn form(path: &str) -> VaultError {
    VaultError::Form { path: path.to_owned(), what: "is not of the form that it must have" }
}
