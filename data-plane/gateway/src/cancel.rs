//! Cancel keys: each session gives its client a key of Postern's own, and a cancel request is led to the session by it.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use dashmap::DashMap;
use postern_runtime::clock;
use tokio::sync::mpsc;

use crate::metrics;

/// Cancel requests that wait for one session. More say nothing new.
const PENDING: usize = 2;

/// All live sessions' keys. Shared between sessions and the connections that cancel: neither owns the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct CancelKeys(Arc<DashMap<i32, Entry>>);

#[derive(Debug)]
struct Entry {
    secret: [u8; 4],
    to: mpsc::Sender<SocketAddr>,
}

/// A session's key; it is forgotten when this is dropped.
#[derive(Debug)]
pub(crate) struct CancelKey {
    /// What the client takes for the backend's process id.
    pub pid: i32,
    /// What it must show.
    pub secret: i32,
    /// Cancel requests, by the address that they came from.
    pub requests: mpsc::Receiver<SocketAddr>,
    keys: CancelKeys,
}

impl CancelKeys {
    /// A new key.
    #[must_use]
    pub(crate) fn register(&self) -> CancelKey {
        let (to, requests) = mpsc::channel(PENDING);
        loop {
            let random = clock::random_u128().to_be_bytes();
            let [a, b, c, d, e, f, g, h, ..] = random;
            // Positive, as process ids are.
            let (pid, secret) = (i32::from_be_bytes([a & 0x7f, b, c, d]).max(1), [e, f, g, h]);
            if let dashmap::Entry::Vacant(slot) = self.0.entry(pid) {
                slot.insert(Entry { secret, to });
                return CancelKey { pid, secret: i32::from_be_bytes(secret), requests, keys: self.clone() };
            }
        }
    }

    /// Passes a cancel request on, if the key is a live session's. The requester is never told.
    pub(crate) fn cancel(&self, pid: i32, secret: i32, from: SocketAddr) {
        let known = self.0.get(&pid).is_some_and(|entry| {
            let right = verify_slices_are_equal(&entry.secret, &secret.to_be_bytes()).is_ok();
            // A full mailbox has the request already.
            right && entry.to.try_send(from).is_ok()
        });
        metrics::cancelled(known);
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        self.keys.0.remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_cancels() {
        let keys = CancelKeys::default();
        let from = "127.0.0.1:1".parse().unwrap();
        let mut key = keys.register();
        keys.cancel(key.pid, key.secret ^ 1, from);
        keys.cancel(key.pid ^ 1, key.secret, from);
        assert!(key.requests.try_recv().is_err());
        keys.cancel(key.pid, key.secret, from);
        assert_eq!(key.requests.try_recv().unwrap(), from);
        let (pid, secret) = (key.pid, key.secret);
        drop(key);
        keys.cancel(pid, secret, from);
        assert!(keys.0.is_empty());
    }
}
