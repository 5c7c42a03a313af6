//! The thread that owns the recordings' files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use postern_core::{SessionId, Timestamp};
use postern_runtime::pki::create_private_dir;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::archive::Header;
use super::file::{Recording, Taken};
use super::keys::RecordingKeys;
use super::{Append, Located, Msg, StoreError, Stored};

/// Messages taken before one round of fsyncs.
const BATCH: usize = 64;
/// Recordings whose ends are kept in memory; the others are read again when they go on.
const OPEN: usize = 4_096;

/// The files.
pub(super) struct Store {
    dir: PathBuf,
    keys: RecordingKeys,
    open: BTreeMap<SessionId, Recording>,
    clock: u64,
}

type Reply = (oneshot::Sender<Result<Stored, StoreError>>, Stored);

/// Serves until told to stop, or until a disk can no longer be trusted.
pub(super) fn run(mut store: Store, mut inbox: mpsc::Receiver<Msg>) {
    while let Some(first) = inbox.blocking_recv() {
        let (mut replies, mut touched, mut room) = (Vec::new(), BTreeSet::new(), Vec::new());
        let (mut stop, mut next, mut taken) = (false, Some(first), 0);
        while let Some(message) = next.take() {
            taken += 1;
            match message {
                Msg::Append { append, reply, _room } => {
                    room.push(_room);
                    match store.append(&append) {
                        Ok((stored, written)) => {
                            if written {
                                touched.insert(append.session);
                            }
                            replies.push((reply, stored));
                        }
                        Err(error) => {
                            metrics::counter!("postern_control_recording_failures_total").increment(1);
                            error!(session = %append.session, %error, "a recording cannot be stored");
                            store.open.remove(&append.session);
                            // The gateway may be gone: it asks again.
                            let _ = reply.send(Err(StoreError::Io(error.kind().to_string())));
                        }
                    }
                }
                Msg::Locate { session, reply } => {
                    // What is told must be durable; what was just written is not.
                    if !flush(&store, &mut touched, &mut replies) {
                        return;
                    }
                    let located = store.locate(session).map_err(|error| StoreError::Io(error.kind().to_string()));
                    let _ = reply.send(located);
                }
                Msg::Sealed { session, reply } => {
                    if !flush(&store, &mut touched, &mut replies) {
                        return;
                    }
                    let _ = reply.send(store.sealed(session).map_err(|error| StoreError::Io(error.to_string())));
                }
                Msg::Archived { session, reply } => {
                    let _ = reply.send(store.archived(session).map_err(|error| StoreError::Io(error.to_string())));
                }
                Msg::Overtaken { session, events, reply } => {
                    let gone = store.overtaken(session, events);
                    let _ = reply.send(gone.map_err(|error| StoreError::Io(error.to_string())));
                }
                Msg::Stop => stop = true,
            }
            if !stop && taken < BATCH {
                next = inbox.try_recv().ok();
            }
        }
        if !flush(&store, &mut touched, &mut replies) || stop {
            return;
        }
        store.evict();
    }
}

/// Makes durable, then answers; `false` when that cannot be: after a failed fsync nobody knows what is on the disk.
fn flush(store: &Store, touched: &mut BTreeSet<SessionId>, replies: &mut Vec<Reply>) -> bool {
    let started = std::time::Instant::now();
    let any = !touched.is_empty();
    for session in std::mem::take(touched) {
        let Some(recording) = store.open.get(&session) else { continue };
        if let Err(error) = recording.sync() {
            error!(%session, %error, "a recording cannot be made durable: the node stops");
            return false;
        }
    }
    if any {
        metrics::histogram!("postern_control_recording_flush_seconds").record(started.elapsed().as_secs_f64());
    }
    for (reply, stored) in replies.drain(..) {
        let _ = reply.send(Ok(stored));
    }
    true
}

impl Store {
    pub(super) fn open(dir: &Path, keys: RecordingKeys) -> io::Result<Self> {
        create_private_dir(dir).map_err(io::Error::other)?;
        Ok(Self { dir: dir.to_owned(), keys, open: BTreeMap::new(), clock: 0 })
    }

