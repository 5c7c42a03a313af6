//! The gRPC services: one file each. Generated types end here.

mod access;
mod approvals;
mod audit;
mod audit_log;
mod call;
mod certificates;
mod clients;
pub(crate) mod cluster;
mod desk;
pub(crate) mod fleet;
mod follow;
mod grants;
mod guard;
mod hold;
mod issuers;
mod jobs;
mod labels;
mod log;
mod logins;
mod mask;
mod members;
mod opened;
mod page;
mod permissions;
mod policy;
mod proof;
mod recordings;
mod requests;
mod resources;
mod reviews;
mod revocations;
mod rights;
mod roles;
mod schema;
mod secrets;
mod sessions;
mod signing;
mod status;
mod tokens;
mod uses;
pub(crate) mod veil;
mod watching;
mod webhooks;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use postern_proto::DESCRIPTORS;
use postern_proto::admin::v1::access_service_server::AccessServiceServer;
use postern_proto::admin::v1::approval_service_server::ApprovalServiceServer;
use postern_proto::admin::v1::audit_service_server::AuditServiceServer;
use postern_proto::admin::v1::certificate_service_server::CertificateServiceServer;
use postern_proto::admin::v1::client_service_server::ClientServiceServer;
use postern_proto::admin::v1::cluster_service_server::ClusterServiceServer;
use postern_proto::admin::v1::fleet_service_server::FleetServiceServer as AdminFleetServiceServer;
use postern_proto::admin::v1::job_service_server::JobServiceServer;
use postern_proto::admin::v1::log_service_server::LogServiceServer;
use postern_proto::admin::v1::resource_service_server::ResourceServiceServer;
use postern_proto::admin::v1::review_service_server::ReviewServiceServer;
use postern_proto::admin::v1::revocation_service_server::RevocationServiceServer;
use postern_proto::admin::v1::secret_service_server::SecretServiceServer;
use postern_proto::admin::v1::session_service_server::SessionServiceServer;
use postern_proto::admin::v1::token_service_server::TokenServiceServer;
use postern_proto::admin::v1::webhook_service_server::WebhookServiceServer;
use postern_proto::gateway::v1::fleet_service_server::FleetServiceServer;
use postern_proto::gateway::v1::hold_service_server::HoldServiceServer;
use postern_proto::gateway::v1::issuer_service_server::IssuerServiceServer;
use postern_proto::gateway::v1::policy_feed_service_server::PolicyFeedServiceServer;
use postern_proto::gateway::v1::recording_service_server::RecordingServiceServer;
use postern_proto::gateway::v1::review_service_server::ReviewServiceServer as OpenedServiceServer;
use postern_proto::gateway::v1::token_use_service_server::TokenUseServiceServer;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tracing::error;

pub(crate) use access::Access;
pub(crate) use audit_log::AuditLog;
pub(crate) use call::Call;
pub(crate) use certificates::{sign, sign_for};
pub(crate) use desk::{Ask, At, CLIENT_ASSERTION, Presented, Refused, TokenDesk};
pub(crate) use jobs::Jobs;
pub(crate) use proof::NONCE;

use crate::bootstrap::ClusterKeys;
use crate::cluster::members::Members;
use crate::feed::Published;
use crate::identity::Signers;
use crate::identity::saml::SamlLogins;
use crate::keys::Kek;
use crate::raft::RaftHandle;
use crate::recordings::Recordings;
use crate::recordings::archive::Archivist;
use crate::recordings::copies::Copies;
use crate::recordings::log::LogBook;
use crate::watch::WatchHub;

use logins::Logins;
use watching::Watches;

/// How many to list at once, of what was asked for.
fn page_size(asked: u32, default: usize, most: usize) -> usize {
    if asked == 0 { default } else { usize::try_from(asked).map_or(most, |asked| asked.min(most)) }
}

/// What a stream of answers is.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The largest request of the public API.
const MAX_REQUEST: usize = 4 << 20;
/// The largest upload: one frame of the largest body, or a batch.
const MAX_UPLOAD: usize = 20 << 20;
/// The largest answer: a snapshot.
const MAX_ANSWER: usize = 64 << 20;

/// Where session tokens are given out.
pub(crate) fn token_desk(
    (keys, signers): (&Arc<ClusterKeys>, &Signers),
    access: &Access,
    saml: &SamlLogins,
    jobs: &Jobs,
) -> TokenDesk {
    let logins = Logins { raft: jobs.raft.clone(), saml: saml.clone(), access: access.clone() };
    TokenDesk::new(Arc::clone(keys), signers.clone(), access.clone(), logins, jobs.clone())
}

