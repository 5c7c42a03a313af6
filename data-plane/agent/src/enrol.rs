//! How an agent comes by its certificate, and keeps it: a join token at first, and then the certificate itself.
//!
//! Both go to the control plane inside of TLS with it. An agent that reaches only gateways has one of them pass the bytes on; what the
//! gateway sees is ciphertext.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postern_core::node::NodeRole;
use postern_proto::admin::v1::RenewCertificateRequest;
use postern_proto::admin::v1::certificate_service_client::CertificateServiceClient;
use postern_runtime::backoff::Backoff;
use postern_runtime::enrol::{Applicant, Io, JoiningKey, RedeemError, Way, redeem_by};
use postern_runtime::pki::{self, JoinTokenText, NodeCredential, Revocations};
use postern_runtime::supervisor::Supervisor;
use postern_runtime::{clock, tls};
use zeroize::Zeroizing;

use crate::tunnel::{Dialer, Place, Shared, to_control_plane};
use crate::{AgentConfig, AgentError};

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Gateways that are asked in a row: in a crowd of newcomers, each that is sent away costs a gateway a handshake.
const IN_A_ROW: usize = 3;
/// A join token is one short line.
const MAX_TOKEN: u64 = 4096;

/// The certificate in the configured directory, if it is there and has not ended.
///
/// # Errors
/// When it cannot be read, or has ended and there is no join token for a new one.
pub(crate) fn existing(config: &AgentConfig) -> Result<Option<NodeCredential>, AgentError> {
    if config.credential_dir.as_os_str().is_empty() {
        return Err(AgentError::NoCredentialDir);
    }
    if !NodeCredential::exists(&config.credential_dir) {
        return if has_token(config) { Ok(None) } else { Err(AgentError::NotLetIn) };
    }
    let credential = NodeCredential::load(&config.credential_dir)?;
    let until = credential.expires_at()?;
    if until > clock::now() {
        return Ok(Some(credential));
    }
    if !has_token(config) {
        return Err(AgentError::Ended(until.to_string()));
    }
    tracing::warn!(%until, "the agent's certificate has ended: it asks to be let in again by its join token");
    Ok(None)
}

fn has_token(config: &AgentConfig) -> bool {
    config.join_token_file.is_some() || config.join_token_env.is_some()
}

