//! Secrets at rest: envelope encryption under the cluster's key-encryption key (I5).
//!
//! Each secret has a data key of its own; the data key is wrapped by the key-encryption key. Both are AES-256-GCM (NIST SP 800-38D). The
//! associated data names what the secret is of, so that one sealed secret cannot be put in another's place.

use std::fs;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use postern_core::secret::{Sealed, SecretBytes};
use postern_runtime::pki::write_private;
use zeroize::Zeroizing;

const KEY: usize = 32;

/// Something of the keys failed. Never shows key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key-encryption key {path}: {why}")]
    File {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// The key is not 32 bytes in hexadecimal.
    #[error("key-encryption key {0}: expected 64 hexadecimal digits")]
    Form(String),
    /// Sealed under another key, damaged, or put in another's place.
    #[error("a sealed secret of {of} does not open: it is damaged, or under another key-encryption key than {kek}")]
    Open {
        /// What it is of.
        of: String,
        /// The key that was tried.
        kek: String,
    },
    /// The system cannot encrypt or has no randomness.
    #[error("cannot encrypt")]
    Encrypt,
}

/// The cluster's key-encryption key.
pub struct Kek {
    id: String,
    key: LessSafeKey,
}

impl Kek {
    /// Reads the key from `path`: for a cluster that has secrets already.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let source = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::from_hex(&Zeroizing::new(text), &source),
            Err(error) => Err(KeyError::File { path: source, why: error.to_string() }),
        }
    }

    /// Reads the key from `path`, or makes one there (0600) when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds no key.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let file =
            |why: &dyn std::fmt::Display| KeyError::File { path: path.display().to_string(), why: why.to_string() };
        match fs::read_to_string(path) {
            Ok(text) => Self::from_hex(&Zeroizing::new(text), &path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut key = Zeroizing::new([0; KEY]);
                rand::fill(key.as_mut_slice()).map_err(|_| KeyError::Encrypt)?;
                let text = Zeroizing::new(key.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n");
                write_private(path, text.as_bytes()).map_err(|error| file(&error))?;
                Self::new(key)
            }
            Err(error) => Err(file(&error)),
        }
    }

    /// From 64 hexadecimal digits; `source` is named in errors.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_hex(text: &str, source: &str) -> Result<Self, KeyError> {
        let form = || KeyError::Form(source.to_owned());
        let text = text.trim();
        let mut key = Zeroizing::new([0; KEY]);
        if text.len() != KEY * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(form());
        }
        for (slot, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| form())?;
            *slot = u8::from_str_radix(pair, 16).map_err(|_| form())?;
        }
        Self::new(key)
    }

    fn new(key: Zeroizing<[u8; KEY]>) -> Result<Self, KeyError> {
        // The id tells keys apart, and nothing of the key.
        let mut named = Zeroizing::new(b"postern kek id\0".to_vec());
        named.extend_from_slice(key.as_slice());
        let id = digest(&SHA256, &named).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, key: aes(&key)? })
    }

    /// Seals `secret`, which is of `of` (`Secret/db-password`).
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn seal(&self, of: &str, secret: &[u8]) -> Result<Sealed, KeyError> {
        let mut data_key = Zeroizing::new([0; KEY]);
        rand::fill(data_key.as_mut_slice()).map_err(|_| KeyError::Encrypt)?;
        let (nonce, ciphertext) = encrypt(&aes(&data_key)?, of, secret)?;
        let (wrap_nonce, wrapped) = encrypt(&self.key, of, data_key.as_slice())?;
        let wrapped_key = [wrap_nonce.as_slice(), &wrapped].concat();
        Ok(Sealed { kek_id: self.id.clone(), wrapped_key, nonce: nonce.to_vec(), ciphertext })
    }

    /// Opens what [`Self::seal`] sealed, of the same `of`.
    ///
    /// # Errors
    /// When it is of something else, damaged, or under another key.
    pub fn open(&self, of: &str, sealed: &Sealed) -> Result<SecretBytes, KeyError> {
        let fault = || KeyError::Open { of: of.to_owned(), kek: self.id.clone() };
        if sealed.kek_id != self.id {
            return Err(fault());
        }
        let (nonce, wrapped) = sealed.wrapped_key.split_at_checked(NONCE_LEN).ok_or_else(fault)?;
        let data_key = decrypt(&self.key, of, nonce, wrapped).ok_or_else(fault)?;
        let data_key = UnboundKey::new(&AES_256_GCM, data_key.expose()).map_err(|_| fault())?;
        decrypt(&LessSafeKey::new(data_key), of, &sealed.nonce, &sealed.ciphertext).ok_or_else(fault)
    }
}

fn aes(key: &[u8; KEY]) -> Result<LessSafeKey, KeyError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| KeyError::Encrypt)
}

fn encrypt(key: &LessSafeKey, of: &str, clear: &[u8]) -> Result<([u8; NONCE_LEN], Vec<u8>), KeyError> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(|_| KeyError::Encrypt)?;
    let mut bytes = clear.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(of), &mut bytes)
        .map_err(|_| KeyError::Encrypt)?;
    Ok((nonce, bytes))
}

fn decrypt(key: &LessSafeKey, of: &str, nonce: &[u8], ciphertext: &[u8]) -> Option<SecretBytes> {
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut bytes = ciphertext.to_vec();
    let length = key.open_in_place(nonce, Aad::from(of), &mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(SecretBytes::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_it_sealed_and_where_it_belongs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let kek = Kek::load_or_create(&path).unwrap();
        let again = Kek::load_or_create(&path).unwrap();
        let sealed = kek.seal("Secret/db", b"hunter2").unwrap();
        assert_eq!(again.open("Secret/db", &sealed).unwrap().expose(), b"hunter2");
        assert!(kek.open("Secret/other", &sealed).is_err());

        let other = Kek::load_or_create(&dir.path().join("other")).unwrap();
        assert!(other.open("Secret/db", &sealed).is_err());
        for part in 0..3 {
            let mut bad = sealed.clone();
            match part {
                0 => bad.wrapped_key[20] ^= 1,
                1 => bad.nonce[0] ^= 1,
                _ => bad.ciphertext[0] ^= 1,
            }
            assert!(kek.open("Secret/db", &bad).is_err());
        }
    }

    #[test]
    fn the_same_secret_is_never_sealed_alike() {
        let dir = tempfile::tempdir().unwrap();
        let kek = Kek::load_or_create(&dir.path().join("kek")).unwrap();
        let (one, two) = (kek.seal("a", b"x").unwrap(), kek.seal("a", b"x").unwrap());
        assert_ne!(one.ciphertext, two.ciphertext);
        assert_ne!(one.wrapped_key, two.wrapped_key);
    }

    #[test]
    fn a_key_file_must_hold_a_key() {
        for bad in ["", "zz", &"0".repeat(63), &"g".repeat(64), &"0".repeat(65)] {
            assert!(matches!(Kek::from_hex(bad, "here"), Err(KeyError::Form(_))), "{bad}");
        }
    }
}
