//! Showing a join token: the first call to a cluster, by somebody who knows nothing of it but what the token says.
//!
//! The token pins the cluster's authority. The authority's certificate is fetched without trust and compared with the pin; only over a
//! second connection, verified by that authority, is the secret shown. Clocks are compared before that: to one that is off, certificates
//! are not valid yet, or not any more, and TLS does not say by how much.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use postern_core::Timestamp;
use postern_core::node::{CONTROL_PLANE_NAME, NodeRole};
use postern_core::wire::cluster::role_from_proto;
use postern_core::wire::timestamp_from_proto;
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::certificate_service_client::CertificateServiceClient;
use postern_proto::admin::v1::cluster_service_client::ClusterServiceClient;
use postern_proto::resource::v1 as resource_pb;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::clock;
use crate::pki::{self, JoinTokenText, KeyRequest, NodeCredential, PkiError};
use crate::tls::{self, TlsError};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// A node whose clock is further off than this is not let in: its certificate would be of another time.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Not let in.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// No address answered.
    #[error("no member of the control plane can be reached:{0}")]
    Unreachable(String),
    /// Somebody else's cluster, or somebody in between.
    #[error(
        "{address} has another certificate authority than the join token names: it is not the token's cluster, or somebody is in between"
    )]
    WrongAuthority {
        /// Who answered.
        address: String,
    },
    /// The cluster said no, and will say so again.
    #[error("{0}")]
    Refused(String),
    /// The cluster cannot say now.
    #[error("the cluster cannot answer now: {0}")]
    Unavailable(String),
    /// This machine's clock.
    #[error("this machine's clock is {0}: set it first")]
    Clock(String),
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl RedeemError {
    /// Whether it may go better a while later, with nothing changed.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unavailable(_))
    }
}

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What dials by it.
type DialFn = dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn Io>>> + Send + Sync;

/// A way to a member of the control plane; TLS with it goes inside.
#[derive(Clone)]
pub struct Way {
    name: String,
    dial: Arc<DialFn>,
}

impl Way {
    /// Over TCP to `address` (`host:port`).
    #[must_use]
    pub fn tcp(address: &str) -> Self {
        let name = address.to_owned();
        Self::new(address, move || {
            let address = name.clone();
            Box::pin(async move {
                let resolved: Vec<SocketAddr> = tokio::net::lookup_host(&address).await?.collect();
                let tcp = TcpStream::connect(resolved.as_slice()).await?;
                Ok(Box::new(tcp) as Box<dyn Io>)
            })
        })
    }

    /// By whatever `dial` does; `name` is for people.
    pub fn new(
        name: &str,
        dial: impl Fn() -> BoxFuture<'static, io::Result<Box<dyn Io>>> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.to_owned(), dial: Arc::new(dial) }
    }

    /// A channel to the control plane by this way, inside of TLS by `config`.
    ///
    /// # Errors
    /// In words, what happened.
    pub async fn connect(&self, config: Arc<ClientConfig>) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(format!("http://{CONTROL_PLANE_NAME}"))
            .map_err(|error| error.to_string())?
            .connect_timeout(CONNECT_LIMIT)
            .timeout(CALL_LIMIT);
        let connector = Dial { way: self.clone(), config };
        let connected = tokio::time::timeout(CONNECT_LIMIT, endpoint.connect_with_connector(connector)).await;
        match connected {
            Err(_) => Err(format!("no answer within {} seconds", CONNECT_LIMIT.as_secs())),
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => {
                // The innermost says what happened.
                let mut at: &dyn std::error::Error = &error;
                while let Some(source) = at.source() {
                    at = source;
                }
                Err(at.to_string())
            }
        }
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Way({})", self.name)
    }
}

/// What somebody asks to become.
#[derive(Clone, Debug, Default)]
pub struct Applicant {
    /// Name to be in the certificate; empty: the token's own.
    pub name: String,
    /// Further DNS names or addresses for the certificate.
    pub alt_names: Vec<String>,
    /// For a member of the control plane: what it tells of itself.
    pub node: Option<resource_pb::ControlNode>,
    /// The key to be certified. Who asks again by the same key, because the answer was lost, is let in by the same use of its token.
    pub key: JoiningKey,
}

/// The key that somebody is let in by.
#[derive(Clone, Debug, Default)]
pub enum JoiningKey {
    /// A fresh one: when the answer is lost, the token's use is.
    #[default]
    Fresh,
    /// This one. Its holder has it on the disk already.
    Given(SecretString),
    /// The one that lies in this folder, or a fresh one that is put there (0600) before the token is shown. Once the credential is saved,
    /// [`JoiningKey::done`].
    Kept(PathBuf),
}

