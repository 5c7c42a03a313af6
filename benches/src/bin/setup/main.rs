//! What lies between a client and its server, hop by hop: how long a session takes to open (from the connection to the server's "ready for query"),
//! how long a statement takes in it, and how fast rows come; for one client after the other.
//!
//! The same client everywhere (rust-postgres, no TLS): the server itself, pgbouncer, and Postern's gateway, which dials the server itself, has it behind
//! an agent, or has that agent behind another gateway. `ROUNDS` (3) of `LOGINS` (300) each, and as many statements; `MEGABYTES` (200) of rows.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::StreamExt as _;
use postern_benches::bouncer::{Bouncer, Pool};
use postern_benches::{median, number, percentile, progress, where_and_when, write_part};
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::{Connection, Postgres, PostgresOptions, Role, wait_until};
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

/// Before it counts.
const WARM: u32 = 20;

const UP: Duration = Duration::from_secs(60);

/// As `shop`, with sessions kept ready.
const READY: &str = "\
apiVersion: postern/v1
kind: Target
metadata: {name: shop-ready, labels: {kind: shop}}
spec:
  protocol: postgres
  address: \"@ADDRESS@\"
  tls: {mode: disable}
  credential: {username: app, secret: shop-password}
  agentPool: dev
  databases: [shop]
  spareSessions: 2
";

/// A way to a session, and what was found of it in each round.
struct Way {
    name: &'static str,
    connection: Connection,
    rounds: Vec<Round>,
}

struct Round {
    /// Milliseconds, of each login.
    logins: Vec<f64>,
    /// Milliseconds, of each statement.
    statements: Vec<f64>,
    /// Megabytes a second of rows.
    rows: f64,
}

fn main() -> Result<()> {
    let (rounds, logins) = (number("ROUNDS", 3_u32)?, number("LOGINS", 300_u32)?);
    let megabytes = number("MEGABYTES", 200_u32)?;
    let postgres = Postgres::start(PostgresOptions::default())?;
    let folder = tempfile::Builder::new().prefix("postern-setup-").tempdir()?;
    let bouncer = Bouncer::start(&postgres, folder.path(), Pool::Session, 100, None)?;
    // The agent knows the first gateway alone: the second one reaches it by a relay.
    let gateway = "limits = { principal = { sessions = 1000 } }".to_owned();
    let options = FleetOptions { gateways: 2, agents: 0, agent: "tunnels = 1".into(), gateway, ..Default::default() };
    let mut fleet = Fleet::start(&postgres, options)?;
    let tunnel = fleet.gateway(0)?.tunnel();
    fleet.add_agent_of(&[tunnel])?;
    let ready = READY.replace("@ADDRESS@", &postgres.address());
    wait_until(UP, "the cluster's feature level", || Ok(fleet.cluster.cli().try_apply(&ready)?.status.success()))?;
    for (gateway, target) in [(0, "shop"), (1, "shop"), (0, "shop-ready")] {
        fleet.wait_for_login_to(gateway, target)?;
    }
    let direct = postgres.connection(Role::Scram);
    let guarded = |gateway, target| fleet.connection(gateway, target, "bench", &["dba"]);
    let mut ways: Vec<Way> = [
        ("PostgreSQL itself", direct.clone()),
        ("PostgreSQL itself, without SCRAM's hashing (md5)", postgres.connection(Role::Md5)),
        ("pgbouncer, which keeps sessions", Connection { port: bouncer.port(), ..direct }),
        ("Postern's gateway", guarded(0, "shop-direct")?),
        ("gateway, tunnel, agent", guarded(0, "shop")?),
        ("gateway, relay, gateway, tunnel, agent", guarded(1, "shop")?),
        ("gateway, tunnel, agent; sessions kept ready (`spareSessions: 2`)", guarded(0, "shop-ready")?),
    ]
    .map(|(name, connection)| Way { name, connection, rounds: Vec::new() })
    .into();
    let runtime = Runtime::new()?;
    for round in 1..=rounds {
        for way in &mut ways {
            let found = runtime.block_on(measure(&way.connection, logins, megabytes)).with_context(|| way.name)?;
            let (login, statement) = (median(found.logins.clone()), median(found.statements.clone()));
            progress(&format!(
                "{round}/{rounds} {}: {login:.2} ms, {statement:.3} ms, {:.0} MB/s",
                way.name, found.rows
            ));
            way.rounds.push(found);
        }
    }
    let relayed = fleet.gateway(1)?.metrics()?;
    ensure!(relayed.contains("postern_gateway_relay_opens_total{outcome=\"connected\"}"), "nothing was relayed");
    report(&ways, rounds, logins, megabytes)
}

