//! Secrets at rest: envelope encryption under the cluster's key-encryption keys (I5).
//!
//! Each secret has a data key of its own (AES-256-GCM, NIST SP 800-38D); the data key is wrapped by a key-encryption key, which lies in
//! this node's memory or never leaves Vault. The associated data of both names what the secret is of, so that one sealed secret cannot
//! be put in another's place.
//!
//! A [`Keyring`] has one current key, which seals, and any number of others, which only open: so a key can be replaced while all goes on.

pub mod config;
mod local;
mod rewrap;
pub(crate) mod rotate;
mod transit;

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use postern_core::secret::{Sealed, SecretBytes};
use postern_runtime::backoff::Backoff;
use postern_runtime::vault::{Vault, VaultError};
use tracing::{info, warn};
use zeroize::Zeroizing;

use config::{KekConfig, KekSource};
use local::LocalKek;
use transit::VaultKek;

const KEY: usize = 32;

/// Something of the keys failed. Never shows key material.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key-encryption key {path}: {why}")]
    File {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// The variable is not set.
    #[error("key-encryption key: the environment variable {0} is not set")]
    Variable(String),
    /// The key is not 32 bytes in hexadecimal.
    #[error("key-encryption key {0}: expected 64 hexadecimal digits")]
    Form(String),
    /// Two keys go by one id.
    #[error("two key-encryption keys have the id {0}: give one of them another `name`, or leave one out")]
    Twice(String),
    /// Sealed under a key that this node does not have.
    #[error("a sealed secret of {of} does not open: it is under key-encryption key {kek}, and this node has {known}")]
    Unknown {
        /// What it is of.
        of: String,
        /// The key that it needs.
        kek: String,
        /// Those that are here.
        known: String,
    },
    /// Damaged, or put in another's place.
    #[error("a sealed secret of {of} does not open: it is damaged, or was not sealed under key-encryption key {kek}")]
    Open {
        /// What it is of.
        of: String,
        /// The key that was tried.
        kek: String,
    },
    /// Vault does not unwrap a data key.
    #[error("the sealed secret of {of}: Vault does not unwrap its data key by {kek}: {why}")]
    Refused {
        /// What it is of.
        of: String,
        /// The key that was tried.
        kek: String,
        /// Vault's words.
        why: String,
    },
    /// Vault does not answer as it should.
    #[error("key-encryption key {kek}: {why}")]
    Vault {
        /// The key.
        kek: String,
        /// Why.
        why: VaultError,
    },
    /// The transit key ignores associated data.
    #[error(
        "key-encryption key {0}: its type, or this version of Vault, ignores associated data; use a key of type aes256-gcm96"
    )]
    Unbound(String),
    /// The system cannot encrypt or has no randomness.
    #[error("cannot encrypt")]
    Encrypt,
}

impl KeyError {
    /// Whether it may go away by itself.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Vault { why, .. } if why.is_transient())
    }
}

/// What seals and opens here.
pub(crate) type Kek = Keyring;

enum Provider {
    Local(LocalKek),
    Vault(Box<VaultKek>),
}

/// The cluster's key-encryption keys, as far as this node has them.
pub struct Keyring {
    current: Provider,
    others: Vec<Provider>,
}

impl Keyring {
    /// Reads or connects every key of `config`. With `old` data a lost key file is not replaced by a new one, which would open nothing.
    /// Vault is not called yet.
    ///
    /// # Errors
    /// When a key cannot be read, or has no key's form.
    pub fn new(config: &KekConfig, old: bool) -> Result<Self, KeyError> {
        let current = match &config.current {
            KekSource::File(path) if !old => Provider::Local(LocalKek::load_or_create(path)?),
            source => Provider::from(source)?,
        };
        let others = config.previous.iter().map(Provider::from).collect::<Result<Vec<_>, _>>()?;
        let this = Self { current, others };
        let mut ids = this.ids();
        ids.sort();
        match ids.windows(2).find_map(|pair| matches!(pair, [a, b] if a == b).then(|| pair.first().cloned()).flatten())
        {
            Some(id) => Err(KeyError::Twice(id)),
            None => Ok(this),
        }
    }

