//! How the whole cluster stands, put together from what each member tells of itself.

use std::collections::BTreeMap;

use futures::future::join_all;
use postern_core::wire::cluster::node_to_proto;
use postern_core::wire::timestamp_from_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::peer::v1 as peer_pb;
use postern_runtime::clock;

use crate::cluster::members::Members;

/// A clock that is off by more than this is a problem.
const SKEW: i64 = 5_000;

/// Asks every member at once.
pub(super) async fn cluster_status(members: &Members) -> pb::GetClusterStatusResponse {
    let view = members.view();
    let asked = view.nodes.iter().map(|node| async {
        let before = clock::now();
        let answer = members.status_of(node.id, true).await;
        (answer, before, clock::now())
    });
    let answers = join_all(asked).await;
    let own = members.raft.status().borrow().clone();
    // Only the leader knows how far the others have come.
    let leader = view.nodes.iter().zip(&answers).find(|(node, _)| node.id == own.leader);
    let progress: BTreeMap<u64, peer_pb::Progress> = leader
        .and_then(|(_, (answer, ..))| answer.as_ref().ok())
        .map(|leader| leader.progress.iter().map(|progress| (progress.id, *progress)).collect())
        .unwrap_or_default();
    let committed = leader.and_then(|(_, (answer, ..))| answer.as_ref().ok()).map_or(own.committed, |it| it.committed);

    let mut problems = Vec::new();
    if own.leader == 0 {
        problems.push("there is no leader".to_owned());
    }
    let mut all = Vec::new();
    for (node, (answer, before, after)) in view.nodes.iter().zip(&answers) {
        let part = match own.member(node.id) {
            None => pb::MemberPart::Joining,
            Some(member) if member.voter => pb::MemberPart::Voter,
            Some(_) => pb::MemberPart::Learner,
        };
        let mut status = pb::MemberStatus {
            node: Some(node_to_proto(node)),
            part: part.into(),
            leader: node.id == own.leader,
            snapshotting: progress.get(&node.id).is_some_and(|progress| progress.snapshotting),
            ..Default::default()
        };
        match answer {
            Ok(answer) => {
                status.reachable = true;
                status.term = answer.term;
                status.committed = answer.committed;
                status.applied = answer.applied;
                status.lag = committed.saturating_sub(answer.applied);
                status.state_hash.clone_from(&answer.state_hash);
                status.state_index = answer.state_index;
                status.certificate_not_after = answer.certificate_not_after;
                status.clock_offset_ms = answer
                    .now
                    .as_ref()
                    .map_or(0, |now| offset(timestamp_from_proto(now).millis(), before.millis(), after.millis()));
                if status.clock_offset_ms.abs() > SKEW {
                    problems.push(format!("the clock of {} is off by {} ms", node.name, status.clock_offset_ms));
                }
            }
            Err(error) => {
                status.error.clone_from(error);
                problems.push(format!("{} does not answer: {error}", node.name));
            }
        }
        all.push(status);
    }
    problems.extend(disagreements(&all));
    let cluster = view.cluster.as_ref();
    pb::GetClusterStatusResponse {
        cluster_id: cluster.map(|cluster| cluster.id.clone()).unwrap_or_default(),
        incarnation: cluster.map(|cluster| cluster.incarnation.clone()).unwrap_or_default(),
        leader_id: own.leader,
        term: own.term,
        committed,
        feature_level: view.feature_level,
        members: all,
        healthy: problems.is_empty(),
        problems,
        signing_keys: super::signing::told(&view.signing_keys()),
    }
}

/// Members at the same index must have the same state.
fn disagreements(members: &[pb::MemberStatus]) -> Vec<String> {
    let mut by_index: BTreeMap<u64, &str> = BTreeMap::new();
    let mut out = Vec::new();
    for member in members.iter().filter(|member| !member.state_hash.is_empty()) {
        let known = by_index.entry(member.state_index).or_insert(&member.state_hash);
        if *known != member.state_hash {
            let name = member.node.as_ref().map(|node| node.name.clone()).unwrap_or_default();
            out.push(format!("{name} has another state at index {} than others", member.state_index));
        }
    }
    out
}

/// How far a clock that showed `theirs` was ahead, when it was asked at `before` and had answered by `after`, in milliseconds.
fn offset(theirs: u64, before: u64, after: u64) -> i64 {
    let middle = before.midpoint(after);
    let signed = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
    if theirs >= middle {
        signed(theirs.saturating_sub(middle))
    } else {
        signed(middle.saturating_sub(theirs)).saturating_neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_part_are_told() {
        let member = |index, hash: &str| pb::MemberStatus {
            state_index: index,
            state_hash: hash.to_owned(),
            ..Default::default()
        };
        assert!(disagreements(&[member(5, "a"), member(5, "a"), member(6, "b"), member(0, "")]).is_empty());
        assert_eq!(disagreements(&[member(5, "a"), member(5, "b")]).len(), 1);
        assert_eq!(offset(1_050, 1_000, 1_020), 40);
        assert_eq!(offset(900, 1_000, 1_020), -110);
    }
}
