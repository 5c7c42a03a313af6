//! A certified OpenID provider (npm's `oidc-provider`), installed by `scripts/bootstrap.sh test`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::process::{Process, free_port, wait_until};

const SCRIPT: &str = include_str!("../../idp/oidc/provider.mjs");
const STARTS: Duration = Duration::from_secs(60);

/// The provider; it ends when it is dropped.
#[derive(Debug)]
pub struct Provider {
    script: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Process>,
}

impl Provider {
    /// Starts on a free port, with a key of its own.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a package lies in a workspace")?;
        let script = root.join(".tools/oidc/provider.mjs");
        let installed = std::fs::read_to_string(&script).unwrap_or_default();
        ensure!(
            installed == SCRIPT,
            "{} is not there, or is an old one: run `scripts/bootstrap.sh test`",
            script.display()
        );
        let mut provider = Self { script, folder: tempfile::tempdir()?, port: free_port()?, process: None };
        provider.resume()?;
        Ok(provider)
    }

    /// Its `iss`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill9(),
            None => Ok(()),
        }
    }

    /// Starts it again, with the keys that it had.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume(&mut self) -> Result<()> {
        let environment = [
            ("PORT".to_owned(), self.port.to_string()),
            ("STATE".to_owned(), self.folder.path().join("keys.json").display().to_string()),
        ];
        let script = [self.script.display().to_string()];
        let node = Process::start("oidc-provider", Path::new("node"), &script, &environment, None, self.folder.path())?;
        self.process = Some(node);
        wait_until(STARTS, "the provider to answer", || {
            Ok(self.request("GET", "/.well-known/openid-configuration", "").is_ok())
        })
    }

    /// Signs by a new key from now on. The ones before are still told of when `keep`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn rotate(&self, algorithm: &str, keep: bool) -> Result<()> {
        let path = format!("/control/rotate?alg={algorithm}&keep={}", u8::from(keep));
        self.request("POST", &path, "").map(drop)
    }

    /// An access token for `audience`, of the client `robot`; good for ten minutes, or for a second when the audience has "brief" in it.
    ///
    /// # Errors
    /// When it gives none.
    pub fn token(&self, audience: &str) -> Result<String> {
        let form = format!("grant_type=client_credentials&scope=read&resource=urn%3A{audience}");
        let answer: Value = serde_json::from_str(&self.request("POST", "/token", &form)?)?;
        let token = answer.get("access_token").and_then(Value::as_str);
        Ok(token.with_context(|| format!("the provider gave no token: {answer}"))?.to_owned())
    }

    fn request(&self, method: &str, path: &str, form: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let client = STANDARD.encode("robot:robot-secret");
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nAuthorization: Basic {client}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{form}",
            self.port,
            form.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head and a body")?;
        ensure!(head.lines().next().is_some_and(|status| status.contains(" 200 ")), "{method} {path}: {answer}");
        Ok(body.to_owned())
    }
}
