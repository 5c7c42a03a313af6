//! An open session and its policy: each change is followed at once (I6), and policy that is too old is noticed without one (I9).

use std::sync::Arc;
use std::time::Duration;

use postern_core::allowance::{MAX_IN_FLIGHT, MIN_IN_FLIGHT, smaller};
use postern_core::policy::{Freshness, PolicySlice};
use postern_core::snapshot::Snapshot;
use postern_core::{Code, Name};
use tokio::time::Instant;

use super::relay::{FAR, Relay};
use super::{End, Shared};
use crate::identify::may_stay;

/// What is too old already is looked at again so often: the control plane may have come back and gone again meanwhile.
const STALE_AGAIN: Duration = Duration::from_secs(5);

/// A write may end a thousand sessions at once: each client is told before the targets are bothered, as a cancellation costs them a connection.
const CLIENTS_FIRST: Duration = Duration::from_millis(100);

/// Bytes that may wait for a side of a session: what its target, its policies and this gateway say, the smallest.
pub(super) fn in_flight(snapshot: &Snapshot, slice: &PolicySlice, target: &Name, shared: &Shared) -> usize {
    let target = snapshot.targets.get(target).map_or(0, |target| target.value.limits.in_flight_bytes);
    let said = smaller(target, slice.limits().in_flight_bytes);
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
        // Just past it.
        let left = left.map_or(STALE_AGAIN, |left| left.saturating_add(Duration::from_millis(1)));
        self.stale = Instant::now() + left.min(FAR);
    }

    /// Something that permits may be too old by now (I9).
    pub(super) async fn aged(&mut self) -> Result<(), End> {
        let fresh = self.freshness();
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

    /// Decides by the newest policy from here on: a live session follows each change (I6). What does not concern it costs it little, as every change
    /// wakes every session.
    pub(super) async fn take_policy(&mut self) -> Result<(), End> {
        if !self.feed.has_changed().unwrap_or(false) {
            return Ok(());
        }
        let Some(current) = self.feed.borrow_and_update().current.clone() else { return Ok(()) };
        if Arc::ptr_eq(&current, &self.current) {
            return Ok(());
        }
        let former = std::mem::replace(&mut self.current, current);
        let (before, now) = (&former.snapshot, &self.current.snapshot);
        let by_policy = |why: &str| End::fatal(Code::Denied, format!("the session was ended by policy: {why}"));
        let slice = may_stay(before, now, &self.principal, (&self.to.name, &self.to.database)).map_err(by_policy)?;
        // Its catalog may have to be read by a password that was changed.
        self.to.sent = now.credentials.get(&self.to.name).cloned();
        let decides_otherwise = !slice.says_the_same(&self.slice);
        let masks_otherwise = before.mask_key.expose() != now.mask_key.expose()
            || !now
                .mask_slice(&self.principal, &self.to.name)
                .says_the_same(&before.mask_slice(&self.principal, &self.to.name));
        self.slice = slice;
        if masks_otherwise {
            self.apply_masking();
            if !self.session.mask_what_is_under_way() {
                return Err(by_policy("rows that are being copied would have to be masked otherwise now"));
            }
        }
        self.high = in_flight(&self.current.snapshot, &self.slice, &self.to.name, &self.shared);
        self.session.set_high_water(self.high);
        if decides_otherwise {
            self.place.allow_pair(self.slice.limits());
            self.watch_age();
            let mut under_way = self.session.under_way();
            if under_way.any(|actions| self.slice.denies(actions, Freshness::CONFIRMED)) {
                return Err(by_policy("it denies what is under way"));
            }
            drop(under_way);
            self.recheck_held().await?;
        }
        Ok(())
    }

    /// Nothing more of the session reaches the target, and what it works at shall stop.
    pub(super) fn cut_off(&mut self) {
        self.outbox.pending().clear();
        if self.session.current_operation().is_some() {
            self.cancel_at_target(CLIENTS_FIRST);
        }
    }
}
