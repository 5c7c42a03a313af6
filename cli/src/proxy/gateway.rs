//! The side of the gateway: TLS that is verified, and the token as the password.

use std::sync::Arc;
use std::time::Duration;

use postern_core::target::Address;
use postern_runtime::tls;
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Stream;
use super::local::{Refused, Startup};
use crate::failure::Failure;
use crate::reach::{Narrowed, Reach, resolve};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// SSLRequest (PostgreSQL documentation, 54.7).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// As PostgreSQL names itself in ALPN.
const ALPN: &[&[u8]] = &[b"postgresql"];
/// Messages before the one that asks for the password, and bytes of one.
const MAX_MESSAGES: usize = 8;
const MAX_MESSAGE: usize = 64 << 10;
/// AuthenticationCleartextPassword.
const ASKS: [u8; 4] = [0, 0, 0, 3];

/// A session at a gateway, and the token that it is by.
pub(super) struct Session {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) token: Narrowed,
}

/// A connection to a gateway that has proven to be one.
pub(super) async fn connect(reach: &Reach, gateway: &Address) -> Result<TlsStream<TcpStream>, Failure> {
    let cannot = |why: String| Failure::failed(format!("gateway {gateway}: {why}"));
    let (ca_pem, name) = reach.trusted(gateway)?;
    let config = match &ca_pem {
        Some(ca_pem) => tls::client_with_ca(ca_pem, ALPN),
        None => tls::client_with_public_authorities(ALPN),
    };
    let config = config.map_err(|error| cannot(error.to_string()))?;
    let name = ServerName::try_from(name).map_err(|_| cannot("its host is no name".to_owned()))?;
    let connected = async {
        let mut stream =
            TcpStream::connect(resolve(gateway).await?).await.map_err(|error| cannot(error.to_string()))?;
        let _ = stream.set_nodelay(true);
        let io = |error: std::io::Error| cannot(error.to_string());
        stream.write_all(&SSL_REQUEST).await.map_err(io)?;
        // One byte and no more: what else came before TLS could be anybody's.
        if stream.read_u8().await.map_err(io)? != b'S' {
            return Err(cannot("it has no TLS".to_owned()));
        }
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(io)
    };
    tokio::time::timeout(CONNECT_LIMIT, connected).await.unwrap_or_else(|_| Err(cannot("no answer".to_owned())))
}

/// Begins a session by the token. What the gateway says beside goes to the client. `None`: it has refused, in its own words.
pub(super) async fn log_in(
    mut stream: TlsStream<TcpStream>,
    client: &mut Box<dyn Stream>,
    reach: &Reach,
    startup: &Startup,
    token: Narrowed,
) -> Result<Option<Session>, Refused> {
    stream.write_all(&startup.to(reach.target.as_str(), reach.database.as_deref())).await?;
    stream.flush().await?;
    for _ in 0..MAX_MESSAGES {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        let rest = usize::try_from(length).unwrap_or(usize::MAX).checked_sub(4);
        let rest = rest.filter(|rest| *rest <= MAX_MESSAGE).ok_or(Refused::Protocol)?;
        let mut body = vec![0; rest];
        stream.read_exact(&mut body).await?;
        if kind == b'R' && body == ASKS {
            let password = token.token.expose_secret().as_bytes();
            let length = u32::try_from(password.len().saturating_add(5)).unwrap_or(u32::MAX);
            let message = zeroize::Zeroizing::new([&b"p"[..], &length.to_be_bytes(), password, b"\0"].concat());
            stream.write_all(&message).await?;
            stream.flush().await?;
            return Ok(Some(Session { stream, token }));
        }
        client.write_all(&[&[kind][..], &length.to_be_bytes(), &body].concat()).await?;
        match kind {
            b'E' => return Ok(None),
            // A notice, or a version that is older than the client's.
            b'N' | b'v' => {}
            _ => return Err(Refused::Protocol),
        }
    }
    Err(Refused::Protocol)
}
