//! A gateway that knows every member of a cluster.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::super::fleet::Node;
use super::super::issuer::Issuer;
use super::super::postern::shop_objects;
use super::super::postgres::Postgres;
use super::super::process::wait_until;
use super::super::psql::Connection;
use super::LiveCluster;

const START_LIMIT: Duration = Duration::from_secs(60);

/// A gateway, let in by a join token, before a shop that it dials itself. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    issuer: Issuer,
    node: Node,
}

impl Gateway {
    /// Starts it and applies the test objects; returns once a client can log in.
    ///
    /// # Errors
    /// When it does not come up, or something is refused.
    pub fn start(cluster: &LiveCluster, postgres: &Postgres) -> Result<Self> {
        Self::start_with(cluster, postgres, "")
    }

    /// The same, with further lines of its `[gateway]` section.
    ///
    /// # Errors
    /// See there.
    pub fn start_with(cluster: &LiveCluster, postgres: &Postgres, further: &str) -> Result<Self> {
        let mut node = Node::gateway(cluster, 0, None, further)?;
        node.start()?;
        let issuer = Issuer::start()?;
        cluster.cli().apply(&(issuer.object("test") + &shop_objects(postgres)))?;
        let this = Self { issuer, node };
        this.wait_for_login()?;
        Ok(this)
    }

    /// Kills it and starts it again, with nothing in memory; returns once a client can log in.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.kill9()?;
        self.start_again()
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill9(&mut self) -> Result<()> {
        self.node.kill9()
    }

    /// Starts it again after [`Self::kill9`]; returns once a client can log in.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        self.node.start()?;
        self.wait_for_login()
    }

    fn wait_for_login(&self) -> Result<()> {
        self.node.wait_ready()?;
        let connection = self.connection("start", &["dba"])?;
        let mut last = String::new();
        wait_until(START_LIMIT, "a first login", || {
            let run = connection.run("SELECT 1")?;
            last = run.stderr;
            Ok(run.status.success())
        })
        .with_context(|| format!("{last}\n{}", self.log()))
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        self.node.metrics()
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> String {
        self.node.postgres()
    }

    /// A token for `subject` in `groups`.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, subject: &str, groups: &[&str]) -> Result<String> {
        self.issuer.token(subject, groups)
    }

    /// A stock client's connection to the shop.
    ///
    /// # Errors
    /// When no token can be had.
    pub fn connection(&self, subject: &str, groups: &[&str]) -> Result<Connection> {
        Ok(Connection {
            host: self.node.host().to_owned(),
            port: self.node.postgres_port(),
            user: "shop-direct".to_owned(),
            database: "shop".to_owned(),
            password: self.token(subject, groups)?,
            sslmode: "prefer",
        })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.node.process().is_ok_and(|process| process.is_running())
    }

    /// All that it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.node.log()
    }
}
