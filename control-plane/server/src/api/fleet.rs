//! The directory of gateways: gateways report to it, people list it.

use std::time::Duration;

use futures::StreamExt as _;
use postern_core::Name;
use postern_core::wire::fleet::{news_to_proto, report_from_proto};
use postern_proto::admin::v1 as admin_pb;
use postern_proto::admin::v1::fleet_service_server::FleetService as AdminFleetService;
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::fleet_service_server::FleetService;
use postern_proto::peer::v1 as peer_pb;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::Answers;
use super::access::Access;
use super::page::{Key, Page, Sizes};
use super::status;
use crate::cluster::members::Members;
use crate::fleet::{self, Ended, Fleet, NotLeader, ReportError, Reporting};

const SIZES: Sizes = Sizes { default: 500, most: 1_000 };
/// How long people wait for the leader's answer, and for there to be a leader.
const ASK: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// For gateways.
pub(super) struct Reports {
    pub(super) members: Members,
    pub(super) access: Access,
    pub(super) stop: CancellationToken,
}

/// For people.
pub(super) struct Service {
    pub(super) members: Members,
    pub(super) access: Access,
}

/// A gateway's stream, both ways.
struct Session {
    reporting: Reporting,
    reports: Streaming<pb::ReportRequest>,
    gateway: Name,
    members: Members,
    stop: CancellationToken,
}

impl Session {
    /// What is answered next; `None`: the gateway has ended its stream.
    async fn next(&mut self) -> Option<Result<pb::ReportResponse, Status>> {
        loop {
            let (reports, pause) = (&mut self.reports, self.reporting.pause());
            let heard = async {
                tokio::time::sleep(pause).await;
                reports.message().await
            };
            tokio::select! {
                () = self.stop.cancelled() => return Some(Err(Status::unavailable("the node stops"))),
                news = self.reporting.next() => {
                    let answer = news.map(|news| news_to_proto(&news));
                    if let Ok(answer) = &answer {
                        bytes("postern_control_fleet_answer_bytes_total", answer);
                    }
                    return Some(answer.map_err(|why| ended(&self.members, &why)));
                }
                heard = heard => match heard {
                    Ok(Some(report)) => {
                        bytes("postern_control_fleet_report_bytes_total", &report);
                        let taken = report_from_proto(report, &self.gateway).map_err(status::wire);
                        let taken = taken.and_then(|report| {
                            self.reporting.take(report).map_err(|why| ended(&self.members, &why))
                        });
                        if let Err(status) = taken {
                            return Some(Err(status));
                        }
                    }
                    Ok(None) => return None,
                    Err(status) => return Some(Err(status)),
                },
            }
        }
    }
}

fn bytes(counter: &'static str, message: &impl prost::Message) {
    metrics::counter!(counter).increment(u64::try_from(message.encoded_len()).unwrap_or(u64::MAX));
}

#[tonic::async_trait]
impl FleetService for Reports {
    type ReportStream = Answers<pb::ReportResponse>;

