//! Cancel keys: each session gives its client the target's own process id and a secret of Postern's, and a cancel request is led to the session by both.
//!
//! The process id is the target's, since clients compare it with `pg_backend_pid()` and with the sender of a notification, and end sessions by it. The
//! secret says to gateways whose session it is, so that the request may come to any of them: requests carry no name by which they could be
//! routed. In the four bytes of protocol 3.0 that is one byte, veiled by a key that only gateways have: whoever guesses has all 32 bits to guess.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac};
use dashmap::DashMap;
use postern_core::Name;
use postern_runtime::clock;
use tokio::sync::mpsc;

use crate::metrics;

/// Cancel requests that wait for one session. More say nothing new.
const PENDING: usize = 2;
/// Of the secret in protocol 3.2, in bytes, as the server's own.
const LONG: usize = 32;
/// Of these, what names the gateway.
const TAG: usize = 8;

/// All live sessions' keys, by process id: several targets may have the same. Shared between sessions and the connections that cancel: neither owns the
/// other.
#[derive(Clone, Debug)]
pub(crate) struct CancelKeys {
    gateway: Name,
    keys: Arc<DashMap<u32, Vec<Entry>>>,
}

struct Entry {
    secret: Arc<[u8]>,
    to: mpsc::Sender<SocketAddr>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry")
    }
}

/// A session's key; it is forgotten when this is dropped.
pub(crate) struct CancelKey {
    /// The process id at the target.
    pub pid: u32,
    /// What a client must show.
    pub secret: Arc<[u8]>,
    /// Cancel requests, by the address that they came from.
    pub requests: mpsc::Receiver<SocketAddr>,
    keys: CancelKeys,
}

impl CancelKeys {
    pub(crate) fn new(gateway: Name) -> Self {
        Self { gateway, keys: Arc::default() }
    }

    /// A new key, for a session with that process at its target. `shared`: what all gateways of the cluster have, and nobody else. `long`: the
    /// client speaks protocol 3.2.
    #[must_use]
    pub(crate) fn register(&self, pid: u32, long: bool, shared: &[u8]) -> CancelKey {
        let (to, requests) = mpsc::channel(PENDING);
        let mut known = self.keys.entry(pid).or_default();
        let secret: Arc<[u8]> = loop {
            let random = [clock::random_u128().to_be_bytes(), clock::random_u128().to_be_bytes()];
            let random = random.as_flattened();
            let secret: Vec<u8> = if long {
                tag(&self.gateway).iter().chain(random).copied().take(LONG).collect()
            } else {
                let rest = random.get(..3).unwrap_or_default();
                let first = veil(shared, pid, rest) ^ tag(&self.gateway).first().copied().unwrap_or_default();
                std::iter::once(first).chain(rest.iter().copied()).collect()
            };
            if known.iter().all(|entry| *entry.secret != *secret) {
                break secret.into();
            }
        };
        known.push(Entry { secret: Arc::clone(&secret), to });
        drop(known);
        CancelKey { pid, secret, requests, keys: self.clone() }
    }

    /// Passes a cancel request on, if the key is of a live session here; whether it is. The requester is never told.
    pub(crate) fn cancel(&self, pid: u32, secret: &[u8], from: SocketAddr) -> bool {
        let Some(entries) = self.keys.get(&pid) else { return false };
        let right = entries.iter().find(|entry| verify_slices_are_equal(&entry.secret, secret).is_ok());
        if let Some(entry) = right {
            // A full mailbox has the request already.
            let _ = entry.to.try_send(from);
        }
        metrics::cancelled(right.is_some());
        right.is_some()
    }
}

/// Whether the key is one that `gateway` gives out.
pub(crate) fn may_be_of(gateway: &Name, pid: u32, secret: &[u8], shared: &[u8]) -> bool {
    match secret {
        [first, rest @ ..] if rest.len() == 3 => Some(first ^ veil(shared, pid, rest)) == tag(gateway).first().copied(),
        secret if secret.len() == LONG => secret.starts_with(&tag(gateway)),
        _ => false,
    }
}

fn tag(gateway: &Name) -> Vec<u8> {
    digest::digest(&digest::SHA256, gateway.as_str().as_bytes()).as_ref().iter().copied().take(TAG).collect()
}

fn veil(shared: &[u8], pid: u32, rest: &[u8]) -> u8 {
    let key = hmac::Key::new(hmac::HMAC_SHA256, shared);
    let text = [b"postern cancel key", &pid.to_be_bytes()[..], rest].concat();
    hmac::sign(&key, &text).as_ref().first().copied().unwrap_or_default()
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        if let dashmap::Entry::Occupied(mut known) = self.keys.keys.entry(self.pid) {
            known.get_mut().retain(|entry| entry.secret != self.secret);
            if known.get().is_empty() {
                known.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_right_key_cancels() {
        for long in [false, true] {
            let keys = CancelKeys::new(name("gw-1"));
            let from = "127.0.0.1:1".parse().unwrap();
            // The same process id at two targets.
            let (mut key, mut other) = (keys.register(4711, long, b"k"), keys.register(4711, long, b"k"));
            assert_eq!(key.secret.len(), if long { 32 } else { 4 });
            let mut wrong = key.secret.to_vec();
            wrong[3] ^= 1;
            assert!(!keys.cancel(key.pid, &wrong, from));
            assert!(!keys.cancel(key.pid, &key.secret[..3], from));
            assert!(!keys.cancel(key.pid ^ 1, &key.secret, from));
            assert!(key.requests.try_recv().is_err());
            assert!(keys.cancel(key.pid, &key.secret, from));
            assert_eq!(key.requests.try_recv().unwrap(), from);
            assert!(other.requests.try_recv().is_err());
            let (pid, secret) = (key.pid, Arc::clone(&key.secret));
            drop(key);
            assert!(!keys.cancel(pid, &secret, from));
            assert!(keys.cancel(pid, &other.secret, from));
            assert!(other.requests.try_recv().is_ok());
            drop(other);
            assert!(keys.keys.is_empty());
        }
    }

    #[test]
    fn a_key_says_whose_it_is_to_gateways_alone() {
        let keys = CancelKeys::new(name("gw-1"));
        let others: Vec<Name> = (0..64).map(|n| name(&format!("other-{n}"))).collect();
        let (mut theirs, mut guessed) = (0, 0);
        for pid in 1..200 {
            let (short, long) = (keys.register(pid, false, b"k"), keys.register(pid, true, b"k"));
            for key in [&short, &long] {
                assert!(may_be_of(&name("gw-1"), pid, &key.secret, b"k"));
            }
            assert!(others.iter().all(|other| !may_be_of(other, pid, &long.secret, b"k")));
            theirs += others.iter().filter(|other| may_be_of(other, pid, &short.secret, b"k")).count();
            // Without the key, the byte tells nothing.
            guessed += usize::from(may_be_of(&name("gw-1"), pid, &short.secret, b"another"));
        }
        // Those whose first byte is the same: one in 256, more or less.
        assert!(theirs <= 199 * 2, "{theirs}");
        assert!(guessed < 10, "{guessed}");
    }
}
