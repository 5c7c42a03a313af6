//! Renews a node's certificate before it ends.

use std::path::PathBuf;
use std::time::Duration;

use postern_core::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::authority::SKEW_SECS;
use super::{KeyRequest, NodeCredential, RotatingCredential};
use crate::backoff::Backoff;
use crate::clock;

const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(600);
/// A clock that jumps is noticed this soon.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Between two renewals, whatever the certificates say: each is a write of the cluster's.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// When a certificate that is good from `not_before` until `not_after` is renewed: after two thirds of its life, give or take a
/// twentieth, so that nodes that came together do not renew together. `jitter` is from 0 to 1. Its life begins when it was issued,
/// some minutes after `not_before`.
#[must_use]
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, jitter: f64) -> Timestamp {
    let issued = issued_at(not_before);
    let share = (jitter.clamp(0.0, 1.0) - 0.5).mul_add(0.1, 2.0 / 3.0);
    issued.plus(not_after.since(issued).mul_f64(share))
}

fn issued_at(not_before: Timestamp) -> Timestamp {
    not_before.plus(Duration::from_secs(SKEW_SECS))
}

/// Of a certificate that is good for `life`: there is time for some tries before it ends.
fn retries(life: Duration) -> Backoff {
    Backoff::new(FIRST_RETRY.min(life / 20), LAST_RETRY.min(life / 10))
}

/// Keeps `credential` fresh until `stop`: asks `renew` for a certificate of the same key, saves it in `dir` when there is one, and shows
/// it from then on. The key stays, so that an interruption leaves a whole credential.
pub async fn keep_fresh<F, E>(
    credential: RotatingCredential,
    dir: Option<PathBuf>,
    renew: impl Fn(Vec<u8>) -> F + Send + Sync,
    stop: CancellationToken,
) where
    F: Future<Output = Result<String, E>> + Send,
    E: std::fmt::Display + Send,
{
    let life = |(from, until): (Timestamp, Timestamp)| until.since(issued_at(from));
    let mut backoff = retries(credential.current().validity().map(life).unwrap_or_default());
    let mut jitter = fastrand::f64();
    loop {
        let current = credential.current();
        let due = match current.validity() {
            Ok((from, until)) => {
                #[allow(clippy::cast_precision_loss)] // seconds of a date
                metrics::gauge!("postern_node_certificate_expiry_seconds").set(until.secs() as f64);
                renew_at(from, until, jitter)
            }
            // It was checked when it was loaded.
            Err(error) => return error!(%error, "the node's certificate cannot be read"),
        };
        let wait = due.since(clock::now());
        if wait > Duration::ZERO {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => continue,
            }
        }
        match once(&credential, dir.as_ref(), &renew).await {
            Ok(until) => {
                backoff = retries(credential.current().validity().map(life).unwrap_or_default());
                jitter = fastrand::f64();
                metrics::counter!("postern_node_certificate_renewals_total", "outcome" => "renewed").increment(1);
                info!(%until, "the node's certificate was renewed");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AT_MOST_EVERY) => {}
                }
            }
            Err(error) => {
                metrics::counter!("postern_node_certificate_renewals_total", "outcome" => "failed").increment(1);
                warn!(%error, "the node's certificate was not renewed; trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        }
    }
}

