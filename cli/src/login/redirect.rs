//! Where the browser comes back to: a listener on loopback (RFC 8252, section 7.3) for one answer.
//!
//! Whatever else runs on this machine may connect too. What has not the state of this login is answered and forgotten, so that nobody ends
//! it but the browser; bytes, connections and time are bounded.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::provider::OAuthError;
use crate::failure::Failure;

/// Request line and headers.
const MAX_HEAD: usize = 16 << 10;
/// One connection after the other: one that says nothing holds up the browser for no longer.
const HEAD_LIMIT: Duration = Duration::from_secs(3);
const PATH: &str = "/callback";

/// Listens for the browser.
pub(super) struct Redirect {
    listener: TcpListener,
    address: SocketAddr,
}

/// What the browser brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) outcome: Result<String, OAuthError>,
    /// RFC 9207.
    pub(super) issuer: Option<String>,
}

/// The browser, which waits to be told how the login ended.
pub(super) struct Waiting(TcpStream);

impl Redirect {
    /// On `port`; 0: any.
    pub(super) async fn listen(port: u16) -> Result<Self, Failure> {
        let cannot = |error| Failure::failed(format!("cannot listen on 127.0.0.1:{port} for the browser: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Self { listener, address })
    }

    pub(super) fn uri(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// The answer with `state`; never ends without one.
    pub(super) async fn answer(&self, state: &str) -> Result<(Answer, Waiting), Failure> {
        loop {
            let (mut stream, from) = self.listener.accept().await?;
            if !from.ip().is_loopback() {
                continue;
            }
            let head = tokio::time::timeout(HEAD_LIMIT, head(&mut stream)).await;
            let Ok(Some(head)) = head else { continue };
            match read(&head, state) {
                Ok(answer) => return Ok((answer, Waiting(stream))),
                Err((status, text)) => page(stream, status, "Postern", text).await,
            }
        }
    }
}

impl Waiting {
    /// Tells the browser's person how it ended.
    pub(super) async fn tell(self, done: Result<&str, &Failure>) {
        match done {
            Ok(who) => {
                let text =
                    format!("You are logged in as {who}. You can close this window and go back to the terminal.");
                page(self.0, "200 OK", "Logged in", &text).await;
            }
            Err(failure) => {
                let text = format!("{failure}. Go back to the terminal, and try again.");
                page(self.0, "400 Bad Request", "Not logged in", &text).await;
            }
        }
    }
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(chunk.get(..count)?);
        if bytes.windows(4).any(|window| window == b"\r\n\r\n") {
            return String::from_utf8(bytes).ok();
        }
        if bytes.len() > MAX_HEAD {
            return None;
        }
    }
}

pub(super) type Refused = (&'static str, &'static str);

/// The answer in a request's head; else the status and text to refuse it with.
pub(super) fn read(head: &str, state: &str) -> Result<Answer, Refused> {
    let not_found = ("404 Not Found", "There is nothing here.");
    let mut line = head.lines().next().unwrap_or_default().split(' ');
    let (Some("GET"), Some(target)) = (line.next(), line.next()) else { return Err(not_found) };
    let Some((PATH, query)) = target.split_once('?') else { return Err(not_found) };
    let other = ("400 Bad Request", "This is not the answer to the login that waits here.");
    let mut found: [(&str, Option<String>); 5] =
        [("state", None), ("code", None), ("iss", None), ("error", None), ("error_description", None)];
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some((_, place)) = found.iter_mut().find(|(name, _)| *name == key) else { continue };
        // RFC 6749, section 3.1: none more than once.
        if place.is_some() {
            return Err(other);
        }
        *place = Some(decoded(value).ok_or(other)?);
    }
    let [(_, given), (_, code), (_, issuer), (_, error), (_, description)] = found;
    let given = given.ok_or(other)?;
    verify_slices_are_equal(given.as_bytes(), state.as_bytes()).map_err(|_| other)?;
    let outcome = match (code, error) {
        (Some(code), None) if !code.is_empty() => Ok(code),
        (None, Some(error)) => Err(OAuthError::new(&error, &description.unwrap_or_default())),
        _ => return Err(other),
    };
    Ok(Answer { outcome, issuer })
}

/// Percent-decoded, a plus being a space.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok().filter(|it| it.bytes().all(|it| it.is_ascii_hexdigit()));
                out.push(u8::from_str_radix(digits?, 16).ok()?);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

/// Answers and hangs up. Who does not read it does not need it.
async fn page(mut stream: TcpStream, status: &str, title: &str, text: &str) {
    let escape =
        |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let (title, text) = (escape(title), escape(text));
    let body = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
         <body><h1>{title}</h1><p>{text}</p></body></html>\n"
    );
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n\
         Content-Security-Policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\r\n{body}",
        body.len()
    );
    let told = async {
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    };
    let _ = tokio::time::timeout(HEAD_LIMIT, told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Result<Answer, &'static str> {
        read(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"), "s-1").map_err(|(status, _)| &status[..3])
    }

    #[test]
    fn the_answer_has_the_state_once_and_a_code_or_an_error() {
        let answer = get("/callback?code=a%2Bb+c&state=s-1&iss=https%3A%2F%2Fid&session_state=x").unwrap();
        assert_eq!(answer, Answer { outcome: Ok("a+b c".into()), issuer: Some("https://id".into()) });
        let refused = get("/callback?state=s-1&error=access_denied&error_description=no%20way").unwrap();
        assert_eq!(refused.outcome.unwrap_err().to_string(), "access_denied: no way");
        for (target, status) in [
            ("/favicon.ico", "404"),
            ("/callback", "404"),
            ("/other?state=s-1&code=x", "404"),
            ("/callback?code=x", "400"),
            ("/callback?code=x&state=s-2", "400"),
            ("/callback?code=x&state=s-1&state=s-1", "400"),
            ("/callback?code=x&code=y&state=s-1", "400"),
            ("/callback?code=&state=s-1", "400"),
            ("/callback?code=x&error=y&state=s-1", "400"),
            ("/callback?code=%zz&state=s-1", "400"),
            ("/callback?code=%ff&state=s-1", "400"),
            ("/callback?code=%&state=s-1", "400"),
            ("/callback?state=s-1", "400"),
        ] {
            assert_eq!(get(target).unwrap_err(), status, "{target}");
        }
        assert!(read("POST /callback?code=x&state=s-1 HTTP/1.1", "s-1").is_err());
        assert!(read("", "s-1").is_err());
    }

    #[tokio::test]
    async fn others_do_not_end_the_login() {
        let redirect = Redirect::listen(0).await.unwrap();
        let address = redirect.address;
        let client = async {
            let ask = async |text: String| {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(text.as_bytes()).await.unwrap();
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer).await;
                answer
            };
            assert!(ask("GET /callback?code=x&state=guess HTTP/1.1\r\n\r\n".into()).await.starts_with("HTTP/1.1 400"));
            drop(TcpStream::connect(address).await.unwrap());
            ask(format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(MAX_HEAD * 2))).await;
            ask("GET /callback?code=x&state=s-1 HTTP/1.1\r\n\r\n".into()).await
        };
        let server = async {
            let (answer, waiting) = redirect.answer("s-1").await.unwrap();
            waiting.tell(Ok("corp/<alice>")).await;
            answer
        };
        let (page, answer) = tokio::join!(client, server);
        assert_eq!(answer.outcome.unwrap(), "x");
        assert!(page.contains("corp/&lt;alice&gt;"), "{page}");
        assert!(page.contains("no-store") && page.contains("default-src 'none'"));
    }
}
