//! Brings sealed recordings from this member's disk into the store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use postern_core::SessionId;
use postern_runtime::backoff::Backoff;
use postern_runtime::http::chain;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::super::{Recordings, chunks, note};
use super::{Archive, ArchiveError};

/// Recordings under way at a time.
const AT_ONCE: usize = 4;
/// Those that were told of and not looked at yet; more are found by the next look.
const QUEUE: usize = 4_096;
/// Between looks at what lies on the disk.
const LOOK: Duration = Duration::from_secs(600);
/// After so long without more of a recording it is asked whether all of it is in the store.
const RESTS: Duration = Duration::from_secs(3_600);
/// Between tries while the store is away.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(60);
/// Before the first one: a member that starts has other things to do.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Is told of recordings that are whole. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Archivist {
    to: mpsc::Sender<SessionId>,
    /// The queue was full: what was not taken is to be found on the disk.
    missed: Arc<AtomicBool>,
}

/// What was told.
pub(crate) struct Told {
    from: mpsc::Receiver<SessionId>,
    missed: Arc<AtomicBool>,
}

/// What it needs.
pub(crate) struct Parts {
    pub(crate) archive: Archive,
    pub(crate) recordings: Recordings,
    /// Where recordings lie.
    pub(crate) dir: PathBuf,
}

impl Archivist {
    pub(crate) fn new() -> (Self, Told) {
        let ((to, from), missed) = (mpsc::channel(QUEUE), Arc::<AtomicBool>::default());
        (Self { to, missed: Arc::clone(&missed) }, Told { from, missed })
    }

    /// A recording is sealed, and the index knows of it.
    pub(crate) fn sealed(&self, session: SessionId) {
        if self.to.try_send(session).is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}

/// Works until `stop`: what is under way is begun anew after the next start.
pub(crate) async fn archive(parts: Parts, told: Told, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work(parts, told) => {}
    }
}

async fn work(parts: Parts, mut told: Told) {
    let mut backoff = Backoff::new(FIRST_WAIT, LAST_WAIT);
    let now = Instant::now();
    // What an earlier start left is looked for first of all.
    let (mut look_at, mut retry_at, mut all) = (now + FIRST_LOOK, now, true);
    let mut failed = BTreeSet::new();
    loop {
        let mut some = Vec::new();
        tokio::select! {
            taken = told.from.recv_many(&mut some, QUEUE) => if taken == 0 { return },
            () = tokio::time::sleep_until(retry_at), if !failed.is_empty() => some.extend(&failed),
            () = tokio::time::sleep_until(look_at) => {
                all |= told.missed.swap(false, Ordering::Relaxed);
                some = found(&parts.dir, std::mem::take(&mut all)).await;
                look_at = Instant::now() + LOOK;
            }
        }
        let outcomes = futures::stream::iter(some).map(|session| {
            let parts = &parts;
            async move { (session, put_away(parts, session).await) }
        });
        let mut failures = Failures::default();
        let mut outcomes = outcomes.buffer_unordered(AT_ONCE);
        while let Some((session, outcome)) = outcomes.next().await {
            match outcome {
                Ok(()) => drop(failed.remove(&session)),
                Err(error) => {
                    failed.insert(session);
                    failures.add(session, error);
                }
            }
        }
        metrics::gauge!("postern_control_archive_failed")
            .set(f64::from(u32::try_from(failed.len()).unwrap_or(u32::MAX)));
        if failures.tell() {
            // The store is away, or full.
            retry_at = Instant::now() + backoff.next_delay();
        } else if failed.is_empty() {
            backoff = Backoff::new(FIRST_WAIT, LAST_WAIT);
        }
    }
}

/// What could not be put away in one round. A store that is away fails all: that is told once.
#[derive(Default)]
struct Failures {
    count: u32,
    first: Option<(SessionId, ArchiveError)>,
}

