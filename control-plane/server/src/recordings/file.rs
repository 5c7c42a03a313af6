//! One session's recording as it lies on the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_core::recording::{Chain, Entry, Event, MAGIC, MAX_BODY, RawFrame, Started, frames};
use postern_core::session::{Session, SessionEnd};
use postern_core::{SessionId, Timestamp};

use super::Append;

/// The longest text of the gateway's that the index keeps, in bytes.
const MAX_TEXT: usize = 1_000;
/// Beside the body: its length and the chain's hash.
const FRAME_OVERHEAD: usize = 36;

/// A recording, as far as it is written.
pub(super) struct Recording {
    pub(super) path: PathBuf,
    progress: Progress,
    /// Bytes of the file that hold whole, checked frames.
    pub(super) length: u64,
    /// What is stored cannot be gone on with.
    pub(super) damaged: Option<String>,
    /// For eviction: when it was used last.
    pub(super) used: u64,
}

/// What the events so far say.
#[derive(Clone)]
struct Progress {
    chain: Chain,
    session: Option<Arc<Session>>,
    /// From `Ended`: at, reason, interrupted.
    ended: Option<(Timestamp, String, bool)>,
    sealed: bool,
}

/// What an append came to.
pub(super) enum Taken {
    /// Written, not yet durable.
    Written,
    /// Nothing new in it, or it does not begin where the recording ends.
    Nothing,
    /// Not a continuation of this recording.
    Refused(String),
}

impl Recording {
    /// Reads what is there. A frame cut off at the end was never acknowledged: it is removed.
    pub(super) fn load(path: PathBuf, id: SessionId) -> io::Result<Self> {
        let progress = Progress { chain: Chain::start(id), session: None, ended: None, sealed: false };
        let mut this = Self { path, progress, length: 0, damaged: None, used: 0 };
        let file = match File::open(&this.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(this),
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        this.read(BufReader::with_capacity(256 << 10, file))?;
        if this.damaged.is_none() && this.length < size {
            tracing::warn!(session = %id, bytes = size.saturating_sub(this.length), "removing a frame that was cut off");
            let file = OpenOptions::new().write(true).open(&this.path)?;
            file.set_len(this.length)?;
            file.sync_data()?;
        }
        Ok(this)
    }

    fn read(&mut self, mut file: impl io::Read) -> io::Result<()> {
        let mut magic = [0; MAGIC.len()];
        if !fill(&mut file, &mut magic)? {
            return Ok(());
        }
        if magic != *MAGIC {
            self.damaged = Some("the stored recording is of an unknown version, or damaged".to_owned());
            return Ok(());
        }
        self.length = bytes(MAGIC.len());
        let mut frame = Vec::new();
        loop {
            let mut length = [0; 4];
            if !fill(&mut file, &mut length)? {
                return Ok(());
            }
            let body = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            let at = self.length;
            if body == 0 || body > MAX_BODY {
                self.damaged = Some(format!("the stored recording is damaged at byte {at}"));
                return Ok(());
            }
            frame.clear();
            frame.extend_from_slice(&length);
            let rest = bytes(body.saturating_add(FRAME_OVERHEAD - 4));
            file.by_ref().take(rest).read_to_end(&mut frame)?;
            let Some(Ok(raw)) = frames(&frame).next() else { return Ok(()) };
            if let Err(why) = self.progress.accept(&raw) {
                self.damaged = Some(format!("the stored recording is damaged at byte {at}: {why}"));
                return Ok(());
            }
            self.length = self.length.saturating_add(bytes(frame.len()));
        }
    }

    /// Writes those frames of `append` that are new, all or none. Durable only after [`Self::sync`].
    pub(super) fn append(&mut self, append: &Append) -> io::Result<Taken> {
        if let Some(why) = &self.damaged {
            return Ok(Taken::Refused(why.clone()));
        }
        if let Some(session) = &self.progress.session
            && session.gateway != append.gateway.as_str()
        {
            return Ok(Taken::Refused("the session is of another gateway".to_owned()));
        }
        let next_seq = self.next_seq();
        if append.first_seq > next_seq {
            return Ok(Taken::Nothing);
        }
        let mut progress = self.progress.clone();
        let (mut seq, mut new) = (append.first_seq, None);
        let mut walk = frames(&append.frames);
        while let Some(frame) = {
            let before = walk.offset();
            walk.next().map(|frame| (before, frame))
        } {
            let (before, frame) = frame;
            let frame = match frame {
                Ok(frame) => frame,
                Err(fault) => return Ok(Taken::Refused(fault.to_string())),
            };
            if seq >= next_seq {
                new.get_or_insert(before);
                if let Err(why) = progress.accept(&frame) {
                    return Ok(Taken::Refused(why));
                }
                if let Some(session) = &progress.session
                    && session.gateway != append.gateway.as_str()
                {
                    return Ok(Taken::Refused("the session says that it is of another gateway".to_owned()));
                }
            }
            seq = seq.saturating_add(1);
        }
        let Some(new) = new.and_then(|new| append.frames.get(new..)) else { return Ok(Taken::Nothing) };
        self.length = self.write(new)?;
        self.progress = progress;
        Ok(Taken::Written)
    }

    fn write(&self, frames: &[u8]) -> io::Result<u64> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        if self.length == 0 {
            std::fs::create_dir_all(dir)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let mut length = self.length;
        let written = (|| {
            if length == 0 {
                file.set_len(0)?;
                file.write_all(MAGIC)?;
                length = bytes(MAGIC.len());
            }
            file.write_all(frames)
        })();
        if let Err(error) = written {
            // Back to what was whole. When even that fails, the next load finds the cut-off frame and removes it.
            file.set_len(self.length)?;
            return Err(error);
        }
        if self.length == 0 {
            // The names must survive as well.
            file.sync_all()?;
            File::open(dir)?.sync_all()?;
            if let Some(root) = dir.parent() {
                File::open(root)?.sync_all()?;
            }
        }
        Ok(length.saturating_add(bytes(frames.len())))
    }

    /// Makes all that was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_data()
    }

