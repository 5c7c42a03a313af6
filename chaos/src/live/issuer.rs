//! An OIDC issuer of the tests' own: discovery and keys over HTTP on loopback, and whatever token one asks for.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

const KEY_ID: &str = "chaos-1";

/// The issuer; it answers until it is dropped.
#[derive(Debug)]
pub struct Issuer {
    address: SocketAddr,
    /// Of its certificate; none on loopback, where it speaks plain HTTP.
    ca_pem: Option<String>,
    key: EcdsaKeyPair,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Issuer {
    /// Starts on a free port, with a key of its own (ES256).
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// The same, at this address: with a certificate for it when it is not loopback.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start_at(address: Ipv4Addr) -> Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| anyhow!("cannot make a key"))?;
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let (tls, ca_pem) = if address.ip().is_loopback() {
            (None, None)
        } else {
            let (tls, ca_pem) = certified(address)?;
            (Some(tls), Some(ca_pem))
        };
        let url = url_of(address, ca_pem.is_some());
        let discovery = json!({
            "issuer": url, "jwks_uri": format!("{url}/jwks"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        });
        // Uncompressed point: 04, x, y (SEC 1, section 2.3.3).
        let point = key.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(32);
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let keys = json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID, "x": part(x), "y": part(y),
        }]});
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A client that goes away is its own business.
                let _ = stream.map_err(Into::into).and_then(|stream| serve(stream, tls.as_ref(), &discovery, &keys));
            }
        });
        Ok(Self { address, ca_pem, key, stop, thread: Some(thread) })
    }

    /// Its `iss`.
    #[must_use]
    pub fn url(&self) -> String {
        url_of(self.address, self.ca_pem.is_some())
    }

    /// The Issuer object that trusts it under `name`.
    #[must_use]
    pub fn object(&self, name: &str) -> String {
        let ca_pem = self.ca_pem.as_ref().map(|pem| format!(", ca: {pem:?}")).unwrap_or_default();
        format!(
            "apiVersion: postern/v1\nkind: Issuer\nmetadata: {{name: {name}}}\nspec: {{url: \"{}\", audiences: [postern]{ca_pem}}}\n---\n",
            self.url()
        )
    }

    /// A token for `subject` in `groups`, good for ten minutes.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, subject: &str, groups: &[&str]) -> Result<String> {
        self.token_with(subject, groups, |_| {})
    }

    /// The same, its claims changed before they are signed.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token_with(&self, subject: &str, groups: &[&str], change: impl FnOnce(&mut Value)) -> Result<String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let mut claims = json!({
            "iss": self.url(), "aud": "postern", "sub": subject, "groups": groups, "iat": now, "nbf": now, "exp": now + 600,
            "jti": format!("{subject}-{now}"),
        });
        change(&mut claims);
        let header = json!({"alg": "ES256", "kid": KEY_ID, "typ": "JWT"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| anyhow!("cannot sign"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accept.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn url_of(address: SocketAddr, tls: bool) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

/// What it shows, and whom to trust for it, PEM.
fn certified(address: SocketAddr) -> Result<(Arc<rustls::ServerConfig>, String)> {
    let made = rcgen::generate_simple_self_signed(vec![address.ip().to_string()])?;
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(|why| anyhow!(why))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok((Arc::new(config), made.cert.pem()))
}

fn serve(
    mut stream: TcpStream,
    tls: Option<&Arc<rustls::ServerConfig>>,
    discovery: &Value,
    keys: &Value,
) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    match tls {
        None => answer(&mut stream, discovery, keys),
        Some(tls) => {
            let mut connection = rustls::ServerConnection::new(Arc::clone(tls))?;
            let mut secured = rustls::Stream::new(&mut connection, &mut stream);
            answer(&mut secured, discovery, keys)?;
            connection.send_close_notify();
            Ok(connection.write_tls(&mut stream).map(drop)?)
        }
    }
}

fn answer(stream: &mut (impl Read + Write), discovery: &Value, keys: &Value) -> Result<()> {
    let mut lines = BufReader::new(&mut *stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let (status, body) = match request.split_whitespace().nth(1) {
        Some("/.well-known/openid-configuration") => ("200 OK", discovery.to_string()),
        Some("/jwks") => ("200 OK", keys.to_string()),
        _ => ("404 Not Found", "{}".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}
