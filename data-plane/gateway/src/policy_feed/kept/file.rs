//! The file: sealed records, the whole policy first and then what changed since.
//!
//! `MAGIC`, the file's id, and then for each record its length (u32, big-endian) and its bytes. A torn end is cut off: what the mark speaks of is before it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use postern_proto::gateway::v1::{Kept, kept};
use postern_runtime::pki::{serial_of, write_private};
use prost::Message as _;
use zeroize::Zeroize as _;

use super::seal::{FileId, Root, Sealer, TAG};
use super::{KeepError, Refused, file_id};

const MAGIC: &[u8; 8] = b"PSTNKEP1";
const PURPOSE: &[u8] = b"policy";
const HEAD: usize = MAGIC.len() + size_of::<FileId>();
/// The longest record: a whole policy, and what is around it.
const MAX_RECORD: usize = (128 << 20) + (1 << 20);
/// Changes take at least so much before they are put into a new whole.
const MIN_CHANGES: u64 = 4 << 20;
const MAX_CHANGES: u64 = 8_192;

/// The file that is written now.
pub(super) struct Log {
    file: File,
    id: FileId,
    sealer: Sealer,
    /// Bytes of the whole, and of all.
    whole: u64,
    len: u64,
    /// Serial numbers of the certificates that signed what is in it.
    signers: BTreeSet<String>,
}

impl Log {
    /// Writes a new file with `records`, of which one is a whole policy; it is durable on return.
    pub(super) fn create(dir: &Path, root: &Root, records: Vec<Kept>) -> Result<Self, KeepError> {
        let id = file_id();
        let mut sealer = root.sealer(&id, PURPOSE)?;
        let mut signers = BTreeSet::new();
        let mut bytes = [MAGIC.as_slice(), &id].concat();
        for record in records {
            put(record, &mut sealer, &mut signers, &mut bytes)?;
        }
        let path = path(dir, &id);
        write_private(&path, &bytes)?;
        let len = length(bytes.len());
        let file = OpenOptions::new().append(true).mode(0o600).open(&path)?;
        Ok(Self { file, id, sealer, whole: len, len, signers })
    }

    /// Adds `records`; they are durable on return. After an error the file must not be gone on with.
    pub(super) fn append(&mut self, records: Vec<Kept>) -> Result<(), KeepError> {
        let mut bytes = Vec::new();
        for record in records {
            put(record, &mut self.sealer, &mut self.signers, &mut bytes)?;
        }
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.len = self.len.saturating_add(length(bytes.len()));
        Ok(())
    }

    /// Reads the file `id`, which has at least so many records, and gives each to `take`; it is gone on with at its end.
    pub(super) fn read(
        dir: &Path,
        root: &Root,
        (id, at_least): (FileId, u64),
        mut take: impl FnMut(Kept) -> Result<(), Refused>,
    ) -> Result<Self, Refused> {
        let io = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => Refused::Gone,
            kind => Refused::Io(kind),
        };
        let path = path(dir, &id);
        let file = OpenOptions::new().read(true).append(true).open(&path).map_err(io)?;
        let end = file.metadata().map_err(io)?.len();
        let mut from = BufReader::new(&file);
        let mut head = [0; HEAD];
        from.read_exact(&mut head).map_err(|_| Refused::Damaged)?;
        if head.strip_prefix(MAGIC) != Some(id.as_slice()) {
            return Err(Refused::Damaged);
        }
        let mut sealer = root.sealer(&id, PURPOSE).map_err(|_| Refused::Sealed)?;
        let mut signers = BTreeSet::new();
        let (mut len, mut whole) = (length(HEAD), 0);
        while let Some(mut sealed) = next(&mut from, end.saturating_sub(len))? {
            let size = length(sealed.len()).saturating_add(4);
            let Ok(clear) = sealer.open(&mut sealed) else {
                break;
            };
            let record = Kept::decode(clear).map_err(|_| Refused::Damaged)?;
            sealed.zeroize();
            note_signer(&record, &mut signers);
            let is_whole = matches!(record.what, Some(kept::What::Whole(_)));
            take(record)?;
            len = len.saturating_add(size);
            if is_whole {
                whole = len;
            }
        }
        drop(from);
        if sealer.records() < at_least {
            return Err(if sealer.records() == 0 { Refused::Sealed } else { Refused::Shortened });
        }
        file.set_len(len).map_err(io)?;
        (&file).seek(SeekFrom::End(0)).map_err(io)?;
        Ok(Self { file, id, sealer, whole, len, signers })
    }

    pub(super) const fn id(&self) -> FileId {
        self.id
    }

    pub(super) const fn records(&self) -> u64 {
        self.sealer.records()
    }

    /// The changes have become as long as the whole: it is time for a new one.
    pub(super) fn is_long(&self) -> bool {
        self.len.saturating_sub(self.whole) > self.whole.max(MIN_CHANGES) || self.records() > MAX_CHANGES
    }

    /// No new whole came, for long: nothing is added any more.
    pub(super) fn is_full(&self) -> bool {
        self.len.saturating_sub(self.whole) / 4 > self.whole.max(MIN_CHANGES) || self.records() / 4 > MAX_CHANGES
    }

    /// Something in it was signed under a certificate that is good no more.
    pub(super) fn is_signed_by_any(&self, revoked: &BTreeSet<String>) -> bool {
        !self.signers.is_disjoint(revoked)
    }
}

/// Removes every file but `id`.
pub(super) fn tidy(dir: &Path, id: &FileId) {
    let keep = path(dir, id);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.ends_with(".kept") || name.starts_with(".policy-"));
        if ours && path != keep {
            // The next time, then.
            let _ = fs::remove_file(path);
        }
    }
}

fn path(dir: &Path, id: &FileId) -> PathBuf {
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    dir.join(format!("policy-{id}.kept"))
}

/// The next record; `None` at the end, or where it is torn.
fn next(from: &mut impl std::io::Read, left: u64) -> Result<Option<Vec<u8>>, Refused> {
    let mut size = [0; 4];
    if left < 4 || from.read_exact(&mut size).is_err() {
        return Ok(None);
    }
    let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if length(size) > left.saturating_sub(4) {
        return Ok(None);
    }
    if size > MAX_RECORD {
        return Err(Refused::TooLarge);
    }
    let mut sealed = vec![0; size];
    from.read_exact(&mut sealed).map_err(|error| Refused::Io(error.kind()))?;
    Ok(Some(sealed))
}

fn put(
    mut record: Kept,
    sealer: &mut Sealer,
    signers: &mut BTreeSet<String>,
    out: &mut Vec<u8>,
) -> Result<(), KeepError> {
    note_signer(&record, signers);
    let mut sealed = Vec::with_capacity(record.encoded_len().saturating_add(TAG));
    record.encode(&mut sealed).map_err(|_| KeepError::TooLarge)?;
    if let Some(kept::What::Credentials(credentials)) = &mut record.what {
        credentials.credentials.iter_mut().for_each(|one| one.password.zeroize());
        credentials.mask_key.zeroize();
    }
    sealer.seal(&mut sealed)?;
    if sealed.len() > MAX_RECORD {
        return Err(KeepError::TooLarge);
    }
    out.extend_from_slice(&u32::try_from(sealed.len()).map_err(|_| KeepError::TooLarge)?.to_be_bytes());
    out.extend_from_slice(&sealed);
    Ok(())
}

fn note_signer(record: &Kept, signers: &mut BTreeSet<String>) {
    if let Some(kept::What::Whole(signed) | kept::What::Delta(signed)) = &record.what {
        signers.extend(serial_of(&signed.certificate));
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
