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
mod seal;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postern_core::secret::SecretBytes;
use postern_core::snapshot::Snapshot;
use postern_core::{Name, Timestamp};
use postern_proto::gateway::v1::{self as pb, Kept, KeptHead, Signed, WatchResponse, kept, watch_response};
use postern_runtime::clock;
use postern_runtime::pki::{NodeCredential, PkiError, create_private_dir};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Current;
use super::assemble::{Assembler, Taken};
use crate::metrics;
use file::Log;
use mark::{Boot, Mark};
use seal::{FileId, NotSealed, Root};

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

/// The writer's own.
struct Store {
    config: KeptConfig,
    root: Root,
    log: Option<Log>,
    mark: Option<Mark>,
    confirmed: Option<(Timestamp, Boot)>,
    seen: Timestamp,
    /// The file has credentials that are no longer to be kept.
    unwanted: bool,
    failed: bool,
}

/// Reads what is kept, and keeps it up from here on. Blocks on the disk. A disk that keeps nothing is told of, and no reason not to start.
pub(crate) fn start(
    enabled: bool,
    config: KeptConfig,
    credential: &NodeCredential,
    supervisor: &Supervisor,
) -> (Loaded, Option<Keeper>) {
    let nothing = || Loaded { assembler: Assembler::new(credential.ca_der()), policy: None };
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
    let mut store = Store {
        config,
        root,
        log: None,
        mark: None,
        confirmed: None,
        seen: clock::now(),
        unwanted: false,
        failed: false,
    };
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
                *pending = Pending { confirmed: pending.confirmed, ..Pending::default() };
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
            *pending = Pending { lost: true, ..Pending::default() };
            self.0.whole.store(true, Ordering::Relaxed);
        }
        drop(pending);
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
            if !stopping {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(COALESCE) => {}
                }
            }
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
        }
    }
}

impl Store {
    /// What is kept, as far as it may be served; and whether a new file should begin.
    fn load(&mut self, authority: &[u8]) -> (Loaded, bool) {
        let nothing = || Loaded { assembler: Assembler::new(authority.to_vec()), policy: None };
        let read = Mark::read(&self.config.dir, &self.root).and_then(|mark| match mark {
            None => Ok(None),
            Some(mark) => self.replay(&mark, authority).map(|(assembler, current)| Some((mark, assembler, current))),
        });
        match read {
            Ok(None) => (nothing(), true),
            Ok(Some((mark, assembler, current))) => {
                let age = mark.age(clock::now(), &Boot::now());
                let age = age.and_then(|age| if age > self.config.limit { Err(Refused::TooOld(age)) } else { Ok(age) });
                let confirmed = match age {
                    Ok(age) => {
                        metrics::policy_kept("served");
                        tracing::info!(
                            revision = current.snapshot.revision,
                            age_s = age.as_secs(),
                            "deciding by the policy on the disk, until the control plane answers"
                        );
                        Instant::now().checked_sub(age)
                    }
                    // What it says of revisions and revoked certificates is true all the same.
                    Err(refused) => {
                        told(&refused);
                        None
                    }
                };
                self.confirmed = Some((mark.confirmed, mark.boot.clone()));
                self.seen = self.seen.max(mark.seen);
                self.mark = Some(mark);
                (Loaded { assembler, policy: Some((current, confirmed)) }, self.unwanted)
            }
            Err(refused) => {
                told(&refused);
                (nothing(), true)
            }
        }
    }

    fn replay(&mut self, mark: &Mark, authority: &[u8]) -> Result<(Assembler, Arc<Current>), Refused> {
        let mut assembler = Assembler::new(authority.to_vec());
        let mut newest = None;
        let (mut place, gateway) = (0_u64, self.config.gateway.to_string());
        let (with_credentials, mut without) = (self.config.credentials, false);
        let log = Log::read(&self.config.dir, &self.root, (mark.file, mark.records), |record| {
            let policy = match (place, record.what) {
                (0, Some(kept::What::Head(head))) => {
                    if head.gateway != gateway {
                        return Err(Refused::OtherGateway(head.gateway));
                    }
                    assembler.set_past(head.past_incarnations);
                    None
                }
                (1, Some(kept::What::Whole(signed))) => Some(WatchResponse {
                    policy: Some(watch_response::Policy::Whole(signed)),
                    credentials: Some(pb::Credentials { whole: true, ..Default::default() }),
                    ..Default::default()
                }),
                (2.., Some(kept::What::Delta(signed))) => {
                    Some(WatchResponse { policy: Some(watch_response::Policy::Delta(signed)), ..Default::default() })
                }
                (2.., Some(kept::What::Credentials(credentials))) => {
                    without |= !with_credentials;
                    with_credentials.then(|| WatchResponse { credentials: Some(credentials), ..Default::default() })
                }
                _ => return Err(Refused::Damaged),
            };
            place = place.saturating_add(1);
            if let Some(answer) = policy {
                let taken = assembler.take(answer, Timestamp::from_millis(record.taken_ms));
                newest = taken.map_err(|fault| Refused::Policy(fault.to_string()))?.or(newest.take());
                drop(assembler.taken());
            }
            Ok(())
        })?;
        let newest: Arc<Current> = newest.ok_or(Refused::Damaged)?;
        if log.is_signed_by_any(&newest.snapshot.revoked) {
            return Err(Refused::Revoked);
        }
        (self.log, self.unwanted) = (Some(log), without);
        Ok((assembler, newest))
    }

