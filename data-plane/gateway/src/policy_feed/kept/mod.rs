//! The policy on the gateway's own disk, so that a gateway which starts while the control plane is away serves all the same (I9).
//!
//! What is kept is what was received: the signed whole and the signed changes since, verified again when they are read. It is sealed under a
//! key that is derived from the node's own. Beside it stands a mark: how far the file goes, when the control plane last confirmed it, and the
//! latest time that the clock has shown. A file that is shorter than its mark says was rolled back, and a clock that is behind it was set
//! back; neither is served.
//!
//! Credentials of the control plane are not in it, unless the configuration says so.

mod file;
mod mark;
mod revoked;
mod seal;
mod store;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postern_core::{Name, Timestamp};
use postern_proto::gateway::v1::{Signed, watch_response};
use postern_runtime::clock;
use postern_runtime::pki::{NodeCredential, PkiError, create_private_dir};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Current;
use super::assemble::{Assembler, Taken};
use crate::metrics;
use seal::{FileId, NotSealed, Root};
use store::Store;

/// Changes are written together, so often at most.
const COALESCE: Duration = Duration::from_secs(1);
/// Changes that wait to be written; past them the file is begun anew.
const MAX_WAITING: usize = 8 << 20;
/// The whole policy is asked for so often at most.
const ASK: Duration = Duration::from_secs(60);

/// Where and how.
#[derive(Clone, Debug)]
pub(crate) struct KeptConfig {
    /// The gateway's name.
    pub(crate) gateway: Name,
    /// Its directory, made when it is missing.
    pub(crate) dir: PathBuf,
    /// Whether credentials are kept, too.
    pub(crate) credentials: bool,
    /// How old a policy may be that opens a session.
    pub(crate) limit: Duration,
}

/// What is on the disk is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("it cannot be read: {0}")]
    Io(ErrorKind),
    #[error("it is sealed under another key, or damaged")]
    Sealed,
    #[error("it is damaged")]
    Damaged,
    #[error("its file is not there")]
    Gone,
    #[error("it ends before what was written last: it was rolled back, or its end is lost")]
    Shortened,
    #[error("it is larger than anything that is kept")]
    TooLarge,
    #[error("it is of gateway {0:?}")]
    OtherGateway(String),
    #[error("it does not hold: {0}")]
    Policy(String),
    #[error("a node that signed it was revoked since")]
    Revoked,
    #[error("the clock shows an earlier time than when it was written: how old it is cannot be known")]
    ClockSetBack,
    #[error("it was confirmed {} s ago", .0.as_secs())]
    TooOld(Duration),
}

impl Refused {
    const fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Sealed => "key",
            Self::Damaged => "damaged",
            Self::Gone | Self::Shortened => "rolled-back",
            Self::TooLarge => "too-large",
            Self::OtherGateway(_) => "foreign",
            Self::Policy(_) => "not-verified",
            Self::Revoked => "revoked",
            Self::ClockSetBack => "clock",
            Self::TooOld(_) => "too-old",
        }
    }
}

/// The policy cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("it cannot be sealed")]
    Seal(#[from] NotSealed),
    #[error("it is too large")]
    TooLarge,
}

/// What the disk had.
pub(crate) struct Loaded {
    /// Goes on from there.
    pub(super) assembler: Assembler,
    /// The policy, and when it was confirmed: `None` when that is too long ago, or not known.
    pub(super) policy: Option<(Arc<Current>, Option<Instant>)>,
    /// The last list of gateways that are none any more, for agents.
    pub(super) revoked_gateways: Option<Signed>,
}

impl Loaded {
    /// Nothing; what comes is verified by `authority`.
    fn nothing(authority: Vec<u8>) -> Self {
        Self { assembler: Assembler::new(authority), policy: None, revoked_gateways: None }
    }
}

/// What is to be written.
#[derive(Default)]
struct Pending {
    /// A new file begins with it, and with these lives of the cluster that are past.
    whole: Option<(Vec<String>, Signed, Timestamp)>,
    changes: Vec<(Signed, Timestamp)>,
    bytes: usize,
    newest: Option<Arc<Current>>,
    credentials: bool,
    confirmed: Option<Instant>,
    /// A file of its own.
    revoked_gateways: Option<Signed>,
    /// Changes were left out: the file cannot be gone on with.
    lost: bool,
}

/// Tells the writer what to keep. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Shared>);

struct Shared {
    pending: Mutex<Pending>,
    wake: Notify,
    /// The whole is needed.
    whole: AtomicBool,
    asked: Mutex<Option<Instant>>,
    /// When the confirmation was of that the mark tells.
    marked: Mutex<Option<Instant>>,
    step: Duration,
}

