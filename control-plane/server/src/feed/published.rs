//! What the feed has published: the newest policy, and the steps that led to it.
//!
//! The feed writes, gateways' watchers read. Everything that is long is made once for a revision and shared by all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use postern_core::Name;
use postern_core::secret::SecretBytes;
use postern_core::signed::{Purpose, message};
use postern_core::snapshot::Snapshot;
use postern_core::target::TargetSelector;
use postern_proto::gateway::v1 as pb;
use postern_proto::tunnel::v1::RevokedGateways;
use postern_runtime::jwt::Verifier;
use postern_runtime::pki::SealSigner;
use prost::Message as _;
use tokio::sync::watch;

use super::since::Since;
use super::wholes::Wholes;
use crate::watch::{Held, RingReader};

/// A node that could not ask its cluster for this long serves no watch: gateways shall go to one that can (I9).
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(12);

/// The newest policy: for gateways, and for tokens that are presented here.
pub(crate) struct Policy {
    /// Without credentials.
    pub(crate) snapshot: Snapshot,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) secrets: Secrets,
    /// Changes when credentials, or who gets which, change without a step: each watcher then sends all of its gateway's anew.
    pub(crate) epoch: u64,
    pub(crate) signer: SealSigner,
    /// Of `Secrets::revoked_gateways`; none when none was revoked.
    pub(crate) revoked_gateways: Option<pb::Signed>,
}

/// What travels beside a policy, and who gets what of it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Secrets {
    /// By target; opened, in memory only (I5).
    pub(crate) opened: Arc<BTreeMap<Name, Arc<Opened>>>,
    pub(crate) mask_key: SecretBytes,
    /// What gateways serve that do not serve all.
    pub(crate) serves: Arc<BTreeMap<Name, TargetSelector>>,
    /// Gateways' certificates that are good no more: agents are told.
    pub(crate) revoked_gateways: Arc<BTreeSet<String>>,
}

/// A target's credential.
pub(crate) struct Opened {
    pub(crate) username: String,
    pub(crate) password: SecretBytes,
    /// The target's, for the selectors of gateways.
    pub(crate) labels: BTreeMap<String, String>,
}

/// From one revision to the next.
pub(crate) struct Step {
    pub(crate) revision: u64,
    pub(crate) delta: pb::Signed,
    /// Targets whose credential is another now; `None`: they have none any more.
    pub(crate) credentials: Vec<(Name, Option<Arc<Opened>>)>,
}

/// That the cluster had acknowledged nothing newer than `revision` when it was `asked`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirmed {
    pub(crate) revision: u64,
    pub(crate) asked: Instant,
}

/// Where watchers read. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) steps: RingReader<Step>,
    pub(crate) policy: watch::Receiver<Arc<Policy>>,
    pub(crate) confirmed: watch::Receiver<Confirmed>,
    /// What was changed since, for those whom the steps have left behind.
    pub(crate) since: Arc<RwLock<Since>>,
    /// Those that are being sent.
    pub(crate) wholes: Arc<Wholes>,
    /// The beginning of this node's monotonic clock.
    pub(crate) started: Instant,
}

impl Policy {
    pub(crate) fn new(
        snapshot: Snapshot,
        secrets: Secrets,
        epoch: u64,
        signer: SealSigner,
        former: Option<&Self>,
    ) -> Self {
        // Keys change seldom, and reading them is slow.
        let same = |former: &&Self| {
            former.snapshot.issuers.is_same(&snapshot.issuers)
                && former.snapshot.session_token_jwks == snapshot.session_token_jwks
        };
        let verifier = match former.filter(same) {
            Some(former) => Arc::clone(&former.verifier),
            None => Arc::new(Verifier::from_snapshot(&snapshot)),
        };
        let same = former.filter(|former| {
            former.secrets.revoked_gateways == secrets.revoked_gateways && former.signed_by(&signer.certificate_der())
        });
        let revoked_gateways = match same {
            Some(former) => former.revoked_gateways.clone(),
            None => revoked(&signer, &secrets.revoked_gateways),
        };
        Self { snapshot, verifier, secrets, epoch, signer, revoked_gateways }
    }

    pub(crate) const fn revision(&self) -> u64 {
        self.snapshot.revision
    }

    /// Whether it is, or will be, signed under this certificate.
    pub(crate) fn signed_by(&self, certificate_der: &[u8]) -> bool {
        *self.signer.certificate_der() == *certificate_der
    }
}

impl Secrets {
    /// Every credential of the targets that `gateway` serves.
    pub(crate) fn credentials_of(&self, gateway: &Name) -> pb::Credentials {
        let served = self.opened.iter().filter(|(target, opened)| self.serves(gateway, target, opened));
        pb::Credentials {
            whole: true,
            credentials: served.map(|(target, opened)| opened.to_proto(target)).collect(),
            removed: Vec::new(),
            mask_key: self.mask_key.expose().to_vec(),
        }
    }

    /// What of `changed` concerns `gateway`.
    pub(crate) fn changes_for(
        &self,
        gateway: &Name,
        changed: &[(Name, Option<Arc<Opened>>)],
    ) -> Option<pb::Credentials> {
        let mut credentials = pb::Credentials::default();
        for (target, opened) in changed {
            match opened {
                Some(opened) if self.serves(gateway, target, opened) => {
                    credentials.credentials.push(opened.to_proto(target));
                }
                // Also one that it serves no longer.
                _ => credentials.removed.push(target.to_string()),
            }
        }
        (!changed.is_empty()).then_some(credentials)
    }

    fn serves(&self, gateway: &Name, target: &Name, opened: &Opened) -> bool {
        self.serves.get(gateway).is_none_or(|selector| selector.matches(target, &opened.labels))
    }
}

impl Opened {
    fn to_proto(&self, target: &Name) -> pb::Credential {
        pb::Credential {
            target: target.to_string(),
            username: self.username.clone(),
            password: self.password.expose().to_vec(),
        }
    }
}

impl Held for Step {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn weight(&self) -> usize {
        let parts =
            [self.delta.payload.len(), self.delta.certificate.len(), self.credentials.len().saturating_mul(256)];
        parts.into_iter().fold(256, usize::saturating_add)
    }
}

impl Published {
    /// Whether this node has lately known that it is up to date.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed.borrow().asked.elapsed() < LOST_AFTER
    }
}

/// Gateways' certificates that agents are told of, at most: what one message of theirs holds.
const MOST_REVOKED: usize = 512;

/// The signed list for agents; none of nobody.
fn revoked(signer: &SealSigner, serials: &BTreeSet<String>) -> Option<pb::Signed> {
    if serials.len() > MOST_REVOKED {
        tracing::error!(
            revoked = serials.len(),
            "of revoked gateways' certificates agents are told of {MOST_REVOKED} only"
        );
    }
    let serials: Vec<Vec<u8>> = serials.iter().take(MOST_REVOKED).filter_map(|serial| unhex(serial)).collect();
    let payload = RevokedGateways { serials }.encode_to_vec();
    (!payload.is_empty()).then(|| sign(signer, Purpose::RevokedGateways, payload))
}

/// A serial number as `pki::serial_of` writes it.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2));
    digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

/// Signs an encoded message of the policy.
pub(crate) fn sign(signer: &SealSigner, purpose: Purpose, payload: Vec<u8>) -> pb::Signed {
    pb::Signed {
        signature: signer.sign(&message(purpose, &payload)).into(),
        certificate: Bytes::copy_from_slice(&signer.certificate_der()),
        payload: payload.into(),
    }
}
