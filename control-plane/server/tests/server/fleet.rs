//! The directory of gateways: they report, are told of each other, and people see them.

use postern_core::node::NodeRole;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::fleet_service_client::FleetServiceClient as AdminClient;
use postern_proto::gateway::v1::fleet_service_client::FleetServiceClient;
use postern_proto::gateway::v1::{Holding, ReportRequest, ReportResponse, TunnelKey};
use postern_proto::resource::v1::{FleetGateway, FleetTunnel, TunnelTransport};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::node::{Node, eventually, start};

struct Gateway {
    reports: mpsc::Sender<ReportRequest>,
    news: Streaming<ReportResponse>,
}

fn itself(name: &str) -> FleetGateway {
    FleetGateway {
        name: name.to_owned(),
        tunnel_addresses: vec!["gw.example:7443".into()],
        version: "test".into(),
        tunnel_version: 2,
        ..Default::default()
    }
}

fn tunnel(pool: &str, agent: &str, streams: u32) -> FleetTunnel {
    FleetTunnel {
        agent: agent.to_owned(),
        pool: pool.to_owned(),
        streams,
        rtt_us: 300,
        transport: TunnelTransport::Tcp.into(),
        ..Default::default()
    }
}

fn whole(name: &str, tunnels: Vec<FleetTunnel>) -> ReportRequest {
    ReportRequest { whole: true, gateway: Some(itself(name)), tunnels, ..Default::default() }
}