async fn measure(to: &Connection, logins: u32, megabytes: u32) -> Result<Round> {
    let mut config = tokio_postgres::Config::new();
    config.host(&to.host).port(to.port).user(&to.user).dbname(&to.database).password(&to.password);
    config.ssl_mode(tokio_postgres::config::SslMode::Disable);
    let mut round = Round { logins: Vec::new(), statements: Vec::new(), rows: 0.0 };
    for login in 0..WARM + logins {
        let start = Instant::now();
        let (client, connection) = config.connect(NoTls).await?;
        let opened = start.elapsed();
        drop(client);
        connection.await?;
        if login >= WARM {
            round.logins.push(opened.as_secs_f64() * 1e3);
        }
        // What a session leaves behind must not be what the next one waits for.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (client, connection) = config.connect(NoTls).await?;
    let used = async {
        for statement in 0..WARM + logins {
            let start = Instant::now();
            client.simple_query("SELECT 1").await?;
            if statement >= WARM {
                round.statements.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        let rows = format!("COPY (SELECT repeat('x', 999) FROM generate_series(1, {megabytes}000)) TO STDOUT");
        let start = Instant::now();
        let mut copied = std::pin::pin!(client.copy_out(&rows).await?);
        let mut bytes = 0_u32;
        while let Some(row) = copied.next().await {
            bytes = bytes.saturating_add(u32::try_from(row?.len())?);
        }
        ensure!(bytes == megabytes * 1_000_000, "{bytes} bytes came");
        round.rows = f64::from(megabytes) / start.elapsed().as_secs_f64();
        Ok(round)
    };
    tokio::select! {
        round = used => round,
        ended = connection => Err(ended.err().map_or_else(|| anyhow!("the connection ended"), Into::into)),
    }
}

fn report(ways: &[Way], rounds: u32, logins: u32, megabytes: u32) -> Result<()> {
    let mut out = format!("## Sessions, hop by hop\n\n{}", where_and_when());
    writeln!(
        out,
        "- One client after the other (rust-postgres), without TLS, all on this machine over loopback; its token is known to the gateway\n\
         - {rounds} rounds of {logins} sessions, {logins} times `SELECT 1` in one session, and one COPY of {megabytes} MB from the server, interleaved; medians of the rounds\n"
    )?;
    out.push_str(
        "From the connection to \"ready for query\". pgbouncer hands out a session of the server that it has; all others have the server begin one. The \
         client proves its password to PostgreSQL and to pgbouncer by SCRAM, whose hashing is part of the figure; to Postern it shows a token, and Postern \
         proves the password. Of a target with `spareSessions` a gateway keeps sessions logged in, for one client each; clients come 5 ms after one another here. Each session of Postern's has a recording, and each statement is decided and durably recorded before it is forwarded. \
         What a relay costs is the difference between the two rows before the last.\n\n\
         | way | opened p50 ms | p90 | p99 | `SELECT 1` p50 ms | p99 | rows MB/s |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for way in ways {
        let of = |pick: fn(&Round) -> &Vec<f64>, part| {
            median(way.rounds.iter().map(|round| percentile(pick(round).iter().copied(), part)))
        };
        let (login, statement) = (|part| of(|it| &it.logins, part), |part| of(|it| &it.statements, part));
        writeln!(
            out,
            "| {} | {:.2} | {:.2} | {:.2} | {:.3} | {:.3} | {:.0} |",
            way.name,
            login(0.5),
            login(0.9),
            login(0.99),
            statement(0.5),
            statement(0.99),
            median(way.rounds.iter().map(|round| round.rows))
        )?;
    }
    write_part("setup", &out)
}
