//! The audit log, for those who may read it.

use std::sync::Arc;

use postern_core::Timestamp;
use postern_core::audit::AuditRecord;
use postern_core::wire::cluster::audit_to_proto;
use postern_core::wire::timestamp_from_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::audit_service_server::AuditService;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::access::Access;
use super::page::{Key, Page, Sizes};
use super::status;
use crate::raft::RaftHandle;

const SIZES: Sizes = Sizes { default: 100, most: 1_000 };

pub(super) struct Service {
    pub(super) raft: RaftHandle,
    pub(super) access: Access,
}

/// What a list asks for.
struct Filter {
    request: pb::ListAuditRecordsRequest,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Filter {
    fn takes(&self, record: &AuditRecord) -> bool {
        let request = &self.request;
        let principal = || record.principal.as_ref().is_some_and(|one| one.id.to_string() == request.principal);
        let ends_in = |whole: &str, part: &str| {
            whole == part || whole.strip_suffix(part).is_some_and(|rest| rest.ends_with(['/', '.']))
        };
        let object = |object: &String| {
            *object == request.object || object.split_once('/').is_some_and(|(kind, _)| kind == request.object)
        };
        let code = match request.code.strip_prefix('!') {
            Some(not) => !record.code.eq_ignore_ascii_case(not),
            None => request.code.is_empty() || record.code.eq_ignore_ascii_case(&request.code),
        };
        code && (request.principal.is_empty() || principal())
            && (request.certificate.is_empty() || record.certificate == request.certificate)
            && (request.method.is_empty() || ends_in(&record.method, &request.method))
            && (request.object.is_empty() || record.objects.iter().any(object))
            && self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at < until)
    }
}

#[tonic::async_trait]
impl AuditService for Service {
    async fn list_audit_records(
        &self,
        request: Request<pb::ListAuditRecordsRequest>,
    ) -> Result<Response<pb::ListAuditRecordsResponse>, Status> {
        self.access.call(&request)?;
        let request = request.into_inner();
        let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(timestamp_from_proto);
        let (since, until) = (time(&request.since), time(&request.until));
        let times = format!("{since:?}{until:?}");
        let query = [
            "audit",
            &request.principal,
            &request.certificate,
            &request.method,
            &request.object,
            &request.code,
            times.as_str(),
        ];
        let page = Page::read(request.page_size, SIZES, &request.page_token, &query, true)?;
        let filter = Filter { request, since, until };
        let read = self.raft.read(|state| (state.audit().cloned().collect::<Vec<_>>(), state.audit_head()));
        let (found, (head_sequence, head_hash)) = read.await.map_err(status::read)?;
        let first_sequence = found.first().map_or(0, |record| record.sequence);
        let found = found.into_iter().filter(|record| filter.takes(record));
        let key = |record: &Arc<AuditRecord>| Key { number: record.sequence, text: String::new() };
        let (found, next_page_token) = page.cut(found, key, |record| audit_to_proto(record).encoded_len());
        let records = found.iter().map(|record| audit_to_proto(record)).collect();
        Ok(Response::new(pb::ListAuditRecordsResponse {
            records,
            next_page_token,
            head_sequence,
            head_hash: head_hash.to_vec(),
            first_sequence,
        }))
    }
}
