//! New keys of issuers. A token whose key is unknown may be of a key that its issuer has just begun to use: the control plane is asked to
//! look, and the client waits a little for what it finds.
//!
//! Whoever sends tokens with random key ids comes by here too. So of each issuer the control plane is asked at most once per
//! [`NOT_SOONER`], by all clients together; those who come meanwhile wait for the same answer, and [`WAIT`] at most. They hold no more than a
//! client that has not shown its token yet, and make room as one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use postern_core::Name;
use postern_proto::gateway::v1::RefreshKeysRequest;
use postern_proto::gateway::v1::issuer_service_client::IssuerServiceClient;
use postern_runtime::clock;
use postern_runtime::jwt::TokenError;
use tokio::sync::watch;

use crate::control::Failover;
use crate::metrics;
use crate::policy_feed::{Current, Feed};

/// One question about an issuer comes this long after the one before, at the earliest.
const NOT_SOONER: Duration = Duration::from_secs(5);
/// How long a client waits, from the question on until the policy has the keys.
const WAIT: Duration = Duration::from_secs(4);
/// The same, when the answer is that nothing is new.
const BRIEFLY: Duration = Duration::from_secs(1);
/// Issuers of one URL that are asked about.
const MOST: usize = 16;

/// Whether there are other keys now.
type Flight = Shared<BoxFuture<'static, bool>>;

/// Asks for new keys of issuers.
#[derive(Debug)]
pub(crate) struct IssuerKeys {
    control: Failover,
    asked: Mutex<BTreeMap<Name, Asked>>,
}

#[derive(Clone, Debug)]
struct Asked {
    at: Instant,
    /// The keys that were known then.
    before: Option<String>,
    flight: Flight,
}

impl IssuerKeys {
    pub(crate) fn new(control: Failover) -> Self {
        Self { control, asked: Mutex::default() }
    }

    /// Waits until the policy has a key for `token`, if one is to be had; `false`: none, as far as is known now.
    pub(crate) async fn learn(&self, mut feed: watch::Receiver<Feed>, current: &Current, token: &str) -> bool {
        let issuers = current.verifier.claimed_issuers(token);
        let Some(first) = issuers.first() else { return false };
        let asked = self.asked(first, &issuers, current);
        let rest = |most: Duration| most.saturating_sub(asked.at.elapsed());
        let Ok(changed) = tokio::time::timeout(rest(WAIT), asked.flight.clone()).await else { return false };
        let known = async {
            loop {
                let current = feed.borrow_and_update().current.clone();
                if let Some(current) = current {
                    if current.verifier.verify(token, clock::now()) != Err(TokenError::UnknownKey) {
                        return true;
                    }
                    // What was found is here, and this token's key is not in it.
                    if keys(&current, first) != asked.before.as_deref() {
                        return false;
                    }
                }
                if feed.changed().await.is_err() {
                    return false;
                }
            }
        };
        // Another gateway may have asked just before, and the answer to it be on its way here too.
        let most = if changed { WAIT } else { BRIEFLY };
        tokio::time::timeout(rest(most), known).await.unwrap_or(false)
    }

    /// The question about an issuer that is under way, or was answered lately; else a new one.
    fn asked(&self, first: &Name, issuers: &[Name], current: &Current) -> Asked {
        let now = Instant::now();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, asked| now.duration_since(asked.at) < NOT_SOONER);
        let ask = || {
            metrics::issuer_keys_asked();
            let request = RefreshKeysRequest { issuers: issuers.iter().take(MOST).map(ToString::to_string).collect() };
            let control = self.control.clone();
            let flight = async move {
                let mut client = IssuerServiceClient::new(control);
                match tokio::time::timeout(WAIT, client.refresh_keys(request)).await {
                    Ok(Ok(answer)) => answer.into_inner().changed,
                    Ok(Err(status)) => {
                        tracing::debug!(code = ?status.code(), message = status.message(), "no new keys of an issuer");
                        false
                    }
                    Err(_) => false,
                }
            };
            Asked { at: now, before: keys(current, first).map(str::to_owned), flight: flight.boxed().shared() }
        };
        asked.entry(first.clone()).or_insert_with(ask).clone()
    }
}

fn keys<'a>(current: &'a Current, issuer: &Name) -> Option<&'a str> {
    current.snapshot.issuers.get(issuer)?.1.as_deref()
}
