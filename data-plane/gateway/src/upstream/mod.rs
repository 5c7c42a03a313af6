//! Connections to targets: dialled by the gateway or through a tunnel, secured as the target says, logged in with its own credential.

mod direct;
mod kept;
mod recorded;
mod spare;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postern_core::secret::SecretBytes;
use postern_core::target::{Route, Target, TlsMode};
use postern_core::{Code, Name, SessionId};
use postern_protocols::postgres::codec::write::cancel_request;
use postern_protocols::postgres::upstream::{
    Credentials, Login, LoginError, LoginStep, Ready, ScramKeys, SslAnswer, end_point, ssl_answer, ssl_request,
};
use postern_runtime::clock;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

pub(crate) use recorded::Recorded;
pub(crate) use tls::UpstreamTlsError;

use crate::credentials::{Account, Accounts, CredentialError, Holding};
use crate::policy_feed::Feed;
use crate::relay::{RouteError, Router};
use kept::Kept;
use recorded::NotRecorded;
use spare::{Like, Spares};
use tls::Configs;

/// How long a cancel request may take, from dialling to the target's end.
const CANCEL: Duration = Duration::from_secs(10);

/// Anything that bytes go through both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream of whatever kind.
pub(crate) type BoxStream = Box<dyn Stream>;

/// A target cannot be reached, or not logged in to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("connecting: {0}")]
    Connect(std::io::Error),
    #[error("no connection in time")]
    TimedOut,
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    TlsConfig(#[from] UpstreamTlsError),
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("the target speaks no TLS, and its mode demands it")]
    NoTls,
    #[error("the target does not say that it speaks PostgreSQL inside TLS, as PostgreSQL 17 does where TLS is direct")]
    NotDirect,
    #[error("the connection broke: {0}")]
    Broken(std::io::Error),
    #[error("the target closed the connection")]
    Closed,
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("its credential: {0}")]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    NotRecorded(#[from] NotRecorded),
}

impl UpstreamError {
    /// What the target itself said, where it may be told.
    pub(crate) fn told(&self) -> Option<Bytes> {
        match self {
            Self::Login(error) => error.told().cloned(),
            _ => None,
        }
    }

    /// What the client is told.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Connect(_) | Self::TimedOut | Self::Broken(_) | Self::Closed => Code::TargetUnavailable,
            Self::Route(error) => error.code(),
            Self::TlsConfig(_) | Self::Tls(_) | Self::NoTls | Self::NotDirect => Code::TargetRefused,
            Self::Login(error) => error.code(),
            Self::Credential(error) => error.code(),
            Self::NotRecorded(_) => Code::RecordingUnavailable,
        }
    }
}

/// Where to, and with which account.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) name: Name,
    pub(crate) target: Arc<Target>,
    /// The password that came with the policy, of a Secret.
    pub(crate) sent: Option<SecretBytes>,
    pub(crate) database: Arc<str>,
    /// On whose behalf, for the agent's log.
    pub(crate) session: SessionId,
}

/// A target's session, logged in.
pub(crate) struct Upstream {
    pub(crate) stream: BoxStream,
    /// What came after the login.
    pub(crate) received: BytesMut,
    pub(crate) ready: Ready,
    /// Keeps the account's lease up while the session lives.
    pub(crate) holding: Option<Arc<Holding>>,
    /// By which the agent's log knows it: the client's session, unless it was logged in for whoever would come.
    opened_as: SessionId,
}

/// Opens connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    router: Router,
    credentials: Accounts,
    /// What earlier logins by SCRAM came to: else each would hash thousands of times, on a worker that serves sessions.
    keys: Kept<ScramKeys>,
    tls: Configs,
    spares: Option<Spares>,
}

impl Dialer {
    pub(crate) fn new(router: Router, credentials: Accounts) -> Self {
        Self { router, credentials, keys: Kept::default(), tls: Configs::default(), spares: None }
    }

