//! What policy says of each who has sessions here: worked out once for all sessions of one principal on one target, when something of it changes.
//!
//! A change of policy concerns few sessions, as a rule, and may come while there are thousands. So sessions do not follow the feed: a change is
//! held against each standing here, by what of it changed alone, and the sessions of those that are another now are woken (I6). Between changes
//! nothing is shared but what is read: no operation waits for a lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_core::allowance::Allowance;
use postern_core::masking::{MaskSlice, MaskingRule};
use postern_core::policy::{Policy, PolicySlice};
use postern_core::principal::{Link, Principal, PrincipalId};
use postern_core::revocation::{Bearer, Mark, RevocationKey, session_key};
use postern_core::secret::SecretBytes;
use postern_core::snapshot::{Difference, Snapshot};
use postern_core::{KeptClaims, Name, SessionId};
use tokio::sync::{Notify, watch};

use super::Current;
use crate::identify::{NOTHING, may_stay};

/// Standings without sessions that may lie about until the next change.
const IDLE: usize = 1024;

/// Why a session must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Policy has no place for it any more.
    Policy(&'static str),
    /// Its token was revoked, or something that this is made of.
    Revoked,
    /// Itself, and no other of the same principal, was ended.
    Killed,
}

/// What a session decides and masks by.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// The policies that speak of it; or why there may be no such session.
    pub(crate) slice: Result<PolicySlice, Gone>,
    pub(crate) masks: MaskSlice,
    pub(crate) mask_key: SecretBytes,
    /// The target's password as the control plane sent it.
    pub(crate) sent: Option<SecretBytes>,
    /// Of the target.
    pub(crate) limits: Allowance,
}

/// Who, where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    id: PrincipalId,
    groups: BTreeSet<Arc<str>>,
    token: Option<Arc<str>>,
    chain: Vec<Link>,
    bearer: Bearer,
    /// Policy may ask how somebody has logged in.
    claims: KeptClaims,
    target: Name,
    database: Arc<str>,
}

#[derive(Debug)]
struct One {
    principal: Principal,
    standing: watch::Sender<Arc<Standing>>,
}

/// All standings at a gateway. Cheap to clone; locked when a session begins and when policy changes, never for an operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standings(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The newest revision that every standing shows.
    revision: AtomicU64,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    current: Option<Arc<Current>>,
    ones: HashMap<Key, Arc<One>>,
    prune_at: usize,
    /// Every session that has a seat.
    seats: HashMap<RevocationKey, Arc<Kill>>,
}

/// Tells one session that it is ended.
#[derive(Debug, Default)]
struct Kill {
    killed: AtomicBool,
    told: Notify,
}

impl Kill {
    fn tell(&self) {
        self.killed.store(true, Ordering::Release);
        self.told.notify_one();
    }

    fn is_told(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }
}

/// A session's place among those that can be ended; given up when it is dropped.
#[derive(Debug)]
struct Place {
    all: Arc<Inner>,
    key: RevocationKey,
    kill: Arc<Kill>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.all.lock().unwrap_or_else(PoisonError::into_inner).seats.remove(&self.key);
    }
}

/// A session's own view of its standing.
#[derive(Debug)]
pub(crate) struct Seat {
    place: Place,
    /// Held so that the standing is kept up.
    _one: Arc<One>,
    standing: watch::Receiver<Arc<Standing>>,
    /// What it stood on before it came here is gone already.
    ended: Option<Gone>,
}

impl Standings {
    /// Takes a newer policy: whom it concerns is told before this returns.
    pub(crate) fn update(&self, now: &Arc<Current>) {
        let mut all = self.lock();
        let before = all.current.replace(Arc::clone(now));
        all.ones.retain(|_, one| Arc::strong_count(one) > 1);
        if let Some(before) = before {
            let changes = Changes::between(&before.snapshot, &now.snapshot);
            changes.revoked.keys().filter_map(|key| all.seats.get(key)).for_each(|kill| kill.tell());
            all.ones.retain(|key, one| match changes.standing(key, one) {
                Some(newer) => {
                    // What has ended stays so for those who have it, whatever comes after; who comes then has another.
                    let stays = newer.slice.is_ok();
                    one.standing.send_replace(Arc::new(newer));
                    stays
                }
                None => true,
            });
        }
        drop(all);
        // After the standings: who reads it decides by them.
        self.0.revision.store(now.snapshot.revision, Ordering::Release);
    }

