//! What keeps a cluster in shape: its leader brings new members in and makes voters of them, and raises the feature level; each member
//! keeps its own record right, and looks at its clock.

use std::sync::Arc;
use std::time::Duration;

use postern_core::cluster::ControlNode;
use postern_runtime::clock;
use postern_state::{commands, known_level};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::members::Members;
use super::view::ClusterView;
use crate::raft::{MembershipChange, MembershipError, Verdict};

/// Between looks while something is to be done.
const BUSY: Duration = Duration::from_millis(200);
/// Between looks otherwise: what is not told by a change is found out by then.
const IDLE: Duration = Duration::from_secs(2);
/// A clock that is off by more than this is told of.
const SKEW_TOLD: i64 = 5_000;
/// A leader whose clock is off by more than this hands over: approvals would lapse, and tokens end, by its time.
const SKEW_LEADS_NOT: i64 = 60_000;

/// The leader's duties, on whichever node leads.
pub(crate) async fn lead(members: Members, max_feature_level: Option<u32>, stop: CancellationToken) {
    let (mut view, mut status) = (members.view.clone(), members.raft.status());
    loop {
        let busy = if status.borrow_and_update().leading {
            let known = Arc::clone(&view.borrow_and_update());
            raise_feature_level(&members, &known, max_feature_level).await;
            reconcile(&members, &known).await
        } else {
            false
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(if busy { BUSY } else { IDLE }) => {}
            changed = view.changed() => if changed.is_err() { return },
            changed = status.wait_for(|status| status.leading), if !busy && !members.raft.status().borrow().leading => {
                if changed.is_err() { return }
            }
        }
    }
}

/// One step towards a group that is as the replicated state says. Whether there is more to do.
async fn reconcile(members: &Members, view: &ClusterView) -> bool {
    let status = members.raft.status().borrow().clone();
    let mut busy = false;
    for node in &view.nodes {
        let change = match status.member(node.id) {
            // Only one that runs: it is then brought up to date at once.
            None if !node.peer_address.is_empty() => {
                busy = true;
                if members.status_of(node.id, false).await.is_err() {
                    continue;
                }
                MembershipChange::AddLearner(node.id)
            }
            Some(member) if !member.voter && !node.learner => {
                busy = true;
                MembershipChange::Promote(node.id)
            }
            _ => continue,
        };
        match members.raft.change_membership(change, false).await {
            Ok(_) => info!(member = node.id, name = %node.name, ?change, "the group has changed"),
            // It catches up, or another change is not yet done: looked at again soon.
            Err(MembershipError::NotCaughtUp { .. } | MembershipError::InProgress) => {}
            Err(error) => debug!(%error, member = node.id, ?change, "the group was not changed"),
        }
    }
    busy
}

async fn raise_feature_level(members: &Members, view: &ClusterView, max: Option<u32>) {
    let Some(level) = raisable(view, max) else { return };
    match members.raft.propose(commands::RaiseFeatureLevel { level }, Some(clock::request_id())).await {
        Ok(Ok(_)) => info!(level, "the cluster's feature level was raised"),
        Ok(Err(refusal)) => warn!(%refusal, level, "the cluster's feature level was not raised"),
        Err(error) => debug!(%error, "the cluster's feature level was not raised"),
    }
}

/// The level that every member can, when it is above the cluster's.
fn raisable(view: &ClusterView, max: Option<u32>) -> Option<u32> {
    let all = view.nodes.iter().map(|node| node.feature_level).min()?;
    let level = all.min(max.unwrap_or(u32::MAX)).min(known_level());
    (level > view.feature_level).then_some(level)
}

