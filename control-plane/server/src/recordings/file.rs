//! One session's recording as it lies on the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_core::SessionId;
use postern_core::recording::{MAGIC, MAX_BODY, frames};
use postern_core::session::Session;

use super::Append;
use super::cipher::{KEY_SLOT, KeySlot, LENGTH, Piece, piece_length, pieces};
use super::keys::{KeysError, RecordingKeys};
use super::note;
use super::progress::Progress;
use super::read::{ENCRYPTED, Encrypted, Located};

/// Beside the body: its length and the chain's hash.
const FRAME_OVERHEAD: usize = 36;
/// Of zstd, for pieces that are written as they come.
const LEVEL: i32 = 1;

/// A recording, as far as it is written.
pub(super) struct Recording {
    pub(super) path: PathBuf,
    progress: Progress,
    /// Bytes of whole, checked frames, with the magic before them: as a reader gets them.
    pub(super) length: u64,
    /// Bytes of the file that hold them.
    file_length: u64,
    /// How the file is encrypted; none before the first write, and of one in clear.
    pub(super) encrypted: Option<Encrypted>,
    /// Its next piece.
    next_piece: u64,
    /// What is stored cannot be gone on with.
    pub(super) damaged: Option<String>,
    /// For eviction: when it was used last.
    pub(super) used: u64,
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
    /// Reads what is there. A frame or piece cut off at the end was never acknowledged: it is removed.
    ///
    /// # Errors
    /// When the disk fails, or the key that it is under is not open yet.
    pub(super) fn load(path: PathBuf, id: SessionId, keys: &RecordingKeys) -> io::Result<Self> {
        let mut this = Self {
            path,
            progress: Progress::start(id),
            length: 0,
            file_length: 0,
            encrypted: None,
            next_piece: 0,
            damaged: None,
            used: 0,
        };
        let file = match File::open(&this.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(session) = note::read(&this.path, id)? {
                    this.progress = Progress::ended(session);
                }
                return Ok(this);
            }
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        this.read(BufReader::with_capacity(256 << 10, file), keys)?;
        if this.damaged.is_none() && this.file_length < size {
            tracing::warn!(session = %id, bytes = size.saturating_sub(this.file_length), "removing what was cut off, or never whole, at the end of a recording");
            let file = OpenOptions::new().write(true).open(&this.path)?;
            file.set_len(this.file_length)?;
            file.sync_data()?;
        }
        Ok(this)
    }

    fn read(&mut self, mut file: impl io::Read, keys: &RecordingKeys) -> io::Result<()> {
        let mut magic = [0; MAGIC.len()];
        if !fill(&mut file, &mut magic)? {
            return Ok(());
        }
        match &magic {
            MAGIC => {
                self.length = bytes(MAGIC.len());
                self.file_length = self.length;
                self.read_clear(file)
            }
            ENCRYPTED => self.read_encrypted(file, keys),
            _ => {
                self.damaged = Some("the stored recording is of an unknown version, or damaged".to_owned());
                Ok(())
            }
        }
    }

    fn read_clear(&mut self, mut file: impl io::Read) -> io::Result<()> {
        let mut frame = Vec::new();
        loop {
            let mut length = [0; 4];
            if !fill(&mut file, &mut length)? {
                return Ok(());
            }
            let body = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if body == 0 || body > MAX_BODY {
                self.damage("no frame is so long");
                return Ok(());
            }
            frame.clear();
            frame.extend_from_slice(&length);
            let rest = bytes(body.saturating_add(FRAME_OVERHEAD - 4));
            file.by_ref().take(rest).read_to_end(&mut frame)?;
            let Some(Ok(raw)) = frames(&frame).next() else { return Ok(()) };
            if let Err(why) = self.progress.accept(&raw) {
                self.damage(&why);
                return Ok(());
            }
            self.length = self.length.saturating_add(bytes(frame.len()));
            self.file_length = self.length;
        }
    }

    fn read_encrypted(&mut self, mut file: impl io::Read, keys: &RecordingKeys) -> io::Result<()> {
        let mut slot = [0; KEY_SLOT];
        if !fill(&mut file, &mut slot)? {
            return Ok(());
        }
        let slot = KeySlot::from_bytes(slot);
        let key = match keys.open(self.progress.chain.session(), &slot) {
            Ok(key) => key,
            Err(error @ KeysError::NotOpen(_)) => return Err(io::Error::other(error)),
            Err(KeysError::Fault(fault)) => {
                self.damage(&fault.to_string());
                return Ok(());
            }
        };
        let encrypted = Encrypted::new(key, &slot);
        self.length = bytes(MAGIC.len());
        self.file_length = bytes(encrypted.header().len());
        let mut begin = [0; LENGTH];
        while fill(&mut file, &mut begin)? {
            let at = self.next_piece;
            let length = match piece_length(at, begin) {
                Ok(length) => length,
                Err(fault) => {
                    if !only_zeros(&mut file)? {
                        self.damage(&fault.to_string());
                    }
                    break;
                }
            };
            let mut piece = vec![0; length];
            if !fill(&mut file, &mut piece)? {
                break;
            }
            let end = self.file_length.saturating_add(bytes(LENGTH.saturating_add(length)));
            let content = match encrypted.open(at, piece) {
                Ok((content, _)) => content,
                Err(fault) => {
                    // What is not whole at the very end may never have been written: its gateway has it still, or is told that it is lost. A file
                    // that grew before its bytes came has zeros there.
                    if !only_zeros(&mut file)? {
                        self.damage(&fault.to_string());
                    }
                    break;
                }
            };
            if let Err(why) = self.accept(&content) {
                self.damage(&why);
                break;
            }
            self.length = self.length.saturating_add(bytes(content.len()));
            self.file_length = end;
            self.next_piece = at.saturating_add(1);
        }
        self.encrypted = Some(encrypted);
        Ok(())
    }

