//! Catalogs of targets' databases: read on connections of their own, shared by all sessions on the same database.
//!
//! A catalog is read by one session at a time and kept for a while. Statements that change definitions make it old at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use postern_core::target::Target;
use postern_core::{Code, Name};
use postern_protocols::postgres::catalog::{Catalog, CatalogBuilder, CatalogError, CatalogPart, queries};
use postern_protocols::postgres::codec::{self, CodecError, Limits, Origin, backend, write};
use postern_protocols::postgres::upstream::with_demanded;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;

use crate::upstream::{Destination, Dialer, Recorded, Upstream, UpstreamError};

/// How long a catalog is good for.
pub(crate) const FRESH: Duration = Duration::from_secs(30);
/// How long reading one may take.
const READING: Duration = Duration::from_secs(20);
/// Databases whose catalogs are kept (I11).
const KEPT: usize = 256;
/// Frames of a catalog's rows.
const LIMITS: Limits = Limits { statement: 0, frame: 1 << 20 };

/// A catalog cannot be read: names cannot be resolved, so nothing can be decided.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CatalogsError {
    #[error("reading the catalog: {0}")]
    Upstream(Arc<UpstreamError>),
    #[error("reading the catalog: {0}")]
    Codec(#[from] CodecError),
    #[error("reading the catalog: {0}")]
    Catalog(#[from] CatalogError),
    #[error("reading the catalog: the target answered {sqlstate} {message}")]
    Refused { sqlstate: String, message: String },
    #[error("reading the catalog: text that is no UTF-8")]
    NotUtf8,
    #[error("reading the catalog took too long")]
    TimedOut,
}

impl CatalogsError {
    /// What the target itself said, where it may be told.
    pub(crate) fn told(&self) -> Option<Bytes> {
        match self {
            Self::Upstream(error) => error.told(),
            _ => None,
        }
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Upstream(error) => error.code(),
            Self::Catalog(CatalogError::TooLarge) => Code::TooLarge,
            Self::TimedOut => Code::TargetUnavailable,
            Self::Codec(_) | Self::Catalog(_) | Self::Refused { .. } | Self::NotUtf8 => Code::TargetRefused,
        }
    }
}

impl From<UpstreamError> for CatalogsError {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(Arc::new(error))
    }
}

/// A catalog, and when it was read.
#[derive(Clone, Debug)]
pub(crate) struct Dated {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) read_at: Instant,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    target: Name,
    database: Arc<str>,
}

/// What was read last, and of which definition of the target.
type Slot = Arc<Mutex<Option<(Arc<Target>, Dated)>>>;

/// All catalogs. Cheap to clone. Shared: sessions on one database are owned by no one.
#[derive(Clone, Debug)]
pub(crate) struct Catalogs {
    slots: Arc<DashMap<Key, Slot>>,
    dialer: Dialer,
}

impl Catalogs {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { slots: Arc::default(), dialer }
    }

    /// A catalog of the destination's database that was read after `since`; read now if there is none.
    pub(crate) async fn get(&self, of: &Destination, since: Instant) -> Result<Dated, CatalogsError> {
        let slot = self.slot(of);
        // Who comes meanwhile waits for the same reading.
        let mut slot = slot.lock().await;
        if let Some((target, dated)) = &*slot
            && **target == *of.target
            && dated.read_at >= since
        {
            return Ok(dated.clone());
        }
        let read_at = Instant::now();
        let read = tokio::time::timeout(READING, read(&self.dialer, of)).await;
        let catalog = read.map_err(|_| CatalogsError::TimedOut)??;
        // Mostly nothing has changed: what was found by the one before still holds.
        let catalog = match &*slot {
            Some((_, before)) if *before.catalog == catalog => Arc::clone(&before.catalog),
            _ => Arc::new(catalog),
        };
        tracing::debug!(target = %of.name, database = %of.database, took = ?read_at.elapsed(), "catalog read");
        let dated = Dated { catalog, read_at };
        *slot = Some((Arc::clone(&of.target), dated.clone()));
        Ok(dated)
    }

    fn slot(&self, of: &Destination) -> Slot {
        if self.slots.len() >= KEPT {
            // Those that nobody waits for may go; they can be read again.
            self.slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let key = Key { target: of.name.clone(), database: Arc::clone(&of.database) };
        Arc::clone(&self.slots.entry(key).or_default())
    }
}

async fn read(dialer: &Dialer, of: &Destination) -> Result<Catalog, CatalogsError> {
    let settings = with_demanded(&[("application_name".to_owned(), "postern catalog".to_owned())]);
    let mut upstream = dialer.login(of, &settings, &Recorded::needless()).await?;
    let mut builder = CatalogBuilder::new();
    ask(&mut upstream, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", None).await?;
    // Plans over many small tables look dear enough to be compiled, which takes longer than they do. Not every server that speaks the protocol has the setting.
    let interpreted =
        "SELECT pg_catalog.set_config(s.name, 'off', true) FROM pg_catalog.pg_settings s WHERE s.name = 'jit'";
    ask(&mut upstream, interpreted, None).await?;
    for (part, query) in queries() {
        ask(&mut upstream, query, Some((&mut builder, part))).await?;
    }
    // A courtesy: the target would notice the end anyway.
    let _ = upstream.stream.write_all(&write::terminate()).await;
    let _ = upstream.stream.shutdown().await;
    Ok(builder.build())
}

/// Runs one statement of Postern's own by the simple protocol.
async fn ask(
    upstream: &mut Upstream,
    statement: &str,
    mut into: Option<(&mut CatalogBuilder, CatalogPart)>,
) -> Result<(), CatalogsError> {
    let Upstream { stream, received, .. } = upstream;
    let mut query = BytesMut::new();
    write::query(&mut query, statement.as_bytes());
    stream.write_all(&query).await.map_err(UpstreamError::Broken)?;
    stream.flush().await.map_err(UpstreamError::Broken)?;
    let mut refused = None;
    loop {
        while let Some(frame) = codec::next_frame(received, Origin::Backend, &LIMITS)? {
            match frame.tag() {
                backend::DATA_ROW => {
                    if let Some((builder, part)) = &mut into {
                        let values = backend::data_row(&frame)?;
                        let text = |value: &Option<bytes::Bytes>| match value {
                            None => Ok(None),
                            Some(bytes) => std::str::from_utf8(bytes).map(|text| Some(text.to_owned())),
                        };
                        let values: Result<Vec<Option<String>>, _> = values.iter().map(text).collect();
                        let values = values.map_err(|_| CatalogsError::NotUtf8)?;
                        let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
                        builder.row(*part, &values)?;
                    }
                }
                backend::ERROR => {
                    let fields = backend::message_fields(&frame)?;
                    refused = Some(CatalogsError::Refused {
                        sqlstate: backend::field(&fields, b'C').to_owned(),
                        message: backend::field(&fields, b'M').to_owned(),
                    });
                }
                backend::READY_FOR_QUERY => return refused.map_or(Ok(()), Err),
                _ => {}
            }
        }
        received.reserve(16 << 10);
        if stream.read_buf(received).await.map_err(UpstreamError::Broken)? == 0 {
            return Err(refused.unwrap_or_else(|| UpstreamError::Closed.into()));
        }
    }
}
