//! Who the other members are and where they are dialed.
//!
//! Four sources: what the node kept from its join or its last run ([`AddressBook::seed`]), what members say of themselves when they call
//! or are called (a joiner is dialed before it knows anybody), what other members pass on of that, and the replicated state
//! ([`AddressBook::follow`]). A member's own word bears how often it was started: of two, that of the later start counts, and it counts
//! more than the state, whose record may be of before. Former addresses are kept and tried when the likeliest does not answer, so that a
//! wrong word costs time alone: who is at an address is proved by its certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postern_core::Name;
use postern_core::node::NodeRole;
use postern_state::{Effect, ObjectKey, State};
use tokio::sync::watch;

use crate::raft::Observer;

/// Addresses that are kept of one member: its own word, the state's, where it was reached last, and one more.
const ADDRESSES: usize = 4;

/// One member, and where to dial it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// What its certificate bears.
    pub name: Name,
    /// `host:port`; empty when none is known.
    pub address: String,
}

/// A member's own word of where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `host:port`.
    pub address: String,
    /// How often it was started when it said so; 0: it does not tell.
    pub starts: u64,
}

/// What is known of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What its certificate bears.
    pub name: Name,
    /// Where it may be: the likeliest first, none twice.
    addresses: Vec<String>,
    said: Option<Said>,
}

impl Known {
    const fn new(name: Name) -> Self {
        Self { name, addresses: Vec::new(), said: None }
    }

    /// To be tried first.
    fn prefer(&mut self, address: &str) {
        self.place(0, address);
    }

    /// To be tried after the first.
    fn consider(&mut self, address: &str) {
        if self.addresses.first().is_none_or(|first| first != address) {
            self.place(1, address);
        }
    }

    fn place(&mut self, at: usize, address: &str) {
        if address.is_empty() {
            return;
        }
        self.addresses.retain(|known| known != address);
        self.addresses.insert(at.min(self.addresses.len()), address.to_owned());
        self.addresses.truncate(ADDRESSES);
    }

    fn starts(&self) -> u64 {
        self.said.as_ref().map_or(0, |said| said.starts)
    }

    fn says(&mut self, said: Said) {
        if self.said.as_ref() != Some(&said) {
            self.prefer(&said.address);
            self.said = Some(said);
        }
    }

    /// Where to dial it at the given attempt; the first is number 0.
    fn entry(&self, attempt: usize) -> PeerEntry {
        let at = attempt.checked_rem(self.addresses.len()).unwrap_or_default();
        PeerEntry { name: self.name.clone(), address: self.addresses.get(at).cloned().unwrap_or_default() }
    }
}

/// All that is known of members, by id. The node itself may be among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// Who they are.
    pub members: BTreeMap<u64, Known>,
    /// Members that were removed: they are let in no more.
    pub removed: BTreeMap<u64, Name>,
    /// Serials of members' certificates that were revoked.
    pub revoked: BTreeSet<String>,
    /// Members as the replicated state told of them last: only what changes there counts against what they say themselves.
    stated: BTreeMap<u64, PeerEntry>,
}

impl Book {
    /// What members said of themselves, as far as it can be passed on.
    pub(super) fn said(&self) -> impl Iterator<Item = (u64, &Said)> {
        self.members.iter().filter_map(|(id, known)| Some((*id, known.said.as_ref().filter(|said| said.starts > 0)?)))
    }

