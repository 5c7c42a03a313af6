//! Leases of accounts that Vault made: renewed while anybody uses them, given back when nobody does.
//!
//! A [`Holding`] is shared by the slot that hands the account out and by every session that logged in with it. The keeper's list holds
//! it weakly: when the last user is gone, the keeper revokes the lease.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use postern_runtime::backoff::Backoff;
use postern_runtime::vault::{Lease, Vault};
use tokio_util::sync::CancellationToken;

/// How often leases are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long giving everything back may take at the end.
const GIVING_BACK: Duration = Duration::from_secs(3);
/// Calls at once then.
const AT_ONCE: usize = 8;
/// A lease that cannot be given back for so long ends by itself.
const TRIES: u32 = 5;

/// A lease in use.
pub(crate) struct Holding {
    lease: Mutex<Lease>,
    /// As long as it was at first.
    whole: Duration,
    /// Not to be logged in with any more; sessions that have done so go on.
    retired: AtomicBool,
}

impl Holding {
    /// Whether an account may still be logged in with.
    pub(super) fn is_good(&self, left: Duration, generation: u64) -> bool {
        let lease = self.lease();
        // What cannot be renewed is given up early, so that sessions do not begin on its last seconds.
        let lasts = lease.renewable || lease.renew_at() > Instant::now();
        // A lease ends with the token that it was made by.
        lasts
            && !self.retired.load(Ordering::Relaxed)
            && lease.generation == generation
            && lease.left() > left.min(self.whole / 4)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    fn lease(&self) -> Lease {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All leases of this gateway.
#[derive(Clone)]
pub(super) struct Leases {
    vault: Vault,
    held: Arc<Mutex<Vec<Held>>>,
}

struct Held {
    by: Weak<Holding>,
    /// As it was last known: enough to give it back.
    lease: Lease,
    tries: u32,
    not_before: Option<Instant>,
    backoff: Backoff,
}

/// What is to be done with one.
enum Due {
    Renew(Arc<Holding>),
    Revoke,
}

impl Leases {
    pub(super) fn new(vault: Vault) -> Self {
        Self { vault, held: Arc::default() }
    }

    pub(super) fn hold(&self, lease: Lease) -> Arc<Holding> {
        let holding = Arc::new(Holding {
            lease: Mutex::new(lease.clone()),
            whole: lease.duration,
            retired: AtomicBool::new(false),
        });
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let held = Held { by: Arc::downgrade(&holding), lease, tries: 0, not_before: None, backoff };
        self.held().push(held);
        holding
    }

    /// Until `stop`.
    pub(super) async fn keep(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => self.look().await,
            }
        }
    }

    /// Gives everything back, as far as Vault answers in time.
    pub(super) async fn give_back(&self) {
        let held = std::mem::take(&mut *self.held());
        let count = held.len();
        let revoked = futures::stream::iter(held).for_each_concurrent(AT_ONCE, |held| async move {
            if let Err(error) = self.vault.revoke_lease(&held.lease).await {
                tracing::warn!(%error, "a lease is left to end by itself");
            }
        });
        if tokio::time::timeout(GIVING_BACK, revoked).await.is_err() {
            tracing::warn!(count, "Vault did not take back all leases in time; they end by themselves");
        }
    }

    async fn look(&self) {
        let now = Instant::now();
        let due: Vec<(String, Lease, Due)> = self
            .held()
            .iter()
            .filter(|held| held.not_before.is_none_or(|at| at <= now))
            .filter_map(|held| match held.by.upgrade() {
                None => Some((held.lease.id.clone(), held.lease.clone(), Due::Revoke)),
                Some(holding) if held.lease.renewable && held.lease.renew_at() <= now => {
                    Some((held.lease.id.clone(), held.lease.clone(), Due::Renew(holding)))
                }
                Some(_) => None,
            })
            .collect();
        futures::stream::iter(due)
            .for_each_concurrent(AT_ONCE, |(id, lease, due)| async move {
                match due {
                    Due::Renew(holding) => self.renew(&id, &lease, &holding).await,
                    Due::Revoke => self.revoke(&id, &lease).await,
                }
            })
            .await;
        // What has ended needs no keeping.
        self.held().retain(|held| !held.lease.left().is_zero());
    }

    async fn renew(&self, id: &str, lease: &Lease, holding: &Holding) {
        match self.vault.renew_lease(lease, holding.whole).await {
            Ok(renewed) => {
                // Near its greatest age it is renewed for less and less: sessions go on, new ones get another account.
                if renewed.duration < holding.whole / 2 {
                    holding.retire();
                }
                *holding.lease.lock().unwrap_or_else(PoisonError::into_inner) = renewed.clone();
                self.change(id, |held| {
                    held.lease = renewed.clone();
                    held.backoff.reset();
                    // One that is coming to its end is left to it.
                    let over = renewed.duration < holding.whole / 2;
                    held.not_before = over.then(|| Instant::now().checked_add(renewed.duration)).flatten();
                });
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "a lease is not renewed; trying again");
                self.later(id);
            }
            Err(error) => {
                tracing::warn!(%error, "a lease is over before its time; new sessions get another account");
                holding.retire();
                self.held().retain(|held| held.lease.id != id);
            }
        }
    }

    async fn revoke(&self, id: &str, lease: &Lease) {
        match self.vault.revoke_lease(lease).await {
            Err(error) if error.is_transient() => self.later(id),
            Err(error) => {
                tracing::warn!(%error, "a lease is left to end by itself");
                self.held().retain(|held| held.lease.id != id);
            }
            Ok(()) => self.held().retain(|held| held.lease.id != id),
        }
    }

    fn later(&self, id: &str) {
        self.change(id, |held| {
            held.tries = held.tries.saturating_add(1);
            held.not_before = Instant::now().checked_add(held.backoff.next_delay());
        });
        self.held().retain(|held| held.tries < TRIES || held.by.strong_count() > 0);
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.held().iter_mut().find(|held| held.lease.id == id) {
            change(held);
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
