//! The directory as people see it.

use std::collections::BTreeMap;

use postern_core::wire::fleet::{epoch_to_proto, gateway_to_proto, transport_to_proto};
use postern_core::wire::timestamp_to_proto;
use postern_proto::admin::v1 as pb;
use std::time::Instant;

use super::directory::Directory;
use super::{Fleet, NotLeader};

/// Every gateway. Pages are cut by whoever answers.
pub(crate) fn gateways(fleet: &Fleet) -> Result<pb::ListGatewaysResponse, NotLeader> {
    fleet.with(|directory| {
        let all = directory.listed().map(|listed| pb::GatewayStatus {
            gateway: Some(gateway_to_proto(listed.gateway)),
            connected: listed.connected,
            reporting_since: Some(timestamp_to_proto(listed.since)),
            tunnels: u32::try_from(listed.tunnels.len()).unwrap_or(u32::MAX),
            streams: listed.tunnels.values().map(|tunnel| u64::from(tunnel.streams)).sum(),
        });
        pb::ListGatewaysResponse {
            gateways: all.collect(),
            next_page_token: String::new(),
            epoch: Some(epoch_to_proto(directory.epoch())),
            settling: directory.settling(Instant::now()),
        }
    })
}

/// Every agent that the request means.
pub(crate) fn agents(fleet: &Fleet, request: &pb::ListAgentsRequest) -> Result<pb::ListAgentsResponse, NotLeader> {
    fleet.with(|directory| pb::ListAgentsResponse {
        agents: matching(directory, request),
        next_page_token: String::new(),
        epoch: Some(epoch_to_proto(directory.epoch())),
        settling: directory.settling(Instant::now()),
    })
}

fn matching(directory: &Directory, request: &pb::ListAgentsRequest) -> Vec<pb::AgentStatus> {
    let mut agents: BTreeMap<_, pb::AgentStatus> = BTreeMap::new();
    for listed in directory.listed() {
        let own = request.gateway.is_empty() || listed.gateway.name.as_str() == request.gateway;
        let meant = listed.tunnels.iter().filter(|_| own);
        for (key, tunnel) in meant.filter(|(key, _)| request.pool.is_empty() || key.pool.as_str() == request.pool) {
            let agent = agents.entry(key).or_insert_with(|| pb::AgentStatus {
                agent: key.agent.to_string(),
                pool: key.pool.to_string(),
                ..Default::default()
            });
            if agent.version.is_empty() {
                agent.version.clone_from(&tunnel.version);
            }
            agent.draining |= tunnel.draining;
            agent.tunnels.push(pb::AgentTunnel {
                gateway: listed.gateway.name.to_string(),
                since: Some(timestamp_to_proto(tunnel.since)),
                streams: tunnel.streams,
                rtt_us: tunnel.rtt_us,
                transport: transport_to_proto(tunnel.transport).into(),
                draining: listed.gateway.draining,
            });
        }
    }
    agents.into_values().collect()
}
