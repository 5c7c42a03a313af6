//! One gateway that watches: a cursor, and what it is in the middle of.
//!
//! Nothing waits for a gateway: what it is sent next is looked up when it has taken the last. One that is too slow for the ring of steps
//! gets all that was changed since in one; where that is too much, the whole policy anew. A whole one that was begun is sent to its end, so
//! that each brings it further, however slow it is; it is ended only when it takes nothing at all.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use postern_core::Name;
use postern_core::signed::Purpose;
use postern_core::wire::snapshot::delta_to_proto;
use postern_core::wire::timestamp_to_proto;
use postern_proto::gateway::v1::watch_response::Policy as Answer;
use postern_proto::gateway::v1::{self as pb, WatchResponse};
use postern_runtime::clock;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::published::{LOST_AFTER, Policy, Published, sign};
use super::wholes::Hold;

/// The longest payload of one answer: what a stream that is not read keeps in memory.
const PART: usize = 64 << 10;
/// The longest delta of all that was changed since: past it the whole policy is sent, which watchers share.
const LONGEST_DELTA: usize = 256 << 10;
/// How long a gateway waits for a node that is behind it.
const BEHIND: Duration = Duration::from_secs(5);

/// Why a watch ends, other than by its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ended {
    /// The gateway knows more than this node.
    #[error("this node is behind: revision {known} is known, it has applied {revision}")]
    Behind {
        /// What the gateway knows.
        known: u64,
        /// What this node has.
        revision: u64,
    },
    /// The node cannot vouch for what it has.
    #[error("this node has heard nothing of its cluster for {} s", LOST_AFTER.as_secs())]
    Lost,
    /// The gateway took nothing of the policy that it was in the middle of, and others needed its place.
    #[error("too slow: nothing was taken of the policy for minutes, and it is no longer kept")]
    TooSlow,
    /// It needs a policy that is newer than any of those that are being sent, and there are as many as may be.
    #[error("this node sends as many different policies as it can at a time: come again")]
    Busy,
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

/// One gateway that watches.
pub(crate) struct Watcher {
    published: Published,
    gateway: Name,
    stop: CancellationToken,
    /// It has all up to this revision; 0: nothing.
    cursor: u64,
    /// It needs the whole, for this reason.
    whole: Option<&'static str>,
    /// Of the credentials that it has; `None`: they are to be sent.
    epoch: Option<u64>,
    sending: Option<Sending>,
    confirmed: Option<std::time::Instant>,
    /// The signature of the list of revoked gateways that it was told last.
    revoked: bytes::Bytes,
}

struct Sending {
    policy: Hold,
    offset: usize,
    because: &'static str,
}

impl Watcher {
    /// For `gateway`, which knows `known` of `incarnation`.
    pub(crate) async fn new(
        mut published: Published,
        gateway: Name,
        known: u64,
        incarnation: &str,
        stop: CancellationToken,
    ) -> Result<Self, Ended> {
        if !published.is_confirmed() {
            return Err(Ended::Lost);
        }
        let same_life = incarnation == published.policy.borrow().snapshot.incarnation;
        let (cursor, whole) = match known {
            0 => (0, Some("")),
            _ if !same_life => (0, Some("the cluster was restored: what was known is of another life of it")),
            known => {
                // It was elsewhere before, where more was applied. Something older is never sent to it.
                let caught_up = published.policy.wait_for(|policy| policy.revision() >= known);
                if !matches!(tokio::time::timeout(BEHIND, caught_up).await, Ok(Ok(_))) {
                    let revision = published.policy.borrow().revision();
                    return Err(Ended::Behind { known, revision });
                }
                (known, None)
            }
        };
        metrics::gauge!("postern_control_policy_watchers_total").increment(1.0);
        Ok(Self {
            published,
            gateway,
            stop,
            cursor,
            whole,
            epoch: None,
            sending: None,
            confirmed: None,
            revoked: bytes::Bytes::new(),
        })
    }

