//! A key-encryption key that never leaves Vault: its transit engine wraps and unwraps data keys.
//!
//! Unwrapped data keys are kept in memory, so that building what gateways decide by does not call Vault once per secret, and goes on
//! while Vault is away.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use postern_core::secret::SecretBytes;
use postern_runtime::backoff::Backoff;
use postern_runtime::vault::{Transit, Vault, VaultError};

use super::KeyError;

/// Data keys that are kept; past it the ones used longest ago go (I11).
const KEPT: usize = 16_384;

/// A key of Vault's transit engine.
pub(super) struct VaultKek {
    id: String,
    vault: Vault,
    transit: Transit,
    cache: Mutex<Cache>,
    /// One call at a time; the others find its results in the cache.
    flight: tokio::sync::Mutex<Flight>,
}

#[derive(Default)]
struct Cache {
    keys: HashMap<[u8; 32], (SecretBytes, u64)>,
    clock: u64,
}

struct Flight {
    backoff: Backoff,
    /// Vault failed; until then nobody asks again.
    failed: Option<(Instant, VaultError)>,
}

impl VaultKek {
    pub(super) fn new(id: String, vault: Vault, mount: &str, key: &str) -> Result<Self, KeyError> {
        let transit =
            Transit::new(vault.clone(), mount, key).map_err(|why| KeyError::Vault { kek: id.clone(), why })?;
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        let flight = tokio::sync::Mutex::new(Flight { backoff, failed: None });
        Ok(Self { id, vault, transit, cache: Mutex::default(), flight })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Proves that the key wraps, unwraps, and binds what it wraps to its place. Gives the newest version of the key.
    pub(super) async fn probe(&self) -> Result<u32, KeyError> {
        let clear = b"postern probe";
        let wrapped = self.transit.encrypt(clear, "probe").await.map_err(|why| self.fault(why))?;
        let text = wrapped.ciphertext.as_str();
        let opened =
            self.transit.decrypt(&[(text, "probe"), (text, "elsewhere")]).await.map_err(|why| self.fault(why))?;
        match opened.as_slice() {
            [Ok(_), Ok(_)] => Err(KeyError::Unbound(self.id.clone())),
            [Ok(opened), Err(_)] if opened.expose() == clear => Ok(wrapped.key_version),
            [Err(why), _] => Err(KeyError::Refused { of: "probe".into(), kek: self.id.clone(), why: why.clone() }),
            _ => Err(KeyError::Open { of: "probe".to_owned(), kek: self.id.clone() }),
        }
    }

    pub(super) async fn wrap(&self, of: &str, data_key: &SecretBytes) -> Result<Vec<u8>, KeyError> {
        let wrapped = self.transit.encrypt(data_key.expose(), of).await.map_err(|why| self.fault(why))?;
        let wrapped = wrapped.ciphertext.into_bytes();
        self.cache().put(cache_key(of, &wrapped), data_key.clone());
        Ok(wrapped)
    }

    /// Each `(of, wrapped)`; from memory where it is there.
    pub(super) async fn unwrap(&self, items: &[(&str, &[u8])]) -> Vec<Result<SecretBytes, KeyError>> {
        let known = self.known(items);
        if known.iter().all(Option::is_some) {
            return known.into_iter().flatten().map(Ok).collect();
        }
        let mut flight = self.flight.lock().await;
        // Whoever flew before may have brought them.
        let mut known = self.known(items);
        if let Some((until, why)) = &flight.failed
            && Instant::now() < *until
        {
            let why = why.clone();
            return known.into_iter().map(|key| key.ok_or_else(|| self.fault(why.clone()))).collect();
        }
        let mut refused: HashMap<usize, KeyError> = HashMap::new();
        let (mut places, mut asked) = (Vec::new(), Vec::new());
        for (place, ((of, wrapped), key)) in items.iter().zip(&known).enumerate() {
            match (key, std::str::from_utf8(wrapped)) {
                (Some(_), _) => {}
                (None, Ok(text)) => {
                    places.push(place);
                    asked.push((text, *of));
                }
                (None, Err(_)) => drop(refused.insert(place, self.damaged(of))),
            }
        }
        match self.transit.decrypt(&asked).await {
            Ok(opened) => {
                flight.backoff.reset();
                flight.failed = None;
                for ((place, (text, of)), opened) in places.into_iter().zip(asked).zip(opened) {
                    match opened {
                        Ok(key) => {
                            self.cache().put(cache_key(of, text.as_bytes()), key.clone());
                            if let Some(slot) = known.get_mut(place) {
                                *slot = Some(key);
                            }
                        }
                        Err(why) => {
                            let (of, kek) = (of.to_owned(), self.id.clone());
                            refused.insert(place, KeyError::Refused { of, kek, why });
                        }
                    }
                }
            }
            Err(why) => {
                let wait = flight.backoff.next_delay();
                flight.failed = Instant::now().checked_add(wait).map(|until| (until, why.clone()));
                for place in places {
                    refused.insert(place, self.fault(why.clone()));
                }
            }
        }
        drop(flight);
        let take = |(place, key): (usize, Option<SecretBytes>)| {
            key.ok_or_else(|| {
                refused.remove(&place).unwrap_or_else(|| self.damaged(items.get(place).map_or("", |item| item.0)))
            })
        };
        known.into_iter().enumerate().map(take).collect()
    }

    /// Forgets one data key, so that the next unwrapping asks Vault.
    pub(super) fn forget(&self, of: &str, wrapped: &[u8]) {
        self.cache().keys.remove(&cache_key(of, wrapped));
    }

    fn known(&self, items: &[(&str, &[u8])]) -> Vec<Option<SecretBytes>> {
        let mut cache = self.cache();
        items.iter().map(|(of, wrapped)| cache.get(&cache_key(of, wrapped))).collect()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, why: VaultError) -> KeyError {
        KeyError::Vault { kek: self.id.clone(), why }
    }

    fn damaged(&self, of: &str) -> KeyError {
        KeyError::Open { of: of.to_owned(), kek: self.id.clone() }
    }
}

/// The version of the transit key that wrapped a data key.
pub(super) fn version(wrapped: &[u8]) -> Option<u32> {
    let rest = std::str::from_utf8(wrapped).ok()?.strip_prefix("vault:v")?;
    rest.split_once(':')?.0.parse().ok()
}

fn cache_key(of: &str, wrapped: &[u8]) -> [u8; 32] {
    let named = [of.as_bytes(), b"\0", wrapped].concat();
    let mut key = [0; 32];
    key.iter_mut().zip(digest(&SHA256, &named).as_ref()).for_each(|(slot, byte)| *slot = *byte);
    key
}

impl Cache {
    fn get(&mut self, key: &[u8; 32]) -> Option<SecretBytes> {
        self.clock = self.clock.wrapping_add(1);
        let (found, used) = self.keys.get_mut(key)?;
        *used = self.clock;
        Some(found.clone())
    }

    fn put(&mut self, key: [u8; 32], data_key: SecretBytes) {
        if self.keys.len() >= KEPT && !self.keys.contains_key(&key) {
            let mut used: Vec<u64> = self.keys.values().map(|(_, used)| *used).collect();
            // A quarter at once, so that the sorting is rare.
            let (_, middle, _) = used.select_nth_unstable(KEPT / 4);
            let oldest = *middle;
            self.keys.retain(|_, (_, used)| *used > oldest);
        }
        self.clock = self.clock.wrapping_add(1);
        self.keys.insert(key, (data_key, self.clock));
    }
}