/// Every service.
#[allow(clippy::too_many_arguments)] // all parts of the node meet here
pub(crate) fn routes(
    raft: &RaftHandle,
    hub: &WatchHub,
    kek: &Arc<Kek>,
    keys: &Arc<ClusterKeys>,
    access: &Access,
    published: &Published,
    (desk, saml, jobs): (&TokenDesk, &SamlLogins, &Jobs),
    (recordings, copies, book, archivist): (&Recordings, &Copies, &LogBook, &Archivist),
    cluster: ClusterServiceServer<cluster::Service>,
    members: &Members,
    stop: &CancellationToken,
) -> Routes {
    let watches = Watches { hub: hub.clone(), raft: raft.clone(), access: access.clone(), stop: stop.clone() };
    let resources = resources::Service {
        raft: raft.clone(),
        kek: Arc::clone(kek),
        access: access.clone(),
        watches: watches.clone(),
        contended: Arc::default(),
    };
    let approvals = approvals::Service { raft: raft.clone(), access: access.clone(), watches: watches.clone() };
    let webhooks = webhooks::Service { raft: raft.clone(), access: access.clone() };
    let requests = requests::Service { raft: raft.clone(), access: access.clone(), stop: stop.clone() };
    let reviews = reviews::Service { raft: raft.clone(), access: access.clone() };
    let opened = opened::Service { raft: raft.clone(), access: access.clone() };
    let sessions = sessions::Service {
        raft: raft.clone(),
        access: access.clone(),
        copies: copies.clone(),
        watches,
        followers: Arc::new(Semaphore::new(sessions::FOLLOWERS)),
    };
    let log = log::Service { raft: raft.clone(), access: access.clone(), book: book.clone() };
    let audit = audit::Service { raft: raft.clone(), access: access.clone() };
    let tokens = tokens::Service { access: access.clone(), desk: desk.clone() };
    let revocations = revocations::Service { raft: raft.clone(), access: access.clone() };
    let jobs = jobs::Service { access: access.clone(), jobs: jobs.clone() };
    let certificates = certificates::Service { raft: raft.clone(), keys: Arc::clone(keys), access: access.clone() };
    let feed = policy::Service { published: published.clone(), access: access.clone(), stop: stop.clone() };
    let hold = hold::Service { raft: raft.clone(), access: access.clone(), stop: stop.clone() };
    let issuers = issuers::Service { access: access.clone() };
    let uses = uses::Service { raft: raft.clone(), access: access.clone() };
    let uploads = recordings::Service {
        raft: raft.clone(),
        access: access.clone(),
        recordings: recordings.clone(),
        copies: copies.clone(),
        archivist: archivist.clone(),
    };
    let reports = fleet::Reports { members: members.clone(), access: access.clone(), stop: stop.clone() };
    let fleet = fleet::Service { members: members.clone(), access: access.clone() };
    let clients = clients::Service {
        access: access.clone(),
        saml: saml.clone(),
        fleet: fleet::Service { members: members.clone(), access: access.clone() },
    };
    let secrets =
        secrets::Service { raft: raft.clone(), kek: Arc::clone(kek), access: access.clone(), alone: Arc::default() };
    let (health, health_service) = tonic_health::server::health_reporter();
    drop(health);
    let mut routes = Routes::builder();
    routes
        .add_service(ResourceServiceServer::new(resources).max_decoding_message_size(MAX_REQUEST))
        .add_service(ApprovalServiceServer::new(approvals).max_decoding_message_size(MAX_REQUEST))
        .add_service(WebhookServiceServer::new(webhooks).max_decoding_message_size(MAX_REQUEST))
        .add_service(ReviewServiceServer::new(reviews).max_decoding_message_size(MAX_REQUEST))
        .add_service(AccessServiceServer::new(requests).max_decoding_message_size(MAX_REQUEST))
        .add_service(SessionServiceServer::new(sessions).max_decoding_message_size(MAX_REQUEST))
        .add_service(LogServiceServer::new(log).max_decoding_message_size(MAX_REQUEST))
        .add_service(AuditServiceServer::new(audit).max_decoding_message_size(MAX_REQUEST))
        .add_service(TokenServiceServer::new(tokens).max_decoding_message_size(MAX_REQUEST))
        .add_service(JobServiceServer::new(jobs).max_decoding_message_size(MAX_REQUEST))
        .add_service(RevocationServiceServer::new(revocations).max_decoding_message_size(MAX_REQUEST))
        .add_service(ClientServiceServer::new(clients).max_decoding_message_size(MAX_REQUEST))
        .add_service(CertificateServiceServer::new(certificates).max_decoding_message_size(MAX_REQUEST))
        .add_service(cluster)
        .add_service(SecretServiceServer::new(secrets).max_decoding_message_size(MAX_REQUEST))
        .add_service(PolicyFeedServiceServer::new(feed).max_encoding_message_size(MAX_ANSWER))
        .add_service(HoldServiceServer::new(hold).max_decoding_message_size(MAX_REQUEST))
        .add_service(OpenedServiceServer::new(opened).max_decoding_message_size(MAX_REQUEST))
        .add_service(TokenUseServiceServer::new(uses).max_decoding_message_size(MAX_REQUEST))
        .add_service(IssuerServiceServer::new(issuers).max_decoding_message_size(MAX_REQUEST))
        .add_service(RecordingServiceServer::new(uploads).max_decoding_message_size(MAX_UPLOAD))
        .add_service(FleetServiceServer::new(reports).max_decoding_message_size(MAX_REQUEST))
        .add_service(AdminFleetServiceServer::new(fleet).max_decoding_message_size(MAX_REQUEST))
        .add_service(health_service);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Both versions: clients in use know one or the other.
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => drop(routes.add_service(v1).add_service(v1alpha)),
        (Err(error), _) | (_, Err(error)) => error!(%error, "no gRPC reflection"),
    }
    guard::guarded(routes.routes(), access)
}
