//! Whether whoever watches something may go on: the token has not ended, was not revoked, and carries the right still.
//!
//! It is looked at anew when this node has come to a change that may concern it, and every [`CONFIRM`], however busy the watch is. Where the cluster
//! cannot be asked, nobody watches for longer than [`UNCONFIRMED`].

use std::time::Duration;

use postern_core::Timestamp;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::access::{Access, Caller};
use super::status;

/// How often the cluster is asked for the caller's rights, while nothing here tells of a change.
const CONFIRM: Duration = Duration::from_secs(15);
/// What others were told by the cluster this lately is as good.
const LATELY: Duration = Duration::from_secs(5);
/// How long a watch goes on while nobody vouches for the caller's rights.
const UNCONFIRMED: Duration = Duration::from_secs(25);
/// Between two looks at the caller's rights: who changes roles all the time does not keep every watch busy.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Between two tries to ask.
const RETRY: Duration = Duration::from_secs(1);

/// Of one caller, for as long as a stream to them lasts.
pub(super) struct Rights {
    access: Access,
    caller: Caller,
    /// When they were looked at last.
    looked_at: Instant,
    /// When the cluster vouched for them last.
    confirmed_at: Instant,
    /// When they are to be looked at again.
    look_at: Instant,
    /// Where this node was told of a change that was not looked at yet.
    changed_at: Option<u64>,
}

impl Rights {
    /// Of one who was let in just now.
    pub(super) fn new(access: Access, caller: Caller) -> Self {
        let now = Instant::now();
        Self { access, caller, looked_at: now, confirmed_at: now, look_at: now + CONFIRM, changed_at: None }
    }

    /// As they were when they were looked at last.
    pub(super) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Something was changed at `revision`, which is applied here, that may give or take them: they are looked at soon.
    pub(super) fn changed(&mut self, revision: u64) {
        self.changed_at = Some(revision);
        self.look_at = self.look_at.min(self.looked_at + LOOK_AGAIN);
    }

    /// When there is something to do here, if nothing comes before.
    pub(super) async fn due(&self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.look_at) => {}
            () = tokio::time::sleep(self.token_left()) => {}
        }
    }

    /// Refuses whose token has ended; looks at the rights, when it is time: by what this node has applied itself, if it was told of a change; else by
    /// what the cluster says. Whether they were looked at, and found.
    pub(super) async fn look(&mut self) -> Result<bool, Status> {
        if self.token_end().is_some_and(|ends| ends <= self.access.clock.now()) {
            return Err(status::with_reason(Status::unauthenticated("token-expired"), "TOKEN_EXPIRED"));
        }
        let began = Instant::now();
        if self.look_at > began {
            return Ok(false);
        }
        let mut caller = self.caller.clone();
        let (looked, confirmed_at) = match self.changed_at {
            Some(revision) => (self.access.look_up_since(&mut caller, revision).await, self.confirmed_at),
            None => (self.access.look_up_lately(&mut caller, LATELY).await, began),
        };
        self.looked_at = Instant::now();
        match looked {
            Ok(()) => {
                (self.caller, self.confirmed_at, self.changed_at) = (caller, confirmed_at, None);
                self.look_at = confirmed_at + CONFIRM;
                Ok(true)
            }
            // The leader changes, or too much waits.
            Err(status) if is_transient(&status) && self.confirmed_at.elapsed() < UNCONFIRMED => {
                self.look_at = self.looked_at + RETRY;
                Ok(false)
            }
            Err(status) => Err(status),
        }
    }

    fn token_end(&self) -> Option<Timestamp> {
        self.caller.maybe_principal().and_then(|principal| principal.expires_at)
    }

    /// How long the token is still good, but not longer than until the caller's rights are looked at anyway.
    fn token_left(&self) -> Duration {
        // Times are in milliseconds: at the end it is over, not about to be.
        let left = |end: Timestamp| end.since(self.access.clock.now()).saturating_add(Duration::from_millis(1));
        self.token_end().map_or(CONFIRM, left).min(CONFIRM)
    }
}

fn is_transient(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded)
}