/// Reads what is kept, and keeps it up from here on. Blocks on the disk. A disk that keeps nothing is told of, and no reason not to start.
pub(crate) fn start(
    enabled: bool,
    config: KeptConfig,
    credential: &NodeCredential,
    supervisor: &Supervisor,
) -> (Loaded, Option<Keeper>) {
    let nothing = || Loaded::nothing(credential.ca_der());
    if !enabled {
        return (nothing(), None);
    }
    let dir = config.dir.clone();
    match open(config, credential) {
        Ok((loaded, keeper, store)) => {
            let run = keeper.clone().run(store, supervisor.sessions_ended_token());
            supervisor.spawn("kept-policy", OnEnd::StopNode, run);
            (loaded, Some(keeper))
        }
        Err(error) => {
            metrics::policy_keep_failed();
            tracing::error!(dir = %dir.display(), %error, "the policy cannot be kept there: a restart will need the control plane");
            (nothing(), None)
        }
    }
}

/// Reads what is kept. Blocks on the disk. Nothing of it stops the gateway: what cannot be served is counted and told once.
///
/// # Errors
/// When nothing can be kept there at all.
fn open(config: KeptConfig, credential: &NodeCredential) -> Result<(Loaded, Keeper, Store), KeepError> {
    create_private_dir(&config.dir)?;
    let root = Root::of(credential)?;
    let step = (config.limit / 20).clamp(Duration::from_secs(1), Duration::from_secs(30));
    let mut store = Store::new(config, root);
    let (loaded, whole) = store.load(&credential.ca_der());
    let keeper = Keeper(Arc::new(Shared {
        pending: Mutex::default(),
        wake: Notify::new(),
        whole: AtomicBool::new(whole),
        asked: Mutex::default(),
        marked: Mutex::default(),
        step,
    }));
    Ok((loaded, keeper, store))
}

impl Keeper {
    /// A policy was taken in.
    pub(super) fn took(&self, taken: Taken, newest: &Arc<Current>, now: Timestamp) {
        let mut pending = lock(&self.0.pending);
        match taken.signed {
            Some(watch_response::Policy::Whole(signed)) => {
                let revoked_gateways = pending.revoked_gateways.take();
                *pending = Pending { confirmed: pending.confirmed, revoked_gateways, ..Pending::default() };
                pending.whole = Some((taken.past, signed, now));
                pending.credentials = true;
                self.0.whole.store(false, Ordering::Relaxed);
            }
            Some(watch_response::Policy::Delta(signed)) => {
                pending.bytes = pending.bytes.saturating_add(signed.payload.len()).saturating_add(1 << 10);
                pending.changes.push((signed, now));
            }
            Some(watch_response::Policy::Part(_)) | None => {}
        }
        pending.credentials |= taken.credentials;
        pending.newest = Some(Arc::clone(newest));
        if pending.bytes > MAX_WAITING {
            // The disk does not keep up. What is on it stays good until it is too old.
            let revoked_gateways = pending.revoked_gateways.take();
            *pending = Pending { lost: true, revoked_gateways, ..Pending::default() };
            self.0.whole.store(true, Ordering::Relaxed);
        }
        drop(pending);
        self.0.wake.notify_one();
    }

    /// The control plane has told of gateways that are none any more.
    pub(super) fn revoked(&self, list: Signed) {
        lock(&self.0.pending).revoked_gateways = Some(list);
        self.0.wake.notify_one();
    }

    /// The control plane knew at `at` that all which was taken in is the newest.
    pub(super) fn confirmed(&self, at: Instant) {
        let mut pending = lock(&self.0.pending);
        pending.confirmed = pending.confirmed.max(Some(at));
        drop(pending);
        let due = lock(&self.0.marked).is_none_or(|marked| at.saturating_duration_since(marked) >= self.0.step);
        if due {
            self.0.wake.notify_one();
        }
    }

    /// Whether the whole policy should be asked for, so that a new file can begin. Says yes once in a while.
    pub(super) fn wants_whole(&self) -> bool {
        if !self.0.whole.load(Ordering::Relaxed) {
            return false;
        }
        let mut asked = lock(&self.0.asked);
        let due = asked.is_none_or(|asked| asked.elapsed() >= ASK);
        if due {
            *asked = Some(Instant::now());
        }
        due
    }

    /// Writes what comes, until `stop`.
    async fn run(self, mut store: Store, stop: CancellationToken) {
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                () = self.0.wake.notified() => false,
            };
            let pending = std::mem::take(&mut *lock(&self.0.pending));
            let confirmed = pending.confirmed;
            let written = tokio::task::spawn_blocking(move || {
                let whole = store.flush(pending);
                (store, whole)
            });
            let Ok((back, whole)) = written.await else { return };
            store = back;
            if confirmed.is_some() {
                *lock(&self.0.marked) = confirmed;
            }
            if whole {
                self.0.whole.store(true, Ordering::Relaxed);
            }
            if stopping {
                return;
            }
            // What comes meanwhile is written together.
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(COALESCE) => {}
            }
        }
    }
}

fn file_id() -> FileId {
    clock::random_u128().to_be_bytes()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
