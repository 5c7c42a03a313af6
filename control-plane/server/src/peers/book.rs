//! Who the other members are and where they are dialed.
//!
//! Three sources, the later word counts: what the node kept from its join or its last run ([`AddressBook::seed`]), what members say of
//! themselves when they call (a joiner is dialed before it knows anybody), and the replicated state ([`AddressBook::follow`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postern_core::Name;
use postern_core::node::NodeRole;
use postern_state::{Effect, ObjectKey, State};
use tokio::sync::watch;

use crate::raft::Observer;

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// What its certificate bears.
    pub name: Name,
    /// `host:port`.
    pub address: String,
}

/// All that is known of members, by id. The node itself may be among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// Where each is.
    pub members: BTreeMap<u64, PeerEntry>,
    /// Members that were removed: they are let in no more.
    pub removed: BTreeMap<u64, Name>,
    /// Serials of members' certificates that were revoked.
    pub revoked: BTreeSet<String>,
    /// Members as the replicated state told of them last: only what changes there counts against what they say themselves.
    stated: BTreeMap<u64, PeerEntry>,
}

/// Shared by all who dial or are called. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AddressBook(Arc<watch::Sender<Book>>);

impl Default for AddressBook {
    fn default() -> Self {
        Self::new()
    }
}

impl AddressBook {
    /// With nobody in it.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Book::default())))
    }

    /// Adds members that are not yet known.
    pub fn seed(&self, members: impl IntoIterator<Item = (u64, PeerEntry)>) {
        let members: Vec<_> = members.into_iter().collect();
        self.change(|book| {
            for (id, entry) in members {
                if !book.removed.contains_key(&id) {
                    book.members.entry(id).or_insert(entry);
                }
            }
        });
    }

    /// Takes over what the replicated state says. To be called when nodes or certificates changed, and once at the start.
    pub fn follow(&self, state: &State) {
        let stated: BTreeMap<u64, PeerEntry> = state
            .nodes()
            .map(|node| (node.id, PeerEntry { name: node.name.clone(), address: node.peer_address.clone() }))
            .collect();
        let removed: BTreeMap<u64, Name> = state.removed_nodes().map(|(id, name)| (id, name.clone())).collect();
        let revoked = state
            .certificates()
            .filter(|certificate| certificate.role == NodeRole::Control && certificate.revoked.is_some())
            .map(|certificate| certificate.serial.clone())
            .collect();
        self.replace(stated, removed, revoked);
    }

    /// What [`Self::follow`] does, from parts.
    pub fn replace(&self, stated: BTreeMap<u64, PeerEntry>, removed: BTreeMap<u64, Name>, revoked: BTreeSet<String>) {
        self.change(|book| {
            for (id, entry) in &stated {
                if book.stated.get(id) != Some(entry) {
                    book.members.insert(*id, entry.clone());
                }
            }
            book.members.retain(|id, _| !removed.contains_key(id));
            book.stated = stated;
            book.removed = removed;
            book.revoked = revoked;
        });
    }

    /// What an authenticated member says of itself.
    pub(super) fn heard(&self, id: u64, entry: PeerEntry) {
        self.change(|book| {
            if !book.removed.contains_key(&id) {
                book.members.insert(id, entry);
            }
        });
    }

    /// One member.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<PeerEntry> {
        self.0.borrow().members.get(&id).cloned()
    }

    /// Whether the member's certificate with this serial was revoked.
    #[must_use]
    pub fn is_revoked(&self, serial: &str) -> bool {
        self.0.borrow().revoked.contains(serial)
    }

    /// All of it, now and at each change; for whoever keeps a copy on the disk, too.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Book> {
        self.0.subscribe()
    }

    /// Looks into it. `look` must be short: writers wait.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.0.borrow())
    }

    fn change(&self, change: impl FnOnce(&mut Book)) {
        self.0.send_if_modified(|book| {
            let before = book.clone();
            change(book);
            *book != before
        });
    }
}

/// So that the book can be given to `raft::start`: it follows the state by itself.
impl Observer for AddressBook {
    fn applied(&mut self, state: &State, _: u64, effects: &[Effect]) {
        let concerns = |effect: &Effect| {
            matches!(effect, Effect::Changed(ObjectKey::Node(_) | ObjectKey::Certificate(_) | ObjectKey::Cluster))
        };
        if effects.iter().any(concerns) {
            self.follow(state);
        }
    }

    fn restored(&mut self, state: &State) {
        self.follow(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, address: &str) -> PeerEntry {
        PeerEntry { name: name.parse().unwrap(), address: address.to_owned() }
    }

    #[test]
    fn later_word_counts() {
        let book = AddressBook::new();
        book.seed([(2, entry("b", "old:1"))]);
        book.seed([(2, entry("b", "seed:1"))]);
        assert_eq!(book.get(2).unwrap().address, "old:1");
        let stated = BTreeMap::from([(2, entry("b", "state:1"))]);
        book.replace(stated.clone(), BTreeMap::new(), BTreeSet::new());
        assert_eq!(book.get(2).unwrap().address, "state:1");
        // It moved, and says so before the state can.
        book.heard(2, entry("b", "moved:1"));
        book.replace(stated, BTreeMap::new(), BTreeSet::new());
        assert_eq!(book.get(2).unwrap().address, "moved:1");
        book.replace(BTreeMap::from([(2, entry("b", "again:1"))]), BTreeMap::new(), BTreeSet::new());
        assert_eq!(book.get(2).unwrap().address, "again:1");
    }

    #[test]
    fn removed_members_stay_out_and_others_stay_in() {
        let book = AddressBook::new();
        book.heard(3, entry("c", "c:1"));
        book.seed([(4, entry("d", "d:1"))]);
        let removed = BTreeMap::from([(4, "d".parse().unwrap())]);
        book.replace(BTreeMap::new(), removed, BTreeSet::new());
        assert!(book.get(4).is_none());
        assert!(book.get(3).is_some(), "a joiner that the state does not know yet");
        book.heard(4, entry("d", "d:1"));
        book.seed([(4, entry("d", "d:1"))]);
        assert!(book.get(4).is_none());
    }

    #[test]
    fn what_changes_nothing_wakes_nobody() {
        let book = AddressBook::new();
        book.heard(3, entry("c", "c:1"));
        let mut changes = book.subscribe();
        changes.mark_unchanged();
        book.heard(3, entry("c", "c:1"));
        book.replace(BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        assert!(!changes.has_changed().unwrap());
        book.heard(3, entry("c", "c:2"));
        assert!(changes.has_changed().unwrap());
    }
}
