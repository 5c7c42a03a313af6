//! The stock client, pointed at Postern or at a server.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::net::Place;
use super::process::{Finished, Process, command_in, run};

/// Where and as whom to connect. For Postern, `user` is the target and `password` the token.
#[derive(Clone)]
pub struct Connection {
    /// Host to dial.
    pub host: String,
    /// Port to dial.
    pub port: u16,
    /// The user that the client names.
    pub user: String,
    /// The database that it names.
    pub database: String,
    /// What it presents as a password.
    pub password: String,
    /// libpq's `sslmode`.
    pub sslmode: &'static str,
}

/// What psql said.
pub type PsqlOutput = Finished;

/// psql with settings that make its output easy to compare: no alignment, no headers, SQLSTATE shown with errors.
#[derive(Clone)]
pub struct Psql {
    connection: Connection,
    options: Vec<String>,
    limit: Duration,
    namespace: Option<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}

impl Connection {
    /// As libpq's connection string, without the password.
    #[must_use]
    pub fn string(&self) -> String {
        let Self { host, port, user, database, sslmode, .. } = self;
        format!("host={host} port={port} user={user} dbname={database} sslmode={sslmode} connect_timeout=10")
    }

    /// A stock libpq client: connection and password in its environment.
    #[must_use]
    pub fn client(&self, program: &str) -> Command {
        self.client_in(None, program)
    }

    fn client_in(&self, namespace: Option<&str>, program: &str) -> Command {
        let mut command = command_in(namespace, program);
        command.env("PGHOST", &self.host).env("PGPORT", self.port.to_string()).env("PGUSER", &self.user);
        command.env("PGDATABASE", &self.database).env("PGPASSWORD", &self.password).env("PGSSLMODE", self.sslmode);
        command.env("PGCONNECT_TIMEOUT", "10");
        command
    }

    /// The same with another database.
    #[must_use]
    pub fn database(mut self, database: &str) -> Self {
        database.clone_into(&mut self.database);
        self
    }

    /// The same with another `sslmode`.
    #[must_use]
    pub const fn sslmode(mut self, sslmode: &'static str) -> Self {
        self.sslmode = sslmode;
        self
    }

    /// A psql of it.
    #[must_use]
    pub fn psql(&self) -> Psql {
        Psql { connection: self.clone(), options: Vec::new(), limit: Duration::from_secs(60), namespace: None }
    }

    /// Runs `sql` by psql, a script on its standard input: it goes on after an error, as a person would.
    ///
    /// # Errors
    /// When psql cannot be started or does not end.
    pub fn run(&self, sql: &str) -> Result<PsqlOutput> {
        self.psql().run(sql)
    }
}

impl Psql {
    /// A further option of psql's.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// How long it may take.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same, on a host of its own. Needs root.
    #[must_use]
    pub fn at(mut self, place: &Place) -> Self {
        self.namespace = Some(place.namespace.clone());
        self
    }

    /// Runs a script.
    ///
    /// # Errors
    /// When psql cannot be started or does not end.
    pub fn run(&self, sql: &str) -> Result<PsqlOutput> {
        let mut command = self.connection.client_in(self.namespace.as_deref(), "psql");
        command.args(self.arguments());
        run(command, sql, self.limit)
    }

    /// Starts psql with one statement and leaves it running, its output in `folder`: for what waits.
    ///
    /// # Errors
    /// When psql cannot be started.
    pub fn start(&self, name: &str, sql: &str, folder: &std::path::Path) -> Result<Process> {
        let mut arguments = self.arguments();
        for statement in sql.split(";;") {
            arguments.extend(["-c".to_owned(), statement.to_owned()]);
        }
        let environment: Vec<(String, String)> = self.connection.client("psql").get_envs().filter_map(pair).collect();
        let (place, program) = (self.namespace.as_deref(), std::path::Path::new("psql"));
        Process::start_in(place, name, program, &arguments, &environment, None, folder)
    }

    fn arguments(&self) -> Vec<String> {
        let fixed = ["-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose"];
        fixed.into_iter().map(str::to_owned).chain(self.options.iter().cloned()).collect()
    }
}

impl std::fmt::Debug for Psql {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "psql {:?}", self.connection)
    }
}

fn pair((key, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)) -> Option<(String, String)> {
    Some((key.to_str()?.to_owned(), value?.to_str()?.to_owned()))
}