impl Failures {
    fn add(&mut self, session: SessionId, error: ArchiveError) {
        self.count = self.count.saturating_add(1);
        match error {
            ArchiveError::Lies(_) | ArchiveError::NoKey => {
                metrics::counter!("postern_control_archive_lies_total").increment(1);
                error!(%session, %error, "a recording was put into the store and is not there: it stays on this member's disk");
            }
            error => {
                metrics::counter!("postern_control_archive_failures_total").increment(1);
                self.first.get_or_insert((session, error));
            }
        }
    }

    /// Whether there were any.
    fn tell(&self) -> bool {
        match &self.first {
            Some((session, error @ ArchiveError::NotYet)) => {
                debug!(%session, %error, count = self.count, "recordings wait on this member's disk");
            }
            Some((session, error)) => {
                warn!(%session, error = chain(error), count = self.count, "recordings cannot be put into the store now: they stay on this member's disk");
            }
            None => {}
        }
        self.count > 0
    }
}

/// Puts one recording into the store, when it is sealed and here; then it is gone from here.
async fn put_away(parts: &Parts, session: SessionId) -> Result<(), ArchiveError> {
    let sealed = parts.recordings.sealed(session).await.map_err(std::io::Error::other)?;
    let Some((header, located)) = sealed else { return overtaken(parts, session).await };
    let started = std::time::Instant::now();
    parts.archive.put(header, chunks(located, 0)).await?;
    parts.recordings.archived(session).await.map_err(std::io::Error::other)?;
    metrics::counter!("postern_control_archived_total").increment(1);
    metrics::histogram!("postern_control_archive_seconds").record(started.elapsed().as_secs_f64());
    debug!(%session, events = header.events, "a recording was put into the store");
    Ok(())
}

/// Of a session whose gateway turned to another member this one has the beginning: it goes once all of it is in the store, whole.
async fn overtaken(parts: &Parts, session: SessionId) -> Result<(), ArchiveError> {
    let Some(events) = parts.archive.whole(session).await? else { return Ok(()) };
    if parts.recordings.overtaken(session, events).await.map_err(std::io::Error::other)? {
        debug!(%session, events, "the beginning of a recording is gone from this disk: all of it is in the store");
    }
    Ok(())
}

/// Recordings on this disk, all or those of which nothing has come for long: what is sealed is told, what goes on is not to be read each time. Old notes
/// are removed by the way.
async fn found(dir: &Path, all: bool) -> Vec<SessionId> {
    let dir = dir.to_owned();
    let found = tokio::task::spawn_blocking(move || look(&dir, all));
    match found.await.map_err(std::io::Error::other).and_then(|found| found) {
        Ok(found) => found,
        Err(error) => {
            warn!(%error, "the recordings on this disk cannot be listed");
            Vec::new()
        }
    }
}

fn look(dir: &Path, all: bool) -> std::io::Result<Vec<SessionId>> {
    let mut sessions = Vec::new();
    for month in std::fs::read_dir(dir)? {
        let month = month?;
        if !month.file_type()?.is_dir() || !is_month(&month.file_name()) {
            continue;
        }
        for file in std::fs::read_dir(month.path())? {
            let path = file?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let Some(id) = id else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("rec") if all || is_older(&path, RESTS) => sessions.push(id),
                Some(note::EXTENSION) if is_older(&path, note::KEPT) => std::fs::remove_file(&path)?,
                _ => {}
            }
        }
    }
    Ok(sessions)
}

/// `2026-11`, and not the store's own directories.
fn is_month(name: &std::ffi::OsStr) -> bool {
    name.to_str().and_then(|name| name.rsplit_once('-')).is_some_and(|(year, month)| {
        year.len() >= 4 && month.len() == 2 && year.bytes().chain(month.bytes()).all(|byte| byte.is_ascii_digit())
    })
}

fn is_older(path: &Path, than: Duration) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    age.is_some_and(|age| age > than)
}
