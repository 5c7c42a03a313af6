//! Who is compared: the server itself, pgbouncer, Postern with and without its tunnel; all before the same server.

use std::time::Duration;

use anyhow::Result;
use postern_benches::bouncer::{Bouncer, Pool};
use postern_chaos::live::{Connection, Postern, Postgres, PostgresOptions, Role, run};
use tempfile::TempDir;

/// Everything that runs while it is measured.
pub(crate) struct Stage {
    bouncer: Bouncer,
    postern: Postern,
    postgres: Postgres,
    _folder: TempDir,
}

impl Stage {
    /// Starts a server with pgbench's tables, and its guards.
    pub(crate) fn set() -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default())?;
        let mut initialise = postgres.connection(Role::Scram).client("pgbench");
        initialise.args(["-i", "-q", "-s", "10"]);
        run(initialise, "", Duration::from_secs(300))?.ok()?;
        let postern = Postern::with_shop(&postgres)?;
        let folder = tempfile::Builder::new().prefix("postern-bench-").tempdir()?;
        let bouncer = Bouncer::start(&postgres, folder.path(), Pool::Session, 200, None)?;
        Ok(Self { bouncer, postern, postgres, _folder: folder })
    }

    /// The peers, the baseline first.
    pub(crate) fn peers(&self) -> Result<Vec<(&'static str, Connection)>> {
        let token = self.postern.token("bench", &["dba"])?;
        let guarded =
            |target: &str| Ok::<_, anyhow::Error>(self.postern.connection(target, &token)?.sslmode("disable"));
        Ok(vec![
            ("direct", self.postgres.connection(Role::Scram)),
            ("pgbouncer", Connection { port: self.bouncer.port(), ..self.postgres.connection(Role::Scram) }),
            ("Postern", guarded("shop-direct")?),
            ("Postern, tunnel", guarded("shop")?),
        ])
    }
}
