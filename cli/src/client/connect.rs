//! The connection: TLS by the cluster's own authority, a certificate or a token.

use std::time::Duration;

use postern_core::node::CONTROL_PLANE_NAME;
use postern_proto::admin::v1::ListLoginsRequest;
use postern_proto::admin::v1::access_service_client::AccessServiceClient;
use postern_proto::admin::v1::approval_service_client::ApprovalServiceClient;
use postern_proto::admin::v1::audit_service_client::AuditServiceClient;
use postern_proto::admin::v1::certificate_service_client::CertificateServiceClient;
use postern_proto::admin::v1::client_service_client::ClientServiceClient;
use postern_proto::admin::v1::cluster_service_client::ClusterServiceClient;
use postern_proto::admin::v1::fleet_service_client::FleetServiceClient;
use postern_proto::admin::v1::job_service_client::JobServiceClient;
use postern_proto::admin::v1::log_service_client::LogServiceClient;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::admin::v1::review_service_client::ReviewServiceClient;
use postern_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use postern_proto::admin::v1::secret_service_client::SecretServiceClient;
use postern_proto::admin::v1::session_service_client::SessionServiceClient;
use postern_proto::admin::v1::token_service_client::TokenServiceClient;
use postern_proto::admin::v1::webhook_service_client::WebhookServiceClient;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::profile::Settings;
use super::shown::Shown;
use crate::args::ConnectionArgs;
use crate::failure::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a server that is gone without a word is noticed, twice over.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Until an answer begins; a stream may then go on.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A list of a thousand objects fits many times over.
const MAX_MESSAGE: usize = 64 << 20;

type Service = InterceptedService<Channel, Shown>;

/// A connection to the control plane.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    service: Service,
}

/// Connects by what `args`, the environment and the profile say.
pub(crate) async fn connect(args: &ConnectionArgs) -> Result<Client, Failure> {
    Client::connect(&Settings::acting(args).await?).await
}

impl Client {
    /// To the first server that can be reached.
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let mut failures = Vec::new();
        for place in 0..settings.servers().len() {
            match Self::connect_to(settings, place).await {
                Err(Failure::Failed(why)) => failures.push(why),
                other => return other,
            }
        }
        Err(if failures.len() == 1 { Failure::Failed(failures.concat()) } else { Failure::Many(failures) })
    }

    /// To one of the servers; after the last comes the first again.
    pub(crate) async fn connect_to(settings: &Settings, place: usize) -> Result<Self, Failure> {
        let servers = settings.servers();
        let server = place.checked_rem(servers.len()).and_then(|place| servers.get(place).copied()).unwrap_or_default();
        if !server.starts_with("https://") {
            return Err(Failure::usage(format!("the server must be https://HOST:PORT, not {server:?}")));
        }
        // Whatever address it is reached by, it must be the cluster's control plane.
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&settings.ca_pem))
            .domain_name(CONTROL_PLANE_NAME);
        if let Some(credential) = &settings.credential {
            tls = tls.identity(Identity::from_pem(&credential.certificate_pem, credential.key_pem.expose_secret()));
        }
        let cannot = |why: String| Failure::failed(format!("cannot reach {server}: {why}"));
        let endpoint = Endpoint::from_shared(server.to_owned())
            .map_err(|error| Failure::usage(format!("{server:?} is no address of a server: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .timeout(ANSWER_TIMEOUT)
            .tls_config(tls)
            .map_err(|error| cannot(root_cause(&error)))?;
        let channel = endpoint.connect().await.map_err(|error| cannot(root_cause(&error)))?;
        let shown = Shown::new(settings.token.as_ref(), settings.key.as_ref())?;
        let client = Self { service: InterceptedService::new(channel.clone(), shown.clone()), channel };
        if shown.proves() {
            // Whether nonces are demanded the server tells with any answer: with this one nothing is lost.
            match client.clients().list_logins(ListLoginsRequest {}).await {
                Ok(answer) => shown.learn(answer.metadata()),
                Err(refusal) => shown.learn(refusal.metadata()),
            }
        }
        Ok(client)
    }

    /// The same connection, by `token`.
    pub(crate) fn bearing(&self, token: &SecretString) -> Result<Self, Failure> {
        let service = InterceptedService::new(self.channel.clone(), Shown::new(Some(token), None)?);
        Ok(Self { channel: self.channel.clone(), service })
    }

    pub(crate) fn clients(&self) -> ClientServiceClient<Service> {
        ClientServiceClient::new(self.service.clone())
    }

    pub(crate) fn resources(&self) -> ResourceServiceClient<Service> {
        ResourceServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn access(&self) -> AccessServiceClient<Service> {
        AccessServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn webhooks(&self) -> WebhookServiceClient<Service> {
        WebhookServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn approvals(&self) -> ApprovalServiceClient<Service> {
        ApprovalServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn reviews(&self) -> ReviewServiceClient<Service> {
        ReviewServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<Service> {
        SessionServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn log(&self) -> LogServiceClient<Service> {
        LogServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn secrets(&self) -> SecretServiceClient<Service> {
        SecretServiceClient::new(self.service.clone())
    }

    pub(crate) fn audit(&self) -> AuditServiceClient<Service> {
        AuditServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn revocations(&self) -> RevocationServiceClient<Service> {
        RevocationServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn tokens(&self) -> TokenServiceClient<Service> {
        TokenServiceClient::new(self.service.clone())
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Service> {
        JobServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Service> {
        ClusterServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn fleet(&self) -> FleetServiceClient<Service> {
        FleetServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn certificates(&self) -> CertificateServiceClient<Service> {
        CertificateServiceClient::new(self.service.clone())
    }
}

/// The innermost error says what happened; those around it only that something did.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