/// Keeps this member's own record as it should be.
pub(crate) async fn announce(members: Members, own: ControlNode, stop: CancellationToken) {
    let mut view = members.view.clone();
    loop {
        let known = view.borrow_and_update().node(own.id).map(|known| is_same(known, &own));
        let wait = match known {
            Some(true) | None => Duration::MAX,
            Some(false) => match members.raft.propose(commands::UpdateNode { node: own.clone() }, None).await {
                Ok(Ok(_)) => Duration::MAX,
                Ok(Err(refusal)) => {
                    warn!(%refusal, "this member's record was refused");
                    IDLE
                }
                Err(error) => {
                    debug!(%error, "this member's record is not written yet");
                    IDLE
                }
            },
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

fn is_same(known: &ControlNode, own: &ControlNode) -> bool {
    known.peer_address == own.peer_address
        && known.api_address == own.api_address
        && known.feature_level == own.feature_level
        && known.kek_ids == own.kek_ids
        && known.version == own.version
}

/// Compares this node's clock with the others', tells of what it finds, and lets go of leadership when most of them disagree.
pub(crate) async fn watch_clock(members: Members, stop: CancellationToken) {
    let (mut told, mut vouched) = (false, false);
    let mut links = members.peers.links();
    loop {
        let ahead: Vec<i64> = {
            let links = links.borrow_and_update();
            // What was known of one that is gone may be of another time.
            links.values().filter(|link| link.connected).filter_map(|link| link.clock_ahead_millis).collect()
        };
        let borne_out = members.raft.stamps().judge(verdict(&ahead));
        if borne_out && !vouched {
            info!("the other members' clocks are known: this node's counts only as far as they bear it out");
        }
        vouched = borne_out;
        if let Some(off) = off_by(&ahead) {
            #[allow(clippy::cast_precision_loss)] // milliseconds
            metrics::gauge!("postern_control_clock_offset_seconds").set(off as f64 / 1_000.0);
            let far = off.abs() > SKEW_TOLD;
            if far && !told {
                warn!(off_millis = off, "this node's clock is not the other members': set it (positive: it is ahead)");
            }
            told = far;
            if off.abs() > SKEW_LEADS_NOT && members.raft.status().borrow().leading {
                error!(off_millis = off, "this node leads by a clock that the others do not share: handing over");
                if let Err(error) = members.raft.transfer_leader(0).await {
                    warn!(%error, "leadership was not handed over");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            // Until the others are heard, a jump of this clock would go unseen.
            () = tokio::time::sleep(if vouched || ahead.is_empty() { IDLE } else { BUSY }) => {}
            changed = links.changed(), if ahead.is_empty() => if changed.is_err() { return },
        }
    }
}

/// How far this node is ahead of the median of all clocks, its own among them; nothing while fewer than two others are known: of two
/// clocks nobody can tell which is wrong.
fn off_by(others_ahead: &[i64]) -> Option<i64> {
    if others_ahead.len() < 2 {
        return None;
    }
    let mut all = others_ahead.to_vec();
    all.push(0);
    all.sort_unstable();
    all.get(all.len() / 2).map(|median| median.saturating_neg())
}

/// What that means for the time that entries bear.
fn verdict(others_ahead: &[i64]) -> Verdict {
    match (off_by(others_ahead), others_ahead) {
        (Some(off), _) if off.abs() > SKEW_LEADS_NOT => Verdict::Off(off),
        (Some(_), _) => Verdict::Right,
        (None, []) => Verdict::Alone,
        (None, others) if others.iter().all(|ahead| ahead.abs() <= SKEW_LEADS_NOT) => Verdict::Right,
        (None, _) => Verdict::Divided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_clock_is_told_from_many() {
        assert_eq!(off_by(&[]), None);
        assert_eq!(off_by(&[-7_200_000]), None);
        // Two hours ahead of both others.
        assert_eq!(off_by(&[-7_200_000, -7_199_990]), Some(7_199_990));
        // One other is wrong.
        assert_eq!(off_by(&[7_200_000, 10]), Some(-10));
        assert_eq!(off_by(&[-7_200_000, 3, 5, 7]), Some(-3));
        assert_eq!(verdict(&[]), Verdict::Alone);
        assert_eq!(verdict(&[40]), Verdict::Right);
        assert_eq!(verdict(&[-7_200_000]), Verdict::Divided);
        assert_eq!(verdict(&[-7_200_000, -7_199_990]), Verdict::Off(7_199_990));
        assert_eq!(verdict(&[7_200_000, 10]), Verdict::Right);
    }

    #[test]
    fn the_level_is_what_every_member_can() {
        use postern_state::FEATURE_LEVEL;
        let view = |levels: &[u32], level| ClusterView {
            nodes: levels
                .iter()
                .map(|feature_level| {
                    Arc::new(ControlNode {
                        id: 1,
                        name: "a".parse().unwrap(),
                        peer_address: String::new(),
                        api_address: String::new(),
                        feature_level: *feature_level,
                        kek_ids: Vec::new(),
                        version: String::new(),
                        joined_at: postern_core::Timestamp::default(),
                        revision: 0,
                        learner: false,
                    })
                })
                .collect(),
            feature_level: level,
            ..Default::default()
        };
        assert_eq!(raisable(&view(&[FEATURE_LEVEL, FEATURE_LEVEL], FEATURE_LEVEL), None), None);
        assert_eq!(raisable(&view(&[FEATURE_LEVEL, FEATURE_LEVEL + 1], FEATURE_LEVEL - 1), None), Some(FEATURE_LEVEL));
        assert_eq!(raisable(&view(&[FEATURE_LEVEL, FEATURE_LEVEL - 1], FEATURE_LEVEL - 1), None), None);
        assert_eq!(raisable(&view(&[FEATURE_LEVEL], FEATURE_LEVEL - 1), Some(FEATURE_LEVEL - 1)), None);
        assert_eq!(raisable(&view(&[], 0), None), None);
    }
}
