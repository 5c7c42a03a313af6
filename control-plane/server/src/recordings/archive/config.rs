//! Where sealed recordings are kept for good.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use postern_runtime::pki::create_private_dir;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::http::Connector;

/// How long one request is tried again.
const RETRY_FOR: Duration = Duration::from_secs(60);
const RETRIES: usize = 6;

/// The store of sealed recordings: a directory of this member's, unless it says otherwise.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "lowercase")]
pub enum StoreConfig {
    /// A directory: of this member, or of a file system that all members share.
    Directory {
        /// Where; `recordings/store` in the data directory when it is not given.
        #[serde(default)]
        path: Option<PathBuf>,
    },
    /// A bucket of Amazon's S3, or of a service that speaks its protocol.
    S3(Box<S3Config>),
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self::Directory { path: None }
    }
}

/// A bucket.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Its name.
    pub bucket: String,
    /// Another bucket for the recordings' keys: where objects of the first are locked, keys must be of another, so that a recording can be erased.
    #[serde(default)]
    pub key_bucket: Option<String>,
    /// What names of objects begin with.
    #[serde(default)]
    pub prefix: String,
    /// `us-east-1` unless given.
    #[serde(default = "region")]
    pub region: String,
    /// `https://host:port` of a service that is not Amazon's.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Whether the bucket is a part of the host's name; for services that want that.
    #[serde(default)]
    pub virtual_hosted: bool,
    /// Plain http, for this machine and for networks that are encrypted otherwise: what is sent is encrypted, what it is called is not.
    #[serde(default)]
    pub allow_http: bool,
    /// The authority of the endpoint's certificate; the public ones when it is not given.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// With `secret_access_key_file`. Without both: `AWS_*` variables, a web identity, or the machine's or container's role.
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// Holds the secret key.
    #[serde(default)]
    pub secret_access_key_file: Option<PathBuf>,
    /// Whether the service refuses to write over what is there (`If-None-Match`); most do by now.
    #[serde(default = "yes")]
    pub conditional_put: bool,
}

fn region() -> String {
    "us-east-1".to_owned()
}

const fn yes() -> bool {
    true
}

/// The stores of recordings and of their keys.
pub(super) struct Opened {
    pub(super) recordings: Arc<dyn ObjectStore>,
    pub(super) keys: Arc<dyn ObjectStore>,
    /// What names of objects begin with.
    pub(super) prefix: String,
    /// For people: never with a secret.
    pub(super) name: String,
}

impl StoreConfig {
    /// Faults that the form alone does not show.
    pub(crate) fn faults(&self) -> Option<String> {
        let Self::S3(s3) = self else { return None };
        let fault = |text: &str| Some(format!("recordings.store.{text}"));
        if s3.bucket.is_empty() || s3.key_bucket.as_ref().is_some_and(String::is_empty) {
            return fault("bucket, key_bucket: must not be empty");
        }
        if s3.access_key_id.is_some() != s3.secret_access_key_file.is_some() {
            return fault("access_key_id and secret_access_key_file: one goes with the other");
        }
        match &s3.endpoint {
            Some(endpoint) if endpoint.starts_with("http://") && !s3.allow_http => {
                fault("endpoint: plain http needs allow_http")
            }
            Some(endpoint) if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") => {
                fault("endpoint: must begin with https:// or http://")
            }
            _ => None,
        }
    }

    /// Makes what it says usable; blocks on files. `default` is the directory of who says none.
    pub(super) fn open(&self, default: &Path) -> Result<Opened, String> {
        match self {
            Self::Directory { path } => {
                let path = path.as_deref().unwrap_or(default);
                create_private_dir(path).map_err(|error| error.to_string())?;
                let store = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?;
                // A recording's only other copy is deleted once it is here.
                let store: Arc<dyn ObjectStore> = Arc::new(store.with_fsync(true));
                let name = path.display().to_string();
                Ok(Opened { recordings: Arc::clone(&store), keys: store, prefix: String::new(), name })
            }
            Self::S3(s3) => {
                let recordings = s3.open(&s3.bucket)?;
                let keys = match &s3.key_bucket {
                    Some(bucket) => s3.open(bucket)?,
                    None => Arc::clone(&recordings),
                };
                let prefix = s3.prefix.trim_matches('/').to_owned();
                let name = format!("{}/{}", s3.endpoint.as_deref().unwrap_or("s3:/"), s3.bucket);
                Ok(Opened { recordings, keys, prefix, name })
            }
        }
    }
}

impl S3Config {
    fn open(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>, String> {
        let ca_pem = match &self.ca_file {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?),
            None => None,
        };
        let conditional = if self.conditional_put { S3ConditionalPut::ETagMatch } else { S3ConditionalPut::Disabled };
        let backoff = BackoffConfig { init_backoff: Duration::from_millis(200), ..BackoffConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_region(&self.region)
            .with_virtual_hosted_style_request(self.virtual_hosted)
            .with_allow_http(self.allow_http)
            // A bucket that locks objects asks for one, and a service that received other bytes says so.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_conditional_put(conditional)
            .with_retry(RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_FOR })
            .with_http_connector(Connector::new(ca_pem.as_deref()).map_err(|error| error.to_string())?);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let (Some(id), Some(path)) = (&self.access_key_id, &self.secret_access_key_file) {
            let secret = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let secret = Zeroizing::new(secret);
            builder = builder.with_access_key_id(id).with_secret_access_key(secret.trim());
        }
        builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<StoreConfig, String> {
        toml::from_str::<StoreConfig>(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_asked_for_must_fit_together() {
        let fault = |rest: &str| config(&format!("kind = \"s3\"\nbucket = \"b\"\n{rest}")).unwrap().faults();
        assert_eq!(fault(""), None);
        assert_eq!(fault("endpoint = \"https://minio:9000\"\nkey_bucket = \"k\"\nprefix = \"a/b\""), None);
        assert!(fault("endpoint = \"http://minio:9000\"").unwrap().contains("allow_http"));
        assert_eq!(fault("endpoint = \"http://minio:9000\"\nallow_http = true"), None);
        assert!(fault("endpoint = \"minio:9000\"").unwrap().contains("https://"));
        assert!(fault("access_key_id = \"a\"").unwrap().contains("secret_access_key_file"));
        assert!(fault("key_bucket = \"\"").unwrap().contains("empty"));
        assert!(config("kind = \"s3\"").is_err());
        assert!(config("kind = \"s3\"\nbucket = \"b\"\nsecret = \"x\"").unwrap_err().contains("secret"));
        assert!(config("kind = \"directory\"\npath = \"p\"").unwrap().faults().is_none());
    }
}
