//! A certified OpenID provider (npm's `oidc-provider`) at which people log in, and people: each with a browser that keeps cookies, follows
//! redirects and fills in the forms.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::process::{Process, free_port, wait_until};
use super::saml::{Answer, Browser};

const STARTS: Duration = Duration::from_secs(60);
/// Of one login.
const MAX_STEPS: usize = 20;

/// The provider; it answers until it is dropped.
#[derive(Debug)]
pub struct PeopleIdp {
    port: u16,
    folder: TempDir,
    settings: Value,
    process: Option<Process>,
}

impl PeopleIdp {
    /// Starts on a free port, with a key of its own. `settings`: `idTokenSeconds`, `groups`.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start(settings: Value) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("postern-people-").tempdir()?;
        let mut this = Self { port: free_port()?, folder, settings, process: None };
        this.resume()?;
        Ok(this)
    }

    /// Its `iss`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// An Issuer of it, at which people log in.
    #[must_use]
    pub fn object(&self, name: &str) -> String {
        format!(
            "apiVersion: postern/v1\nkind: Issuer\nmetadata: {{name: {name}}}\nspec:\n  url: {}\n  audiences: [postern-cli]\n  \
             login: {{clientId: postern-cli}}\n",
            self.url()
        )
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill9())
    }

    /// Starts it again, with its key; it has forgotten everybody.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume(&mut self) -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
        let modules = root.join(".tools/oidc/node_modules");
        ensure!(
            modules.join("oidc-provider").exists(),
            "{} is not there: run `scripts/bootstrap.sh test`",
            modules.display()
        );
        let settings: PathBuf = self.folder.path().join("settings.json");
        fs::write(&settings, self.settings.to_string())?;
        let environment = [
            ("PORT".to_owned(), self.port.to_string()),
            ("MODULES".to_owned(), modules.display().to_string()),
            ("SETTINGS".to_owned(), settings.display().to_string()),
        ];
        let script = [root.join("chaos/idp/oidc/people.mjs").display().to_string()];
        let mut process =
            Process::start("people-idp", Path::new("node"), &script, &environment, None, self.folder.path())?;
        let discovery = format!("{}/.well-known/openid-configuration", self.url());
        wait_until(STARTS, "the provider to answer", || {
            ensure!(process.is_running(), "it ended: {}", process.stderr());
            Ok(Browser::default().get(&discovery).is_ok_and(|answer| answer.status == 200))
        })?;
        self.process = Some(process);
        Ok(())
    }
}

/// Somebody who logs in.
#[derive(Debug, Default)]
pub struct Person {
    /// Who; empty: says no.
    pub name: String,
    /// How the provider made sure of it.
    pub acr: String,
    /// By which means, with spaces between.
    pub amr: String,
    browser: Browser,
    cookies: BTreeMap<String, String>,
}

impl Person {
    /// Logs in as `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The same, made sure of so.
    #[must_use]
    pub fn sure(mut self, acr: &str, amr: &str) -> Self {
        (self.acr, self.amr) = (acr.to_owned(), amr.to_owned());
        self
    }

    /// Says no.
    #[must_use]
    pub fn unwilling() -> Self {
        Self::default()
    }

    /// Opens `url`, does what the pages ask for, and returns the last one.
    ///
    /// # Errors
    /// When a page asks for what nobody knows.
    pub fn visit(&mut self, url: &str) -> Result<Answer> {
        let (mut url, mut form) = (url.to_owned(), None::<String>);
        for _ in 0..MAX_STEPS {
            let answer = self.step(&url, form.take())?;
            if let Some(location) = answer.headers.get("location") {
                url = absolute(&url, location);
            } else if url.contains("/interaction/") && answer.status == 200 {
                form = Some(self.who());
            } else if answer.body.contains("name=\"xsrf\"") {
                let (action, xsrf) = answer.form("xsrf")?;
                let (_, code) = answer.form("user_code")?;
                let confirm = if answer.body.contains("name=\"confirm\"") { "&confirm=yes" } else { "" };
                (url, form) = (absolute(&url, &action), Some(format!("xsrf={xsrf}&user_code={code}{confirm}")));
            } else {
                return Ok(answer);
            }
        }
        bail!("no end of it at {url}")
    }

    fn who(&self) -> String {
        if self.name.is_empty() {
            return "deny=1".to_owned();
        }
        format!("login={}&acr={}&amr={}", self.name, self.acr, self.amr.replace(' ', "+"))
    }

    fn step(&mut self, url: &str, form: Option<String>) -> Result<Answer> {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let answer = self.browser.with_cookies(url, &cookies.join("; "), form.as_deref())?;
        for cookie in &answer.cookies {
            let (name, value) = cookie.split(';').next().unwrap_or_default().split_once('=').context("a cookie")?;
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        Ok(answer)
    }
}

fn absolute(from: &str, to: &str) -> String {
    let host = from.match_indices('/').nth(2).map_or(from, |(at, _)| from.split_at(at).0);
    if to.starts_with('/') { format!("{host}{to}") } else { to.to_owned() }
}
