//! A real SAML identity provider (npm's `samlp`), and a browser that does as it is told: it follows redirects and posts forms.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_runtime::tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use tempfile::TempDir;

use super::process::{Process, wait_until};

const START_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An RSA key and its certificate, as PEM.
#[derive(Clone, Debug)]
pub struct RsaKey {
    /// PKCS#8.
    pub key: String,
    /// Self-signed.
    pub certificate: String,
    /// SubjectPublicKeyInfo.
    pub public: String,
}

impl RsaKey {
    /// A new one.
    ///
    /// # Errors
    /// When none can be made.
    pub fn new() -> Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no RSA key"))?;
        let der = pair.as_der().map_err(|_| anyhow!("no PKCS#8"))?;
        let key = rcgen::KeyPair::try_from(der.as_ref())?;
        let certificate = rcgen::CertificateParams::new(Vec::new())?.self_signed(&key)?;
        Ok(Self { key: key.serialize_pem(), certificate: certificate.pem(), public: key.public_key_pem() })
    }
}

/// The provider; it answers until it is dropped.
#[derive(Debug)]
pub struct SamlIdp {
    url: String,
    settings: PathBuf,
    _process: Process,
    _folder: TempDir,
}

impl SamlIdp {
    /// Starts on a free port, with a key of its own.
    ///
    /// # Errors
    /// When Node or samlp is not there, or it does not come up.
    pub fn start() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
        let modules = root.join(".tools/saml/node_modules");
        ensure!(modules.join("samlp").exists(), "{} is not there: run `scripts/bootstrap.sh test`", modules.display());
        let folder = tempfile::Builder::new().prefix("postern-saml-").tempdir()?;
        let file = |name: &str, text: &str| -> Result<String> {
            let path = folder.path().join(name);
            fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        let own = RsaKey::new()?;
        let script = root.join("chaos/idp/saml/idp.cjs").display().to_string();
        let arguments = [
            "--no-deprecation".to_owned(),
            script,
            file("idp.key", &own.key)?,
            file("idp.crt", &own.certificate)?,
            file("settings.json", "{}")?,
        ];
        let environment = [("NODE_PATH".to_owned(), modules.display().to_string())];
        let mut process = Process::start("saml-idp", Path::new("node"), &arguments, &environment, None, folder.path())?;
        let mut url = String::new();
        wait_until(START_LIMIT, "the identity provider", || {
            ensure!(process.is_running(), "it ended: {}", process.stderr());
            let out = process.stdout();
            url = out.lines().next().filter(|_| out.contains('\n')).unwrap_or_default().to_owned();
            Ok(!url.is_empty())
        })?;
        Ok(Self { url, settings: folder.path().join("settings.json"), _process: process, _folder: folder })
    }

    /// What the next logins are made with.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn set(&self, settings: &Value) -> Result<()> {
        let new = self.settings.with_extension("new");
        fs::write(&new, settings.to_string())?;
        Ok(fs::rename(new, &self.settings)?)
    }

    /// Its metadata.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metadata(&self) -> Result<String> {
        Ok(Browser::default().get(&format!("{}/metadata", self.url))?.body)
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// `200`
    pub status: u16,
    /// By name, in lower case.
    pub headers: BTreeMap<String, String>,
    /// What it wants kept.
    pub cookies: Vec<String>,
    /// As text.
    pub body: String,
}

impl Answer {
    /// Where the first form of the page posts to, and the value of its field of that name.
    ///
    /// # Errors
    /// When there is no such form.
    pub fn form(&self, field: &str) -> Result<(String, String)> {
        let action = after(&self.body, "action=\"").context("a form")?;
        let field = self.body.split(&format!("name=\"{field}\"")).nth(1).context("its field")?;
        Ok((unescaped(action), unescaped(after(field, "value=\"").context("its value")?)))
    }
}

/// The text after `mark`, up to the next quote.
fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark)?.1.split_once('"').map(|(value, _)| value)
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