    /// Whether something was written, and how the recording then stands.
    fn append(&mut self, append: &Append) -> io::Result<(Stored, bool)> {
        let keys = self.keys.clone();
        let recording = self.recording(append.session)?;
        let taken = recording.append(append, &keys)?;
        let written = matches!(taken, Taken::Written);
        let refused = match taken {
            Taken::Refused(why) => {
                metrics::counter!("postern_control_recordings_refused_total").increment(1);
                tracing::warn!(session = %append.session, gateway = %append.gateway, why, "a recording is refused");
                Some(why)
            }
            Taken::Written | Taken::Nothing => None,
        };
        if written {
            let size = u64::try_from(append.frames.len()).unwrap_or(u64::MAX);
            metrics::counter!("postern_control_recording_bytes_total").increment(size);
        }
        Ok((Stored { next_seq: recording.next_seq(), refused, session: recording.session().cloned() }, written))
    }

    fn locate(&mut self, session: SessionId) -> io::Result<Option<Located>> {
        let recording = self.recording(session)?;
        let found = recording.locate()?;
        if found.is_none() && recording.damaged.is_none() && !recording.is_sealed() {
            self.open.remove(&session);
        }
        Ok(found)
    }

    /// A recording that is sealed and still here.
    fn sealed(&mut self, session: SessionId) -> io::Result<Option<(Header, Located)>> {
        let recording = self.recording(session)?;
        let end = recording.session().and_then(|session| session.end.as_ref());
        let end = end.map(|end| (end.events, end.head));
        let Some((events, head)) = end.filter(|_| recording.is_sealed()) else { return Ok(None) };
        let located = recording.locate()?;
        Ok(located.map(|located| (Header { session, events, length: located.length, head }, located)))
    }

    /// Leaves of a recording what must be known of it once it is in the store.
    fn archived(&mut self, session: SessionId) -> io::Result<()> {
        let recording = self.recording(session)?;
        let outcome = recording.put_away();
        if outcome.is_err() {
            // It is read again from whatever is there now.
            self.open.remove(&session);
        }
        outcome
    }

    /// Removes what is only the beginning of a recording with so many events. A damaged one stays: somebody may want to look at it.
    fn overtaken(&mut self, session: SessionId, events: u64) -> io::Result<bool> {
        let recording = self.recording(session)?;
        if recording.is_sealed() || recording.damaged.is_some() || recording.next_seq() >= events {
            return Ok(false);
        }
        let file = recording.path.clone();
        self.open.remove(&session);
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            removed => Ok(removed.is_ok()),
        }
    }

    fn recording(&mut self, session: SessionId) -> io::Result<&mut Recording> {
        use std::collections::btree_map::Entry;
        self.clock = self.clock.saturating_add(1);
        let recording = match self.open.entry(session) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Recording::load(path(&self.dir, session), session, &self.keys)?),
        };
        recording.used = self.clock;
        Ok(recording)
    }

    /// Forgets the half that was not used for longest, when there are too many.
    fn evict(&mut self) {
        if self.open.len() <= OPEN {
            return;
        }
        let mut uses: Vec<u64> = self.open.values().map(|recording| recording.used).collect();
        uses.sort_unstable();
        let middle = uses.get(OPEN / 2).copied().unwrap_or(0);
        self.open.retain(|_, recording| recording.used > middle);
    }
}

/// `2026-11/ses_….rec`: of the id alone, so that nothing that a peer says becomes a path.
fn path(dir: &Path, session: SessionId) -> PathBuf {
    dir.join(month(session.made_at())).join(format!("{session}.rec"))
}

pub(super) fn month(at: Timestamp) -> String {
    // RFC 3339 begins with year and month; a year past 9999 has more digits.
    let text = at.to_string();
    text.rsplitn(3, '-').last().map_or_else(String::new, |year| {
        let rest = text.get(year.len()..year.len().saturating_add(3)).unwrap_or_default();
        format!("{year}{rest}")
    })
}

#[cfg(test)]
#[path = "store_tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "encrypted_tests.rs"]
mod encrypted_tests;
