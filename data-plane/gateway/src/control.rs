//! The connections to the control plane, over mutual TLS: one to each of its nodes that is configured; they reconnect by themselves.
//!
//! Every node answers everything: reads of its own, writes are handed on to the leader. The feed follows one node at a time; approvals and
//! uploads go to one until it fails, then to the next.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use postern_core::node::CONTROL_PLANE_NAME;
use postern_runtime::pki::{Revocations, RotatingCredential};
use postern_runtime::tls::{self, TlsError};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::config::Addresses;

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// A call that its caller gave up after this long speaks against the node.
const HUNG: Duration = Duration::from_secs(3);

/// The control plane's address or the node's credential cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Not `host:port`.
    #[error("control plane {address}: {source}")]
    Endpoint {
        /// As configured.
        address: String,
        /// What is wrong.
        source: tonic::transport::Error,
    },
    /// The credential cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// All nodes of the control plane that are configured. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    nodes: Arc<[(String, Channel)]>,
    chosen: Arc<AtomicUsize>,
}

/// Calls go to one node until it fails, then to the next. The caller repeats what may be repeated. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Failover(ControlPlane);

impl ControlPlane {
    /// Connects to each when it is first used.
    ///
    /// # Errors
    /// When an address or the credential cannot be used.
    pub(crate) fn new(
        addresses: &Addresses,
        credential: &RotatingCredential,
        revoked: Revocations,
    ) -> Result<Self, ControlError> {
        let tls = tls::client_mtls_rotating(credential, revoked, &[b"h2"])?;
        let connector = TlsConnector::from(Arc::new(tls));
        let nodes = addresses.iter().map(|address| {
            let channel = channel(address, connector.clone());
            channel.map(|channel| (address.clone(), channel))
        });
        let nodes: Arc<[(String, Channel)]> = nodes.collect::<Result<_, _>>()?;
        // Gateways spread over the nodes.
        let chosen = Arc::new(AtomicUsize::new(fastrand::usize(..nodes.len().max(1))));
        Ok(Self { nodes, chosen })
    }

    /// How many nodes are configured.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// One node after the other without end, beginning with any.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = (&str, Channel)> {
        let start = fastrand::usize(..self.nodes.len().max(1));
        self.nodes.iter().cycle().skip(start).map(|(address, channel)| (address.as_str(), channel.clone()))
    }

    /// The node that is configured with this address, if one is.
    pub(crate) fn node(&self, address: &str) -> Option<Channel> {
        self.nodes.iter().find(|(known, _)| known == address).map(|(_, channel)| channel.clone())
    }

    /// For calls that any node answers.
    pub(crate) fn any(&self) -> Failover {
        Failover(self.clone())
    }

    fn choose(&self) -> (usize, Option<Channel>) {
        let place = self.chosen.load(Ordering::Relaxed);
        let node = self.nodes.get(place % self.nodes.len().max(1));
        (place, node.map(|(_, channel)| channel.clone()))
    }

    /// The next calls go elsewhere, unless another has seen to that already.
    fn leave(&self, place: usize) {
        let _ = self.chosen.compare_exchange(place, place.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Service<http::Request<Body>> for Failover {
    type Response = http::Response<Body>;
    type Error = tonic::Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let control = self.0.clone();
        Box::pin(async move {
            let (place, channel) = control.choose();
            let mut channel = channel.ok_or_else(|| tonic::Status::unavailable("no control plane is configured"))?;
            let mut given_up = GivenUp { control, place, since: Instant::now(), answered: false };
            let answered = async {
                std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
                channel.call(request).await
            };
            let answer = answered.await;
            given_up.answered = true;
            // A refusal without a body has its status here (gRPC over HTTP/2, "Trailers-Only").
            let unavailable = |answer: &http::Response<Body>| {
                answer.headers().get("grpc-status").is_some_and(|status| status.as_bytes() == b"14")
            };
            if answer.as_ref().map_or(true, unavailable) {
                given_up.control.leave(place);
            }
            answer.map_err(|error| tonic::Status::from_error(Box::new(error)))
        })
    }
}

/// Sees that a call was given up, because nothing came.
struct GivenUp {
    control: ControlPlane,
    place: usize,
    since: Instant,
    answered: bool,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() >= HUNG {
            self.control.leave(self.place);
        }
    }
}

fn channel(address: &str, tls: TlsConnector) -> Result<Channel, ControlError> {
    // TLS is the connector's: to the endpoint it is plain HTTP/2.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| ControlError::Endpoint { address: address.to_owned(), source })?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(Dial { tls, address: address.into() }))
}

/// Opens a connection to one node, and verifies that it is of the control plane.
#[derive(Clone)]
struct Dial {
    tls: TlsConnector,
    address: Arc<str>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { tls, address } = self.clone();
        Box::pin(async move {
            let dial = async {
                let stream = TcpStream::connect(&*address).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::try_from(CONTROL_PLANE_NAME).map_err(std::io::Error::other)?;
                tls.connect(name, stream).await
            };
            let late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time");
            Ok(TokioIo::new(tokio::time::timeout(CONNECT, dial).await.map_err(late)??))
        })
    }
}
