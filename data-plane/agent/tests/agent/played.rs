//! Gateways that are played, by either carrier.

use std::collections::BTreeSet;

use postern_protocols::tunnel::{ALPN_TCP, GatewayAddress, Gateways, MAX_MESSAGE, ToAgent, prefer, to_agent};
use postern_runtime::supervisor::OnEnd;
use postern_runtime::tunnel::mux::{Mux, MuxLimits, Side};
use postern_runtime::tunnel::{Link, RecvHalf, SendHalf, server_config, wire};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A gateway that is played: where it listens, by its name.
pub(crate) struct Played {
    pub(crate) name: String,
    pub(crate) credential: NodeCredential,
    quic: Option<Endpoint>,
    tcp: Option<TcpListener>,
    supervisor: Supervisor,
}

/// A tunnel that it has taken in.
pub(crate) struct Taken {
    pub(crate) link: Link,
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
}

pub(crate) fn node(authority: &Authority, role: NodeRole, name: &str) -> NodeCredential {
    let identity = NodeIdentity { role, name: name.parse().unwrap(), pool: None };
    let request = KeyRequest::generate().unwrap();
    let certificate_pem =
        authority.issue(&identity, &request.csr_der, &[], clock::now(), Duration::from_secs(3600)).unwrap();
    NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
}

impl Played {
    pub(crate) async fn new(authority: &Arc<Authority>, name: &str) -> Self {
        let mut this = Self::without_udp(authority, name).await;
        this.listen_udp(local());
        this
    }

    pub(crate) async fn without_udp(authority: &Arc<Authority>, name: &str) -> Self {
        let tcp = Some(TcpListener::bind(local()).await.unwrap());
        let credential = node(authority, NodeRole::Gateway, name);
        Self { name: name.to_owned(), credential, quic: None, tcp, supervisor: Supervisor::new() }
    }

    pub(crate) fn listen_udp(&mut self, address: SocketAddr) {
        let config = server_config(tls::server_mtls(&self.credential, &[ALPN]).unwrap(), 4, 64).unwrap();
        self.quic = Some(Endpoint::server(config, address).unwrap());
    }

    pub(crate) fn address(&self) -> GatewayAddress {
        let quic = self.quic.iter().map(|quic| quic.local_addr().unwrap().to_string()).collect();
        let tcp = self.tcp.iter().map(|tcp| tcp.local_addr().unwrap().to_string()).collect();
        GatewayAddress { name: self.name.clone(), quic, tcp, draining: false }
    }

    pub(crate) async fn link_quic(&self) -> Link {
        self.try_link_quic().await.unwrap()
    }

    /// Sends the next one who comes over QUIC away, as a gateway that has too many at its door.
    pub(crate) async fn refuse(&self) {
        self.quic.as_ref().unwrap().accept().await.unwrap().refuse();
    }

    pub(crate) async fn link_tcp(&self) -> Link {
        self.try_link_tcp().await.unwrap()
    }

    pub(crate) async fn try_link_quic(&self) -> Result<Link, String> {
        let connection = self.quic.as_ref().unwrap().accept().await.unwrap().await;
        connection.map(Link::quic).map_err(|error| error.to_string())
    }

    pub(crate) async fn try_link_tcp(&self) -> Result<Link, String> {
        let (stream, remote) = self.tcp.as_ref().unwrap().accept().await.unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls::server_mtls(&self.credential, &[ALPN_TCP]).unwrap()));
        let stream = tls.accept(stream).await.map_err(|error| error.to_string())?;
        let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        let limits = MuxLimits { incoming: 4, outgoing: 64 };
        let (mux, driver) = Mux::new(stream, Side::Listener, remote, limits);
        self.supervisor.spawn("mux", OnEnd::EndPart, driver);
        Ok(Link::tcp(mux, &chain, ALPN_TCP))
    }

    /// Takes the next tunnel in, whichever way it comes.
    pub(crate) async fn take(&self) -> Taken {
        let taken = async {
            let link = match (&self.quic, &self.tcp) {
                (Some(_), Some(_)) => tokio::select! {
                    link = self.link_quic() => link,
                    link = self.link_tcp() => link,
                },
                (Some(_), None) => self.link_quic().await,
                _ => self.link_tcp().await,
            };
            self.greet(link, 2).await
        };
        tokio::time::timeout(LIMIT, taken).await.unwrap()
    }

    pub(crate) async fn greet(&self, link: Link, version: u32) -> Taken {
        let (mut send, mut recv) = link.accept().await.unwrap();
        let _: Hello = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
        let welcome = Welcome { version, gateway: self.name.clone(), ..Welcome::default() };
        wire::write(&mut send, tunnel::frame(&welcome)).await.unwrap();
        Taken { link, send, recv }
    }
}

impl Taken {
    pub(crate) async fn tell(&mut self, message: to_agent::Message) {
        wire::write(&mut self.send, tunnel::frame(&ToAgent { message: Some(message) })).await.unwrap();
    }

    /// As version 2 does it: an agent first says that it is at it.
    pub(crate) async fn open(&self, address: &str) -> (SendHalf, RecvHalf, Opened) {
        let (mut send, mut recv) = self.link.open().await.unwrap();
        let request = Open { address: address.into(), connect_timeout_ms: 2_000, ..Open::default() };
        wire::write(&mut send, tunnel::frame(&request)).await.unwrap();
        let answers = async {
            let first: Opened = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap();
            assert_eq!(first.status(), OpenStatus::Opening);
            wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.unwrap()
        };
        let opened = tokio::time::timeout(LIMIT, answers).await.unwrap();
        (send, recv, opened)
    }
}

pub(crate) async fn agent(authority: &Authority, mut config: serde_json::Value) -> Supervisor {
    let defaults = serde_json::json!({"allow": [{"hosts": ["127.0.0.1"], "ports": ["1-65535"]}], "udp_probe": "200ms"});
    for (key, value) in defaults.as_object().unwrap() {
        config.as_object_mut().unwrap().entry(key).or_insert(value.clone());
    }
    let config: AgentConfig = serde_json::from_value(config).unwrap();
    let supervisor = Supervisor::new();
    let credential = credential(authority, NodeRole::Agent, Some("lab"));
    postern_agent::run(config, credential, supervisor.clone()).await.unwrap();
    supervisor
}

pub(crate) fn list(revision: u64, gateways: &[&Played]) -> to_agent::Message {
    let gateways = gateways.iter().map(|played| played.address()).collect();
    to_agent::Message::Gateways(Gateways { term: 1, started: 1, revision, gateways })
}

/// The names that rendezvous hashing gives this agent.
pub(crate) fn chosen(gateways: &[&Played], count: usize) -> BTreeSet<String> {
    let mut all: Vec<GatewayAddress> = gateways.iter().map(|played| played.address()).collect();
    prefer("one", &mut all);
    all.into_iter().take(count).map(|gateway| gateway.name).collect()
}

impl Taken {
    pub(crate) async fn send_unknown(&mut self) {
        use tokio::io::AsyncWriteExt as _;
        // Field 15, of a message that this version does not know.
        self.send.write_all(&[0, 0, 0, 2, 0x7a, 0]).await.unwrap();
    }
}

/// Waits until samples of this name add up to so much.
pub(crate) async fn counted(name: &str, at_least: f64) {
    let metrics = postern_runtime::telemetry::install_metrics();
    let count = || {
        let all = metrics.render();
        let lines = all.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    let there = async {
        while count() < at_least {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, there).await.unwrap_or_else(|_| panic!("{name} is {}, not {at_least}", count()));
}
