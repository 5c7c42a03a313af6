//! An object store that does not do what it says.

use std::sync::Mutex;

use object_store::memory::InMemory;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, ObjectMeta, PutMultipartOptions, PutOptions, PutResult,
    Result, UploadPart,
};
use tonic::async_trait;

use super::*;

/// What becomes of what is put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// It is kept.
    Well,
    /// Nothing answers.
    Away,
    /// It is refused.
    Full,
    /// It is taken, and forgotten.
    Nothing,
    /// It is taken, and half of it is kept.
    Half,
    /// Of an upload in parts the second is refused.
    Aborts,
}

#[derive(Debug)]
pub(super) struct Faulty {
    inner: InMemory,
    does: Mutex<Does>,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faulty")
    }
}

impl Faulty {
    pub(super) fn new() -> Self {
        Self { inner: InMemory::new(), does: Mutex::new(Does::Well) }
    }

    pub(super) fn set(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn does(&self) -> Does {
        *self.does.lock().unwrap()
    }
}

fn failed(what: &'static str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

fn half(payload: PutPayload) -> PutPayload {
    let bytes = Bytes::from(payload);
    let middle = bytes.len() / 2;
    bytes.slice(..middle).into()
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.does() {
            Does::Well | Does::Aborts => self.inner.put_opts(location, payload, options).await,
            Does::Away => Err(failed("away")),
            Does::Full => Err(failed("full")),
            Does::Nothing => InMemory::new().put_opts(location, payload, options).await,
            Does::Half => self.inner.put_opts(location, half(payload), options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Parted { inner, parts: 0, does: self.does() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.does() == Does::Away {
            return Err(failed("away"));
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Parted {
    inner: Box<dyn MultipartUpload>,
    parts: usize,
    does: Does,
}

#[async_trait]
impl MultipartUpload for Parted {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts += 1;
        match self.does {
            Does::Away | Does::Full => Box::pin(async { Err(failed("full")) }),
            Does::Aborts if self.parts == 2 => Box::pin(async { Err(failed("reset")) }),
            Does::Half if self.parts == 2 => self.inner.put_part(half(data)),
            _ => self.inner.put_part(data),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
