//! An open session and its policy: each change is followed at once (I6), and policy that is too old is noticed without one (I9).

use std::time::Duration;

use postern_core::Code;
use postern_core::action::Action;
use postern_core::allowance::{MAX_IN_FLIGHT, MIN_IN_FLIGHT, smaller};
use postern_core::policy::{Circumstances, Freshness, PolicySlice};
use postern_runtime::clock;
use tokio::time::Instant;

use super::relay::{FAR, Relay};
use super::{End, Shared};
use crate::policy_feed::{Gone, Standing};

/// What is too old already is looked at again so often: the control plane may have come back and gone again meanwhile.
const STALE_AGAIN: Duration = Duration::from_secs(5);

/// A write may end a thousand sessions at once: each client is told before the targets are bothered, as a cancellation costs them a connection.
pub(super) const CLIENTS_FIRST: Duration = Duration::from_millis(100);

/// Bytes that may wait for a side of a session: what its target, its policies and this gateway say, the smallest.
pub(super) fn in_flight(standing: &Standing, slice: &PolicySlice, shared: &Shared) -> usize {
    let said = smaller(standing.limits.in_flight_bytes, slice.limits().in_flight_bytes);
    let own = u32::try_from(shared.limits.in_flight.0).unwrap_or(u32::MAX).clamp(MIN_IN_FLIGHT, MAX_IN_FLIGHT);
    usize::try_from(smaller(said, own)).unwrap_or(usize::MAX)
}

impl Relay {
    /// How old the policy is.
    pub(super) fn freshness(&self) -> Freshness {
        self.feed.borrow().freshness(self.shared.config.staleness_limit.0)
    }

    /// When to look at its age again.
    pub(super) fn watch_age(&mut self) {
        let fresh = self.freshness();
        let left = self.slice.next_stale(fresh).map(|limit| limit.saturating_sub(fresh.age));
        let left = left.unwrap_or(STALE_AGAIN);
        let ends = self.slice.next_end().map_or(FAR, |end| end.since(clock::now()));
        // Just past it.
        let left = left.min(ends).saturating_add(Duration::from_millis(1));
        self.stale = Instant::now() + left.min(FAR);
    }

    /// Something that permits may be too old by now (I9), or was granted for a time that is over: that ends here, whether the control plane is there to
    /// say so or not.
    pub(super) async fn aged(&mut self) -> Result<(), End> {
        let fresh = self.freshness();
        if let Some(left) = self.slice.without_ended(clock::now()) {
            self.slice = left;
            self.place.allow_pair(self.slice.limits());
            let denied = self.denies_what_is_under_way();
            if denied || !self.slice.permits_anything() {
                return Err(End::fatal(
                    Code::Denied,
                    "the session was ended: the access that was granted on request is over",
                ));
            }
        }
        self.know_openness()
            .map_err(|why| End::fatal(Code::Denied, format!("the session was ended by policy: {why}")))?;
        self.watch_age();
        if !self.slice.keeps(fresh) {
            let message = format!(
                "the session was ended: what permits it is too old, as the control plane has not confirmed it for {} s",
                fresh.age.as_secs()
            );
            return Err(End::fatal(Code::PolicyUnavailable, message));
        }
        self.recheck_held().await
    }

    /// Decides by the newest policy from here on: a live session follows each change that concerns it (I6), and is woken by no other.
    pub(super) async fn take_policy(&mut self) -> Result<(), End> {
        let by_policy = |why: &str| End::fatal(Code::Denied, format!("the session was ended by policy: {why}"));
        // Asked for first: what is decided shows it at least.
        let revision = self.seat.revision();
        let gone = |gone: Gone| match gone {
            Gone::Policy(why) => by_policy(why),
            Gone::Revoked => End::fatal(Code::Revoked, "the session was ended: its token was revoked"),
            Gone::Killed => End::fatal(Code::Killed, "the session was ended by an operator, or by its own principal"),
        };
        let Some(standing) = self.seat.take().map_err(gone)? else {
            self.slice.holds_at(revision);
            return Ok(());
        };
        let mut slice = standing.slice.clone().map_err(gone)?;
        if let Some(left) = slice.without_ended(clock::now()) {
            slice = left;
            if !slice.permits_anything() {
                return Err(by_policy("the access that was granted on request is over"));
            }
        }
        slice.holds_at(revision.max(slice.revision()));
        let former = std::mem::replace(&mut self.standing, standing);
        // Its catalog may have to be read by a password that was changed.
        self.to.sent.clone_from(&self.standing.sent);
        let decides_otherwise = !slice.says_the_same(&self.slice);
        let masks_otherwise =
            self.standing.mask_key != former.mask_key || !self.standing.masks.says_the_same(&former.masks);
        self.slice = slice;
        if masks_otherwise {
            self.apply_masking();
            if !self.session.mask_what_is_under_way() {
                return Err(by_policy("rows that are being copied would have to be masked otherwise now"));
            }
        }
        self.know_openness().map_err(by_policy)?;
        self.high = in_flight(&self.standing, &self.slice, &self.shared);
        self.session.set_high_water(self.high);
        if decides_otherwise {
            self.history.kept = self.slice.may_hold();
            self.place.allow_pair(self.slice.limits());
            self.watch_age();
            if let Some((_, why)) = self.slice.forbids_session(&self.circumstances()) {
                return Err(by_policy(&why));
            }
            if self.denies_what_is_under_way() {
                return Err(by_policy("it denies what is under way"));
            }
            self.recheck_held().await?;
        }
        Ok(())
    }

    fn denies_what_is_under_way(&self) -> bool {
        // How old the policy is does not matter for what it permitted already.
        let at = Circumstances { fresh: Freshness::CONFIRMED, ..self.circumstances() };
        // Nor what the target expected of it.
        let denies = |actions: &[Action]| {
            let asks = self.slice.asks_for_estimate(actions);
            self.slice.denies(actions, &at)
                && !(asks && [0, u64::MAX].iter().any(|rows| !self.slice.denies(actions, &at.estimated(Some(*rows)))))
        };
        self.session.under_way().any(denies)
    }

    /// Whether everything is granted; what passed by that alone must not go on when it no longer is.
    fn know_openness(&mut self) -> Result<(), &'static str> {
        self.session.set_open(self.slice.grants_everything(self.freshness()));
        self.session.set_obliging(self.slice.may_oblige());
        if self.session.runs_unfollowed() && !self.session.is_open() {
            return Err("what is under way could not be classified, and no longer is everything granted");
        }
        Ok(())
    }

    /// Nothing more of the session reaches the target, and what it works at shall stop there ([`Stop`](super::cancel::Stop)).
    pub(super) fn cut_off(&mut self) {
        self.outbox.pending().clear();
        if self.session.current_operation().is_some() {
            self.stops = true;
        }
    }
}