    async fn report(
        &self,
        request: Request<Streaming<pb::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let gateway = self.access.gateway(&request)?;
        let reporting = self.members.fleet.begin(&gateway).map_err(|why| ended(&self.members, &why))?;
        info!(%gateway, "a gateway reports");
        let (members, stop) = (self.members.clone(), self.stop.clone());
        let session = Session { reporting, reports: request.into_inner(), gateway, members, stop };
        let answers = futures::stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            let answer = session.next().await?;
            let on = answer.is_ok().then_some(session);
            Some((answer, on))
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Why a gateway has to come again, here or elsewhere.
fn ended(members: &Members, why: &Ended) -> Status {
    match why {
        Ended::NotLeader(NotLeader) => not_leader(members),
        Ended::Report(ReportError::Superseded) => status::with_reason(Status::aborted(why.to_string()), "SUPERSEDED"),
        Ended::Report(ReportError::NotWhole) => Status::failed_precondition(why.to_string()),
        Ended::Report(ReportError::TooManyGateways(_) | ReportError::TooManyTunnels(_)) => {
            status::with_reason(Status::resource_exhausted(why.to_string()), "LIMIT_REACHED")
        }
    }
}

/// Says who leads, as far as it is known.
fn not_leader(members: &Members) -> Status {
    let leader = members.raft.status().borrow().leader;
    let view = members.view();
    let known = view.node(leader);
    let text = known.map_or_else(|| NotLeader.to_string(), |node| format!("{NotLeader}: {} does", node.name));
    let mut status = status::with_reason(Status::unavailable(text), "NOT_LEADER");
    let address = known.and_then(|node| node.api_address.parse().ok());
    if let Some(address) = address {
        status.metadata_mut().insert("postern-leader", address);
    }
    status
}

#[tonic::async_trait]
impl AdminFleetService for Service {
    async fn list_gateways(
        &self,
        request: Request<admin_pb::ListGatewaysRequest>,
    ) -> Result<Response<admin_pb::ListGatewaysResponse>, Status> {
        self.access.call(&request)?;
        let list = peer_pb::get_fleet_request::List::Gateways(request.into_inner());
        match self.ask(list).await?.list {
            Some(peer_pb::get_fleet_response::List::Gateways(listed)) => Ok(Response::new(listed)),
            _ => Err(Status::internal("the leader answered something else")),
        }
    }

    async fn list_agents(
        &self,
        request: Request<admin_pb::ListAgentsRequest>,
    ) -> Result<Response<admin_pb::ListAgentsResponse>, Status> {
        self.access.call(&request)?;
        let list = peer_pb::get_fleet_request::List::Agents(request.into_inner());
        match self.ask(list).await?.list {
            Some(peer_pb::get_fleet_response::List::Agents(listed)) => Ok(Response::new(listed)),
            _ => Err(Status::internal("the leader answered something else")),
        }
    }
}

impl Service {
    /// Asks whoever leads.
    pub(super) async fn ask(
        &self,
        list: peer_pb::get_fleet_request::List,
    ) -> Result<peer_pb::GetFleetResponse, Status> {
        let request = peer_pb::GetFleetRequest { list: Some(list) };
        let asked = async {
            loop {
                let leader = self.members.raft.status().borrow().leader;
                let answer = match leader {
                    0 => Err(Status::unavailable("there is no leader")),
                    own if own == self.members.own_id() => listed(&self.members.fleet, request.clone()),
                    other => self.members.fleet_of(other, request.clone()).await,
                };
                match answer {
                    Err(status) if status.code() == tonic::Code::Unavailable => {
                        tokio::time::sleep(ASK_AGAIN).await;
                    }
                    answer => return answer,
                }
            }
        };
        let late = |_| status::with_reason(Status::unavailable("the leader does not answer"), "NO_LEADER");
        tokio::time::timeout(ASK, asked).await.map_err(late)?
    }
}

/// What is asked for, on the node that leads.
pub(crate) fn listed(fleet: &Fleet, request: peer_pb::GetFleetRequest) -> Result<peer_pb::GetFleetResponse, Status> {
    use peer_pb::get_fleet_request::List as Asked;
    use peer_pb::get_fleet_response::List as Listed;
    let not_leader = |NotLeader| Status::unavailable(NotLeader.to_string());
    let key = |text: String| Key { number: 0, text };
    let list = match request.list {
        Some(Asked::Gateways(request)) => {
            let page = Page::read(request.page_size, SIZES, &request.page_token, &["gateways"], false)?;
            let mut all = fleet::gateways(fleet).map_err(not_leader)?;
            let name =
                |one: &admin_pb::GatewayStatus| key(one.gateway.as_ref().map(|it| it.name.clone()).unwrap_or_default());
            (all.gateways, all.next_page_token) = page.cut(all.gateways, name, prost::Message::encoded_len);
            Listed::Gateways(all)
        }
        Some(Asked::Agents(request)) => {
            let query = ["agents", &request.pool, &request.gateway];
            let page = Page::read(request.page_size, SIZES, &request.page_token, &query, false)?;
            let mut all = fleet::agents(fleet, &request).map_err(not_leader)?;
            let name = |one: &admin_pb::AgentStatus| key(format!("{}/{}", one.pool, one.agent));
            (all.agents, all.next_page_token) = page.cut(all.agents, name, |one| one.encoded_len());
            Listed::Agents(all)
        }
        None => return Err(Status::invalid_argument("list is missing")),
    };
    Ok(peer_pb::GetFleetResponse { list: Some(list) })
}