    fn state_says(&mut self, id: u64, entry: &PeerEntry) {
        let known = self.members.entry(id).or_insert_with(|| Known::new(entry.name.clone()));
        if known.name != entry.name {
            *known = Known::new(entry.name.clone());
        }
        if known.starts() == 0 {
            known.prefer(&entry.address);
        } else {
            known.consider(&entry.address);
        }
    }
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
                    book.members.entry(id).or_insert_with(|| {
                        let mut known = Known::new(entry.name);
                        known.prefer(&entry.address);
                        known
                    });
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
                    book.state_says(*id, entry);
                }
            }
            book.members.retain(|id, _| !removed.contains_key(id));
            book.stated = stated;
            book.removed = removed;
            book.revoked = revoked;
        });
    }

    /// What a member says of itself, over a connection by which it has proved to be it.
    pub(super) fn heard(&self, id: u64, name: &Name, said: Said) {
        self.change(|book| {
            if !book.removed.contains_key(&id) {
                let known = book.members.entry(id).or_insert_with(|| Known::new(name.clone()));
                if known.name == *name {
                    known.says(said);
                }
            }
        });
    }

    /// What another member passes on of what a member said: of members that are known alone, and only what is newer.
    pub(super) fn told(&self, id: u64, said: Said) {
        self.change(|book| {
            if let Some(known) = book.members.get_mut(&id).filter(|known| known.starts() < said.starts) {
                known.says(said);
            }
        });
    }

    /// The member has proved to be at this address.
    pub(super) fn reached(&self, id: u64, entry: &PeerEntry) {
        self.change(|book| {
            if let Some(known) = book.members.get_mut(&id).filter(|known| known.name == entry.name) {
                known.prefer(&entry.address);
            }
        });
    }

    /// The member's id, by its name.
    pub(super) fn id_of(&self, name: &Name) -> Option<u64> {
        self.with(|book| book.members.iter().find(|(_, known)| known.name == *name).map(|(id, _)| *id))
    }

    /// One member, where it most likely is.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<PeerEntry> {
        self.attempt(id, 0)
    }

    /// One member, where to dial it at the given attempt: the first, number 0, goes where it most likely is.
    pub(super) fn attempt(&self, id: u64, attempt: usize) -> Option<PeerEntry> {
        self.with(|book| book.members.get(&id).map(|known| known.entry(attempt)))
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

    fn said(address: &str, starts: u64) -> Said {
        Said { address: address.to_owned(), starts }
    }

    fn stated(book: &AddressBook, id: u64, name: &str, address: &str) {
        book.replace(BTreeMap::from([(id, entry(name, address))]), BTreeMap::new(), BTreeSet::new());
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
        book.heard(2, &"b".parse().unwrap(), said("moved:1", 0));
        book.replace(stated, BTreeMap::new(), BTreeSet::new());
        assert_eq!(book.get(2).unwrap().address, "moved:1");
        book.replace(BTreeMap::from([(2, entry("b", "again:1"))]), BTreeMap::new(), BTreeSet::new());
        assert_eq!(book.get(2).unwrap().address, "again:1");
    }

    #[test]
    fn removed_members_stay_out_and_others_stay_in() {
        let book = AddressBook::new();
        book.heard(3, &"c".parse().unwrap(), said("c:1", 1));
        book.seed([(4, entry("d", "d:1"))]);
        let removed = BTreeMap::from([(4, "d".parse().unwrap())]);
        book.replace(BTreeMap::new(), removed, BTreeSet::new());
        assert!(book.get(4).is_none());
        assert!(book.get(3).is_some(), "a joiner that the state does not know yet");
        book.heard(4, &"d".parse().unwrap(), said("d:1", 1));
        book.seed([(4, entry("d", "d:1"))]);
        assert!(book.get(4).is_none());
    }

    #[test]
    fn what_changes_nothing_wakes_nobody() {
        let book = AddressBook::new();
        book.heard(3, &"c".parse().unwrap(), said("c:1", 1));
        let mut changes = book.subscribe();
        changes.mark_unchanged();
        book.heard(3, &"c".parse().unwrap(), said("c:1", 1));
        book.replace(BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        assert!(!changes.has_changed().unwrap());
        book.heard(3, &"c".parse().unwrap(), said("c:2", 1));
        assert!(changes.has_changed().unwrap());
    }

    #[test]
    fn own_word_of_the_last_start_counts() {
        let (book, name) = (AddressBook::new(), "b".parse().unwrap());
        book.told(2, said("nobody:1", 9));
        assert!(book.get(2).is_none(), "nobody is introduced by another");
        stated(&book, 2, "b", "state:1");
        book.told(2, said("second:1", 2));
        assert_eq!(book.get(2).unwrap().address, "second:1");
        // A log that is read again, and others that have not heard yet.
        stated(&book, 2, "b", "first:1");
        book.told(2, said("first:1", 1));
        book.told(2, said("other:1", 2));
        assert_eq!(book.get(2).unwrap().address, "second:1");
        book.heard(2, &name, said("third:1", 3));
        assert_eq!(book.get(2).unwrap().address, "third:1");
        book.heard(2, &"thief".parse().unwrap(), said("thief:1", 4));
        assert_eq!(book.get(2).unwrap().address, "third:1");
        assert_eq!(
            book.with(|book| book.said().map(|(_, said)| said.clone()).collect::<Vec<_>>()),
            [said("third:1", 3)]
        );
    }

    #[test]
    fn every_address_is_tried_in_turn_and_there_are_few() {
        let (book, name) = (AddressBook::new(), "b".parse().unwrap());
        stated(&book, 2, "b", "state:1");
        assert_eq!(book.attempt(2, 7).unwrap().address, "state:1");
        for starts in 1..10 {
            book.heard(2, &name, said(&format!("said:{starts}"), starts));
        }
        stated(&book, 2, "b", "state:2");
        let tried: Vec<_> = (0..5).map(|attempt| book.attempt(2, attempt).unwrap().address).collect();
        assert_eq!(tried, ["said:9", "state:2", "said:8", "said:7", "said:9"]);
        // Where it answers, it is dialed from then on.
        book.reached(2, &entry("b", "said:7"));
        assert_eq!(book.get(2).unwrap().address, "said:7");
        // A node without a listener for its peers is known, and nowhere.
        stated(&book, 3, "c", "");
        assert_eq!(book.get(3).unwrap().address, "");
    }
}
