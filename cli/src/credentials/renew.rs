//! The token of a login, renewed when it ends soon.

use std::time::Duration;

use postern_runtime::clock;
use secrecy::SecretString;

use super::{Kept, Store};
use crate::client::Settings;
use crate::failure::Failure;
use crate::{login, output};

/// A token with less left than this is renewed; or than a third of what was asked for, if that is less.
const SOON: Duration = Duration::from_secs(300);
/// A token with less left ends on its way.
const MARGIN: Duration = Duration::from_secs(2);

/// The token of the login at the cluster that `settings` lead to; none without one. Good for `at_least` where it can be renewed.
pub(crate) async fn current(settings: &Settings, at_least: Duration) -> Result<Option<SecretString>, Failure> {
    let store = Store::of(settings)?;
    let Some(kept) = store.load()? else { return Ok(None) };
    if kept.left() > at_least.max(kept.soon()) {
        return Ok(Some(kept.token));
    }
    if kept.renewal.is_none() {
        return kept.into_token().map(Some);
    }
    let _lock = store.lock().await?;
    // Another process may have renewed it meanwhile, or logged out.
    let Some(mut kept) = store.load()? else { return Ok(None) };
    if kept.left() > at_least.max(kept.soon()) {
        return Ok(Some(kept.token));
    }
    match renewed(&store, settings, &mut kept).await {
        Ok(()) => Ok(Some(kept.token)),
        // An identity provider that is away for a moment stops nobody whose token is still good.
        Err(failure) if kept.left() > Duration::ZERO => {
            output::note(format!("the login cannot be renewed now: {failure}"));
            Ok(Some(kept.token))
        }
        Err(failure) => {
            Err(Failure::failed(format!("the login has ended, and is not renewed: {failure}; run `postern login`")))
        }
    }
}

async fn renewed(store: &Store, settings: &Settings, kept: &mut Kept) -> Result<(), Failure> {
    let Some(mut renewal) = kept.renewal.take() else { return Ok(()) };
    let refreshed = login::refresh(&renewal).await;
    let new = refreshed.as_ref().ok().and_then(|refreshed| refreshed.refresh_token.clone());
    if let Some(new) = new {
        // Before anything else can fail: the provider knows the old one no more.
        renewal.refresh_token = new;
        kept.renewal = Some(renewal);
        store.write(kept)?;
    } else {
        kept.renewal = Some(renewal);
    }
    let Some(renewal) = &kept.renewal else { return Ok(()) };
    (kept.token, kept.expires_at) = login::renew(settings, kept, renewal, refreshed?).await?;
    store.write(kept)
}

impl Kept {
    /// What is left of its token.
    fn left(&self) -> Duration {
        let now = clock::now();
        Duration::from_secs(self.expires_at.saturating_sub(now.secs()))
    }

    fn soon(&self) -> Duration {
        SOON.min(Duration::from_secs(self.ttl / 3)).max(MARGIN)
    }

    fn into_token(self) -> Result<SecretString, Failure> {
        if self.left().is_zero() {
            return Err(Failure::failed("the login has ended: run `postern login`"));
        }
        Ok(self.token)
    }
}