    /// With the one key in the file at `path`, which is made when there is none.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_file(path: &Path) -> Result<Self, KeyError> {
        Self::new(&KekConfig::file(path), false)
    }

    /// The key that seals.
    #[must_use]
    pub fn current_id(&self) -> &str {
        self.current.id()
    }

    /// All keys that open, the current one first.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.all().map(|kek| kek.id().to_owned()).collect()
    }

    /// Every Vault that is used: each needs its token kept alive (`Vault::keep`).
    pub(crate) fn vaults(&self) -> Vec<Vault> {
        self.all()
            .filter_map(|kek| match kek {
                Provider::Vault(kek) => Some(kek.vault().clone()),
                Provider::Local(_) => None,
            })
            .collect()
    }

    /// Waits until the current key wraps and unwraps. While Vault is away it says what it waits for, and goes on trying.
    ///
    /// # Errors
    /// When waiting would not help: a wrong token, no such key.
    pub async fn ready(&self) -> Result<(), KeyError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let mut waited = false;
        loop {
            match self.current.probe().await {
                Ok(_) if waited => {
                    info!(kek = self.current_id(), "the key-encryption key is there");
                    return Ok(());
                }
                Ok(_) => return Ok(()),
                Err(error) if error.is_transient() => {
                    if !std::mem::replace(&mut waited, true) {
                        warn!(%error, "waiting for the key-encryption key: nothing is served before it is there");
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Seals `secret`, which is of `of` (`Secret/db-password`), under the current key.
    ///
    /// # Errors
    /// When the system has no randomness, or Vault does not wrap.
    pub async fn seal(&self, of: &str, secret: &[u8]) -> Result<Sealed, KeyError> {
        let mut data_key = Zeroizing::new([0; KEY]);
        rand::fill(data_key.as_mut_slice()).map_err(|_| KeyError::Encrypt)?;
        let (nonce, ciphertext) = encrypt(&aes(&data_key)?, of, secret)?;
        let wrapped_key = self.current.wrap(of, &SecretBytes::new(data_key.to_vec())).await?;
        Ok(Sealed { kek_id: self.current_id().to_owned(), wrapped_key, nonce: nonce.to_vec(), ciphertext })
    }

    /// Opens what was sealed for the same `of`.
    ///
    /// # Errors
    /// When it is of something else, damaged, under a key that is not here, or Vault does not unwrap.
    pub async fn open(&self, of: &str, sealed: &Sealed) -> Result<SecretBytes, KeyError> {
        let opened = self.open_all(&[(of, sealed)]).await;
        opened.into_iter().next().unwrap_or_else(|| Err(KeyError::Encrypt))
    }

    /// As [`Self::open`], but waits while Vault is away, and says what it waits for.
    ///
    /// # Errors
    /// When waiting would not help.
    pub async fn open_waiting(&self, of: &str, sealed: &Sealed) -> Result<SecretBytes, KeyError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let mut told = false;
        loop {
            match self.open(of, sealed).await {
                Err(error) if error.is_transient() => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(%error, of, "waiting for a key-encryption key");
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                opened => return opened,
            }
        }
    }

    /// Opens each; Vault is asked for many data keys at once.
    pub async fn open_all(&self, items: &[(&str, &Sealed)]) -> Vec<Result<SecretBytes, KeyError>> {
        let keys = self.data_keys(items).await;
        let open = |((of, sealed), key): (&(&str, &Sealed), Result<SecretBytes, KeyError>)| {
            let fault = || KeyError::Open { of: (*of).to_owned(), kek: sealed.kek_id.clone() };
            let key = UnboundKey::new(&AES_256_GCM, key?.expose()).map_err(|_| fault())?;
            decrypt(&LessSafeKey::new(key), of, &sealed.nonce, &sealed.ciphertext).ok_or_else(fault)
        };
        items.iter().zip(keys).map(open).collect()
    }

    /// The data key of each, unwrapped.
    async fn data_keys(&self, items: &[(&str, &Sealed)]) -> Vec<Result<SecretBytes, KeyError>> {
        let mut keys: Vec<Option<Result<SecretBytes, KeyError>>> = items.iter().map(|_| None).collect();
        for kek in self.all() {
            let (places, asked): (Vec<usize>, Vec<(&str, &[u8])>) = items
                .iter()
                .enumerate()
                .filter(|(_, (_, sealed))| sealed.kek_id == kek.id())
                .map(|(place, (of, sealed))| (place, (*of, sealed.wrapped_key.as_slice())))
                .unzip();
            if asked.is_empty() {
                continue;
            }
            for (place, key) in places.into_iter().zip(kek.unwrap(&asked).await) {
                if let Some(slot) = keys.get_mut(place) {
                    *slot = Some(key);
                }
            }
        }
        let unknown = |(of, sealed): &(&str, &Sealed)| KeyError::Unknown {
            of: (*of).to_owned(),
            kek: sealed.kek_id.clone(),
            known: self.ids().join(", "),
        };
        keys.into_iter().zip(items).map(|(key, item)| key.unwrap_or_else(|| Err(unknown(item)))).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Provider> {
        std::iter::once(&self.current).chain(&self.others)
    }
}

impl Provider {
    fn from(source: &KekSource) -> Result<Self, KeyError> {
        match source {
            KekSource::File(path) => LocalKek::load(path).map(Self::Local),
            KekSource::Inline(key) => {
                let form = || KeyError::Form("in the configuration".to_owned());
                let text = std::str::from_utf8(key.expose()).map_err(|_| form())?;
                LocalKek::from_hex(text, "in the configuration").map(Self::Local)
            }
            KekSource::Variable(name) => {
                let text = std::env::var(name).map_err(|_| KeyError::Variable(name.clone()))?;
                LocalKek::from_hex(&Zeroizing::new(text), &format!("in {name}")).map(Self::Local)
            }
            KekSource::Vault(key) => {
                let vault = Vault::new(&key.vault).map_err(|why| KeyError::Vault { kek: key.id.clone(), why })?;
                let kek = VaultKek::new(key.id.clone(), vault, &key.mount, &key.key)?;
                Ok(Self::Vault(Box::new(kek)))
            }
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Local(kek) => kek.id(),
            Self::Vault(kek) => kek.id(),
        }
    }

    /// The newest version of the key, of one that has versions.
    async fn probe(&self) -> Result<Option<u32>, KeyError> {
        match self {
            Self::Local(_) => Ok(None),
            Self::Vault(kek) => kek.probe().await.map(Some),
        }
    }

    async fn wrap(&self, of: &str, data_key: &SecretBytes) -> Result<Vec<u8>, KeyError> {
        match self {
            Self::Local(kek) => kek.wrap(of, data_key.expose()),
            Self::Vault(kek) => kek.wrap(of, data_key).await,
        }
    }

    async fn unwrap(&self, items: &[(&str, &[u8])]) -> Vec<Result<SecretBytes, KeyError>> {
        match self {
            Self::Local(kek) => items.iter().map(|(of, wrapped)| kek.unwrap(of, wrapped)).collect(),
            Self::Vault(kek) => kek.unwrap(items).await,
        }
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
mod tests;
