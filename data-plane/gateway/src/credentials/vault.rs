//! Credentials that Vault holds or makes: kept for a while, asked for by one session at a time, and not asked for again at once when
//! Vault refuses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use postern_core::Name;
use postern_core::target::{CredentialRef, CredentialSource};
use postern_runtime::backoff::Backoff;
use postern_runtime::vault::Vault;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::leases::Leases;
use super::{Account, CredentialError, Proof, password};
use crate::metrics;

/// A target that refuses its credential makes the gateway ask Vault anew no more often.
const ANEW: Duration = Duration::from_secs(10);
/// An account of which less is left is not logged in with any more.
const LEFT: Duration = Duration::from_secs(3);
/// An account that no session has asked for so long is given back, unless a session still uses it.
const IDLE: Duration = Duration::from_secs(600);

/// All that came from Vault. Shared: sessions to one target are owned by no one.
#[derive(Clone)]
pub(super) struct FromVault {
    vault: Vault,
    leases: Leases,
    slots: Arc<DashMap<Name, Arc<Mutex<Slot>>>>,
    kv_ttl: Duration,
    kv_stale: Duration,
}

/// What one target has.
struct Slot {
    of: CredentialRef,
    kept: Option<Kept>,
    /// Vault refused; until then nobody asks again.
    failed: Option<(Instant, CredentialError)>,
    backoff: Backoff,
    asked_anew: Option<Instant>,
    used: Instant,
}

struct Kept {
    account: Account,
    since: Instant,
}

impl Slot {
    fn new(of: &CredentialRef) -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        Self { of: of.clone(), kept: None, failed: None, backoff, asked_anew: None, used: Instant::now() }
    }
}

impl FromVault {
    pub(super) fn new(vault: Vault, kv_ttl: Duration, kv_stale: Duration) -> Self {
        let leases = Leases::new(vault.clone());
        Self { vault, leases, slots: Arc::default(), kv_ttl, kv_stale: kv_stale.max(kv_ttl) }
    }

    pub(super) async fn account(&self, target: &Name, of: &CredentialRef) -> Result<Account, CredentialError> {
        let slot = self.slot(target, of);
        // Who comes meanwhile waits for the same answer.
        let mut slot = slot.lock().await;
        slot.used = Instant::now();
        if slot.of != *of {
            *slot = Slot::new(of);
        }
        if let Some(kept) = &slot.kept
            && self.is_good(kept).await
        {
            return Ok(kept.account.clone());
        }
        if let Some((until, error)) = &slot.failed
            && Instant::now() < *until
        {
            return self.stale(&slot).ok_or_else(|| error.clone());
        }
        self.fetch(&mut slot, target).await
    }

    /// After the target has refused `refused`: another account, unless there is none or it was asked for a moment ago.
    pub(super) async fn after(&self, target: &Name, of: &CredentialRef, refused: &Account) -> Option<Account> {
        let slot = self.slot(target, of);
        let mut slot = slot.lock().await;
        if slot.of != *of {
            return None;
        }
        let other = |account: &Account| account.username != refused.username || account.proof != refused.proof;
        if let Some(kept) = &slot.kept
            && other(&kept.account)
        {
            // Another session has asked already.
            return Some(kept.account.clone());
        }
        if slot.asked_anew.is_some_and(|at| at.elapsed() < ANEW) {
            return None;
        }
        slot.asked_anew = Some(Instant::now());
        tracing::info!(%target, "the target refused the account from Vault; asking for another");
        if let Some(holding) = slot.kept.as_ref().and_then(|kept| kept.account.holding.as_ref()) {
            holding.retire();
        }
        slot.kept = None;
        self.fetch(&mut slot, target).await.ok().filter(other)
    }

    /// Keeps leases up until `stop`; gives them back then.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let tidy = async {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                self.slots.retain(|_, slot| {
                    slot.try_lock().is_ok_and(|slot| slot.used.elapsed() < IDLE) || Arc::strong_count(slot) > 1
                });
            }
        };
        tokio::select! {
            () = self.leases.keep(&stop) => {}
            () = tidy => {}
        }
        self.slots.clear();
        self.leases.give_back().await;
    }

    fn slot(&self, target: &Name, of: &CredentialRef) -> Arc<Mutex<Slot>> {
        Arc::clone(&self.slots.entry(target.clone()).or_insert_with(|| Arc::new(Mutex::new(Slot::new(of)))))
    }

    async fn is_good(&self, kept: &Kept) -> bool {
        match &kept.account.holding {
            None => kept.since.elapsed() < self.kv_ttl,
            Some(holding) => holding.is_good(LEFT, self.vault.generation().await),
        }
    }

    /// What is still usable while Vault is away.
    fn stale(&self, slot: &Slot) -> Option<Account> {
        let kept = slot.kept.as_ref()?;
        let usable = match &kept.account.holding {
            None => kept.since.elapsed() < self.kv_stale,
            Some(_) => false,
        };
        usable.then(|| kept.account.clone())
    }

    async fn fetch(&self, slot: &mut Slot, target: &Name) -> Result<Account, CredentialError> {
        match self.ask(&slot.of).await {
            Ok(account) => {
                slot.backoff.reset();
                slot.failed = None;
                slot.kept = Some(Kept { account: account.clone(), since: Instant::now() });
                metrics::credential("vault", true);
                Ok(account)
            }
            Err(error) => {
                metrics::credential("vault", false);
                let until = Instant::now().checked_add(slot.backoff.next_delay());
                slot.failed = until.map(|until| (until, error.clone()));
                let transient = matches!(&error, CredentialError::Vault(error) if error.is_transient());
                match self.stale(slot).filter(|_| transient) {
                    Some(account) => {
                        tracing::warn!(%target, %error, "using the credential that was read before");
                        Ok(account)
                    }
                    // A secret that was deleted, or a right that was taken away, is in force at once.
                    None => {
                        slot.kept = None;
                        Err(error)
                    }
                }
            }
        }
    }

    async fn ask(&self, of: &CredentialRef) -> Result<Account, CredentialError> {
        match &of.source {
            CredentialSource::VaultKv(kv) => {
                let found = self.vault.kv_field(&kv.mount, &kv.path, &kv.field, kv.version).await?;
                let password = password(found.value.expose(), || format!("{}/{} in Vault", kv.mount, kv.path))?;
                let proof = Proof::of(of.kind, password);
                Ok(Account { username: of.username.clone(), proof, holding: None })
            }
            CredentialSource::VaultDatabase(database) => {
                let made = self.vault.database_account(&database.mount, &database.role).await?;
                let from = || format!("{}/{} in Vault", database.mount, database.role);
                let holding = self.leases.hold(made.lease);
                let password = password(made.password.expose(), from)?;
                Ok(Account { username: made.username, proof: Proof::Password(password), holding: Some(holding) })
            }
            _ => Err(CredentialError::NoVault),
        }
    }
}