impl JoiningKey {
    /// In the folder, until its holder is let in.
    const FILE: &str = "joining.key";

    /// Whether somebody began to join by a key in `dir` and has not ended.
    #[must_use]
    pub fn is_kept(dir: &Path) -> bool {
        dir.join(Self::FILE).exists()
    }

    /// The key in `dir` is a credential's now. What is left of it when this fails does no harm: another joining may begin with it.
    pub fn done(dir: &Path) {
        let _ = std::fs::remove_file(dir.join(Self::FILE));
    }

    /// What there is before the role is known.
    fn present(&self) -> Result<Option<KeyRequest>, PkiError> {
        match self {
            Self::Fresh => Ok(None),
            Self::Given(key) => KeyRequest::renew(key).map(Some),
            Self::Kept(dir) if !Self::is_kept(dir) => Ok(None),
            Self::Kept(dir) => {
                let file = dir.join(Self::FILE);
                let key = pki::read(&file).and_then(|text| KeyRequest::renew(&SecretString::from(text)));
                Ok(key
                    .inspect_err(|error| {
                        let file = file.display();
                        tracing::warn!(%file, %error, "the key to join by cannot be read: another one is made");
                    })
                    .ok())
            }
        }
    }

    /// A fresh one, kept where it should be.
    fn make(&self, role: NodeRole) -> Result<KeyRequest, PkiError> {
        let fresh = KeyRequest::generate_for(role)?;
        if let Self::Kept(dir) = self {
            pki::create_private_dir(dir)?;
            pki::write_private(&dir.join(Self::FILE), fresh.key_pem.expose_secret().as_bytes())?;
        }
        Ok(fresh)
    }
}

/// Let in.
pub struct Admitted {
    /// The new certificate with its key.
    pub credential: NodeCredential,
    /// What else the cluster told.
    pub answer: pb::RedeemTokenResponse,
}

/// Shows `token` to the first of `addresses` (`host:port`) that answers. Before the token is used up, `check` looks at what the cluster
/// tells of itself.
///
/// # Errors
/// When nobody answers, the token is not good, or the two do not fit together.
pub async fn redeem(
    addresses: &[String],
    token: &JoinTokenText,
    applicant: Applicant,
    check: impl Fn(&pb::RedeemTokenResponse) -> Result<(), String>,
) -> Result<Admitted, RedeemError> {
    let ways: Vec<Way> = addresses.iter().map(|address| Way::tcp(address)).collect();
    redeem_by(&ways, token, applicant, check).await
}

/// The same, by the first of `ways` that leads to somebody who answers.
///
/// # Errors
/// See there.
pub async fn redeem_by(
    ways: &[Way],
    token: &JoinTokenText,
    applicant: Applicant,
    check: impl Fn(&pb::RedeemTokenResponse) -> Result<(), String>,
) -> Result<Admitted, RedeemError> {
    let (way, ca_pem) = authority(ways, token).await?;
    let verified = Arc::new(tls::client_with_ca(&ca_pem, &[b"h2"])?);
    let channel =
        way.connect(verified).await.map_err(|error| RedeemError::Unreachable(format!("\n  {}: {error}", way.name)))?;
    let mut client = ClusterServiceClient::new(channel);
    let asked = applicant.key.present()?;
    let request = pb::RedeemTokenRequest {
        token_id: token.id.clone(),
        secret: token.secret().to_vec(),
        cluster_id: token.cluster_id.clone(),
        // Of a token that is used up it tells that it was used by this key.
        csr: asked.as_ref().map(|key| key.csr_der.clone()).unwrap_or_default(),
        name: applicant.name,
        alt_names: applicant.alt_names,
        node: applicant.node,
        check_only: true,
    };
    let before = clock::now();
    let shown = client.redeem_token(request.clone()).await.map_err(|status| refused(&status))?.into_inner();
    clocks_agree(before, shown.now.as_ref())?;
    check(&shown).map_err(RedeemError::Refused)?;

    let role = role_from_proto(shown.role).map_err(|error| RedeemError::Refused(error.to_string()))?;
    // One that was made for a token of another role is nobody's.
    let kept = asked.filter(|key| !matches!(applicant.key, JoiningKey::Kept(_)) || key.suits(role));
    let key = kept.map_or_else(|| applicant.key.make(role), Ok)?;
    let request = pb::RedeemTokenRequest { csr: key.csr_der.clone(), check_only: false, ..request };
    let answer = client.redeem_token(request).await.map_err(|status| refused(&status))?.into_inner();
    let credential = NodeCredential { certificate_pem: answer.certificate_pem.clone(), key_pem: key.key_pem, ca_pem };
    Ok(Admitted { credential, answer })
}

