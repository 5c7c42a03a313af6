//! `postern cluster status` and `members`.

use postern_proto::admin::v1::{GetClusterStatusRequest, GetClusterStatusResponse, MemberPart, MemberStatus};
use postern_proto::resource::v1 as pb;
use serde_json::{Value, json};

use super::{signing, when};
use crate::args::{ConnectionArgs, Format};
use crate::client::{connect, refused};
use crate::failure::Failure;
use crate::output;

const fn part_name(part: MemberPart) -> &'static str {
    match part {
        MemberPart::Unspecified => "unknown",
        MemberPart::Joining => "joining",
        MemberPart::Learner => "learner",
        MemberPart::Voter => "voter",
    }
}

async fn ask(connection: &ConnectionArgs) -> Result<GetClusterStatusResponse, Failure> {
    let client = connect(connection).await?;
    Ok(client.cluster().get_cluster_status(GetClusterStatusRequest {}).await.map_err(refused)?.into_inner())
}

/// Exit code 1 when something is wrong: for scripts.
pub(super) async fn status(format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let answer = ask(connection).await?;
    match format.unwrap_or_default() {
        Format::Table => table(&answer)?,
        Format::Json => output::json(&value(&answer))?,
        Format::Yaml => output::yaml(&[value(&answer)])?,
    }
    for problem in &answer.problems {
        output::note(format!("problem: {problem}"));
    }
    if answer.healthy { Ok(()) } else { Err(Failure::Told) }
}

fn table(answer: &GetClusterStatusResponse) -> Result<(), Failure> {
    let row = |member: &MemberStatus| {
        let node = member.node.clone().unwrap_or_default();
        let part = if member.leader { "leader" } else { part_name(member.part()) };
        let state = match (member.reachable, member.snapshotting) {
            (false, _) => "unreachable",
            (true, true) => "gets a snapshot",
            (true, false) => "ok",
        };
        vec![
            node.id.to_string(),
            node.name,
            part.to_owned(),
            state.to_owned(),
            member.term.to_string(),
            member.applied.to_string(),
            member.lag.to_string(),
            member.state_hash.chars().take(12).collect(),
            when(member.certificate_not_after.as_ref()),
            member.clock_offset_ms.to_string(),
        ]
    };
    output::line(format!(
        "cluster {} ({})  term {}  committed {}  feature level {}",
        answer.cluster_id, answer.incarnation, answer.term, answer.committed, answer.feature_level
    ))?;
    let heading =
        ["ID", "NAME", "PART", "STATE", "TERM", "APPLIED", "LAG", "STATE HASH", "CERTIFICATE UNTIL", "CLOCK MS"];
    output::table(&heading, &answer.members.iter().map(row).collect::<Vec<_>>())?;
    output::line("")?;
    signing::table(&answer.signing_keys)
}

fn value(answer: &GetClusterStatusResponse) -> Value {
    let member = |member: &MemberStatus| {
        let node = member.node.clone().unwrap_or_default();
        json!({
            "id": node.id, "name": node.name, "part": part_name(member.part()), "leader": member.leader,
            "reachable": member.reachable, "error": member.error, "term": member.term,
            "committed": member.committed, "applied": member.applied, "lag": member.lag,
            "stateHash": member.state_hash, "stateIndex": member.state_index, "kekIds": node.kek_ids,
            "featureLevel": node.feature_level, "version": node.version,
            "certificateNotAfter": when(member.certificate_not_after.as_ref()),
            "clockOffsetMs": member.clock_offset_ms, "snapshotting": member.snapshotting,
        })
    };
    json!({
        "clusterId": answer.cluster_id, "incarnation": answer.incarnation, "leaderId": answer.leader_id,
        "term": answer.term, "committed": answer.committed, "featureLevel": answer.feature_level,
        "healthy": answer.healthy, "problems": answer.problems,
        "members": answer.members.iter().map(member).collect::<Vec<_>>(),
        "signingKeys": answer.signing_keys.iter().map(signing::value).collect::<Vec<_>>(),
    })
}

pub(super) async fn members(format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let answer = ask(connection).await?;
    let nodes = answer.members.iter().filter_map(|member| Some((member.node.as_ref()?, member)));
    match format.unwrap_or_default() {
        Format::Table => {
            let row = |(node, member): (&pb::ControlNode, &MemberStatus)| {
                let (id, part) = (node.id.to_string(), part_name(member.part()).to_owned());
                let (peer, api) = (node.peer_address.clone(), node.api_address.clone());
                let (joined, keys) = (when(node.joined_at.as_ref()), node.kek_ids.join(","));
                vec![id, node.name.clone(), part, peer, api, node.version.clone(), keys, joined]
            };
            let heading = ["ID", "NAME", "PART", "PEER ADDRESS", "API ADDRESS", "VERSION", "KEK", "JOINED"];
            output::table(&heading, &nodes.map(row).collect::<Vec<_>>())
        }
        format => {
            let value = |(node, member): (&pb::ControlNode, &MemberStatus)| {
                json!({
                    "id": node.id, "name": node.name, "part": part_name(member.part()), "leader": member.leader,
                    "peerAddress": node.peer_address, "apiAddress": node.api_address, "version": node.version,
                    "featureLevel": node.feature_level, "kekIds": node.kek_ids,
                    "joinedAt": when(node.joined_at.as_ref()),
                })
            };
            let values: Vec<_> = nodes.map(value).collect();
            if format == Format::Yaml { output::yaml(&values) } else { output::json(&json!(values)) }
        }
    }
}
