//! What idle sessions cost: resident memory of a gateway, and of pgbouncer, before and with thousands of TLS clients that have asked once
//! and then do nothing. As the gateway has a connection to its target for each session, the target is a pgbouncer too (transaction mode,
//! before one PostgreSQL): five thousand PostgreSQL processes would measure the machine.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use postern_benches::bouncer::{Bouncer, Pool};
use postern_benches::{memory_kb, progress, where_and_when, write_part};
use postern_chaos::live::idle::{IdleClient, IdleSessions, ListenerCertificate};
use postern_chaos::live::{Postgres, PostgresOptions, Role, RoleOptions, ThreeProcesses, shop_objects};

/// Sessions that are open before the first look: what they bring with them is everybody's.
const FIRST: usize = 50;
/// How long memory may take to be given back after the last login.
const SETTLE: Duration = Duration::from_secs(10);

/// What one of them used.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// KiB, before.
    before: f64,
    /// KiB, with all sessions idle.
    with: f64,
    /// Sessions between the two.
    sessions: f64,
    /// For a login and a statement, with sixteen at a time.
    seconds: f64,
}

impl Used {
    fn each(self) -> f64 {
        (self.with - self.before) / self.sessions
    }
}

fn main() -> Result<()> {
    let count: u16 =
        std::env::var("SESSIONS").map_or(Ok(5_000), |text| text.parse()).context("SESSIONS is a number")?;
    let folder = tempfile::Builder::new().prefix("postern-idle-").tempdir()?;
    // pgbouncer's user has to get through.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let certificate = ListenerCertificate::make(folder.path())?;
    let postgres = Postgres::start(PostgresOptions::default())?;

    let target = Bouncer::start(&postgres, &folder.path().join("target"), Pool::Transaction, count, None)?;
    let most = u32::from(count) + 200;
    let options = RoleOptions {
        gateway: format!(
            "listener.certificate_file = \"{}\"\nlistener.key_file = \"{}\"\nlimits.max_connections = {most}\n\
             limits.principal.sessions = {most}\n",
            certificate.certificate_file, certificate.key_file,
        ),
        ..Default::default()
    };
    let mut three = ThreeProcesses::start(&postgres, options)?;
    three.apply(&shop_objects(&postgres).replace(&postgres.address(), &target.address()))?;
    let client = IdleClient {
        address: three.postgres_address(),
        trusted: certificate.der.clone(),
        user: "shop-direct".to_owned(),
        database: "shop".to_owned(),
        password: three.issuer().token("bench", &["dba"])?,
    };
    let gateway = measure("Postern", three.gateway()?.id(), client, count)?;

    let peer = Bouncer::start(&postgres, &folder.path().join("peer"), Pool::Transaction, count, Some(&certificate))?;
    let client = IdleClient {
        address: peer.address(),
        trusted: certificate.der.clone(),
        user: Role::Scram.name().to_owned(),
        database: "shop".to_owned(),
        password: Role::Scram.password().to_owned(),
    };
    let bouncer = measure("pgbouncer", peer.process(), client, count)?;
    report(count, gateway, bouncer)
}

fn measure(name: &str, process: u32, client: IdleClient, count: u16) -> Result<Used> {
    let mut sessions = IdleSessions::new(client)?;
    sessions.open(FIRST)?;
    let before = settled(process)?;
    let began = Instant::now();
    sessions.open(count.into())?;
    let seconds = began.elapsed().as_secs_f64() / f64::from(count);
    let with = settled(process)?;
    // None of them was lost on the way.
    sessions.ask_all()?;
    let used = Used { before, with, sessions: count.into(), seconds };
    progress(&format!("{name}: {:.1} KiB a session", used.each()));
    Ok(used)
}

/// The least that a process has in a while.
fn settled(process: u32) -> Result<f64> {
    let (until, mut least) = (Instant::now() + SETTLE, f64::MAX);
    while Instant::now() < until {
        least = least.min(memory_kb(process)?);
        #[allow(clippy::disallowed_methods)] // no async worker here
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(least)
}

fn report(count: u16, gateway: Used, bouncer: Used) -> Result<()> {
    let mut out = format!("## Idle sessions\n\n{}", where_and_when());
    writeln!(
        out,
        "- Resident memory with {count} sessions of PostgreSQL that came over TLS, asked `SELECT 1` and then did nothing, after {FIRST} others \
         (whose cost is everybody's)\n- {}: a gateway has a connection to the target for each session, pgbouncer in transaction mode has none. The \
         gateway's target is another pgbouncer, before one PostgreSQL\n",
        if cfg!(debug_assertions) { "Built without optimisation" } else { "Release build" }
    )?;
    out.push_str("| | before, MiB | with them, MiB | each, KiB | a login and a statement, ms |\n| --- | ---: | ---: | ---: | ---: |\n");
    for (name, used) in [("Postern's gateway", gateway), ("pgbouncer", bouncer)] {
        writeln!(
            out,
            "| {name} | {:.1} | {:.1} | {:.1} | {:.1} |",
            used.before / 1024.0,
            used.with / 1024.0,
            used.each(),
            used.seconds * 1000.0
        )?;
    }
    write_part("idle", &out)
}
