//! Puts a policy together from what a node of the control plane sends, and takes nothing that does not follow or is not signed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::Timestamp;
use postern_core::delta::DeltaError;
use postern_core::recording::Authority;
use postern_core::signed::{self, Purpose, SignatureFault};
use postern_core::snapshot::{Credentials, Snapshot};
use postern_core::wire::WireError;
use postern_core::wire::snapshot::{credentials_from_proto, delta_from_proto, from_proto};
use postern_proto::gateway::v1::watch_response::Policy as Answer;
use postern_proto::gateway::v1::{self as pb, WatchResponse};
use postern_runtime::jwt::Verifier;
use postern_runtime::pki::serial_of;
use prost::Message as _;

use super::Current;

/// The largest policy taken, in bytes.
const MAX_SNAPSHOT: usize = 128 << 20;
/// Lives of the cluster that are remembered as past.
const MAX_PAST: usize = 64;

/// An answer that a well-meaning, newer or equal control plane would not give.
#[derive(Debug, thiserror::Error)]
pub(super) enum AssembleError {
    /// Not signed by the control plane.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// The signer's certificate was revoked.
    #[error("it is signed with a certificate that was revoked")]
    Revoked,
    /// Not a message at all.
    #[error("it cannot be decoded")]
    Undecodable,
    /// It holds something that this version does not know, or that is not valid.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A change that does not follow what is held.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// A change came before anything that it could change.
    #[error("a change came without a policy before it")]
    NothingToChange,
    /// A whole policy that is older than what is held.
    #[error("a policy of revision {theirs} came, and revision {ours} is known")]
    Older {
        /// What is held.
        ours: u64,
        /// What came.
        theirs: u64,
    },
    /// Of a life of the cluster that has ended.
    #[error("a policy came of incarnation {0:?}, which is past")]
    Past(String),
    /// A whole policy came without the credentials that go with it.
    #[error("a policy came without credentials")]
    NoCredentials,
    /// Larger than anything that is taken.
    #[error("the policy has more than {MAX_SNAPSHOT} bytes")]
    TooLarge,
}

/// What is held, and what is half received.
pub(super) struct Assembler {
    authority: Vec<u8>,
    current: Option<Arc<Current>>,
    parts: Vec<u8>,
    /// Lives of the cluster that came before the one that is followed.
    past: BTreeSet<String>,
    whole: bool,
    taken: Option<Taken>,
}

/// What was taken in last, as it was received.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// A whole policy with all its parts, or a change.
    pub(super) signed: Option<Answer>,
    /// With a whole one: lives of the cluster that are past.
    pub(super) past: Vec<String>,
    /// Credentials came, too.
    pub(super) credentials: bool,
}

/// Tells when a node's monotonic clock showed something, by ours. It errs to the early side: what is thought fresh is.
pub(super) struct Anchor {
    asked: Instant,
    first: Option<u64>,
}

impl Assembler {
    /// With nothing, trusting nodes that the authority (DER) certifies.
    pub(super) const fn new(authority: Vec<u8>) -> Self {
        Self { authority, current: None, parts: Vec::new(), past: BTreeSet::new(), whole: true, taken: None }
    }

    /// What to say that is known.
    pub(super) fn known(&mut self) -> (u64, String) {
        // A stream that ended in the middle of a policy is not gone on with.
        self.parts = Vec::new();
        match &self.current {
            Some(current) if !self.whole => (current.snapshot.revision, current.snapshot.incarnation.clone()),
            _ => (0, String::new()),
        }
    }

    /// What the last answer brought, to be kept; once.
    pub(super) fn taken(&mut self) -> Taken {
        self.taken.take().unwrap_or_default()
    }

    /// Lives of the cluster that were past already when this one was known.
    pub(super) fn set_past(&mut self, past: Vec<String>) {
        self.past = past.into_iter().take(MAX_PAST).collect();
    }

    /// The next stream shall begin with the whole policy.
    pub(super) const fn ask_anew(&mut self) {
        self.whole = true;
    }