/// Asks by HTTP/1.1, over TLS where the URL says so: every name is this machine.
#[derive(Clone, Debug, Default)]
pub struct Browser {
    /// The authority that it trusts.
    pub ca_pem: String,
    /// Ports to go to instead of others: one name, several members.
    pub instead: BTreeMap<u16, u16>,
}

impl Browser {
    /// GET, without following a redirect.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, url: &str) -> Result<Answer> {
        self.ask("GET", url, "", "")
    }

    /// GET, or POST of `form`, with cookies.
    pub(super) fn with_cookies(&self, url: &str, cookies: &str, form: Option<&str>) -> Result<Answer> {
        let method = if form.is_some() { "POST" } else { "GET" };
        self.ask(method, url, cookies, form.unwrap_or_default())
    }

    /// Posts a form of one field.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn post(&self, url: &str, field: &str, value: &str) -> Result<Answer> {
        self.ask("POST", url, "", &format!("{field}={}", percent(value)))
    }

    /// Posts a form.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn post_all(&self, url: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        self.ask("POST", url, "", &fields.join("&"))
    }

    fn ask(&self, method: &str, url: &str, cookies: &str, body: &str) -> Result<Answer> {
        let (scheme, rest) = url.split_once("://").with_context(|| format!("no URL: {url}"))?;
        let (host, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        let port: u16 = host.rsplit_once(':').context("a port")?.1.parse()?;
        let port = self.instead.get(&port).copied().unwrap_or(port);
        let form = "Content-Type: application/x-www-form-urlencoded";
        let slash = if path.starts_with('/') { "" } else { "/" };
        let request = format!(
            "{method} {slash}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nCookie: {cookies}\r\n{form}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut bytes = Vec::new();
        if scheme == "https" {
            let config = tls::client_with_ca(&self.ca_pem, &[b"http/1.1"])?;
            let client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
            let mut stream = StreamOwned::new(client, stream);
            stream.write_all(request.as_bytes())?;
            // Without a farewell: the answer says its own length.
            if let Err(error) = stream.read_to_end(&mut bytes) {
                ensure!(error.kind() == std::io::ErrorKind::UnexpectedEof, error);
            }
        } else {
            stream.write_all(request.as_bytes())?;
            stream.read_to_end(&mut bytes)?;
        }
        let text = String::from_utf8(bytes)?;
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text}"))?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("a status")?.parse()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let cookies = headers.clone().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        let cookies = cookies.map(|(_, value)| value.to_owned()).collect();
        let headers: BTreeMap<_, _> =
            headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        let chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
        let body = if chunked { unchunked(body)? } else { body.to_owned() };
        Ok(Answer { status, headers, cookies, body })
    }

    /// A whole login: `url` at the control plane, the provider, and the form that it answers with, which is not posted: where it goes and what
    /// is in it.
    ///
    /// # Errors
    /// When one of them does not do its part.
    pub fn login(&self, url: &str) -> Result<(String, String)> {
        let asked = self.get(url)?;
        let answered = match asked.headers.get("location") {
            Some(location) => {
                ensure!(asked.status == 303, "{asked:?}");
                self.get(location)?
            }
            None => {
                let (action, request) = asked.form("SAMLRequest").with_context(|| format!("{asked:?}"))?;
                self.post(&action, "SAMLRequest", &request)?
            }
        };
        answered.form("SAMLResponse").with_context(|| format!("{answered:?}"))
    }
}

/// RFC 9112, section 7.1.
fn unchunked(body: &str) -> Result<String> {
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16)?;
        let (chunk, after) = after.split_at_checked(size).context("a whole chunk")?;
        if size == 0 {
            break;
        }
        out.push_str(chunk);
        rest = after.trim_start_matches("\r\n");
    }
    Ok(out)
}

fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The assertion in a response, as base64 has it.
///
/// # Errors
/// When there is none in clear.
pub fn assertion_of(response: &str) -> Result<String> {
    let xml = String::from_utf8(STANDARD.decode(response)?)?;
    let begin = xml.find("<saml:Assertion").context("an assertion")?;
    let end = xml.find("</saml:Assertion>").context("its end")?;
    Ok(format!("{}</saml:Assertion>", xml.get(begin..end).context("an assertion")?))
}