    /// A seat for the session `id` of `principal` that was let in by `under`; none before the first policy.
    pub(crate) fn join(
        &self,
        id: SessionId,
        (principal, bearer): (&Principal, &Bearer),
        (target, database): (&Name, &Arc<str>),
        under: &Snapshot,
    ) -> Option<Seat> {
        let key = Key {
            id: principal.id.clone(),
            groups: principal.groups.clone(),
            token: principal.token_id.clone(),
            chain: principal.chain.clone(),
            bearer: bearer.clone(),
            claims: principal.claims.clone(),
            target: target.clone(),
            database: Arc::clone(database),
        };
        let mut all = self.lock();
        let current = Arc::clone(all.current.as_ref()?);
        // Policy may have changed since it was let in.
        let ended = may_stay(under, &current.snapshot, principal, (target, database)).err().map(Gone::Policy);
        let ended = if current.snapshot.revocations.mean(bearer) { Some(Gone::Revoked) } else { ended };
        let known = all.ones.get(&key).map(Arc::clone);
        let one = known.unwrap_or_else(|| {
            if all.ones.len() >= all.prune_at.max(IDLE) {
                all.ones.retain(|_, one| Arc::strong_count(one) > 1);
                all.prune_at = all.ones.len().saturating_mul(2);
            }
            let standing = whole(&key, principal, &current.snapshot, &current.snapshot);
            let lasts = standing.slice.is_ok();
            let one = One { principal: principal.clone(), standing: watch::Sender::new(Arc::new(standing)) };
            let one = Arc::new(one);
            if lasts {
                all.ones.insert(key, Arc::clone(&one));
            }
            one
        });
        let standing = one.standing.subscribe();
        let (seat, kill) = (session_key(id), Arc::new(Kill::default()));
        if current.snapshot.revocations.get(&seat).is_some() {
            kill.tell();
        }
        all.seats.insert(seat, Arc::clone(&kill));
        let place = Place { all: Arc::clone(&self.0), key: seat, kill };
        Some(Seat { place, standing, _one: one, ended })
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().ones.len()
    }
}

impl Seat {
    /// The standing of now, for the session's beginning.
    pub(crate) fn now(&self) -> Arc<Standing> {
        Arc::clone(&self.standing.borrow())
    }

    /// The revision that the standing shows at least. To be asked for before the standing.
    pub(crate) fn revision(&self) -> u64 {
        self.place.all.revision.load(Ordering::Acquire)
    }

    /// The standing, if it is another than before.
    ///
    /// # Errors
    /// Why the session has to end.
    pub(crate) fn take(&mut self) -> Result<Option<Arc<Standing>>, Gone> {
        if let Some(why) = self.ended {
            return Err(why);
        }
        if self.place.kill.is_told() {
            return Err(Gone::Killed);
        }
        if !self.standing.has_changed().unwrap_or(false) {
            return Ok(None);
        }
        Ok(Some(Arc::clone(&self.standing.borrow_and_update())))
    }

    /// Has the standing taken once more.
    pub(crate) fn look_again(&mut self) {
        self.standing.mark_changed();
    }