impl Gateway {
    async fn begin(node: &Node, name: &str, first: ReportRequest) -> Self {
        let (reports, sent) = mpsc::channel(16);
        reports.send(first).await.unwrap();
        let mut client = FleetServiceClient::new(node.as_node(NodeRole::Gateway, name).await);
        // Until the node leads.
        let news =
            eventually("a leader", async || match client.report(ReceiverStream::new(mpsc::channel(1).1)).await {
                Err(status) if status.code() == Code::Unavailable => None,
                _ => Some(()),
            });
        news.await;
        let news = client.report(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Self { reports, news }
    }

    /// Reads until news are as wanted.
    async fn until(&mut self, wanted: impl Fn(&ReportResponse) -> bool) -> ReportResponse {
        loop {
            let news = self.news.message().await.unwrap().unwrap();
            if wanted(&news) {
                return news;
            }
        }
    }
}

fn holds(gateway: &str, pool: &str, agents: u32, streams: u64) -> impl Fn(&ReportResponse) -> bool {
    let wanted = Holding { gateway: gateway.to_owned(), pool: pool.to_owned(), agents, streams, draining: 0 };
    move |news| news.holdings.contains(&wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_told_of_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    // What it says of its name does not count.
    let mut one = Gateway::begin(&node, "g1", whole("somebody-else", vec![tunnel("lab", "a1", 2)])).await;
    let first = one.until(holds("g1", "lab", 1, 2)).await;
    assert!(first.settling && first.epoch.is_some_and(|epoch| epoch.term > 0 && !epoch.incarnation.is_empty()));
    let mut two = Gateway::begin(&node, "g2", whole("g2", Vec::new())).await;
    let news = two.until(holds("g1", "lab", 1, 2)).await;
    assert!(news.whole && news.gateways.iter().any(|it| it.name == "g1" && it.tunnel_addresses == ["gw.example:7443"]));
    one.until(|news| news.gateways.iter().any(|it| it.name == "g2")).await;

    let key = TunnelKey { pool: "lab".into(), agent: "a1".into() };
    // An agent that is about to stop: gateways are told, and people.
    let mut stops = tunnel("lab", "a1", 2);
    stops.draining = true;
    one.reports.send(ReportRequest { tunnels: vec![stops], ..Default::default() }).await.unwrap();
    two.until(|news| news.holdings.iter().any(|held| held.agents == 1 && held.draining == 1)).await;
    let mut admin = AdminClient::new(node.admin().await);
    let agents = admin.list_agents(pb::ListAgentsRequest::default()).await.unwrap().into_inner().agents;
    assert!(agents[0].draining && !agents[0].tunnels[0].draining, "{agents:?}");

    let change =
        ReportRequest { tunnels: vec![tunnel("edge", "b1", 0)], closed: vec![key.clone()], ..Default::default() };
    one.reports.send(change).await.unwrap();
    let news = two.until(holds("g1", "edge", 1, 0)).await;
    assert!(holds("g1", "lab", 0, 0)(&news) && !news.whole);

    let listed = admin.list_gateways(pb::ListGatewaysRequest { page_size: 1, ..Default::default() }).await;
    let listed = listed.unwrap().into_inner();
    let gateway = &listed.gateways[0];
    assert_eq!((gateway.gateway.as_ref().unwrap().name.as_str(), gateway.connected, gateway.tunnels), ("g1", true, 1));
    let next = pb::ListGatewaysRequest { page_token: listed.next_page_token, ..Default::default() };
    let listed = admin.list_gateways(next).await.unwrap().into_inner();
    assert_eq!(listed.gateways.len(), 1);
    let agents = admin.list_agents(pb::ListAgentsRequest::default()).await.unwrap().into_inner().agents;
    assert_eq!((agents.len(), agents[0].agent.as_str(), agents[0].tunnels[0].gateway.as_str()), (1, "b1", "g1"));
    assert_eq!(agents[0].tunnels[0].transport(), TunnelTransport::Tcp);
    for (pool, gateway) in [("lab", ""), ("", "g2")] {
        let none = pb::ListAgentsRequest { pool: pool.into(), gateway: gateway.into(), ..Default::default() };
        assert!(admin.list_agents(none).await.unwrap().into_inner().agents.is_empty());
    }

    // Another stream of the same gateway takes the place of the first, and its end is not the gateway's.
    let again = Gateway::begin(&node, "g1", whole("g1", vec![tunnel("lab", "a1", 0)])).await;
    assert_eq!(eventually("the end", async || one.news.message().await.err()).await.code(), Code::Aborted);
    two.until(holds("g1", "lab", 1, 0)).await;
    drop(one);
    // A gateway that is gone is gone for the others too.
    drop(again);
    two.until(|news| news.gone.contains(&"g1".to_owned())).await;
    drop(two);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_gateways_report_and_only_what_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    for channel in [node.anonymous().await, node.admin().await, node.as_node(NodeRole::Agent, "a1").await] {
        let (reports, sent) = mpsc::channel(1);
        reports.send(whole("g1", Vec::new())).await.unwrap();
        let refused = FleetServiceClient::new(channel).report(ReceiverStream::new(sent)).await.unwrap_err();
        assert!(matches!(refused.code(), Code::PermissionDenied | Code::Unauthenticated), "{refused}");
    }
    let many = vec!["a:1".to_owned(); 9];
    let bad = FleetGateway { tunnel_addresses: many, ..itself("g1") };
    for first in [
        ReportRequest::default(),
        whole("g1", vec![tunnel("No Name", "a1", 0)]),
        ReportRequest { gateway: Some(bad), ..whole("g1", Vec::new()) },
    ] {
        let mut gateway = Gateway::begin(&node, "g1", first).await;
        let refused = eventually("the refusal", async || gateway.news.message().await.err()).await;
        assert!(matches!(refused.code(), Code::InvalidArgument | Code::FailedPrecondition), "{refused}");
    }
    let stranger = AdminClient::new(node.as_node(NodeRole::Gateway, "g1").await);
    let refused = { stranger }.list_agents(pb::ListAgentsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    node.end().await;
}

/// Twenty gateways to which agents come back all at once, one after the other: each gateway ends with the whole directory, told a few times a
/// second and not once for each agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_agents_is_told_in_few_answers() {
    const GATEWAYS: usize = 20;
    const AGENTS: usize = 300;
    const EACH: usize = 3;
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let mut gateways = Vec::new();
    for place in 0..GATEWAYS {
        let name = format!("g{place}");
        gateways.push(Gateway::begin(&node, &name, whole(&name, Vec::new())).await);
    }
    let began = std::time::Instant::now();
    for agent in 0..AGENTS {
        for turn in 0..EACH {
            let held = tunnel(&format!("site-{agent}"), &format!("a{agent}"), 0);
            let report = ReportRequest { tunnels: vec![held], ..Default::default() };
            gateways[(agent + turn * 7) % GATEWAYS].reports.send(report).await.unwrap();
        }
    }
    let mut readers = tokio::task::JoinSet::new();
    for mut gateway in gateways {
        readers.spawn(async move {
            let (mut held, mut answers) = (std::collections::BTreeSet::new(), 0_usize);
            while held.len() < AGENTS * EACH {
                let news = gateway.news.message().await.unwrap().unwrap();
                answers += 1;
                held.extend(news.holdings.into_iter().map(|holding| (holding.gateway, holding.pool)));
            }
            (answers, gateway)
        });
    }
    let all = tokio::time::timeout(std::time::Duration::from_secs(60), readers.join_all()).await.unwrap();
    // One at once, five a second, and a whole that comes in parts.
    let most = 5 + 6 * (1 + usize::try_from(began.elapsed().as_secs()).unwrap());
    for (answers, _) in &all {
        assert!(*answers <= most, "{answers} answers, not {most}");
    }
    let listed = AdminClient::new(node.admin().await).list_agents(pb::ListAgentsRequest::default()).await;
    let listed = listed.unwrap().into_inner();
    assert!(listed.agents.len() == AGENTS && listed.agents.iter().all(|agent| agent.tunnels.len() == EACH));
    drop(all);
    node.end().await;
}
