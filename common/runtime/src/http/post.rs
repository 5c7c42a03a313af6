//! Posts to endpoints that an administrator has named: each on a connection of its own, to addresses that a rule admits.
//!
//! A name is looked up once and the connection made to what was found: what the rule has seen is where the bytes go.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{AGENT, HttpError, chain, checked, is_loopback};
use crate::tls;

/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;
/// Of an answer's body, as much is read: it says nothing that is wanted.
const BODY: usize = 16 << 10;

/// What is posted.
pub struct Post<'a> {
    /// Where to: `https`, or `http` on this machine.
    pub url: &'a str,
    /// The authority that the endpoint's certificate is of; the public ones when there is none.
    pub ca_pem: Option<&'a str>,
    /// Beside `content-type: application/json`.
    pub headers: &'a [(&'static str, String)],
    /// The JSON.
    pub body: Bytes,
}

/// Posts, and gives the answer's status. Redirects are not followed, and the answer's body is read no further than politeness asks. `admits` says
/// which addresses may be connected to, and whether a name led there.
///
/// # Errors
/// Whatever keeps an answer from being there within `timeout`. A status is none.
pub async fn post(post: Post<'_>, admits: impl Fn(IpAddr, bool) -> bool, timeout: Duration) -> Result<u16, HttpError> {
    tokio::time::timeout(timeout, posted(post, admits)).await.map_err(|_| HttpError::Timeout(timeout))?
}

async fn posted(post: Post<'_>, admits: impl Fn(IpAddr, bool) -> bool) -> Result<u16, HttpError> {
    let uri = checked(post.url)?;
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().ok_or(HttpError::Url)?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = connect(bare, port, admits).await?;
    if !secure {
        return exchange(tcp, &uri, post).await;
    }
    let config = match post.ca_pem {
        Some(pem) => tls::client_with_ca(pem, &[b"http/1.1"])?,
        None => tls::client_with_public_authorities(&[b"http/1.1"])?,
    };
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| HttpError::Url)?;
    let transport = |error: std::io::Error| HttpError::Transport(chain(&error));
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(transport)?;
    exchange(stream, &uri, post).await
}

async fn connect(host: &str, port: u16, admits: impl Fn(IpAddr, bool) -> bool) -> Result<TcpStream, HttpError> {
    // `localhost` is an address in all but form.
    let named = host.parse::<IpAddr>().is_err() && !is_loopback(host);
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<SocketAddr> = found.map_err(|error| HttpError::Transport(chain(&error)))?.take(ADDRESSES).collect();
    let mut last = HttpError::Transport("the name has no address".to_owned());
    for address in found {
        if !admits(address.ip(), named) {
            last = HttpError::Transport(format!("{} is no address that may be sent to", address.ip()));
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = HttpError::Transport(chain(&error)),
        }
    }
    Err(last)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    uri: &Uri,
    post: Post<'_>,
) -> Result<u16, HttpError> {
    let transport = |error: hyper::Error| HttpError::Transport(chain(&error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(transport)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, AGENT);
    for (name, value) in post.headers {
        let value = HeaderValue::from_str(value).map_err(|_| HttpError::Url)?;
        request = request.header(HeaderName::from_static(name), value);
    }
    let request = request.body(Full::new(post.body)).map_err(|_| HttpError::Url)?;
    // Both in this task: whoever gives up ends both.
    let answered = async {
        let response = sender.send_request(request).await.map_err(transport)?;
        let status = response.status().as_u16();
        let _ = Limited::new(response.into_body(), BODY).collect().await;
        Ok(status)
    };
    tokio::pin!(answered);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        status = &mut answered => status,
        broken = &mut connection => match broken {
            Ok(()) => answered.await,
            Err(error) => Err(transport(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn answering(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[allow(clippy::disallowed_methods)] // a test's own
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"{\"a\":1}") {
                assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        (address, server)
    }

    fn body(url: &str) -> Post<'_> {
        Post { url, ca_pem: None, headers: &[], body: Bytes::from_static(b"{\"a\":1}") }
    }

    #[tokio::test]
    async fn posts_and_follows_nothing() {
        let (address, server) =
            answering("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n").await;
        let url = format!("http://{address}/hook?x=1");
        let headers = [("webhook-id", "apr_1".to_owned())];
        let status = post(Post { headers: &headers, ..body(&url) }, |_, _| true, Duration::from_secs(5)).await;
        assert_eq!(status.unwrap(), 302);
        let seen = server.await.unwrap();
        assert!(seen.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{seen}");
        assert!(
            seen.contains("webhook-id: apr_1\r\n") && seen.contains("content-type: application/json\r\n"),
            "{seen}"
        );
    }

    #[tokio::test]
    async fn goes_to_admitted_addresses_only() {
        let limit = Duration::from_secs(5);
        let refused = post(body("http://127.0.0.1:9/"), |_, _| false, limit).await.unwrap_err();
        assert!(refused.to_string().contains("may be sent to"), "{refused}");
        for bad in ["http://hooks.example/", "ftp://x/", "", "https://"] {
            assert!(post(body(bad), |_, _| true, limit).await.is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let error = post(body(&url), |_, _| true, Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(error, HttpError::Timeout(_)), "{error}");
    }
}