async fn once<F, E>(
    credential: &RotatingCredential,
    dir: Option<&PathBuf>,
    renew: &impl Fn(Vec<u8>) -> F,
) -> Result<Timestamp, String>
where
    F: Future<Output = Result<String, E>> + Send,
    E: std::fmt::Display + Send,
{
    let current = credential.current();
    let request = KeyRequest::renew(&current.key_pem).map_err(|error| error.to_string())?;
    let certificate_pem = renew(request.csr_der).await.map_err(|error| error.to_string())?;
    let fresh = NodeCredential { certificate_pem, key_pem: current.key_pem.clone(), ca_pem: current.ca_pem.clone() };
    if let Some(dir) = dir {
        fresh.save(dir).map_err(|error| error.to_string())?;
    }
    let until = fresh.expires_at().map_err(|error| error.to_string())?;
    credential.replace(fresh).map_err(|error| error.to_string())?;
    Ok(until)
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, serial_of};
    use super::*;
    use postern_core::node::NodeIdentity;

    #[test]
    fn due_after_two_thirds_give_or_take() {
        let issued = 1_000 + SKEW_SECS;
        let at = |jitter| renew_at(Timestamp::from_secs(1_000), Timestamp::from_secs(issued + 3_000), jitter).secs();
        assert!((issued + 1_990..=issued + 2_010).contains(&at(0.5)), "{}", at(0.5));
        assert!(at(0.0) < at(1.0));
        assert!(at(0.0) >= issued + 1_800 && at(1.0) <= issued + 2_200);
        assert_eq!(at(7.0), at(1.0));
    }

    /// Certificates are good from some minutes before they were made: those that live for less must not be due at once, for ever.
    #[test]
    fn a_short_life_is_not_over_when_it_begins() {
        let (issued, life) = (Timestamp::from_secs(10_000), 60);
        let not_before = Timestamp::from_secs(issued.secs() - SKEW_SECS);
        for jitter in [0.0, 0.5, 1.0] {
            let due = renew_at(not_before, Timestamp::from_secs(issued.secs() + life), jitter);
            let after = due.since(issued).as_secs();
            assert!((30..=50).contains(&after), "{after} s after it was issued");
        }
        let mut backoff = retries(Duration::from_secs(life));
        assert!((0..50).all(|_| backoff.next_delay() <= Duration::from_secs(6)));
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_saved_and_shown() {
        let authority = Authority::create("c").unwrap();
        let identity = NodeIdentity::from_dns_name("a.gateway.postern.internal").unwrap();
        let request = KeyRequest::generate().unwrap();
        let issue = move |csr: &[u8], ago, life| {
            let from = Timestamp::from_secs(clock::now().secs() - ago);
            authority.issue(&identity, csr, &[], from, Duration::from_secs(life))
        };
        // Two thirds of it are over.
        let certificate_pem = issue(&request.csr_der, 900, 1_000).unwrap();
        let ca_pem = Authority::create("x").unwrap().ca_pem().to_owned();
        let old = NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem };
        let dir = tempfile::tempdir().unwrap();
        old.save(dir.path()).unwrap();
        let credential = RotatingCredential::new(old.clone()).unwrap();
        let (mut changes, stop) = (credential.changes(), CancellationToken::new());
        let renew = |csr: Vec<u8>| {
            let issued = issue(&csr, 0, 86_400);
            async move { issued }
        };
        tokio::select! {
            () = keep_fresh(credential.clone(), Some(dir.path().to_owned()), renew, stop) => panic!("stopped"),
            changed = changes.changed() => changed.unwrap(),
        }
        let serial = |pem: &str| serial_of(&crate::pki::certificate(pem).unwrap()).unwrap();
        let shown = credential.current().certificate_pem.clone();
        assert_ne!(serial(&shown), serial(&old.certificate_pem));
        assert_eq!(NodeCredential::load(dir.path()).unwrap().certificate_pem, shown);
    }

    #[test]
    fn anothers_credential_is_not_shown() {
        let authority = Authority::create("c").unwrap();
        let credential = |name: &str| {
            let identity = NodeIdentity::from_dns_name(&format!("{name}.postern.internal")).unwrap();
            let request = KeyRequest::generate().unwrap();
            let certificate_pem =
                authority.issue(&identity, &request.csr_der, &[], clock::now(), Duration::from_secs(60)).unwrap();
            NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
        };
        let rotating = RotatingCredential::new(credential("a.gateway")).unwrap();
        assert!(rotating.replace(credential("b.gateway")).is_err());
        assert!(rotating.replace(credential("a.control")).is_err());
        rotating.replace(credential("a.gateway")).unwrap();
    }
}
