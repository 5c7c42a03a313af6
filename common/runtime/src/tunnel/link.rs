//! One link to a peer, over whatever carries it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use postern_core::node::NodeIdentity;
use quinn::{Connection, ConnectionError};
use rustls_pki_types::CertificateDer;

use super::half::{RecvHalf, SendHalf};
use super::mux::Mux;
use crate::pki::{Revocations, serial_of};
use crate::tls;

/// The link is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LinkError(pub String);

/// In a [`LinkError`], over either carrier: the path swallows what is sent, or the peer is gone without a word.
pub(super) const NOTHING_HEARD: &str = "nothing was heard of the peer";

impl LinkError {
    /// Whether the peer fell silent; else somebody has said that it is over, or the connection broke.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        self.0 == NOTHING_HEARD
    }
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self(NOTHING_HEARD.to_owned()),
            other => Self(other.to_string()),
        }
    }
}

/// What a link goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// QUIC, over UDP.
    Quic,
    /// Streams over one TLS connection, over TCP.
    Tcp,
}

impl Carrier {
    /// For logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// How a link fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Round trip; zero before the first.
    pub rtt: Duration,
    /// Packets lost on the way out. TCP does not tell.
    pub lost: u64,
    /// Bytes sent, with all that is around them.
    pub sent: u64,
    /// Bytes received, with all that is around them.
    pub received: u64,
    /// Streams that have something to send and no room for it.
    pub waiting: usize,
    /// The largest packet that the path is known to carry; zero for TCP.
    pub mtu: u16,
}

/// A link to a peer that TLS has verified. Cheap to clone; it lives until it is closed, by either end.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    kind: Kind,
    id: u64,
    peer: Option<NodeIdentity>,
    serial: Option<String>,
    alpn: Vec<u8>,
    waiting: Arc<AtomicUsize>,
}

enum Kind {
    Quic(Connection),
    Tcp(Mux),
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Link {
    /// Over a QUIC connection whose handshake is done.
    #[must_use]
    pub fn quic(connection: Connection) -> Self {
        let chain = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
        let alpn = connection
            .handshake_data()
            .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
            .and_then(|data| data.protocol);
        Self::new(Kind::Quic(connection), chain.as_deref().map_or(&[], Vec::as_slice), alpn.unwrap_or_default())
    }

    /// Over a TLS connection: `chain` is what its peer showed, `alpn` what was agreed on. Whoever made `mux` runs its driver.
    #[must_use]
    pub fn tcp(mux: Mux, chain: &[CertificateDer<'_>], alpn: &[u8]) -> Self {
        Self::new(Kind::Tcp(mux), chain, alpn.to_vec())
    }

    fn new(kind: Kind, chain: &[CertificateDer<'_>], alpn: Vec<u8>) -> Self {
        Self(Arc::new(Inner {
            kind,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            peer: tls::peer_identity(chain),
            serial: chain.first().and_then(|certificate| serial_of(certificate)),
            alpn,
            waiting: Arc::default(),
        }))
    }

    /// Tells it from every other link of this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Who is at the other end; nobody when it showed no node's certificate.
    #[must_use]
    pub fn peer(&self) -> Option<&NodeIdentity> {
        self.0.peer.as_ref()
    }

    /// The protocol that was agreed on in the handshake.
    #[must_use]
    pub fn alpn(&self) -> &[u8] {
        &self.0.alpn
    }

    /// What it goes over.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        match &self.0.kind {
            Kind::Quic(_) => Carrier::Quic,
            Kind::Tcp(_) => Carrier::Tcp,
        }
    }

    /// Where the peer is, now.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        match &self.0.kind {
            Kind::Quic(connection) => connection.remote_address(),
            Kind::Tcp(mux) => mux.remote(),
        }
    }

    /// Opens a stream. The peer hears of it with the first byte. Over QUIC it waits while the peer lets no further one in.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn open(&self) -> Result<(SendHalf, RecvHalf), LinkError> {
        let waiting = Arc::clone(&self.0.waiting);
        match &self.0.kind {
            Kind::Quic(connection) => {
                let (send, recv) = connection.open_bi().await?;
                Ok((SendHalf::quic(send, waiting), RecvHalf::quic(recv)))
            }
            Kind::Tcp(mux) => {
                let (send, recv) = mux.open()?;
                Ok((SendHalf::mux(send, waiting), RecvHalf::mux(recv)))
            }
        }
    }

    /// The next stream that the peer opens.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn accept(&self) -> Result<(SendHalf, RecvHalf), LinkError> {
        let waiting = Arc::clone(&self.0.waiting);
        match &self.0.kind {
            Kind::Quic(connection) => {
                let (send, recv) = connection.accept_bi().await?;
                Ok((SendHalf::quic(send, waiting), RecvHalf::quic(recv)))
            }
            Kind::Tcp(mux) => {
                let (send, recv) = mux.accept().await?;
                Ok((SendHalf::mux(send, waiting), RecvHalf::mux(recv)))
            }
        }
    }

    /// Ends it and all of its streams; the peer is told.
    pub fn close(&self, cause: u32, why: &str) {
        match &self.0.kind {
            Kind::Quic(connection) => connection.close(cause.into(), why.as_bytes()),
            Kind::Tcp(mux) => mux.close(cause, why),
        }
    }

    /// Lets the peer have `streams` open at a time, instead of what the listener lets everybody have.
    pub fn allow_streams(&self, streams: u32) {
        match &self.0.kind {
            Kind::Quic(connection) => connection.set_max_concurrent_bi_streams(streams.into()),
            Kind::Tcp(mux) => mux.allow_streams(usize::try_from(streams).unwrap_or(usize::MAX)),
        }
    }

    /// Waits for its end; why it ended.
    pub async fn closed(&self) -> LinkError {
        match &self.0.kind {
            Kind::Quic(connection) => connection.closed().await.into(),
            Kind::Tcp(mux) => mux.closed().await,
        }
    }

    /// Returns once the certificate that the peer has shown is good no more; never for a peer without one.
    pub async fn until_revoked(&self, mut revoked: Revocations) {
        let Some(serial) = &self.0.serial else { return std::future::pending().await };
        while !revoked.contains(serial) {
            revoked.changed().await;
        }
    }

    /// How it fares.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let waiting = self.0.waiting.load(Ordering::Relaxed);
        match &self.0.kind {
            Kind::Quic(connection) => {
                let stats = connection.stats();
                LinkStats {
                    rtt: stats.path.rtt,
                    lost: stats.path.lost_packets,
                    sent: stats.udp_tx.bytes,
                    received: stats.udp_rx.bytes,
                    waiting,
                    mtu: stats.path.current_mtu,
                }
            }
            Kind::Tcp(mux) => LinkStats { waiting, ..mux.stats() },
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer().map(ToString::to_string);
        f.debug_struct("Link").field("carrier", &self.carrier()).field("peer", &peer).finish_non_exhaustive()
    }
}
