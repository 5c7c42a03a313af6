//! Fetches issuers' keys: OpenID Connect Discovery 1.0, section 4, and the JWKS that it names. On the leader only.
//!
//! One task; at most [`PARALLEL`] fetches at once, so that a slow issuer does not keep the others waiting. A failed issuer keeps the keys
//! that it has, and is tried again with back-off.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use postern_core::Name;
use postern_core::issuer::Issuer;
use postern_core::resource::{Kind, Spec};
use postern_runtime::backoff::Backoff;
use postern_runtime::http::{HttpClient, HttpError};
use postern_runtime::jwt::{IssuerVerifier, KeyError};
use postern_state::commands::SetIssuerKeys;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::raft::{ProposeError, RaftHandle};

const REFRESH: Duration = Duration::from_secs(300);
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_DOCUMENT: usize = 256 << 10;
const PARALLEL: usize = 8;

/// Why an issuer's keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{what}: {source}")]
    Http { what: &'static str, source: HttpError },
    #[error("the discovery document is of issuer {0:?}")]
    OtherIssuer(String),
    #[error("the discovery document names no jwks_uri")]
    NoKeys,
    #[error("its keys are not usable: {0}")]
    Keys(#[from] KeyError),
}

struct Known {
    issuer: Issuer,
    next: Instant,
    backoff: Backoff,
    /// The failure was logged.
    told: bool,
}

/// Keeps every issuer's keys fresh.
pub(crate) struct IssuerKeysLoop {
    raft: RaftHandle,
    known: BTreeMap<Name, Known>,
}

impl IssuerKeysLoop {
    pub(crate) const fn new(raft: RaftHandle) -> Self {
        Self { raft, known: BTreeMap::new() }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.raft.changes();
        let mut seen = None;
        loop {
            let issuers = changes.borrow_and_update().issuers;
            let turn = async {
                if seen != Some(issuers) && self.learn().await {
                    seen = Some(issuers);
                }
                self.fetch_due().await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = turn => {}
            }
            let retry = Instant::now() + RETRY_BASE;
            let soonest = self.known.values().map(|known| known.next).min();
            let wake = if seen == Some(issuers) { soonest } else { Some(retry) };
            let wake = wake.unwrap_or_else(|| Instant::now() + REFRESH);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(wake) => {}
                changed = changes.wait_for(|now| now.issuers != issuers) => if changed.is_err() { return },
            }
        }
    }

    /// Takes in which issuers there are; `false` when that cannot be read now.
    async fn learn(&mut self) -> bool {
        let issuers = self.raft.read(|state| {
            let issuers = state.resources(Kind::Issuer).filter_map(|object| match &object.spec {
                Spec::Issuer(issuer) if issuer.oidc().is_some() => Some((object.metadata.name.clone(), issuer.clone())),
                _ => None,
            });
            issuers.collect::<BTreeMap<Name, Issuer>>()
        });
        let Ok(issuers) = issuers.await else { return false };
        self.known.retain(|name, _| issuers.contains_key(name));
        for (name, issuer) in issuers {
            if self.known.get(&name).is_none_or(|known| known.issuer != issuer) {
                let backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
                self.known.insert(name, Known { issuer, next: Instant::now(), backoff, told: false });
            }
        }
        true
    }

    async fn fetch_due(&mut self) {
        // A follower has no business with issuers; it comes back when it may lead.
        if !self.raft.status().borrow().leading {
            let later = Instant::now() + RETRY_BASE;
            self.known.values_mut().for_each(|known| known.next = known.next.max(later));
            return;
        }
        let now = Instant::now();
        let due: Vec<(Name, Issuer)> = self
            .known
            .iter()
            .filter(|(_, known)| known.next <= now)
            .map(|(name, known)| (name.clone(), known.issuer.clone()))
            .collect();
        let mut fetched = futures::stream::iter(due)
            .map(|(name, issuer)| async move {
                let keys = fetch(&name, &issuer).await;
                (name, issuer, keys)
            })
            .buffer_unordered(PARALLEL);
        while let Some((name, issuer, keys)) = fetched.next().await {
            let kept = match keys {
                Ok(jwks) => self.keep(&name, &issuer, jwks).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let Some(known) = self.known.get_mut(&name) else { continue };
            match kept {
                Ok(()) => {
                    if known.told {
                        info!(issuer = %name, "the issuer's keys are there again");
                    }
                    known.told = false;
                    known.backoff.reset();
                    known.next = Instant::now() + REFRESH;
                }
                Err(error) => {
                    metrics::counter!("postern_control_issuer_fetch_failures_total", "issuer" => name.to_string())
                        .increment(1);
                    if !known.told {
                        warn!(issuer = %name, url = issuer.url, error, "the issuer's keys cannot be fetched");
                        known.told = true;
                    }
                    known.next = Instant::now() + known.backoff.next_delay();
                }
            }
        }
    }

    /// Writes the keys, when they are others than before.
    async fn keep(&self, name: &Name, issuer: &Issuer, jwks: String) -> Result<(), ProposeError> {
        let (of, wanted) = (name.clone(), jwks.clone());
        let same = self.raft.read(move |state| state.issuer_keys(&of).is_some_and(|known| known.jwks == wanted));
        if same.await.unwrap_or(false) {
            return Ok(());
        }
        let command = SetIssuerKeys { issuer: name.clone(), jwks, url: issuer.url.clone() };
        match self.raft.propose(command, None).await? {
            Ok(_) => info!(issuer = %name, "the issuer's keys were fetched"),
            // It was deleted or changed meanwhile: the change has woken this loop.
            Err(refusal) => info!(issuer = %name, %refusal, "fetched keys were not kept"),
        }
        Ok(())
    }
}

async fn fetch(name: &Name, issuer: &Issuer) -> Result<String, FetchError> {
    let http = |what: &'static str| move |source: HttpError| FetchError::Http { what, source };
    let client = HttpClient::new(issuer.oidc().and_then(|oidc| oidc.ca_pem.as_deref()))
        .map_err(http("its certificate authority"))?;
    let url = format!("{}/.well-known/openid-configuration", issuer.url.trim_end_matches('/'));
    let document = client.get_json(&url, MAX_DOCUMENT, TIMEOUT).await.map_err(http("discovery"))?;
    let of = document.get("issuer").and_then(serde_json::Value::as_str).unwrap_or_default();
    // OpenID Connect Discovery 1.0, section 4.3: identical, or it is somebody else's document.
    if of != issuer.url {
        return Err(FetchError::OtherIssuer(of.chars().take(200).collect()));
    }
    let keys_url = document.get("jwks_uri").and_then(serde_json::Value::as_str).ok_or(FetchError::NoKeys)?;
    let jwks = client.get_json(keys_url, MAX_DOCUMENT, TIMEOUT).await.map_err(http("keys"))?.to_string();
    // Keys that cannot be used never replace keys that can.
    IssuerVerifier::new(name, issuer, &jwks)?;
    Ok(jwks)
}
