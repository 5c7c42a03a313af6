//! A client of the whole cluster: it knows all members, goes on to the next when one does not answer, and says what it does not know.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use postern_core::node::CONTROL_PLANE_NAME;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::resource::v1 as resource_pb;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Response, Status};

/// How long to wait before all members are asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// How a client goes about it.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// How long one member may take to answer before the next is asked.
    pub attempt: Duration,
    /// How long all attempts together may take.
    pub limit: Duration,
    /// Connections to each member.
    pub connections: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { attempt: Duration::from_secs(1), limit: Duration::from_secs(15), connections: 1 }
    }
}

/// Why there is no answer, or another than was hoped for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The object is at another revision.
    #[error("at another revision: {0}")]
    Conflict(String),
    /// It was not done, and asking again would not help.
    #[error("refused: {0}")]
    Refused(String),
    /// Nobody told within the limit whether it was done.
    #[error("no answer: {0}")]
    Unknown(String),
}

/// Connections to every member. Cheap to clone; clones share connections and what they know of the members.
#[derive(Clone, Debug)]
pub struct Members {
    members: Arc<Vec<Vec<Channel>>>,
    /// Who answered last.
    first: Arc<AtomicUsize>,
    next_connection: Arc<AtomicUsize>,
    options: ClientOptions,
}

/// A client of Postern's control plane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClusterClient {
    members: Members,
}

/// Connections to one address, made when they are first used.
///
/// # Errors
/// When the address is none, or a certificate is unusable.
pub fn channels(address: &str, tls: Option<&ClientTlsConfig>, count: usize) -> Result<Vec<Channel>> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
        .connect_timeout(Duration::from_millis(500))
        .http2_keep_alive_interval(Duration::from_millis(500))
        .keep_alive_timeout(Duration::from_secs(1))
        .tcp_nodelay(true);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.clone())?;
    }
    Ok((0..count.max(1)).map(|_| endpoint.connect_lazy()).collect())
}

/// The TLS of whoever has the credential in `folder` (`node.crt`, `node.key`, `ca.crt`).
///
/// # Errors
/// When a file cannot be read.
pub fn tls_of(folder: &Path) -> Result<ClientTlsConfig> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")?))
        .identity(Identity::from_pem(read("node.crt")?, read("node.key")?))
        .domain_name(CONTROL_PLANE_NAME))
}

impl Members {
    /// At `addresses`. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When an address is none.
    pub fn new(addresses: &[String], tls: Option<&ClientTlsConfig>, options: ClientOptions) -> Result<Self> {
        let members: Result<Vec<_>> =
            addresses.iter().map(|address| channels(address, tls, options.connections)).collect();
        Ok(Self { members: Arc::new(members?), first: Arc::default(), next_connection: Arc::default(), options })
    }

    /// This member alone: whether it answers or not.
    #[must_use]
    pub fn only(&self, member: usize) -> Self {
        let members = self.members.get(member).cloned().into_iter().collect();
        Self { members: Arc::new(members), first: Arc::default(), ..self.clone() }
    }

    /// This member first.
    #[must_use]
    pub fn beginning_with(&self, member: usize) -> Self {
        Self { first: Arc::new(AtomicUsize::new(member)), ..self.clone() }
    }

    /// Asks one member after the other until one has told. What is asked may be done more than once, unless it says itself that it must not.
    ///
    /// # Errors
    /// When it was refused, or nobody can tell.
    pub async fn ask<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.options.limit;
        let mut failed = 0_usize;
        loop {
            let member = self.first.load(Ordering::Relaxed);
            let why = match timeout(self.options.attempt, call(self.channel(member))).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => match status.code() {
                    Code::Aborted | Code::AlreadyExists => return Err(Failure::Conflict(said(&status))),
                    // A bound that was reached, a member that stops or knows no leader, a connection that broke.
                    Code::ResourceExhausted
                    | Code::Unavailable
                    | Code::Unknown
                    | Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Internal => said(&status),
                    _ => return Err(Failure::Refused(said(&status))),
                },
                Err(_) => format!("nothing within {:?}", self.options.attempt),
            };
            if Instant::now() >= deadline {
                return Err(Failure::Unknown(why));
            }
            // Whoever comes first moves all on.
            let next = (member + 1) % self.members.len().max(1);
            let _ = self.first.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
            failed += 1;
            if failed.is_multiple_of(self.members.len().max(1)) {
                sleep(PAUSE).await;
            }
        }
    }

    fn channel(&self, member: usize) -> Channel {
        let connections = self.members.get(member).or_else(|| self.members.first());
        let at = self.next_connection.fetch_add(1, Ordering::Relaxed);
        #[allow(clippy::indexing_slicing)]
        // neither is ever empty: `channels` makes one at least, and a cluster has a member
        let channel = connections.map(|all| all[at % all.len()].clone());
        #[allow(clippy::expect_used)] // as above
        channel.expect("a member")
    }
}