    /// What to send next.
    pub(crate) async fn next(&mut self) -> Result<WatchResponse, Ended> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Ended::Stopping);
            }
            if let Some(sending) = self.sending.take() {
                return self.go_on(sending);
            }
            let policy = Arc::clone(&self.published.policy.borrow_and_update());
            if let Some(because) = self.whole {
                let hold = self.published.wholes.hold(&policy, self.cursor).ok_or(Ended::Busy)?;
                self.sending = Some(Sending { policy: hold, offset: 0, because });
                continue;
            }
            match self.published.steps.after(self.cursor) {
                Err(_) if policy.revision() > self.cursor => {
                    if let Some(answer) = self.since(&policy) {
                        return Ok(answer);
                    }
                    metrics::counter!("postern_control_policy_resnapshots_total").increment(1);
                    self.whole = Some("revision compacted");
                }
                Ok(Some(step)) => {
                    self.cursor = step.revision;
                    let credentials = policy.secrets.changes_for(&self.gateway, &step.credentials);
                    let delta = Answer::Delta(step.delta.clone());
                    return Ok(self.answer(Some(delta), credentials, step.revision));
                }
                Ok(None) if self.epoch != Some(policy.epoch) && self.cursor >= policy.revision() => {
                    self.epoch = Some(policy.epoch);
                    return Ok(self.answer(None, Some(policy.secrets.credentials_of(&self.gateway)), self.cursor));
                }
                // Also when the steps begin anew, after a policy that is about to be published.
                Ok(None) | Err(_) => {
                    if let Some(answer) = self.wait(self.cursor).await? {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// All that was changed since the cursor, in one; `None` when that is not known, or too much.
    fn since(&mut self, policy: &Policy) -> Option<WatchResponse> {
        let delta = {
            let since = self.published.since.read().unwrap_or_else(PoisonError::into_inner);
            since.delta(self.cursor, &policy.snapshot)?
        };
        let payload = delta_to_proto(&delta).encode_to_vec();
        if payload.len() > LONGEST_DELTA {
            return None;
        }
        metrics::counter!("postern_control_policy_leaps_total").increment(1);
        (self.cursor, self.epoch) = (policy.revision(), Some(policy.epoch));
        let delta = Answer::Delta(sign(&policy.signer, Purpose::Delta, payload));
        let credentials = policy.secrets.credentials_of(&self.gateway);
        Some(self.answer(Some(delta), Some(credentials), policy.revision()))
    }

    /// Until there is something to look at; gives a confirmation, if that is it.
    async fn wait(&mut self, cursor: u64) -> Result<Option<WatchResponse>, Ended> {
        let confirmed = *self.published.confirmed.borrow_and_update();
        if self.confirmed != Some(confirmed.asked) && confirmed.revision <= cursor {
            return Ok(Some(self.answer(None, None, cursor)));
        }
        let left = LOST_AFTER.saturating_sub(confirmed.asked.elapsed());
        tokio::select! {
            () = self.stop.cancelled() => Err(Ended::Stopping),
            changed = self.published.policy.changed() => changed.map(|()| None).map_err(|_| Ended::Stopping),
            changed = self.published.confirmed.changed() => changed.map(|()| None).map_err(|_| Ended::Stopping),
            () = tokio::time::sleep(left) => {
                if self.published.is_confirmed() { Ok(None) } else { Err(Ended::Lost) }
            }
        }
    }

    /// The next part of a whole policy, or its end.
    fn go_on(&mut self, sending: Sending) -> Result<WatchResponse, Ended> {
        let whole = sending.policy.take().ok_or(Ended::TooSlow)?;
        let signed = whole.signed();
        let left = signed.payload.slice(sending.offset..);
        if left.len() > PART {
            // A copy: what waits in a slow stream must not keep the whole alive.
            let part = left.slice(..PART).to_vec();
            self.sending = Some(Sending { offset: sending.offset.saturating_add(PART), ..sending });
            return Ok(self.answer(Some(Answer::Part(part)), None, 0));
        }
        let signed = pb::Signed { payload: left.to_vec().into(), ..signed.clone() };
        (self.cursor, self.whole, self.epoch) = (whole.revision, None, Some(whole.epoch));
        let credentials = whole.secrets.credentials_of(&self.gateway);
        let mut answer = self.answer(Some(Answer::Whole(signed)), Some(credentials), whole.revision);
        sending.because.clone_into(&mut answer.because);
        Ok(answer)
    }

    /// With the newest confirmation, if the gateway then has all that it speaks of.
    fn answer(&mut self, policy: Option<Answer>, credentials: Option<pb::Credentials>, revision: u64) -> WatchResponse {
        let confirmed = *self.published.confirmed.borrow();
        let confirmation = (confirmed.revision <= revision).then(|| {
            self.confirmed = Some(confirmed.asked);
            let millis = |at: std::time::Instant| {
                let since = at.saturating_duration_since(self.published.started);
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            };
            let (asked_ms, sent_ms) = (millis(confirmed.asked), millis(std::time::Instant::now()));
            pb::Confirmation { revision: confirmed.revision, asked_ms, sent_ms }
        });
        let at = Some(timestamp_to_proto(clock::now()));
        let revoked_gateways = self.published.policy.borrow().revoked_gateways.clone();
        let revoked_gateways = revoked_gateways.filter(|list| list.signature != self.revoked);
        if let Some(list) = &revoked_gateways {
            self.revoked.clone_from(&list.signature);
        }
        WatchResponse { at, policy, credentials, confirmation, because: String::new(), revoked_gateways }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        metrics::gauge!("postern_control_policy_watchers_total").decrement(1.0);
    }
}

#[cfg(test)]
#[path = "watcher_tests.rs"]
mod tests;
