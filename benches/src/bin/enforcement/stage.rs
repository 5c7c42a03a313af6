//! Who is compared, all before the same server.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use postern_benches::bouncer::{Bouncer, Pool};
use postern_benches::{memory_kb, processor_seconds};
use postern_chaos::live::{Connection, Postgres, PostgresOptions, Role, RoleOptions, ThreeProcesses, run, wait_until};
use tempfile::TempDir;

/// Policies that concern the principal, all but one of them for nothing that it does here.
const POLICIES: u32 = 100;
const GROUP: &str = "bench";

/// Somebody between the client and the server, or nobody.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) connection: Connection,
    /// The process between, whose time counts.
    pub(crate) process: Option<u32>,
    pub(crate) masks: bool,
}

impl Peer {
    /// Seconds of processor that it has used.
    pub(crate) fn processor(&self) -> Result<f64> {
        self.process.map_or(Ok(0.0), processor_seconds)
    }

    /// Kilobytes of memory that it has.
    pub(crate) fn memory(&self) -> Result<f64> {
        self.process.map_or(Ok(0.0), memory_kb)
    }
}

/// Everything that runs while it is measured.
pub(crate) struct Stage {
    bouncer: Bouncer,
    /// With each class of durability: its name, itself, and its gateway's process.
    houses: Vec<(&'static str, ThreeProcesses, u32)>,
    postgres: Postgres,
    folder: TempDir,
}

impl Stage {
    pub(crate) fn set(scale: u32, rows: u32) -> Result<Self> {
        let postgres = Postgres::start(PostgresOptions::default())?;
        let mut initialise = postgres.connection(Role::Scram).client("pgbench");
        initialise.args(["-i", "-q", "-s", &scale.to_string()]);
        run(initialise, "", Duration::from_secs(300))?.ok()?;
        for table in ["people", "guarded"] {
            postgres.sql("shop", &people(table, rows))?;
        }
        let folder = tempfile::Builder::new().prefix("postern-bench-").tempdir()?;
        let bouncer = Bouncer::start(&postgres, folder.path(), Pool::Session, 200, None)?;
        let houses = [("Postern", "spooled"), ("Postern, buffered", "buffered")];
        let houses = houses
            .map(|(name, durability)| house(&postgres, durability).map(|(three, gateway)| (name, three, gateway)));
        Ok(Self { bouncer, houses: houses.into_iter().collect::<Result<_>>()?, postgres, folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The baseline first.
    pub(crate) fn peers(&self) -> Result<Vec<Peer>> {
        let direct = self.postgres.connection(Role::Scram);
        let bouncer = Connection { port: self.bouncer.port(), ..direct.clone() };
        let mut peers = vec![
            Peer { name: "direct", connection: direct, process: None, masks: false },
            Peer { name: "pgbouncer", connection: bouncer, process: Some(self.bouncer.process()), masks: false },
        ];
        for (name, three, gateway) in &self.houses {
            peers.push(Peer { name, connection: guarded(three)?, process: Some(*gateway), masks: true });
        }
        Ok(peers)
    }
}

/// A gateway with all that it is to enforce, and its control plane.
fn house(postgres: &Postgres, durability: &str) -> Result<(ThreeProcesses, u32)> {
    let gateway = format!("limits = {{ principal = {{ sessions = 1000 }} }}\ndurability = \"{durability}\"\n");
    let mut three = ThreeProcesses::start(postgres, RoleOptions { gateway, ..RoleOptions::default() })?;
    three.apply(&objects())?;
    let gateway = three.gateway()?.id();
    let guarded = guarded(&three)?;
    // Policies, rules and the catalogue are there once a masked value is.
    wait_until(Duration::from_secs(60), "the policies", || {
        Ok(guarded
            .run("SELECT email FROM guarded WHERE id = 1; SELECT abalance FROM pgbench_accounts WHERE aid = 1")
            .is_ok_and(|out| out.stdout == "****\n0\n"))
    })?;
    Ok((three, gateway))
}

fn guarded(three: &ThreeProcesses) -> Result<Connection> {
    Ok(Connection { sslmode: "disable", ..three.connection("shop-direct", "bench", &[GROUP])? })
}

/// A hundred policies, and masks of which two columns of one table are.
fn objects() -> String {
    let mut out = String::new();
    for number in 1..POLICIES {
        let verb = if number % 2 == 0 { "sql:select" } else { "sql:update" };
        let _ = write!(
            out,
            "---\napiVersion: postern/v1\nkind: Policy\nmetadata: {{name: bench-{number:03}}}\nspec: {{effect: permit, principals: {{groups: [{GROUP}]}}, \
             targets: {{names: [\"*\"]}}, actions: [\"{verb}\"], resources: [\"app{number}.*\"]}}\n"
        );
    }
    let _ = write!(
        out,
        "---\napiVersion: postern/v1\nkind: Policy\nmetadata: {{name: bench-all}}\nspec: {{effect: permit, principals: {{groups: [{GROUP}]}}, \
         targets: {{names: [\"*\"]}}, actions: [\"sql:select\"], resources: [\"public.*\"]}}\n\
         ---\napiVersion: postern/v1\nkind: MaskingRule\nmetadata: {{name: bench-people}}\nspec: {{targets: {{names: [\"*\"]}}, \
         columns: [public.guarded.email, public.guarded.phone], mask: {{redact: {{text: \"****\"}}}}}}\n"
    );
    out
}

fn people(table: &str, rows: u32) -> String {
    format!(
        "CREATE TABLE {table} (id int PRIMARY KEY, name text, email text, phone text, balance numeric(12,2), since timestamptz);
         INSERT INTO {table} SELECT n, 'Person number ' || n, 'person' || n || '@mail.example', '+44 20 7946 ' || lpad((n % 10000)::text, 4, '0'),
             n * 1.25, timestamptz '2020-01-01' + n * interval '1 minute' FROM generate_series(1, {rows}) AS n;
         GRANT ALL ON {table} TO PUBLIC; VACUUM ANALYZE {table};"
    )
}
