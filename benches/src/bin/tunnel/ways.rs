//! The ways to the target.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use postern_chaos::live::{Process, postern_binary};
use postern_core::node::{NodeIdentity, NodeRole};
use postern_protocols::tunnel::{self, ALPN, ALPN_TCP, Hello, MAX_MESSAGE, Open, OpenStatus, Opened, Welcome};
use postern_runtime::clock;
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential};
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::tls;
use postern_runtime::tunnel::mux::{Mux, MuxLimits, Side};
use postern_runtime::tunnel::{Link, RecvHalf, SendHalf, listen, server_config, wire};
use quinn::Endpoint;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::forward::{Haproxy, Ssh};
use crate::target::Target;

const TCP: &str = "TCP";
const TLS: &str = "TLS over TCP";
const TLS_FORWARD: &str = "TLS over TCP, haproxy in between";
const SSH: &str = "ssh -L";
const TUNNEL_QUIC: &str = "tunnel and agent, QUIC";
const TUNNEL_TCP: &str = "tunnel and agent, TLS";
pub(crate) const UP: Duration = Duration::from_secs(20);

/// Bytes both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A way to the target.
pub(crate) enum Way {
    Tcp(u16),
    Tls(u16, TlsConnector),
    TlsForward(Box<Haproxy>, TlsConnector),
    Ssh(Box<Ssh>),
    Tunnel(Box<Tunnel>),
}

/// A tunnel of Postern's, its gateway's end here.
pub(crate) struct Tunnel {
    name: &'static str,
    link: Link,
    _control: (SendHalf, RecvHalf),
    target: String,
    _agent: Process,
    _supervisor: Supervisor,
    _endpoint: Option<Endpoint>,
    _folder: TempDir,
}

impl Way {
    /// Those whose names contain one of `wanted`; all when there is none.
    pub(crate) async fn all(target: &Target, wanted: &[String]) -> Result<Vec<Self>> {
        let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
        let mut all = Vec::new();
        if is_wanted(TCP) {
            all.push(Self::Tcp(target.plain));
        }
        let connector = || Ok::<_, anyhow::Error>(TlsConnector::from(Arc::new(tls::client_unverified(&[])?)));
        if is_wanted(TLS) {
            all.push(Self::Tls(target.tls, connector()?));
        }
        if is_wanted(TLS_FORWARD) {
            all.push(Self::TlsForward(Box::new(Haproxy::start(target.plain)?), connector()?));
        }
        if is_wanted(SSH) {
            all.push(Self::Ssh(Box::new(Ssh::start(target.plain)?)));
        }
        if is_wanted(TUNNEL_QUIC) {
            all.push(Self::Tunnel(Box::new(Tunnel::quic(target.plain).await?)));
        }
        if is_wanted(TUNNEL_TCP) {
            all.push(Self::Tunnel(Box::new(Tunnel::tcp(target.plain).await?)));
        }
        Ok(all)
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => TCP,
            Self::Tls(..) => TLS,
            Self::TlsForward(..) => TLS_FORWARD,
            Self::Ssh(_) => SSH,
            Self::Tunnel(tunnel) => tunnel.name,
        }
    }

    /// A new connection to the target.
    pub(crate) async fn open(&self) -> Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(port) => Ok(Box::new(tcp(*port).await?)),
            Self::Ssh(forward) => Ok(Box::new(tcp(forward.port).await?)),
            Self::Tls(port, connector) => secured(*port, connector).await,
            Self::TlsForward(forward, connector) => secured(forward.port, connector).await,
            Self::Tunnel(tunnel) => tunnel.open().await,
        }
    }
}

async fn secured(port: u16, connector: &TlsConnector) -> Result<Box<dyn Stream>> {
    let name = ServerName::try_from("localhost")?;
    Ok(Box::new(connector.connect(name, tcp(port).await?).await?))
}