    /// Up to where is held.
    pub(super) fn revision(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.snapshot.revision)
    }

    /// Takes an answer in; gives the policy, if it is another now. After an error nothing of the answer is held.
    pub(super) fn take(
        &mut self,
        answer: WatchResponse,
        now: Timestamp,
    ) -> Result<Option<Arc<Current>>, AssembleError> {
        let credentials = answer.credentials.map(credentials_from_proto).transpose()?;
        let mut taken = Taken { credentials: credentials.is_some(), ..Taken::default() };
        let snapshot = match answer.policy {
            Some(Answer::Part(part)) => {
                if self.parts.len().saturating_add(part.len()) > MAX_SNAPSHOT {
                    return Err(AssembleError::TooLarge);
                }
                self.parts.extend_from_slice(&part);
                return Ok(None);
            }
            Some(Answer::Whole(mut signed)) => {
                if !self.parts.is_empty() {
                    let mut payload = std::mem::take(&mut self.parts);
                    payload.extend_from_slice(&signed.payload);
                    signed.payload = payload.into();
                }
                let credentials = credentials.filter(|credentials| credentials.whole);
                let snapshot = self.whole(&signed, now)?;
                if !answer.because.is_empty() {
                    tracing::info!(revision = snapshot.revision, because = answer.because, "the whole policy anew");
                }
                let snapshot = snapshot.with_credentials(credentials.ok_or(AssembleError::NoCredentials)?);
                taken.signed = Some(Answer::Whole(signed));
                snapshot
            }
            Some(Answer::Delta(signed)) => {
                self.verified(Purpose::Delta, &signed, now)?;
                let delta = pb::Delta::decode(&*signed.payload).map_err(|_| AssembleError::Undecodable)?;
                let current = self.current.as_ref().ok_or(AssembleError::NothingToChange)?;
                let snapshot = current.snapshot.apply(delta_from_proto(delta)?)?;
                taken.signed = Some(Answer::Delta(signed));
                with(snapshot, credentials)
            }
            None => match (&self.current, credentials) {
                (Some(current), Some(credentials)) => Snapshot::clone(&current.snapshot).with_credentials(credentials),
                (None, Some(_)) => return Err(AssembleError::NothingToChange),
                (_, None) => return Ok(None),
            },
        };
        let current = self.hold(snapshot);
        if matches!(taken.signed, Some(Answer::Whole(_))) {
            taken.past = self.past.iter().cloned().collect();
        }
        self.taken = Some(taken);
        Ok(Some(current))
    }

    fn whole(&self, signed: &pb::Signed, now: Timestamp) -> Result<Snapshot, AssembleError> {
        self.verified(Purpose::Snapshot, signed, now)?;
        let snapshot = pb::Snapshot::decode(&*signed.payload).map_err(|_| AssembleError::Undecodable)?;
        let snapshot = from_proto(snapshot)?;
        if self.past.contains(&snapshot.incarnation) {
            return Err(AssembleError::Past(snapshot.incarnation));
        }
        if let Some(current) = &self.current {
            let ours = &current.snapshot;
            if ours.incarnation == snapshot.incarnation && snapshot.revision < ours.revision {
                return Err(AssembleError::Older { ours: ours.revision, theirs: snapshot.revision });
            }
        }
        Ok(snapshot)
    }

    /// Whether a node of the control plane, which is one still, has signed it for this.
    pub(super) fn verified(&self, purpose: Purpose, signed: &pb::Signed, now: Timestamp) -> Result<(), AssembleError> {
        let authority = Authority(&self.authority);
        signed::verify(purpose, &signed.payload, &signed.signature, &signed.certificate, authority, now)?;
        let serial = serial_of(&signed.certificate);
        let revoked = |current: &Arc<Current>| serial.is_none_or(|serial| current.snapshot.revoked.contains(&serial));
        if self.current.as_ref().is_some_and(revoked) {
            return Err(AssembleError::Revoked);
        }
        Ok(())
    }

    fn hold(&mut self, snapshot: Snapshot) -> Arc<Current> {
        let former = self.current.take();
        // Keys change seldom, and reading them is slow.
        let same = |former: &&Arc<Current>| {
            former.snapshot.issuers.is_same(&snapshot.issuers)
                && former.snapshot.session_token_jwks == snapshot.session_token_jwks
        };
        let verifier = match former.as_ref().filter(same) {
            Some(former) => Arc::clone(&former.verifier),
            None => Arc::new(Verifier::from_snapshot(&snapshot)),
        };
        if let Some(former) = former
            && former.snapshot.incarnation != snapshot.incarnation
        {
            tracing::warn!(revision = snapshot.revision, "the cluster lives anew: its policy was restored");
            while self.past.len() >= MAX_PAST {
                self.past.pop_first();
            }
            self.past.insert(former.snapshot.incarnation.clone());
        }
        self.whole = false;
        let current = Arc::new(Current { snapshot: Arc::new(snapshot), verifier });
        self.current = Some(Arc::clone(&current));
        current
    }
}

impl Anchor {
    /// For a stream that is asked for now, which is `asked`.
    pub(super) const fn new(asked: Instant) -> Self {
        Self { asked, first: None }
    }

    /// When the node's clock showed `at_ms`, in an answer that it sent at `sent_ms`: not later than it was. The node sent its first answer
    /// after we had asked, so everything is counted from there. An answer that lay in a buffer is as old as it is.
    pub(super) fn local(&mut self, at_ms: u64, sent_ms: u64) -> Option<Instant> {
        let first = *self.first.get_or_insert(sent_ms);
        let at = match at_ms.checked_sub(first) {
            Some(later) => self.asked.checked_add(Duration::from_millis(later))?,
            None => self.asked.checked_sub(Duration::from_millis(first.saturating_sub(at_ms)))?,
        };
        // A clock that runs faster than ours does not tell of the future.
        Some(at.min(Instant::now()))
    }
}

fn with(snapshot: Snapshot, credentials: Option<Credentials>) -> Snapshot {
    match credentials {
        Some(credentials) => snapshot.with_credentials(credentials),
        None => snapshot,
    }
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
