//! When each thing that gateways decide by was last changed: what has happened since a revision, without the steps in between.
//!
//! The ring keeps steps, and loses the oldest when changes come faster than a gateway takes them. What is kept here grows with the number
//! of things and not with that of changes: by it such a gateway is led from where it is to the newest policy in one delta, and need not be
//! sent the whole again, which would be behind again when it has arrived.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::delta::Delta;
use postern_core::resource::Kind;
use postern_core::revocation::RevocationKey;
use postern_core::snapshot::Snapshot;
use postern_core::{AccessId, Name};

/// Things whose last change is known; the longest unchanged go first.
const KNOWN: usize = 32_768;
/// More changed things than this are not put into one delta.
const CHANGED: usize = 2_048;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// The first in order.
    SessionTokenKeys,
    Object(Kind, Name),
    Revoked(String),
    Revocation(RevocationKey),
    Grant(AccessId),
}

/// The last change of each thing.
#[derive(Debug)]
pub(crate) struct Since {
    by_key: BTreeMap<Key, u64>,
    by_revision: BTreeSet<(u64, Key)>,
    /// Every change after it is known.
    floor: u64,
    known: usize,
}

impl Since {
    /// Knows what comes after `revision`.
    pub(super) const fn new(revision: u64) -> Self {
        Self { by_key: BTreeMap::new(), by_revision: BTreeSet::new(), floor: revision, known: KNOWN }
    }

    /// Takes a change in. Those of a revision before one that was taken do not come.
    pub(super) fn take(&mut self, delta: &Delta) {
        let upserts = delta.upserts.iter().map(|object| (object.spec.kind(), &object.metadata.name));
        let deletes = delta.deletes.iter().map(|(kind, name)| (*kind, name));
        let keys = delta.issuer_keys.iter().map(|(issuer, _)| (Kind::Issuer, issuer));
        let objects = upserts.chain(deletes).chain(keys).map(|(kind, name)| Key::Object(kind, name.clone()));
        let revoked = delta.revoked.iter().cloned().map(Key::Revoked);
        let token_keys = delta.session_token_jwks.iter().map(|_| Key::SessionTokenKeys);
        let revocations = delta.revocations.iter().map(|mark| Key::Revocation(mark.key));
        let granted = delta.grants.iter().map(|grant| grant.id).chain(delta.ended_grants.iter().copied());
        let tokens = token_keys.chain(revocations).chain(granted.map(Key::Grant));
        for key in objects.chain(revoked).chain(tokens) {
            if let Some(before) = self.by_key.insert(key.clone(), delta.revision) {
                self.by_revision.remove(&(before, key.clone()));
            }
            self.by_revision.insert((delta.revision, key));
        }
        while self.by_revision.len() > self.known {
            let Some((revision, key)) = self.by_revision.pop_first() else { break };
            self.by_key.remove(&key);
            self.floor = revision;
        }
    }

    /// What leads from revision `from` to `newest`; `None` when that is no longer known, or too much for one delta.
    ///
    /// Changes after `newest` may have been taken in already: what they changed is then in it as `newest` has it, which does no harm.
    pub(super) fn delta(&self, from: u64, newest: &Snapshot) -> Option<Delta> {
        if from < self.floor || from >= newest.revision {
            return None;
        }
        let mut delta = Delta {
            incarnation: newest.incarnation.clone(),
            from_revision: from,
            revision: newest.revision,
            ..Delta::default()
        };
        let changed = self.by_revision.range((from.saturating_add(1), Key::SessionTokenKeys)..);
        for (count, (_, key)) in changed.enumerate() {
            if count >= CHANGED {
                return None;
            }
            match key {
                Key::SessionTokenKeys => delta.session_token_jwks = Some(newest.session_token_jwks.clone()),
                Key::Revoked(serial) => delta.revoked.push(serial.clone()),
                // None, when it is over already.
                Key::Revocation(key) => delta.revocations.extend(newest.revocations.get(key)),
                Key::Grant(id) => match newest.grants.get(*id) {
                    Some(grant) => delta.grants.push(grant.clone()),
                    None => delta.ended_grants.push(*id),
                },
                Key::Object(kind, name) => match newest.object(*kind, name) {
                    Some(object) => delta.upserts.push(object),
                    None => delta.deletes.push((*kind, name.clone())),
                },
            }
            // An issuer that was taken away and declared again must not keep the keys of the former one.
            if let Key::Object(Kind::Issuer, name) = key
                && let Some((_, keys)) = newest.issuers.get(name)
            {
                delta.issuer_keys.push((name.clone(), keys.clone()));
            }
        }
        Some(delta)
    }
}

