//! `postern fleet`.

use postern_proto::admin::v1::{AgentStatus, AgentTunnel, GatewayStatus, ListAgentsRequest, ListGatewaysRequest};
use postern_proto::resource::v1::TunnelTransport;
use serde_json::{Value, json};

use super::when;
use crate::args::{ConnectionArgs, Format};
use crate::client::{connect, refused};
use crate::cluster_args::FleetCommand;
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(command: &FleetCommand, connection: &ConnectionArgs) -> Result<(), Failure> {
    match command {
        FleetCommand::Gateways { output } => gateways(output.format, connection).await,
        FleetCommand::Agents { pool, gateway, output } => agents(pool, gateway, output.format, connection).await,
    }
}

async fn gateways(format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListGatewaysRequest { page_size: 0, page_token };
        let answer = client.fleet().list_gateways(request).await.map_err(refused)?.into_inner();
        all.extend(answer.gateways);
        young(answer.settling && answer.next_page_token.is_empty());
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    match format.unwrap_or_default() {
        Format::Table => {
            let heading = ["NAME", "STATE", "VERSION", "SESSIONS", "TUNNELS", "STREAMS", "SINCE", "TUNNELS AT"];
            output::table(&heading, &all.iter().map(gateway_row).collect::<Vec<_>>())
        }
        Format::Json => output::json(&Value::Array(all.iter().map(gateway_value).collect())),
        Format::Yaml => output::yaml(&all.iter().map(gateway_value).collect::<Vec<_>>()),
    }
}

async fn agents(pool: &str, gateway: &str, format: Option<Format>, connection: &ConnectionArgs) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListAgentsRequest { page_size: 0, page_token, pool: pool.to_owned(), gateway: gateway.to_owned() };
        let answer = client.fleet().list_agents(request).await.map_err(refused)?.into_inner();
        all.extend(answer.agents);
        young(answer.settling && answer.next_page_token.is_empty());
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    match format.unwrap_or_default() {
        Format::Table => {
            let heading = ["POOL", "AGENT", "STATE", "GATEWAY", "OVER", "RTT", "STREAMS", "SINCE"];
            output::table(&heading, &all.iter().flat_map(agent_rows).collect::<Vec<_>>())
        }
        Format::Json => output::json(&Value::Array(all.iter().map(agent_value).collect())),
        Format::Yaml => output::yaml(&all.iter().map(agent_value).collect::<Vec<_>>()),
    }
}

fn young(settling: bool) {
    if settling {
        output::note("the control plane's leader is new: some may still be missing");
    }
}

fn gateway_row(status: &GatewayStatus) -> Vec<String> {
    let gateway = status.gateway.clone().unwrap_or_default();
    vec![
        gateway.name,
        state(status.connected, gateway.draining).to_owned(),
        gateway.version,
        gateway.sessions.to_string(),
        status.tunnels.to_string(),
        status.streams.to_string(),
        when(status.reporting_since.as_ref()),
        gateway.tunnel_addresses.join(","),
    ]
}

fn gateway_value(status: &GatewayStatus) -> Value {
    let gateway = status.gateway.clone().unwrap_or_default();
    json!({
        "name": gateway.name, "state": state(status.connected, gateway.draining), "version": gateway.version,
        "tunnelAddresses": gateway.tunnel_addresses, "tunnelTcpAddresses": gateway.tunnel_tcp_addresses,
        "clientAddresses": gateway.client_addresses, "draining": gateway.draining, "sessions": gateway.sessions,
        "tunnelVersionMin": gateway.tunnel_version_min, "tunnelVersion": gateway.tunnel_version,
        "startedAt": when(gateway.started_at.as_ref()), "reportingSince": when(status.reporting_since.as_ref()),
        "tunnels": status.tunnels, "streams": status.streams,
        "serves": gateway.serves.map(|serves| json!({ "names": serves.names, "labels": serves.labels })),
    })
}

const fn state(connected: bool, draining: bool) -> &'static str {
    match (connected, draining) {
        (false, _) => "lost",
        (true, true) => "draining",
        (true, false) => "ok",
    }
}

fn agent_rows(status: &AgentStatus) -> Vec<Vec<String>> {
    let row = |tunnel: &AgentTunnel| {
        vec![
            status.pool.clone(),
            status.agent.clone(),
            state(true, status.draining).to_owned(),
            tunnel.gateway.clone(),
            transport(tunnel.transport()).to_owned(),
            round_trip(tunnel.rtt_us),
            tunnel.streams.to_string(),
            when(tunnel.since.as_ref()),
        ]
    };
    status.tunnels.iter().map(row).collect()
}

fn agent_value(status: &AgentStatus) -> Value {
    let tunnel = |tunnel: &AgentTunnel| {
        json!({
            "gateway": tunnel.gateway, "over": transport(tunnel.transport()), "rttUs": tunnel.rtt_us,
            "streams": tunnel.streams, "since": when(tunnel.since.as_ref()), "draining": tunnel.draining,
        })
    };
    let tunnels: Vec<Value> = status.tunnels.iter().map(tunnel).collect();
    json!({
        "pool": status.pool, "agent": status.agent, "version": status.version, "state": state(true, status.draining),
        "draining": status.draining, "tunnels": tunnels,
    })
}

const fn transport(transport: TunnelTransport) -> &'static str {
    match transport {
        TunnelTransport::Quic => "quic",
        TunnelTransport::Tcp => "tcp",
        TunnelTransport::Unspecified => "unknown",
    }
}

fn round_trip(micros: u32) -> String {
    if micros == 0 { String::new() } else { format!("{}.{:01} ms", micros / 1000, micros % 1000 / 100) }
}