    /// Ends when there is something to take. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if self.ended.is_some() || self.place.kill.is_told() {
            return;
        }
        tokio::select! {
            () = self.place.kill.told.notified() => {}
            changed = self.standing.changed() => match changed {
                Ok(()) => self.standing.mark_changed(),
                // It holds the sender itself.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// The standing from the whole policy.
fn whole(key: &Key, principal: &Principal, before: &Snapshot, now: &Snapshot) -> Standing {
    let slice = may_stay(before, now, principal, (&key.target, &key.database)).map_err(Gone::Policy);
    let asked = slice.as_ref().map(PolicySlice::masks).unwrap_or_default();
    let masks = now.mask_slice(principal, &key.target, &asked);
    of(key, slice, masks, now)
}

fn of(key: &Key, slice: Result<PolicySlice, Gone>, masks: MaskSlice, now: &Snapshot) -> Standing {
    Standing {
        slice,
        masks,
        mask_key: now.mask_key.clone(),
        sent: now.credentials.get(&key.target).cloned(),
        limits: now.targets.get(&key.target).map_or_else(Allowance::default, |target| target.value.limits),
    }
}

/// What of a policy is another than before.
struct Changes<'a> {
    before: &'a Snapshot,
    now: &'a Snapshot,
    issuers: BTreeSet<&'a Name>,
    targets: BTreeSet<&'a Name>,
    policies: Vec<Difference<'a, Policy>>,
    masking: Vec<Difference<'a, MaskingRule>>,
    credentials: BTreeSet<&'a Name>,
    /// Who was granted something, or lost it.
    grants: BTreeSet<&'a PrincipalId>,
    mask_key: bool,
    /// By key; of a million that were known before none is looked at.
    revoked: HashMap<RevocationKey, Mark>,
}

impl<'a> Changes<'a> {
    fn between(before: &'a Snapshot, now: &'a Snapshot) -> Self {
        let names = now.credentials.keys().chain(before.credentials.keys());
        let other = |name: &&Name| now.credentials.get(*name) != before.credentials.get(*name);
        Self {
            before,
            now,
            issuers: now.issuers.differences(&before.issuers).into_iter().map(|issuer| issuer.name).collect(),
            targets: now.targets.differences(&before.targets).into_iter().map(|target| target.name).collect(),
            policies: now.policies.differences(&before.policies),
            masking: now.masking.differences(&before.masking),
            credentials: names.filter(other).collect(),
            grants: now.grants.differences(&before.grants),
            mask_key: now.mask_key != before.mask_key,
            revoked: now
                .revocations
                .added_since(&before.revocations)
                .into_iter()
                .map(|mark| (mark.key, mark))
                .collect(),
        }
    }

    fn revokes(&self, bearer: &Bearer) -> bool {
        let means = |key: &RevocationKey| self.revoked.get(key).is_some_and(|mark| bearer.is_meant_by(mark));
        !self.revoked.is_empty() && bearer.keys().iter().any(means)
    }

    /// The standing after them; none, where they do not concern it.
    fn standing(&self, key: &Key, one: &One) -> Option<Standing> {
        let (principal, target) = (&one.principal, &key.target);
        let was = one.standing.borrow();
        let Ok(slice) = &was.slice else { return None };
        if self.revokes(&key.bearer) {
            return Some(of(key, Err(Gone::Revoked), was.masks.clone(), self.now));
        }
        if self.targets.contains(target) || self.issuers.contains(&key.id.issuer) || self.grants.contains(&key.id) {
            return Some(whole(key, principal, self.before, self.now));
        }
        let none = BTreeMap::new();
        let labels = self.now.targets.get(target).map_or(&none, |target| &target.labels);
        let after = slice.after(self.now.revision, &self.policies, principal, target, labels);
        let holds =
            |rule: Option<&Arc<MaskingRule>>| rule.is_some_and(|rule| rule.holds_for(principal, target, labels));
        let asked = after.as_ref().unwrap_or(slice).masks();
        let masks = self.masking.iter().any(|rule| holds(rule.was) || holds(rule.now) || asked.contains(rule.name))
            || after.as_ref().is_some_and(|_| asked != slice.masks());
        if after.is_none() && !masks && !self.mask_key && !self.credentials.contains(target) {
            return None;
        }
        let slice = match after {
            None => Ok(slice.clone()),
            Some(after) if after.permits_anything() => Ok(after),
            Some(_) => Err(Gone::Policy(NOTHING)),
        };
        let masks = if masks { self.now.mask_slice(principal, target, &asked) } else { was.masks.clone() };
        Some(of(key, slice, masks, self.now))
    }
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