impl ClusterClient {
    /// Of the members at `addresses`, with the credential in `credential`. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the credential cannot be read.
    pub fn new(addresses: &[String], credential: &Path, options: ClientOptions) -> Result<Self> {
        Ok(Self { members: Members::new(addresses, Some(&tls_of(credential)?), options)? })
    }

    /// The same, asking this member alone: whether it answers or not.
    #[must_use]
    pub fn only(&self, member: usize) -> Self {
        Self { members: self.members.only(member) }
    }

    /// The same, asking this member first.
    #[must_use]
    pub fn beginning_with(&self, member: usize) -> Self {
        Self { members: self.members.beginning_with(member) }
    }

    /// The same in another way.
    #[must_use]
    pub fn with(&self, options: ClientOptions) -> Self {
        Self { members: Members { options, ..self.members.clone() } }
    }

    /// How many members it knows.
    pub(super) fn members(&self) -> usize {
        self.members.members.len()
    }

    /// A connection to a member; numbers begin again after the last.
    pub(super) fn channel(&self, member: usize) -> Channel {
        self.members.channel(member % self.members().max(1))
    }

    /// Writes `value` into the object `name`; its new revision. A write that is asked again is asked with the same request id, and is
    /// done once.
    ///
    /// # Errors
    /// When it was refused, or nobody can tell.
    pub async fn put(&self, name: &str, value: &str, expected: Option<u64>) -> Result<u64, Failure> {
        let resource = register(name, value, expected.unwrap_or_default());
        let request_id = format!("{:032x}", fastrand::u128(..));
        let request = pb::ApplyRequest { resources: vec![resource], request_id, ..Default::default() };
        let answer = self
            .members
            .ask(|channel| {
                let request = request.clone();
                async move { ResourceServiceClient::new(channel).apply(request).await }
            })
            .await?;
        match answer.applied.as_slice() {
            [applied] => Ok(applied.revision),
            _ => Err(Failure::Refused(format!("an answer of {} objects", answer.applied.len()))),
        }
    }

    /// Writes `count` objects of some 4 KB each, in one: state that takes time to send.
    ///
    /// # Errors
    /// When it was refused, or nobody can tell.
    pub async fn fill(&self, prefix: &str, count: usize) -> Result<(), Failure> {
        let filling = "x".repeat(4_000);
        let resources: Vec<_> = (0..count).map(|number| register(&format!("{prefix}-{number}"), &filling, 0)).collect();
        let request =
            pb::ApplyRequest { resources, request_id: format!("{:032x}", fastrand::u128(..)), ..Default::default() };
        self.members
            .ask(|channel| {
                let request = request.clone();
                async move { ResourceServiceClient::new(channel).apply(request).await }
            })
            .await
            .map(drop)
    }

    /// The value and revision of the object `name`, as of now.
    ///
    /// # Errors
    /// When it was refused, or nobody can tell.
    pub async fn get(&self, name: &str) -> Result<Option<(String, u64)>, Failure> {
        let request = pb::GetRequest { kind: resource_pb::Kind::Role.into(), name: name.to_owned() };
        let answer = self
            .members
            .ask(|channel| {
                let request = request.clone();
                async move {
                    match ResourceServiceClient::new(channel).get(request).await {
                        Ok(found) => Ok(found.map(Some)),
                        Err(status) if status.code() == Code::NotFound => Ok(Response::new(None)),
                        Err(status) => Err(status),
                    }
                }
            })
            .await?;
        let Some(found) = answer else { return Ok(None) };
        let resource = found.resource.unwrap_or_default();
        let revision = resource.metadata.map(|metadata| metadata.revision).unwrap_or_default();
        match resource.spec {
            Some(resource_pb::resource::Spec::Role(role)) => Ok(Some((role.description, revision))),
            _ => Err(Failure::Refused("an object of another kind".to_owned())),
        }
    }

    /// Every register's value and revision as of now, by name.
    ///
    /// # Errors
    /// When it was refused, or nobody can tell.
    pub async fn registers(&self, names: &[String]) -> Result<Vec<(String, Option<(String, u64)>)>, Failure> {
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            all.push((name.clone(), self.get(name).await?));
        }
        Ok(all)
    }
}

fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// The smallest object there is, with a value in it: a role that grants next to nothing.
fn register(name: &str, value: &str, revision: u64) -> resource_pb::Resource {
    let grant = resource_pb::Grant { objects: vec!["sessions".to_owned()], verbs: vec!["list".to_owned()] };
    resource_pb::Resource {
        metadata: Some(resource_pb::Metadata { name: name.to_owned(), revision, ..Default::default() }),
        spec: Some(resource_pb::resource::Spec::Role(resource_pb::RoleSpec {
            grants: vec![grant],
            description: value.to_owned(),
        })),
    }
}