    /// One that has sessions ready where the target says so, each logged in within `limit`; and the actor that keeps them, until `stop`.
    pub(crate) fn with_spares(
        self,
        feed: watch::Receiver<Feed>,
        limit: Duration,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (spares, keeper) = Spares::new(self.clone(), feed, limit, stop);
        (Self { spares: Some(spares), ..self }, keeper)
    }

    /// A session for a client: one that is ready, where there is one. Nothing of the client's goes into it before `recorded` is. The caller bounds
    /// the time.
    pub(crate) async fn open(
        &self,
        to: &Destination,
        settings: &[(String, String)],
        recorded: &Recorded,
    ) -> Result<Upstream, UpstreamError> {
        let Some(spares) = self.spares.as_ref().filter(|_| to.target.spare_sessions > 0) else {
            return self.login(to, settings, recorded).await;
        };
        let like = Like::new(to, self.credentials.account(to).await?, settings);
        if let Some(upstream) = spares.take(&like).await {
            recorded.wait().await?;
            tracing::info!(session = %to.session, opened_as = %upstream.opened_as, "takes a session that was ready at the target");
            return Ok(upstream);
        }
        let upstream = self.login(to, settings, recorded).await?;
        spares.opened(like);
        Ok(upstream)
    }

    /// Connects and logs in; shows the target nothing of its credential before `recorded` is. The caller bounds the time.
    pub(crate) async fn login(
        &self,
        to: &Destination,
        settings: &[(String, String)],
        recorded: &Recorded,
    ) -> Result<Upstream, UpstreamError> {
        let account = self.credentials.account(to).await?;
        match self.login_as(to, &account, settings, recorded).await {
            // The account may have been taken away, or its password changed, since it was read.
            Err(UpstreamError::Login(error)) if error.refuses_account() => {
                match self.credentials.after(to, &account).await {
                    Some(account) => self.login_as(to, &account, settings, recorded).await,
                    None => Err(error.into()),
                }
            }
            done => done,
        }
    }

    async fn login_as(
        &self,
        to: &Destination,
        account: &Account,
        settings: &[(String, String)],
        recorded: &Recorded,
    ) -> Result<Upstream, UpstreamError> {
        let (mut stream, secured) = self.connect(to, account.proof.certificate()).await?;
        let mut nonce = [0; 18];
        let random = [clock::random_u128().to_be_bytes(), clock::random_u128().to_be_bytes()];
        nonce.iter_mut().zip(random.as_flattened()).for_each(|(slot, byte)| *slot = *byte);
        let (mut login, hello) = Login::new(&Credentials {
            user: &account.username,
            password: account.proof.password(),
            database: &to.database,
            settings,
            encrypted: secured.is_some(),
            nonce,
            end_point: secured.flatten(),
            scram: self.keys.of(&to.name),
        });
        send(&mut stream, hello).await?;
        let mut received = BytesMut::with_capacity(4 << 10);
        loop {
            match login.next(&mut received)? {
                LoginStep::Send(answer) => {
                    recorded.wait().await?;
                    send(&mut stream, answer).await?;
                }
                LoginStep::Ready(ready) => {
                    recorded.wait().await?;
                    if let Some(keys) = &ready.scram {
                        self.keys.keep(&to.name, keys);
                    }
                    let holding = account.holding.clone();
                    return Ok(Upstream { stream, received, ready: *ready, holding, opened_as: to.session });
                }
                LoginStep::NeedMore => {
                    if stream.read_buf(&mut received).await.map_err(broken)? == 0 {
                        return Err(UpstreamError::Closed);
                    }
                }
            }
        }
    }

    /// Passes a cancel request on to the gateway whose session it is for.
    pub(crate) async fn cancel_elsewhere(&self, pid: u32, secret: &[u8], from: SocketAddr) {
        let passed = tokio::time::timeout(CANCEL, self.router.cancel(pid, secret, from)).await;
        tracing::debug!(%from, found = passed.unwrap_or(false), "cancel request for a session that is not here");
    }

