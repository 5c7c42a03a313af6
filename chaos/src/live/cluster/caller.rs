//! Single calls to single members, by certificate or token: what exactly one member answers, with its status.

use anyhow::{Context as _, Result, anyhow};
use postern_core::node::CONTROL_PLANE_NAME;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::audit_service_client::AuditServiceClient;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::resource::v1 as resource_pb;
use tokio::runtime::Runtime;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status, Streaming};

use super::LiveCluster;
use super::client::{channels, tls_of};

/// Calls members one by one.
#[derive(Debug)]
pub struct Caller {
    runtime: Runtime,
    /// With the administrator's certificate.
    admin: Vec<Channel>,
    /// With none.
    open: Vec<Channel>,
}

impl Caller {
    /// Of every member of `cluster`.
    ///
    /// # Errors
    /// When its credential cannot be read.
    pub fn new(cluster: &LiveCluster) -> Result<Self> {
        let runtime = Runtime::new()?;
        let guard = runtime.enter();
        let ca = std::fs::read_to_string(cluster.admin().join("ca.crt"))?;
        let open = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(CONTROL_PLANE_NAME);
        let tls = tls_of(&cluster.admin())?;
        let (mut by_admin, mut by_nobody) = (Vec::new(), Vec::new());
        for address in cluster.addresses() {
            by_admin.extend(channels(&address, Some(&tls), 1)?);
            by_nobody.extend(channels(&address, Some(&open), 1)?);
        }
        drop(guard);
        Ok(Self { runtime, admin: by_admin, open: by_nobody })
    }

    /// Lists a kind of objects at a member, as the bearer of `token`; an empty one is none.
    ///
    /// # Errors
    /// The member's answer.
    pub fn list(&self, member: usize, token: &str, kind: resource_pb::Kind) -> Result<pb::ListResponse, Box<Status>> {
        let request = pb::ListRequest { kind: kind.into(), page_size: 1, ..Default::default() };
        let mut service = ResourceServiceClient::new(self.channel(&self.open, member)?);
        let answer = self.runtime.block_on(async { service.list(bearer(request, token)?).await });
        Ok(answer?.into_inner())
    }

    /// Exchanges `token` for a session token at a member.
    ///
    /// # Errors
    /// The member's answer.
    pub fn exchange(&self, member: usize, token: &str, ttl_seconds: u32) -> Result<String, Box<Status>> {
        let request = pb::ExchangeTokenRequest { subject_token: token.to_owned(), ttl_seconds, ..Default::default() };
        self.exchange_as(member, request)
    }

    /// The same, as `request` says.
    ///
    /// # Errors
    /// The member's answer.
    pub fn exchange_as(&self, member: usize, request: pb::ExchangeTokenRequest) -> Result<String, Box<Status>> {
        let mut service = TokenServiceClient::new(self.channel(&self.open, member)?);
        Ok(self.runtime.block_on(service.exchange_token(request))?.into_inner().token)
    }

    /// Begins a watch at a member, as the bearer of `token`.
    ///
    /// # Errors
    /// The member's answer.
    pub fn watch(
        &self,
        member: usize,
        token: &str,
        kind: resource_pb::Kind,
    ) -> Result<Streaming<pb::WatchResponse>, Box<Status>> {
        let request = pb::WatchRequest { kind: kind.into(), ..Default::default() };
        let mut service = ResourceServiceClient::new(self.channel(&self.open, member)?);
        let answer = self.runtime.block_on(async { service.watch(bearer(request, token)?).await });
        Ok(answer?.into_inner())
    }

    /// The next answer of a watch.
    ///
    /// # Errors
    /// The end of the watch.
    pub fn next(&self, watch: &mut Streaming<pb::WatchResponse>) -> Result<pb::WatchResponse, Box<Status>> {
        let next = self.runtime.block_on(watch.message())?;
        next.ok_or_else(|| Box::new(Status::unavailable("the stream ended")))
    }

    /// All of the audit log as a member tells it, oldest first, with the head's number and hash.
    ///
    /// # Errors
    /// When it does not.
    pub fn audit(&self, member: usize) -> Result<(Vec<resource_pb::AuditRecord>, u64, Vec<u8>)> {
        let channel = self.channel(&self.admin, member).map_err(|status| anyhow!("{status}"))?;
        let mut service = AuditServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let mut request = pb::ListAuditRecordsRequest { page_size: 1_000, ..Default::default() };
        let (mut all, mut head) = (Vec::new(), None);
        loop {
            let page = self.runtime.block_on(service.list_audit_records(request.clone()))?.into_inner();
            head.get_or_insert((page.head_sequence, page.head_hash));
            all.extend(page.records);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        all.reverse();
        let (sequence, hash) = head.context("a head")?;
        Ok((all, sequence, hash))
    }

    fn channel(&self, of: &[Channel], member: usize) -> Result<Channel, Box<Status>> {
        of.get(member).cloned().ok_or_else(|| Box::new(Status::new(Code::Internal, "no such member")))
    }
}

fn bearer<T>(request: T, token: &str) -> Result<Request<T>, Status> {
    let mut request = Request::new(request);
    if !token.is_empty() {
        let value: MetadataValue<_> =
            format!("Bearer {token}").parse().map_err(|_| Status::internal("no token has such characters"))?;
        request.metadata_mut().insert("authorization", value);
    }
    Ok(request)
}
