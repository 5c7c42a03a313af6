//! A key-encryption key in this node's memory: from a file, or from the environment.

use std::fs;
use std::path::Path;

use aws_lc_rs::aead::{LessSafeKey, NONCE_LEN};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use postern_core::secret::SecretBytes;
use postern_runtime::pki::write_private;
use zeroize::Zeroizing;

use super::{KEY, KeyError, aes, decrypt, encrypt};

/// AES-256-GCM (NIST SP 800-38D). The associated data names what is sealed.
pub(super) struct LocalKek {
    id: String,
    key: LessSafeKey,
}

impl LocalKek {
    /// Reads the key from `path`: for a cluster that has secrets already.
    pub(super) fn load(path: &Path) -> Result<Self, KeyError> {
        let source = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::from_hex(&Zeroizing::new(text), &source),
            Err(error) => Err(KeyError::File { path: source, why: error.to_string() }),
        }
    }

    /// Reads the key from `path`, or makes one there (0600) when there is none.
    pub(super) fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let file =
            |why: &dyn std::fmt::Display| KeyError::File { path: path.display().to_string(), why: why.to_string() };
        match fs::read_to_string(path) {
            Ok(text) => Self::from_hex(&Zeroizing::new(text), &path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut key = Zeroizing::new([0; KEY]);
                rand::fill(key.as_mut_slice()).map_err(|_| KeyError::Encrypt)?;
                let text = Zeroizing::new(key.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n");
                write_private(path, text.as_bytes()).map_err(|error| file(&error))?;
                Self::new(&key)
            }
            Err(error) => Err(file(&error)),
        }
    }

    /// From 64 hexadecimal digits; `source` is named in errors.
    pub(super) fn from_hex(text: &str, source: &str) -> Result<Self, KeyError> {
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
        Self::new(&key)
    }

    fn new(key: &[u8; KEY]) -> Result<Self, KeyError> {
        // The id tells keys apart, and nothing of the key.
        let mut named = Zeroizing::new(b"postern kek id\0".to_vec());
        named.extend_from_slice(key.as_slice());
        let id = digest(&SHA256, &named).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, key: aes(key)? })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn wrap(&self, of: &str, data_key: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (nonce, wrapped) = encrypt(&self.key, of, data_key)?;
        Ok([nonce.as_slice(), &wrapped].concat())
    }

    pub(super) fn unwrap(&self, of: &str, wrapped: &[u8]) -> Result<SecretBytes, KeyError> {
        let opened = wrapped.split_at_checked(NONCE_LEN).and_then(|(nonce, rest)| decrypt(&self.key, of, nonce, rest));
        opened.ok_or_else(|| KeyError::Open { of: of.to_owned(), kek: self.id.clone() })
    }
}