    fn accept(&mut self, content: &[u8]) -> Result<(), String> {
        for frame in frames(content) {
            self.progress.accept(&frame.map_err(|fault| fault.to_string())?)?;
        }
        Ok(())
    }

    fn damage(&mut self, why: &str) {
        metrics::counter!("postern_control_recordings_damaged_total").increment(1);
        let why = format!("the stored recording is damaged at byte {}: {why}", self.file_length);
        tracing::error!(session = %self.progress.chain.session(), why, "a recording is damaged");
        self.damaged = Some(why);
    }

    /// Writes those frames of `append` that are new, all or none. Durable only after [`Self::sync`].
    pub(super) fn append(&mut self, append: &Append, keys: &RecordingKeys) -> io::Result<Taken> {
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
        self.write(new, keys)?;
        self.progress = progress;
        Ok(Taken::Written)
    }

    fn write(&mut self, frames: &[u8], keys: &RecordingKeys) -> io::Result<()> {
        let begins = self.file_length == 0;
        if begins {
            let made = keys.make(self.progress.chain.session()).map_err(io::Error::other)?;
            self.encrypted = made.map(|(key, slot)| Encrypted::new(key, &slot));
            self.next_piece = 0;
        }
        let (mut out, mut next_piece) = (Vec::new(), self.next_piece);
        match &self.encrypted {
            Some(encrypted) => {
                if begins {
                    out.extend_from_slice(encrypted.header());
                }
                for content in pieces(frames) {
                    let piece =
                        Piece { header: encrypted.header(), index: next_piece, content, last: false, level: LEVEL };
                    encrypted.key().seal(piece, &mut out).map_err(io::Error::other)?;
                    next_piece = next_piece.saturating_add(1);
                }
            }
            None if begins => out.extend([MAGIC, frames].concat()),
            None => out.extend_from_slice(frames),
        }
        self.write_out(begins, &out)?;
        let before = if begins { bytes(MAGIC.len()) } else { self.length };
        self.length = before.saturating_add(bytes(frames.len()));
        self.file_length = self.file_length.saturating_add(bytes(out.len()));
        self.next_piece = next_piece;
        Ok(())
    }

    fn write_out(&self, begins: bool, out: &[u8]) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        if begins {
            std::fs::create_dir_all(dir)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let written = (|| {
            if begins {
                file.set_len(0)?;
            }
            file.write_all(out)
        })();
        if let Err(error) = written {
            // Back to what was whole. When even that fails, the next load finds what was cut off and removes it.
            file.set_len(self.file_length)?;
            return Err(error);
        }
        if begins {
            // The names must survive as well.
            file.sync_all()?;
            File::open(dir)?.sync_all()?;
            if let Some(root) = dir.parent() {
                File::open(root)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// For a reader; none when nothing of it is here.
    pub(super) fn locate(&self) -> io::Result<Option<Located>> {
        if self.length == 0 {
            return Ok(None);
        }
        let file = Arc::new(File::open(&self.path)?);
        let (encrypted, length, next_seq) = (self.encrypted.clone(), self.length, self.next_seq());
        let (head, sealed) = (self.progress.chain.head(), self.is_sealed());
        Ok(Some(Located { file, encrypted, length, next_seq, head, sealed }))
    }

    /// It is elsewhere, whole: of what was here stays what its gateway may still ask for.
    pub(super) fn put_away(&mut self) -> io::Result<()> {
        let session = self.progress.session.clone().filter(|_| self.is_sealed());
        let session = session.ok_or_else(|| io::Error::other("the recording is not sealed"))?;
        note::write(&self.path, &session)?;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        (self.length, self.file_length, self.next_piece, self.encrypted) = (0, 0, 0, None);
        Ok(())
    }

    /// Makes all that was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_data()
    }

    pub(super) const fn next_seq(&self) -> u64 {
        self.progress.chain.next_seq()
    }

    /// Whether nothing comes any more.
    pub(super) const fn is_sealed(&self) -> bool {
        self.progress.sealed
    }

    pub(super) const fn session(&self) -> Option<&Arc<Session>> {
        self.progress.session.as_ref()
    }
}

/// Whether nothing else follows; also when nothing follows at all.
fn only_zeros(rest: &mut impl io::Read) -> io::Result<bool> {
    let mut some = [0; 4_096];
    loop {
        match rest.read(&mut some)? {
            0 => return Ok(true),
            read if some.iter().take(read).all(|byte| *byte == 0) => {}
            _ => return Ok(false),
        }
    }
}

/// Whether `buffer` could be filled; `false` at the end of the file.
fn fill(file: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
