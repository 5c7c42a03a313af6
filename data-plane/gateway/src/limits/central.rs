//! What targets and policies say of limits, and what of it falls to this gateway.
//!
//! A target's limits hold over the fleet: each gateway that takes sessions for it lets in its share, an equal one, by the directory that it
//! has anyway. Nobody is asked, so nothing waits; with the control plane gone the last directory holds. A policy's limits hold for one
//! identity at each gateway, undivided: it comes through one gateway as a rule, and would find a part of what it was told there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postern_core::Name;
use postern_core::allowance::Allowance;
use postern_core::policy::PolicySlice;
use postern_core::snapshot::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Limiter;
use crate::fleet::View;
use crate::policy_feed::Feed;

/// The directory changes with every stream somewhere: it is looked at so often, and not more.
const PACE: Duration = Duration::from_millis(500);
/// Looked at without a change, too: who was let in by what was a moment older must not stay with that.
const AGAIN: Duration = Duration::from_secs(5);

/// What is said centrally of a session to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Central {
    /// This gateway's share of the target's.
    pub(crate) target: Allowance,
    /// Of the principal on the target.
    pub(crate) pair: Allowance,
}

impl Central {
    /// Of sessions on `target`, decided by `slice`, at the gateway `own`.
    pub(crate) fn of(snapshot: &Snapshot, slice: &PolicySlice, target: &Name, (own, view): (&Name, &View)) -> Self {
        Self { target: share(snapshot, target, (own, view)), pair: slice.limits() }
    }
}

/// Sets what is allowed on targets as policy and the fleet change, until `stop`. (What identities may have is set by their sessions.)
pub(crate) async fn follow(
    limiter: Arc<Limiter>,
    own: Name,
    mut feed: watch::Receiver<Feed>,
    mut fleet: watch::Receiver<Arc<View>>,
    stop: CancellationToken,
) {
    loop {
        let (current, view) = (feed.borrow_and_update().current.clone(), Arc::clone(&fleet.borrow_and_update()));
        if let Some(current) = current {
            limiter.allow_targets(|target| share(&current.snapshot, target, (&own, &view)));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = feed.changed() => {}
            Ok(()) = changed_at_pace(&mut fleet) => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn changed_at_pace(fleet: &mut watch::Receiver<Arc<View>>) -> Result<(), watch::error::RecvError> {
    tokio::time::sleep(PACE).await;
    fleet.changed().await
}

/// The part of a target's limits that is this gateway's.
fn share(snapshot: &Snapshot, target: &Name, (own, view): (&Name, &View)) -> Allowance {
    let Some(known) = snapshot.targets.get(target) else { return Allowance::default() };
    let limits = known.value.limits;
    if limits == Allowance::default() { limits } else { limits.share(gateways(view, own, target, &known.labels)) }
}

/// How many gateways take sessions for the target, as far as is known; at least this one.
fn gateways(view: &View, own: &Name, target: &Name, labels: &BTreeMap<String, String>) -> u32 {
    let others = view.gateways().filter(|gateway| {
        gateway.name != *own && !gateway.draining && view.serves(&gateway.name, target, labels) == Some(true)
    });
    u32::try_from(others.count()).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use postern_core::Timestamp;
    use postern_core::fleet::{FleetGateway, News};
    use postern_core::target::TargetSelector;

    use super::*;
    use crate::fleet::Reader;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn gateway(text: &str) -> FleetGateway {
        FleetGateway {
            name: name(text),
            tunnel_addresses: Vec::new(),
            tunnel_tcp_addresses: Vec::new(),
            client_addresses: Vec::new(),
            version: String::new(),
            tunnel_version_min: 1,
            tunnel_version: 1,
            draining: false,
            sessions: 0,
            started_at: Timestamp::from_millis(0),
            serves: None,
        }
    }

    #[test]
    fn those_who_take_sessions_for_the_target_share_its_limits() {
        let (mut view, mut reader) = (View::default(), Reader::default());
        let count = |view: &View| gateways(view, &name("own"), &name("db"), &BTreeMap::new());
        assert_eq!(count(&view), 1, "nothing is known");
        let draining = FleetGateway { draining: true, ..gateway("leaves") };
        let only = |of: &str| Some(TargetSelector { names: vec![of.into()], ..Default::default() });
        let elsewhere = FleetGateway { serves: only("other"), ..gateway("elsewhere") };
        let here = FleetGateway { serves: only("db"), ..gateway("here") };
        let gateways = vec![gateway("own"), gateway("g1"), draining, elsewhere, here];
        reader.take(&mut view, News { whole: true, gateways, ..News::default() }).unwrap();
        assert_eq!(count(&view), 3);
    }
}