/// The first way by which somebody answers, and the authority that it names: the token's.
async fn authority(ways: &[Way], token: &JoinTokenText) -> Result<(Way, String), RedeemError> {
    let mut failures = String::new();
    for way in ways {
        match fetch_authority(way).await {
            Ok((asked, answer)) if token.pins(&answer.ca_pem) => {
                // Whoever is in between can keep the node out by it, as it can by silence.
                clocks_agree(asked, answer.now.as_ref())?;
                return Ok((way.clone(), answer.ca_pem));
            }
            Ok(_) => return Err(RedeemError::WrongAuthority { address: way.name.clone() }),
            Err(error) => failures.push_str(&format!("\n  {}: {error}", way.name)),
        }
    }
    Err(RedeemError::Unreachable(failures))
}

/// With the time at which it was asked for.
async fn fetch_authority(way: &Way) -> Result<(Timestamp, pb::GetAuthorityResponse), String> {
    let unverified = tls::client_unverified(&[b"h2"]).map_err(|error| error.to_string())?;
    let channel = way.connect(Arc::new(unverified)).await?;
    let asked = clock::now();
    let answer = CertificateServiceClient::new(channel).get_authority(pb::GetAuthorityRequest {}).await;
    Ok((asked, answer.map_err(|status| status.message().to_owned())?.into_inner()))
}

fn refused(status: &tonic::Status) -> RedeemError {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
    let why = status.message().to_owned();
    match status.code() {
        Aborted | Cancelled | DeadlineExceeded | Internal | ResourceExhausted | Unavailable | Unknown => {
            RedeemError::Unavailable(why)
        }
        _ => RedeemError::Refused(why),
    }
}

/// `theirs` came in answer to what was asked at `before`; a member of an older version does not tell.
fn clocks_agree(before: Timestamp, theirs: Option<&prost_types::Timestamp>) -> Result<(), RedeemError> {
    let Some(theirs) = theirs.map(timestamp_from_proto) else { return Ok(()) };
    let after = clock::now();
    // `since` is zero when it would be negative.
    let (behind, ahead) = (theirs.since(after), before.since(theirs));
    let far = |off: Duration, way: &str| {
        RedeemError::Clock(format!(
            "{} seconds {way} the cluster's (more than {})",
            off.as_secs(),
            MAX_CLOCK_SKEW.as_secs()
        ))
    };
    if behind > MAX_CLOCK_SKEW {
        return Err(far(behind, "behind"));
    }
    if ahead > MAX_CLOCK_SKEW {
        return Err(far(ahead, "ahead of"));
    }
    Ok(())
}

/// One way, and TLS inside of it.
struct Dial {
    way: Way,
    config: Arc<ClientConfig>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TlsStream<Box<dyn Io>>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (dialled, config) = ((self.way.dial)(), Arc::clone(&self.config));
        Box::pin(async move {
            let stream = dialled.await?;
            let name = ServerName::try_from(CONTROL_PLANE_NAME).map_err(io::Error::other)?;
            TlsConnector::from(config).connect(name, stream).await.map(TokioIo::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::wire::timestamp_to_proto;

    #[test]
    fn a_kept_key_is_the_same_again_until_it_is_done_with() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new");
        let kept = JoiningKey::Kept(folder.clone());
        assert!(kept.present().unwrap().is_none() && !JoiningKey::is_kept(&folder));
        let made = kept.make(NodeRole::Admin).unwrap();
        let again = kept.present().unwrap().unwrap();
        assert_eq!(made.key_pem.expose_secret(), again.key_pem.expose_secret());
        assert!(again.suits(NodeRole::Admin) && !again.suits(NodeRole::Gateway));
        // Nothing that was asked for by it can have been given.
        std::fs::write(folder.join(JoiningKey::FILE), "half").unwrap();
        assert!(kept.present().unwrap().is_none() && JoiningKey::is_kept(&folder));
        JoiningKey::done(&folder);
        assert!(!JoiningKey::is_kept(&folder));
    }

    #[test]
    fn a_clock_two_hours_off_is_told_and_a_small_skew_is_none() {
        let now = clock::now();
        let agree = |theirs| clocks_agree(now, Some(&timestamp_to_proto(theirs)));
        for near in [now, now.plus(Duration::from_secs(200)), Timestamp::from_millis(now.millis() - 200_000)] {
            agree(near).unwrap();
        }
        clocks_agree(now, None).unwrap();
        let ahead = agree(Timestamp::from_millis(now.millis() - 7_200_000)).unwrap_err();
        assert!(ahead.to_string().contains("7200 seconds ahead of the cluster's"), "{ahead}");
        let behind = agree(now.plus(Duration::from_secs(7_205))).unwrap_err();
        assert!(behind.to_string().contains("seconds behind the cluster's"), "{behind}");
    }
}
