//! Many clients that log in over TLS, ask one thing, and then do nothing: what a pooled application looks like most of the time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::wire::{PROTOCOL_3, SSL_REQUEST, framed, message};

/// How many log in at a time.
const AT_A_TIME: usize = 16;
/// How long one may take.
const LOGIN: Duration = Duration::from_secs(60);

/// A certificate for a listener, in files.
#[derive(Clone, Debug)]
pub struct ListenerCertificate {
    /// What clients trust.
    pub der: CertificateDer<'static>,
    /// PEM, as the listener is told.
    pub certificate_file: String,
    /// Its key, PEM.
    pub key_file: String,
}

impl ListenerCertificate {
    /// One for `localhost`, made in `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make(folder: &Path) -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        let (file, key_file) = (folder.join("listener.crt"), folder.join("listener.key"));
        std::fs::write(&file, certificate.pem())?;
        std::fs::write(&key_file, key.serialize_pem())?;
        Ok(Self {
            der: certificate.der().clone(),
            certificate_file: file.display().to_string(),
            key_file: key_file.display().to_string(),
        })
    }
}

/// Who logs in, and where.
#[derive(Clone)]
pub struct IdleClient {
    /// `host:port`.
    pub address: String,
    /// The certificate of the server.
    pub trusted: CertificateDer<'static>,
    /// The user, or the target.
    pub user: String,
    /// The database.
    pub database: String,
    /// The password, or the token: sent when it is asked for in clear.
    pub password: String,
}

/// Sessions that are open and idle, as long as this lives.
pub struct IdleSessions {
    runtime: tokio::runtime::Runtime,
    client: Arc<IdleClient>,
    tls: TlsConnector,
    open: Vec<TlsStream<TcpStream>>,
}

impl IdleSessions {
    /// None yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(client: IdleClient) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(client.trusted.clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, client: Arc::new(client), tls: TlsConnector::from(Arc::new(config)), open: Vec::new() })
    }

    /// Opens `count` more.
    ///
    /// # Errors
    /// When one is refused.
    pub fn open(&mut self, count: usize) -> Result<()> {
        let Self { runtime, client, tls, open } = self;
        runtime.block_on(async {
            let mut left = count;
            while left > 0 {
                let now = left.min(AT_A_TIME);
                left -= now;
                let mut logins = tokio::task::JoinSet::new();
                for _ in 0..now {
                    logins.spawn(login(Arc::clone(client), tls.clone()));
                }
                while let Some(done) = logins.join_next().await {
                    open.push(done??);
                }
            }
            Ok(())
        })
    }

    /// Has each ask once more, one after the other.
    ///
    /// # Errors
    /// When one is gone, or is refused.
    pub fn ask_all(&mut self) -> Result<()> {
        let Self { runtime, open, .. } = self;
        runtime.block_on(async {
            for stream in open {
                ask(stream).await?;
            }
            Ok(())
        })
    }
}

async fn login(client: Arc<IdleClient>, tls: TlsConnector) -> Result<TlsStream<TcpStream>> {
    tokio::time::timeout(LOGIN, async {
        let mut stream = TcpStream::connect(&client.address).await?;
        stream.write_all(&framed(&SSL_REQUEST.to_be_bytes())?).await?;
        ensure!(stream.read_u8().await? == b'S', "no TLS");
        let mut stream = tls.connect(ServerName::try_from("localhost")?, stream).await?;
        let texts = ["user", &client.user, "database", &client.database, ""].join("\0");
        let startup = [&PROTOCOL_3.to_be_bytes(), texts.as_bytes(), b"\0"].concat();
        stream.write_all(&framed(&startup)?).await?;
        stream.flush().await?;
        loop {
            match next(&mut stream).await? {
                ('R', body) if body == 3_u32.to_be_bytes() => {
                    let password = [client.password.as_bytes(), b"\0"].concat();
                    stream.write_all(&message('p', &password)?).await?;
                    stream.flush().await?;
                }
                ('E', body) => bail!("refused: {}", body.escape_ascii()),
                ('Z', _) => break,
                _ => {}
            }
        }
        ask(&mut stream).await?;
        Ok(stream)
    })
    .await
    .context("no login in time")?
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    stream.write_all(&message('Q', b"SELECT 1\0")?).await?;
    stream.flush().await?;
    loop {
        match next(stream).await? {
            ('E', body) => bail!("refused: {}", body.escape_ascii()),
            ('Z', _) => return Ok(()),
            _ => {}
        }
    }
}

async fn next(stream: &mut TlsStream<TcpStream>) -> Result<(char, Vec<u8>)> {
    let kind = char::from(stream.read_u8().await?);
    let length = usize::try_from(stream.read_u32().await?)?.checked_sub(4).context("a length counts itself")?;
    ensure!(length < 1 << 20, "a message of {length} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((kind, body))
}

impl std::fmt::Debug for IdleSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sessions at {}", self.open.len(), self.client.address)
    }
}