/// Shows the join token until the cluster lets the agent in; none when the node stops before.
///
/// # Errors
/// When there is no readable token, or the cluster says no: asking again would not help.
pub(crate) async fn enrol(config: &AgentConfig, supervisor: &Supervisor) -> Result<Option<NodeCredential>, AgentError> {
    let token = token(config)?;
    let stop = supervisor.shutdown_token();
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            asked = once(config, &token, supervisor) => asked,
        };
        match asked {
            Ok(credential) => {
                credential.save(&config.credential_dir)?;
                JoiningKey::done(&config.credential_dir);
                let (identity, until) = (credential.identity()?, credential.expires_at()?);
                metrics::counter!("postern_agent_enrolments_total", "outcome" => "let-in").increment(1);
                tracing::info!(%identity, %until, "the agent was let in");
                return Ok(Some(credential));
            }
            Err(error) if error.may_pass() => {
                metrics::counter!("postern_agent_enrolments_total", "outcome" => "failed").increment(1);
                tracing::warn!(%error, "the agent was not let in yet; trying again");
            }
            Err(error) => {
                metrics::counter!("postern_agent_enrolments_total", "outcome" => "refused").increment(1);
                return Err(AgentError::Refused(error));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

async fn once(
    config: &AgentConfig,
    token: &JoinTokenText,
    supervisor: &Supervisor,
) -> Result<NodeCredential, RedeemError> {
    let mut ways: Vec<Way> = config.control_plane.iter().map(|address| Way::tcp(address)).collect();
    if ways.is_empty() {
        let mut seeds = config.seeds();
        fastrand::shuffle(&mut seeds);
        let dialer = Dialer::stranger(supervisor.clone())?;
        ways.extend(seeds.into_iter().take(IN_A_ROW).map(|seed| through(seed, &dialer)));
    }
    // Whoever is let in and does not hear of it, as its answer was lost or it was killed, asks again by the same key.
    let key = JoiningKey::Kept(config.credential_dir.clone());
    let applicant = Applicant { name: config.name.clone(), key, ..Applicant::default() };
    let admitted = redeem_by(&ways, token, applicant, |cluster| {
        if cluster.role == postern_proto::resource::v1::NodeRole::Agent as i32 {
            Ok(())
        } else {
            Err("the join token is not for an agent".to_owned())
        }
    });
    Ok(admitted.await?.credential)
}

/// Through a gateway that takes in those without a certificate.
fn through(seed: Place, dialer: &Dialer) -> Way {
    let name = format!("through the gateway at {}", seed.address());
    let dialer = dialer.clone();
    Way::new(&name, move || {
        let (dialer, seed) = (dialer.clone(), seed.clone());
        Box::pin(async move {
            let link = dialer.dial(&seed).await.map_err(std::io::Error::other)?;
            let stream = to_control_plane(&link.0).await?;
            // The link lives as long as the stream.
            Ok(Box::new(Held { stream, _link: link }) as Box<dyn Io>)
        })
    })
}

fn token(config: &AgentConfig) -> Result<JoinTokenText, AgentError> {
    let text = match (&config.join_token_file, &config.join_token_env) {
        (Some(file), _) => read(file)?,
        (None, Some(name)) => {
            let missing = |_| AgentError::Token(format!("the environment variable {name} is not set, or no text"));
            Zeroizing::new(std::env::var(name).map_err(missing)?)
        }
        (None, None) => return Err(AgentError::NotLetIn),
    };
    text.parse().map_err(|error: pki::JoinTokenError| AgentError::Token(error.to_string()))
}

fn read(file: &Path) -> Result<Zeroizing<String>, AgentError> {
    use std::io::Read as _;
    let fault = |error: std::io::Error| AgentError::Token(format!("{}: {error}", file.display()));
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(file).map_err(fault)?.take(MAX_TOKEN).read_to_string(&mut text).map_err(fault)?;
    Ok(text)
}

/// Renews the agent's certificate before it ends, for as long as the node runs.
pub(crate) async fn keep_fresh(config: AgentConfig, shared: Arc<Shared>) {
    let (credential, stop) = (shared.credential.clone(), shared.supervisor.sessions_ended_token());
    let dir = Some(config.credential_dir.clone()).filter(|dir| !dir.as_os_str().is_empty());
    let addresses: Arc<[String]> = config.control_plane.into();
    let renew = |csr: Vec<u8>| renew(csr, Arc::clone(&addresses), Arc::clone(&shared));
    pki::keep_fresh(credential, dir, renew, stop).await;
}

async fn renew(csr: Vec<u8>, addresses: Arc<[String]>, shared: Arc<Shared>) -> Result<String, String> {
    let own = tls::client_mtls_rotating(&shared.credential, Revocations::none(), &[b"h2"]);
    let own = Arc::new(own.map_err(|error| error.to_string())?);
    let through = Arc::clone(&shared);
    let through = Way::new("through a gateway", move || {
        let shared = Arc::clone(&through);
        Box::pin(async move { Ok(Box::new(shared.control_plane().await?) as Box<dyn Io>) })
    });
    let mut last = String::new();
    for way in addresses.iter().map(|address| Way::tcp(address)).chain([through]) {
        let channel = match way.connect(Arc::clone(&own)).await {
            Ok(channel) => channel,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let request = RenewCertificateRequest { csr: csr.clone() };
        match CertificateServiceClient::new(channel).renew_certificate(request).await {
            Ok(answer) => return Ok(answer.into_inner().certificate_pem),
            Err(status) => last = status.message().to_owned(),
        }
    }
    Err(last)
}

/// A stream that keeps its link.
struct Held<S, L> {
    stream: S,
    _link: L,
}

impl<S: tokio::io::AsyncRead + Unpin, L: Unpin> tokio::io::AsyncRead for Held<S, L> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: tokio::io::AsyncWrite + Unpin, L: Unpin> tokio::io::AsyncWrite for Held<S, L> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether this is an agent's certificate; its name and pool are the agent's.
///
/// # Errors
/// When it is another role's.
pub(crate) fn check(credential: &NodeCredential) -> Result<(postern_core::Name, postern_core::Name), AgentError> {
    let identity = credential.identity()?;
    match (identity.role, identity.pool.clone()) {
        (NodeRole::Agent, Some(pool)) => Ok((identity.name, pool)),
        _ => Err(AgentError::NotAnAgent(identity.to_string())),
    }
}