    /// Writes `pending`; whether a whole policy is needed to go on.
    fn flush(&mut self, pending: Pending) -> bool {
        match pending.confirmed {
            // What is confirmed now is judged by the clock as it is now.
            Some(at) => {
                self.confirmed = Some(mark::clocks_at(at));
                self.seen = clock::now();
            }
            None => self.seen = self.seen.max(clock::now()),
        }
        if pending.lost {
            self.log = None;
        }
        let newest = pending.newest.clone();
        match self.write(pending) {
            Ok(()) => {
                if std::mem::take(&mut self.failed) {
                    tracing::info!("the policy is kept on the disk again");
                }
            }
            Err(error) => {
                metrics::policy_keep_failed();
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(%error, "the policy cannot be kept on the disk: what is there ages");
                }
                self.log = None;
            }
        }
        let signed_by_revoked = |log: &Log| newest.is_some_and(|newest| log.is_signed_by_any(&newest.snapshot.revoked));
        self.log.as_ref().is_none_or(|log| log.is_long() || signed_by_revoked(log))
    }

    fn write(&mut self, pending: Pending) -> Result<(), KeepError> {
        let mut records = Vec::new();
        let begins = pending.whole.is_some();
        if let Some((past_incarnations, whole, taken)) = pending.whole {
            let head = KeptHead { gateway: self.config.gateway.to_string(), past_incarnations };
            records.push(record(kept::What::Head(head), taken));
            records.push(record(kept::What::Whole(whole), taken));
        }
        records.extend(pending.changes.into_iter().map(|(signed, taken)| record(kept::What::Delta(signed), taken)));
        if pending.credentials
            && self.config.credentials
            && let Some(newest) = &pending.newest
        {
            records.push(record(kept::What::Credentials(credentials_of(&newest.snapshot)), clock::now()));
        }
        if begins {
            self.log = Some(Log::create(&self.config.dir, &self.root, records)?);
        } else if let Some(log) = &mut self.log
            && !records.is_empty()
        {
            if log.is_full() {
                self.log = None;
                return Ok(());
            }
            log.append(records)?;
        }
        // Without a file that has everything, what was confirmed is not what the file has.
        let (Some(log), Some((confirmed, boot))) = (&self.log, &self.confirmed) else { return Ok(()) };
        let mark = Mark {
            file: log.id(),
            records: log.records(),
            confirmed: *confirmed,
            // A confirmation is never of later than what was seen, whatever the clock does.
            seen: self.seen.max(*confirmed),
            boot: boot.clone(),
        };
        mark.write(&self.config.dir, &self.root)?;
        if begins {
            file::tidy(&self.config.dir, &mark.file);
        }
        self.mark = Some(mark);
        Ok(())
    }
}

fn record(what: kept::What, taken: Timestamp) -> Kept {
    Kept { taken_ms: taken.millis(), what: Some(what) }
}

fn credentials_of(snapshot: &Snapshot) -> pb::Credentials {
    let credential = |(target, password): (&Name, &SecretBytes)| pb::Credential {
        target: target.to_string(),
        username: String::new(),
        password: password.expose().to_vec(),
    };
    pb::Credentials {
        whole: true,
        credentials: snapshot.credentials.iter().map(credential).collect(),
        removed: Vec::new(),
        mask_key: snapshot.mask_key.expose().to_vec(),
    }
}

fn told(refused: &Refused) {
    metrics::policy_kept(refused.label());
    tracing::warn!(reason = %refused, "the policy on the disk is not served");
}

fn file_id() -> FileId {
    clock::random_u128().to_be_bytes()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
