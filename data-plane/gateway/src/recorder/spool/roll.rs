//! One segment after the other: where the next one comes from, and which are not needed any more.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;

use postern_core::SessionId;

use super::Spool;
use super::cipher::{BEGIN, Sealer, SegmentKey};
use super::record::Record;
use super::segment::{Segment, create_segment, remove_segment, segment_path};
use super::spare::{self, Spare};

impl Spool {
    /// Has room ready for what is to be written, now and, as [`Self::wants_spare`] tells, later. Without it segments grow as they are written;
    /// where there is none, nothing else is the matter.
    pub(in crate::recorder) fn reserve(&mut self) {
        self.reserves = true;
        match spare::reserve(&self.file, self.written, self.segment_size) {
            Ok(()) => self.room = self.segment_size,
            Err(error) => {
                tracing::warn!(%error, "no room could be made ready for the recording spool");
                self.cut(self.written);
            }
        }
    }

    /// Whether the next segment is to be made ready: told once.
    pub(in crate::recorder) fn wants_spare(&mut self) -> bool {
        let wants = self.reserves && matches!(self.spare, Spare::None) && self.written > self.segment_size / 2;
        if wants {
            self.spare = Spare::Coming;
        }
        wants
    }

    /// The next segment, or nothing where it could not be made.
    pub(in crate::recorder) fn give(&mut self, spare: Spare) {
        self.spare = spare;
    }

    pub(super) fn roll(&mut self) -> io::Result<()> {
        self.sync_now()?;
        if self.room > self.written || self.cut_off {
            // Before another segment is the last one: zeros in the middle of the spool are damage, and so is what was refused and lies there.
            self.file.set_len(self.written)?;
            self.file.sync_all()?;
            self.room = self.written;
            self.cut_off = false;
        }
        let number = self.active.saturating_add(1);
        let ((file, key), room) = match std::mem::take(&mut self.spare) {
            Spare::Ready(file, key) => {
                fs::rename(spare::path(&self.dir), segment_path(&self.dir, number))?;
                self.dir_handle.sync_all()?;
                ((file, key), self.segment_size)
            }
            Spare::Coming => {
                self.spare = Spare::Coming;
                (create_segment(&self.dir, &self.dir_handle, &self.key, number)?, 0)
            }
            Spare::None | Spare::Failed => (create_segment(&self.dir, &self.dir_handle, &self.key, number)?, 0),
        };
        self.file = Arc::new(file);
        self.begun(number, key);
        self.room = room;
        self.delete_unneeded()
    }

    pub(super) fn begun(&mut self, number: u64, key: SegmentKey) {
        let len = u64::try_from(BEGIN).unwrap_or(0);
        self.sealer = Some(Sealer::new(key, number));
        self.active = number;
        self.written = len;
        self.generation = self.generation.wrapping_add(1);
        self.bytes = self.bytes.saturating_add(len);
        self.segments.insert(number, Segment { len, needs: BTreeMap::new() });
    }

    /// Oldest first, and no further than to what is still needed: what is left of a session is whole from some event on.
    pub(in crate::recorder) fn delete_unneeded(&mut self) -> io::Result<()> {
        while let Some((&number, segment)) =
            self.segments.first_key_value().filter(|(number, _)| **number != self.active)
        {
            let acked =
                |(session, n): (&SessionId, &u64)| self.sessions.get(session).is_none_or(|state| state.acked >= *n);
            let goes_on = segment.needs.keys().any(|session| self.unsettled.contains(session));
            if !segment.needs.iter().all(acked) || (goes_on && self.bytes <= self.keep) {
                return Ok(());
            }
            // What is undone later must not lead back to what is deleted now.
            self.sync_now()?;
            // An open session must stay known: a restart after a crash has to close it.
            let carried: Vec<SessionId> = self
                .sessions
                .iter()
                .filter(|(_, state)| state.segment == number && !state.sealed)
                .map(|(session, _)| *session)
                .collect();
            let (mut buffer, durable) = (Vec::new(), self.active_len());
            for session in &carried {
                if let Some(state) = self.sessions.get(session) {
                    let record = Record::Head { session: *session, next_seq: state.next_seq, head: state.head };
                    // Where nothing more can be written, the next segment is waited for.
                    let Some(sealer) = &mut self.sealer else { return Ok(()) };
                    if let Err(error) = record.seal(sealer, durable, &mut buffer) {
                        self.sealer = None;
                        return Err(io::Error::other(error));
                    }
                }
            }
            if !buffer.is_empty() {
                self.write(&buffer)?;
                self.sync_now()?;
            }
            for session in carried {
                if let Some(state) = self.sessions.get_mut(&session) {
                    state.segment = self.active;
                    // All before is durable. The next record says it again.
                    state.loose = false;
                }
            }
            remove_segment(&self.dir, number)?;
            self.dir_handle.sync_all()?;
            if let Some(gone) = self.segments.remove(&number) {
                self.bytes = self.bytes.saturating_sub(gone.len);
                self.deleted = self.deleted.saturating_add(1);
                for (session, next_seq) in gone.needs {
                    if let Some(state) = self.sessions.get_mut(&session) {
                        state.from = state.from.max(next_seq);
                    }
                }
            }
            self.sessions.retain(|_, state| state.segment != number);
        }
        Ok(())
    }
}
