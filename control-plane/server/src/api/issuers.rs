//! Issuers' keys, for gateways that met a token with an unknown one.

use postern_core::Name;
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::issuer_service_server::IssuerService;
use tonic::{Request, Response, Status};

use super::access::Access;
use super::status;
use crate::identity::Demanded;

/// Issuers in one request: those of one URL, by audience.
const MAX_ISSUERS: usize = 16;

pub(super) struct Service {
    pub(super) access: Access,
}

#[tonic::async_trait]
impl IssuerService for Service {
    async fn refresh_keys(
        &self,
        request: Request<pb::RefreshKeysRequest>,
    ) -> Result<Response<pb::RefreshKeysResponse>, Status> {
        self.access.gateway(&request)?;
        let issuers = request.into_inner().issuers;
        if issuers.len() > MAX_ISSUERS {
            return Err(status::invalid_field("issuers", format!("has more than {MAX_ISSUERS}")));
        }
        let issuers = issuers.iter().map(|name| status::parse::<Name>("issuers", name));
        let issuers = issuers.collect::<Result<Vec<_>, _>>()?;
        let asked = issuers.into_iter().map(|issuer| self.access.demand.ask(issuer));
        let answers = futures::future::join_all(asked).await;
        let rest = answers.iter().filter_map(|answer| match answer {
            Demanded::NotNow(rest) => Some(*rest),
            Demanded::Changed | Demanded::Same | Demanded::Nothing => None,
        });
        let rest = rest.max().unwrap_or_default();
        Ok(Response::new(pb::RefreshKeysResponse {
            changed: answers.contains(&Demanded::Changed),
            retry_after_ms: u32::try_from(rest.as_millis()).unwrap_or(u32::MAX),
        }))
    }
}