#[cfg(test)]
mod tests {
    use postern_core::revocation::{Mark, Revoked};
    use postern_core::target::CredentialSource;

    use super::*;
    use crate::watch::testing::target;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn step(snapshot: &Snapshot, change: impl FnOnce(&mut Delta)) -> (Snapshot, Delta) {
        let from = snapshot.revision;
        let mut delta = Delta { incarnation: "i".into(), from_revision: from, revision: from + 1, ..Delta::default() };
        change(&mut delta);
        (snapshot.apply(delta.clone()).unwrap(), delta)
    }

    fn put(delta: &mut Delta, of: &str, labels: &str) {
        let mut object = target(of, CredentialSource::None);
        object.metadata.labels = [("v".to_owned(), labels.to_owned())].into();
        delta.upserts.push(object);
    }

    #[test]
    fn one_delta_leads_where_all_of_them_do() {
        let mut snapshot = Snapshot { revision: 5, ..Snapshot::empty("c", "i") };
        let (mut since, mut all) = (Since::new(5), vec![snapshot.clone()]);
        for round in 0..20_u8 {
            let (next, delta) = step(&snapshot, |delta| match round % 5 {
                0 => put(delta, &format!("t{}", round % 3), &round.to_string()),
                1 => delta.deletes.push((Kind::Target, name(&format!("t{}", round % 3)))),
                2 => delta.revoked.push(round.to_string()),
                3 => delta.revocations.push(Mark {
                    key: Revoked::Issuer(name(&format!("i{}", round % 2))).key(),
                    issued_before: round.into(),
                    until: 100,
                }),
                _ => delta.session_token_jwks = Some(round.to_string()),
            });
            since.take(&delta);
            snapshot = next;
            all.push(snapshot.clone());
        }
        for known in &all[..20] {
            let led = known.apply(since.delta(known.revision, &snapshot).unwrap()).unwrap();
            assert_eq!((led.revision, &led.targets), (snapshot.revision, &snapshot.targets));
            assert_eq!(led.revocations, snapshot.revocations);
            assert_eq!(
                (led.session_token_jwks, led.revoked),
                (snapshot.session_token_jwks.clone(), snapshot.revoked.clone())
            );
        }
        assert!(since.delta(4, &snapshot).is_none(), "of before the beginning");
        assert!(since.delta(snapshot.revision, &snapshot).is_none(), "nothing is new");
    }

    #[test]
    fn what_is_forgotten_is_not_led_over() {
        let mut snapshot = Snapshot::empty("c", "i");
        let mut since = Since::new(0);
        since.known = 3;
        for place in 0..6 {
            let (next, delta) = step(&snapshot, |delta| put(delta, &format!("t{place}"), "1"));
            since.take(&delta);
            snapshot = next;
        }
        assert!(since.delta(2, &snapshot).is_none());
        assert_eq!(since.delta(3, &snapshot).unwrap().upserts.len(), 3);
        // One that changes again and again takes no room.
        for round in 0..6 {
            let (next, delta) = step(&snapshot, |delta| put(delta, "t5", &round.to_string()));
            since.take(&delta);
            snapshot = next;
        }
        assert_eq!(since.delta(3, &snapshot).unwrap().upserts.len(), 3);
    }

    #[test]
    fn an_issuer_that_is_another_now_loses_its_keys() {
        use postern_core::issuer::Issuer;
        use postern_core::resource::Spec;
        let issuer = |url: &str| Issuer::new_oidc(url, ["postern"]);
        let object = |url| crate::watch::testing::resource("corp", Spec::Issuer(issuer(url)));
        let empty = Snapshot::empty("c", "i");
        let (known, _) = step(&empty, |delta| {
            delta.upserts.push(object("https://old"));
            delta.issuer_keys.push((name("corp"), Some("old keys".into())));
        });
        let mut since = Since::new(known.revision);
        let (gone, delta) = step(&known, |delta| delta.deletes.push((Kind::Issuer, name("corp"))));
        since.take(&delta);
        let (newest, delta) = step(&gone, |delta| delta.upserts.push(object("https://new")));
        since.take(&delta);
        let led = known.apply(since.delta(known.revision, &newest).unwrap()).unwrap();
        assert_eq!(led.issuers.get(&name("corp")).unwrap(), &(issuer("https://new"), None));
    }
}
