//! Connections that have shown no token yet. Anybody can make them, so they have room of their own, and little of it; and when it is full,
//! whoever has taken longest goes: a client that means it is done in a blink, one that dawdles to take up room makes room.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use postern_runtime::failures::network;
use tokio_util::sync::CancellationToken;

/// All of them. Cheap to clone; locked once at a connection's beginning and once at its end.
#[derive(Clone, Debug)]
pub(crate) struct Handshakes(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    most: usize,
    most_of_one: usize,
    next: u64,
    /// Oldest first.
    all: BTreeMap<u64, (IpAddr, CancellationToken)>,
    /// Of each address, oldest first. Bounded by `all`.
    by_address: HashMap<IpAddr, BTreeMap<u64, ()>>,
}

/// A place for a handshake. Dropped, it is free.
#[derive(Debug)]
pub(crate) struct Handshake {
    id: u64,
    gone: CancellationToken,
    all: Handshakes,
}

impl Handshakes {
    /// With room for `most` at a time, `most_of_one` of them from one address.
    pub(crate) fn new(most: u32, most_of_one: u32) -> Self {
        let size = |value| usize::try_from(value).unwrap_or(usize::MAX).max(1);
        let (most, most_of_one) = (size(most), size(most_of_one));
        Self(Arc::new(Mutex::new(Inner {
            most,
            most_of_one,
            next: 0,
            all: BTreeMap::new(),
            by_address: HashMap::new(),
        })))
    }

    /// A place for a connection from `address`, and whether another had to go for it.
    pub(crate) fn begin(&self, address: IpAddr) -> (Handshake, bool) {
        let address = network(address);
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = inner.by_address.get(&address);
        let goes = match mine {
            Some(mine) if mine.len() >= inner.most_of_one => mine.first_key_value().map(|(id, ())| *id),
            _ if inner.all.len() >= inner.most => inner.all.first_key_value().map(|(id, _)| *id),
            _ => None,
        };
        if let Some(gone) = goes.and_then(|id| inner.remove(id)) {
            gone.cancel();
        }
        let (id, gone) = (inner.next, CancellationToken::new());
        inner.next = inner.next.wrapping_add(1);
        inner.all.insert(id, (address, gone.clone()));
        inner.by_address.entry(address).or_default().insert(id, ());
        (Handshake { id, gone, all: self.clone() }, goes.is_some())
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all.len()
    }
}

impl Inner {
    fn remove(&mut self, id: u64) -> Option<CancellationToken> {
        let (address, gone) = self.all.remove(&id)?;
        if let Some(of_one) = self.by_address.get_mut(&address) {
            of_one.remove(&id);
            if of_one.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(gone)
    }
}

impl Handshake {
    /// Ends when it has to make room. Cancel-safe.
    pub(crate) async fn has_to_go(&self) {
        self.gone.cancelled().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_oldest_makes_room_of_one_address_first() {
        let all = Handshakes::new(4, 2);
        let (first, none) = all.begin(from("192.0.2.1"));
        let (second, _) = all.begin(from("192.0.2.1"));
        assert!(!none && !first.gone.is_cancelled());
        let (third, one) = all.begin(from("192.0.2.1"));
        assert!(one && first.gone.is_cancelled() && !second.gone.is_cancelled());
        let (others, _more) = (all.begin(from("192.0.2.2")), all.begin(from("192.0.2.3")));
        let (_last, one) = all.begin(from("192.0.2.4"));
        assert!(one && second.gone.is_cancelled() && !third.gone.is_cancelled() && !others.0.gone.is_cancelled());
        assert_eq!(all.len(), 4);
        drop((first, second, third));
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn nothing_is_kept_of_who_is_gone() {
        let all = Handshakes::new(1000, 10);
        for n in 0..100_000_u32 {
            drop(all.begin(IpAddr::V4(n.into())));
        }
        let inner = all.0.lock().unwrap();
        assert!(inner.all.is_empty() && inner.by_address.is_empty());
    }

    #[test]
    fn neighbours_in_ipv6_are_one() {
        assert_eq!(network(from("2001:db8::1")), network(from("2001:db8::ffff:1")));
        assert_ne!(network(from("2001:db8:0:1::1")), network(from("2001:db8::1")));
        assert_eq!(network(from("::ffff:192.0.2.1")), from("192.0.2.1"));
    }
}
