//! What a node knows of proofs of possession: which were shown to it, and which nonces it gave.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::Timestamp;

use super::dpop::{MAX_AGE, Proof, ProofError, Thumbprint};
use super::jws::KeyError;
use super::seen::Digest;
use super::session::LEEWAY;

/// Proofs that are remembered for each half of the time; 64 bytes each (I11). Only those are that went with a good token.
const KEPT: usize = 65_536;
/// As many of one key at most, so that one client has not all the room.
const OF_ONE_KEY: u32 = 8_192;
/// How long one half lasts: as long as any proof is good.
const HALF: Duration = Duration::from_secs(MAX_AGE.as_secs() + LEEWAY.as_secs());
/// How long a nonce is good.
const NONCE_LIFE: Duration = Duration::from_secs(300);
/// Bytes of a nonce: when it was given, and a code that this node alone can make.
const TIME: usize = 8;
const CODE: usize = 16;

/// Takes proofs, each once. One for each node: what was shown to another is not known here.
pub struct Proofs {
    nonces: hmac::Key,
    /// Whether a proof must have a nonce.
    demands: bool,
    /// What was shown before that, nobody here knows.
    since: Timestamp,
    shown: Mutex<Shown>,
}

/// In two halves: as the later is full of time, the earlier goes.
#[derive(Default)]
struct Shown {
    earlier: HashSet<Digest>,
    later: HashSet<Digest>,
    /// Of the later half.
    by_key: HashMap<Thumbprint, u32>,
    began: Timestamp,
}

impl Proofs {
    /// For a node that began at `now`. With `demands`, proofs must have a nonce that it gave.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new(demands: bool, now: Timestamp) -> Result<Self, KeyError> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| KeyError::SigningKey)?;
        let nonces = hmac::Key::new(hmac::HMAC_SHA256, &key);
        // In whole seconds, as proofs say it.
        Ok(Self { nonces, demands, since: Timestamp::from_secs(now.secs()), shown: Mutex::default() })
    }

    /// Verifies `proof` for a request of `method` to `url`. It counts once it is spent.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn verify(&self, proof: &str, request: (&str, &str), now: Timestamp) -> Result<Proof, ProofError> {
        let proof = Proof::verify(proof, request, now)?;
        // It may have been shown here before this node began anew.
        if proof.made_at() < self.since {
            return Err(ProofError::Time);
        }
        if self.demands && !proof.nonce.as_deref().is_some_and(|nonce| self.is_good(nonce, now)) {
            return Err(ProofError::Nonce);
        }
        Ok(proof)
    }

    /// Takes `proof` for the request that it was verified for; the second time for the same is no other.
    ///
    /// # Errors
    /// It was taken before, or there is no room to remember that it is.
    pub fn spend(&self, proof: &mut Proof, now: Timestamp) -> Result<(), ProofError> {
        if proof.spent {
            return Ok(());
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.began.plus(HALF) <= now {
            // After a pause of two halves nothing is left that counts.
            let idle = shown.began.plus(HALF).plus(HALF) <= now;
            let later = std::mem::take(&mut shown.later);
            shown.earlier = if idle { HashSet::new() } else { later };
            shown.by_key.clear();
            shown.began = now;
        }
        if shown.earlier.contains(proof.id()) || shown.later.contains(proof.id()) {
            return Err(ProofError::Replayed);
        }
        if shown.later.len() >= KEPT {
            return Err(ProofError::Busy);
        }
        let of_key = shown.by_key.entry(*proof.key()).or_default();
        if *of_key >= OF_ONE_KEY {
            return Err(ProofError::Busy);
        }
        *of_key = of_key.saturating_add(1);
        shown.later.insert(*proof.id());
        proof.spent = true;
        Ok(())
    }

    /// What the next proof is to have in it, where that is demanded.
    #[must_use]
    pub fn nonce(&self, now: Timestamp) -> Option<String> {
        self.demands.then(|| self.given(now.secs().to_be_bytes()))
    }

    fn given(&self, time: [u8; TIME]) -> String {
        let code = hmac::sign(&self.nonces, &time);
        let code = code.as_ref().get(..CODE).unwrap_or_default();
        URL_SAFE_NO_PAD.encode([&time, code].concat())
    }

    fn is_good(&self, nonce: &str, now: Timestamp) -> bool {
        let Some(time) = URL_SAFE_NO_PAD.decode(nonce).ok().and_then(|bytes| bytes.first_chunk::<TIME>().copied())
        else {
            return false;
        };
        let given = Timestamp::from_secs(u64::from_be_bytes(time));
        let expected = self.given(time);
        let own = verify_slices_are_equal(expected.as_bytes(), nonce.as_bytes()).is_ok();
        own && given <= now && now < given.plus(NONCE_LIFE)
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.earlier.len() + shown.later.len()
    }
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proofs").field("demands", &self.demands).finish_non_exhaustive()
    }
}