    pub(super) const fn next_seq(&self) -> u64 {
        self.progress.chain.next_seq()
    }

    pub(super) const fn session(&self) -> Option<&Arc<Session>> {
        self.progress.session.as_ref()
    }
}

impl Progress {
    fn accept(&mut self, frame: &RawFrame<'_>) -> Result<(), String> {
        if self.sealed {
            return Err("it is sealed already".to_owned());
        }
        let before = (self.chain.next_seq(), self.chain.head());
        let Entry { at, event, .. } = self.chain.accept(frame).map_err(|fault| fault.to_string())?;
        match (before.0, event) {
            (0, Event::Started(started)) => {
                if started.session != self.chain.session() {
                    return Err("it opens another session".to_owned());
                }
                self.session = Some(Arc::new(opened(at, *started)));
            }
            (0, _) => return Err("it does not begin with the opening of a session".to_owned()),
            (_, Event::Started(_)) => return Err("it opens a session twice".to_owned()),
            (_, Event::Ended { reason, interrupted, .. }) => self.ended = Some((at, shortened(reason), interrupted)),
            (_, Event::Sealed { events, head, .. }) => {
                if (events, head) != before {
                    return Err("its seal speaks of other events".to_owned());
                }
                self.sealed = true;
                let (at, reason, interrupted) = self.ended.clone().unwrap_or((at, String::new(), false));
                if let Some(session) = &self.session {
                    let mut session = Session::clone(session);
                    let (events, head) = (self.chain.next_seq(), self.chain.head());
                    session.end = Some(SessionEnd { interrupted, at, reason, events, head });
                    self.session = Some(Arc::new(session));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn opened(at: Timestamp, started: Started) -> Session {
    Session {
        id: started.session,
        principal: started.principal,
        target: started.target,
        gateway: started.gateway,
        client_address: shortened(started.client_address),
        database: shortened(started.database),
        started_at: at,
        end: None,
        revision: 0,
    }
}

/// The index bounds its texts; the recording has them whole.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Whether `buffer` could be filled; `false` at the end of the file.
fn fill(file: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