async fn tcp(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Tunnel {
    async fn quic(target: u16) -> Result<Self> {
        let (authority, folder) = (Authority::create("bench")?, folder()?);
        let credential = credential(&authority, NodeRole::Gateway)?;
        let tls = tls::server_mtls(&credential, &[ALPN])?;
        let endpoint = listen(server_config(tls, 4, 64)?, "127.0.0.1:0".parse()?, &credential)?;
        let gateways = format!("[\"{}\"]", endpoint.local_addr()?);
        let agent = agent(&authority, &folder, &format!("gateways = {gateways}"))?;
        let accepted = tokio::time::timeout(UP, async {
            let incoming = endpoint.accept().await.context("no agent")?;
            Ok::<_, anyhow::Error>(incoming.await?)
        });
        let link = Link::quic(accepted.await.with_context(|| agent.stderr())??);
        let control = welcome(&link).await?;
        Ok(Self {
            name: TUNNEL_QUIC,
            link,
            _control: control,
            target: format!("127.0.0.1:{target}"),
            _agent: agent,
            _supervisor: Supervisor::new(),
            _endpoint: Some(endpoint),
            _folder: folder,
        })
    }

    /// The agent finds nothing at the address of QUIC.
    async fn tcp(target: u16) -> Result<Self> {
        let (authority, folder) = (Authority::create("bench")?, folder()?);
        let tls = tls::server_mtls(&credential(&authority, NodeRole::Gateway)?, &[ALPN_TCP])?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let agent = agent(&authority, &folder, &format!("gateways = [\"{address}\"]"))?;
        let accepted = tokio::time::timeout(UP, async {
            let (stream, remote) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok::<_, anyhow::Error>((TlsAcceptor::from(Arc::new(tls)).accept(stream).await?, remote))
        });
        let (stream, remote) = accepted.await.with_context(|| agent.stderr())??;
        let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
        let limits = MuxLimits { incoming: 4, outgoing: 1_000 };
        let (mux, driver) = Mux::new(stream, Side::Listener, remote, limits);
        let supervisor = Supervisor::new();
        supervisor.spawn("mux", OnEnd::EndPart, driver);
        let link = Link::tcp(mux, &chain, ALPN_TCP);
        let control = welcome(&link).await?;
        Ok(Self {
            name: TUNNEL_TCP,
            link,
            _control: control,
            target: format!("127.0.0.1:{target}"),
            _agent: agent,
            _supervisor: supervisor,
            _endpoint: None,
            _folder: folder,
        })
    }

    async fn open(&self) -> Result<Box<dyn Stream>> {
        let (mut send, mut recv) = self.link.open().await?;
        let request = Open {
            address: self.target.clone(),
            session: "bench".to_owned(),
            target: "bench".to_owned(),
            connect_timeout_ms: 5_000,
            ..Open::default()
        };
        wire::write(&mut send, tunnel::frame(&request)).await?;
        let opened: Opened = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await?;
        if opened.status() != OpenStatus::Connected {
            bail!("{opened:?}");
        }
        Ok(Box::new(tokio::io::join(recv, send)))
    }
}

fn folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("tunnel-bench-").tempdir()?)
}

fn credential(authority: &Authority, role: NodeRole) -> Result<NodeCredential> {
    let pool = (role == NodeRole::Agent).then(|| "bench".parse()).transpose()?;
    let identity = NodeIdentity { role, name: "bench".parse()?, pool };
    let request = KeyRequest::generate()?;
    let certificate_pem = authority.issue(&identity, &request.csr_der, &[], clock::now(), Duration::from_secs(3600))?;
    Ok(NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() })
}

fn agent(authority: &Authority, folder: &TempDir, gateways: &str) -> Result<Process> {
    let path = folder.path().join("credential");
    credential(authority, NodeRole::Agent)?.save(&path)?;
    let config = folder.path().join("agent.toml");
    fs::write(
        &config,
        format!(
            "[agent]\ncredential_dir = \"{}\"\n{gateways}\n[[agent.allow]]\nhosts = [\"127.0.0.1\"]\nports = [\"1-65535\"]\n",
            path.display()
        ),
    )?;
    let arguments = ["agent".to_owned(), "--config".to_owned(), config.display().to_string()];
    Process::start("agent", &postern_binary()?, &arguments, &[], None, folder.path())
}

/// By version 1: nothing but streams.
async fn welcome(link: &Link) -> Result<(SendHalf, RecvHalf)> {
    let (mut send, mut recv) = link.accept().await?;
    let _: Hello = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await?;
    let welcome = Welcome { version: 1, gateway: "bench".to_owned(), ..Welcome::default() };
    wire::write(&mut send, tunnel::frame(&welcome)).await?;
    Ok((send, recv))
}
