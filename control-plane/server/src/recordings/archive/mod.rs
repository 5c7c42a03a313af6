//! The store of sealed recordings: an object store, by default a directory of this member's (docs/recording-store.md).
//!
//! ```text
//! gateways --> the member's own disk (`store`) -- sealed --> [`archivist`] --> object store, read back, then gone from the disk
//! ```
//!
//! The object store is trusted with nothing: what lies there is encrypted, each piece bound to its place, and what comes back is a whole
//! recording or an error.

mod archivist;
pub(crate) mod config;
mod http;
mod object;

use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload};
use postern_core::SessionId;
use postern_core::recording::MAGIC;

pub(crate) use archivist::{Archivist, Parts, archive};
use config::StoreConfig;
pub(crate) use object::Header;
use object::{HEADER, Reader, Writer};

use super::cipher::{CipherFault, DataKey, KEY_SLOT, KeySlot};
use super::file::bytes;
use super::keys::{KeysError, RecordingKeys};
use super::store::month;

/// Objects above it go up in parts of this size: S3 takes 5 MiB to 5 GiB, and 10,000 of them.
const PART: usize = 16 << 20;
/// Where objects of a first kind of key are.
const KEY_MAGIC: &[u8; 8] = b"PSTNKEY\x01";

/// The store does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be opened as configured.
    #[error("recordings.store: {0}")]
    Config(String),
    /// It does not answer, is full, or refuses.
    #[error("the store of recordings: {0}")]
    Store(#[from] object_store::Error),
    /// The recording's own key is not there, but the recording is.
    #[error("the recording's key is not in the store: the recording was erased, or its key is lost")]
    NoKey,
    /// The key that it is under.
    #[error(transparent)]
    Keys(KeysError),
    /// What the store gave back is not what was put there.
    #[error("the store of recordings gave back something else than was put there: {0}")]
    Lies(String),
    /// Nothing is to be put there while the cluster has no key to put it under.
    #[error("the cluster has no key of recordings yet")]
    NotYet,
    /// This member's own disk.
    #[error("the recording on this member's disk: {0}")]
    Disk(#[from] std::io::Error),
}

impl From<KeysError> for ArchiveError {
    fn from(error: KeysError) -> Self {
        match error {
            // What it is under is what lay in the store.
            KeysError::Fault(fault) => fault.into(),
            KeysError::NotOpen(_) => Self::Keys(error),
        }
    }
}

impl From<CipherFault> for ArchiveError {
    fn from(fault: CipherFault) -> Self {
        Self::Lies(fault.to_string())
    }
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Archive {
    recordings: Arc<dyn ObjectStore>,
    key_store: Arc<dyn ObjectStore>,
    /// With the cluster's name: a bucket may serve several.
    root: Path,
    keys: RecordingKeys,
}

/// What the store has of a recording before it is put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Whole,
    Nothing,
    /// It, and not its key: nobody can read it any more.
    NoKey,
    /// Something else.
    Wrong,
}

/// A recording as it is in the store.
pub(crate) struct Archived {
    pub(crate) header: Header,
    key: DataKey,
    body: BoxStream<'static, object_store::Result<Bytes>>,
}

impl Archive {
    /// Opens what is configured; blocks on files. Whether a bucket answers shows later: a member starts without it.
    pub(crate) fn open(
        config: &StoreConfig,
        default: &FilePath,
        cluster: &str,
        keys: RecordingKeys,
    ) -> Result<Self, ArchiveError> {
        let opened = config.open(default).map_err(ArchiveError::Config)?;
        let root = Path::parse(&opened.prefix).map_err(|error| ArchiveError::Config(format!("prefix: {error}")))?;
        tracing::info!(store = opened.name, "sealed recordings are kept in");
        Ok(Self { recordings: opened.recordings, key_store: opened.keys, root: root.join(cluster), keys })
    }

    fn object(&self, session: SessionId) -> Path {
        self.root.clone().join("recordings").join(month(session.made_at())).join(format!("{session}.rec"))
    }

    fn key_object(&self, session: SessionId) -> Path {
        self.root.clone().join("keys").join(month(session.made_at())).join(format!("{session}.key"))
    }

    /// A recording, when it is there.
    ///
    /// # Errors
    /// When nobody can tell, or it is there and cannot be read.
    pub(crate) async fn get(&self, session: SessionId) -> Result<Option<Archived>, ArchiveError> {
        let Some((header, body)) = self.body(session).await? else { return Ok(None) };
        let key = self.key(session).await?.ok_or(ArchiveError::NoKey)?;
        Ok(Some(Archived { header, key, body }))
    }

    /// How many events a recording has that is there, whole; read to its end.
    ///
    /// # Errors
    /// When nobody can tell, or it is there and cannot be read.
    async fn whole(&self, session: SessionId) -> Result<Option<u64>, ArchiveError> {
        let Some(found) = self.get(session).await? else { return Ok(None) };
        let events = found.header.events;
        found.check().await?;
        Ok(Some(events))
    }

    async fn body(
        &self,
        session: SessionId,
    ) -> Result<Option<(Header, BoxStream<'static, object_store::Result<Bytes>>)>, ArchiveError> {
        let found = match self.recordings.get(&self.object(session)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut body = found.into_stream();
        let mut begin = Vec::new();
        while begin.len() < HEADER {
            match body.try_next().await? {
                Some(part) => begin.extend_from_slice(&part),
                None => return Err(ArchiveError::Lies("it is shorter than a recording".to_owned())),
            }
        }
        let rest = Bytes::from(begin.split_off(HEADER));
        let header = Header::read(&begin, session)?;
        Ok(Some((header, futures::stream::once(async { Ok(rest) }).chain(body).boxed())))
    }

    async fn key(&self, session: SessionId) -> Result<Option<DataKey>, ArchiveError> {
        let found = match self.key_store.get(&self.key_object(session)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let slot: Option<[u8; KEY_SLOT]> =
            found.strip_prefix(KEY_MAGIC.as_slice()).and_then(|slot| slot.try_into().ok());
        let slot = slot.ok_or_else(|| ArchiveError::Lies("the recording's key has not the form of one".to_owned()))?;
        Ok(Some(self.keys.open(session, &KeySlot::from_bytes(slot))?))
    }

    /// The recording's key in the store: another member may have put one there, and then it is that one.
    async fn key_for_writing(&self, session: SessionId, found: Found) -> Result<DataKey, ArchiveError> {
        if found != Found::Wrong
            && let Some(key) = self.key(session).await?
        {
            return Ok(key);
        }
        let (key, slot) = self.keys.make(session)?.ok_or(ArchiveError::NotYet)?;
        let (object, path) = ([KEY_MAGIC.as_slice(), slot.as_bytes()].concat().into(), self.key_object(session));
        if found == Found::Wrong {
            self.key_store.put(&path, object).await?;
            return Ok(key);
        }
        match create(&self.key_store, &path, object).await {
            Ok(()) => Ok(key),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                self.key(session).await?.ok_or(ArchiveError::NoKey)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a sealed recording there, unless it is there, and reads it back whole.
    ///
    /// # Errors
    /// Then it may not be there, or not whole.
    pub(crate) async fn put(
        &self,
        header: Header,
        clear: impl Stream<Item = std::io::Result<Vec<u8>>> + Send,
    ) -> Result<(), ArchiveError> {
        let session = header.session;
        let found = match self.verify(&header).await {
            Ok(Found::Whole) => return Ok(()),
            Ok(found) => found,
            Err(ArchiveError::Lies(why)) => {
                metrics::counter!("postern_control_archive_lies_total").increment(1);
                tracing::error!(%session, why, "what the store has of a recording is not the recording: it is put there anew");
                Found::Wrong
            }
            Err(error) => return Err(error),
        };
        let key = self.key_for_writing(session, found).await?;
        self.write(&header, key, found, clear).await?;
        match self.verify(&header).await? {
            Found::Whole => Ok(()),
            _ => Err(ArchiveError::Lies("it is not there".to_owned())),
        }
    }

    /// What is there of the recording; read to its end.
    async fn verify(&self, header: &Header) -> Result<Found, ArchiveError> {
        let found = match self.get(header.session).await {
            Ok(None) => return Ok(Found::Nothing),
            Err(ArchiveError::NoKey) => return Ok(Found::NoKey),
            Ok(Some(found)) => found,
            Err(error) => return Err(error),
        };
        if found.header != *header {
            return Err(ArchiveError::Lies("it is of other events".to_owned()));
        }
        found.check().await?;
        Ok(Found::Whole)
    }

    async fn write(
        &self,
        header: &Header,
        key: DataKey,
        found: Found,
        clear: impl Stream<Item = std::io::Result<Vec<u8>>> + Send,
    ) -> Result<(), ArchiveError> {
        let (mut writer, mut clear, path) =
            (Writer::new(header, key), std::pin::pin!(clear), self.object(header.session));
        let mut upload: Option<Box<dyn MultipartUpload>> = None;
        let outcome = async {
            let mut skip = MAGIC.len();
            loop {
                let part = clear.try_next().await?;
                let ended = part.is_none();
                if let Some(part) = part {
                    let skipped = skip.min(part.len());
                    skip = skip.saturating_sub(skipped);
                    writer.push(part.get(skipped..).unwrap_or_default()).await?;
                } else {
                    writer.finish().await?;
                }
                match &mut upload {
                    None if ended && found != Found::Nothing => {
                        return Ok(self.recordings.put(&path, writer.take().into()).await.map(drop)?);
                    }
                    None if ended => {
                        return match create(&self.recordings, &path, writer.take().into()).await {
                            // Another member was faster: what it put there is read next.
                            Err(
                                object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. },
                            ) => Ok(()),
                            done => Ok(done?),
                        };
                    }
                    None if writer.len() < PART => {}
                    None => {
                        let begun = upload.insert(self.recordings.put_multipart(&path).await?);
                        begun.put_part(writer.take().into()).await?;
                    }
                    Some(upload) if ended || writer.len() >= PART => upload.put_part(writer.take().into()).await?,
                    Some(_) => {}
                }
                if ended {
                    break;
                }
            }
            if let Some(upload) = &mut upload {
                upload.complete().await?;
            }
            Ok::<_, ArchiveError>(())
        }
        .await;
        if outcome.is_err()
            && let Some(upload) = &mut upload
        {
            // What is left of it costs until the bucket's own rule for unfinished uploads ends it.
            let _ = upload.abort().await;
        }
        outcome
    }
}

/// Puts an object where none is; where the store cannot refuse, over what is there.
async fn create(store: &Arc<dyn ObjectStore>, path: &Path, object: PutPayload) -> object_store::Result<()> {
    match store.put_opts(path, object.clone(), PutMode::Create.into()).await {
        Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
            store.put(path, object).await.map(drop)
        }
        done => done.map(drop),
    }
}

impl Archived {
    /// Reads it to its end: every piece opens, and there are as many bytes as it says.
    async fn check(self) -> Result<(), ArchiveError> {
        let mut data = std::pin::pin!(self.data(0));
        while data.try_next().await?.is_some() {}
        Ok(())
    }

    /// The recording's bytes from an offset on; an error when they are not whole.
    pub(crate) fn data(self, offset: u64) -> impl Stream<Item = Result<Vec<u8>, ArchiveError>> + Send {
        let length = self.header.length;
        let reader = Reader::new(&self.header, self.key);
        let state = (reader, self.body, offset, 0_u64, false);
        futures::stream::try_unfold(state, move |(mut reader, mut body, offset, mut at, begun)| async move {
            let mut part = if begun { None } else { Some(MAGIC.to_vec()) };
            loop {
                let part = match part.take() {
                    Some(part) => part,
                    None => match reader.next(&mut body).await? {
                        Some(part) => part,
                        None if at == length => return Ok(None),
                        None => return Err(ArchiveError::Lies("it is not as long as it says".to_owned())),
                    },
                };
                let before = at;
                at = at.saturating_add(bytes(part.len()));
                let skipped = usize::try_from(offset.saturating_sub(before)).unwrap_or(usize::MAX).min(part.len());
                if let Some(rest) = part.get(skipped..).filter(|rest| !rest.is_empty()) {
                    return Ok(Some((rest.to_vec(), (reader, body, offset, at, true))));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