    /// Asks the target to cancel what its session `pid` runs.
    pub(crate) async fn cancel(&self, to: &Destination, pid: u32, secret: &[u8]) -> Result<(), UpstreamError> {
        let asked = async {
            let (mut stream, _) = self.connect(to, None).await?;
            send(&mut stream, cancel_request(pid, secret)).await?;
            // The target answers nothing, and closes once it has signalled.
            let mut rest = [0; 64];
            while stream.read(&mut rest).await.is_ok_and(|size| size > 0) {}
            Ok(())
        };
        tokio::time::timeout(CANCEL, asked).await.unwrap_or(Err(UpstreamError::TimedOut))
    }

    /// A connection, inside TLS when the target's mode has it so; then with the hash of the target's certificate, where it has one.
    /// `shown` is the gateway's own certificate with its key, PEM, where the target is to know it by that.
    async fn connect(
        &self,
        to: &Destination,
        shown: Option<&SecretBytes>,
    ) -> Result<(BoxStream, Option<Option<Vec<u8>>>), UpstreamError> {
        let address = &to.target.address;
        let mut stream: BoxStream = match &to.target.route {
            Route::Direct => Box::new(direct::connect(address).await?),
            Route::AgentPool(pool) => self.router.open(pool, to).await?,
        };
        let mode = to.target.tls.mode;
        if mode == TlsMode::Disable {
            return Ok((stream, None));
        }
        if to.target.tls.direct {
            let (stream, hash, alpn) = self.secured(to, shown, stream).await?;
            // As libpq: a server that does not say so may be one of another protocol that has passed over the words.
            return if alpn { Ok((stream, Some(hash))) } else { Err(UpstreamError::NotDirect) };
        }
        send(&mut stream, ssl_request()).await?;
        let mut answer = BytesMut::with_capacity(1);
        let answer = loop {
            if let Some(answer) = ssl_answer(&mut answer)? {
                break answer;
            }
            if stream.read_buf(&mut answer).await.map_err(UpstreamError::Broken)? == 0 {
                return Err(UpstreamError::Closed);
            }
        };
        match (answer, mode) {
            (SslAnswer::Accepted, _) => {
                let (stream, hash, _) = self.secured(to, shown, stream).await?;
                Ok((stream, Some(hash)))
            }
            (SslAnswer::Refused, TlsMode::Prefer) => Ok((stream, None)),
            (SslAnswer::Refused, _) => Err(UpstreamError::NoTls),
        }
    }

    /// Inside TLS: with the hash of the target's certificate, where it has one, and whether the target has said that it speaks PostgreSQL.
    async fn secured(
        &self,
        to: &Destination,
        shown: Option<&SecretBytes>,
        stream: BoxStream,
    ) -> Result<(BoxStream, Option<Vec<u8>>, bool), UpstreamError> {
        let (config, name) = self.tls.client(to, shown)?;
        let secured = TlsConnector::from(config).connect(name, stream).await.map_err(UpstreamError::Tls)?;
        let tls = secured.get_ref().1;
        let shown = tls.peer_certificates().and_then(<[_]>::first);
        let hash = shown.and_then(|certificate| end_point(certificate));
        let alpn = tls.alpn_protocol() == Some(tls::ALPN);
        Ok((Box::new(secured), hash, alpn))
    }
}

/// By TLS 1.3 a server says only after the handshake that it does not take the certificate it was shown.
fn broken(error: std::io::Error) -> UpstreamError {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match of_tls {
        Some(rustls::Error::AlertReceived(_)) => UpstreamError::Tls(error),
        _ => UpstreamError::Broken(error),
    }
}

async fn send(stream: &mut BoxStream, bytes: Bytes) -> Result<(), UpstreamError> {
    stream.write_all(&bytes).await.map_err(UpstreamError::Broken)?;
    stream.flush().await.map_err(UpstreamError::Broken)
}
