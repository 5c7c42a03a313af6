//! How soon what an administrator says reaches open sessions (I6): from the acknowledged write to the end of each client's connection.
//!
//! `SESSIONS` (1000) over `GATEWAYS` (3) gateways, every other one busy, `ROUNDS` (5) times; and what a change costs that concerns none of them
//! (`CHANGES`, 100). `POLICIES` (100) others speak of others.

mod clients;
mod writes;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clients::Crowd;
use postern_benches::{number, percentile, processor_seconds, progress, where_and_when, write_part};
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::{Postgres, PostgresOptions};
use writes::{Admin, End};

/// What the issue asks for, in milliseconds.
const BOUND: f64 = 1_000.0;
/// Between two changes that concern nobody.
const PACE: Duration = Duration::from_millis(100);

/// What was found.
struct Found {
    sessions: usize,
    gateways: usize,
    rounds: usize,
    changes: usize,
    policies: usize,
    /// Milliseconds, for each way to end sessions, of every session in every round: idle ones and busy ones.
    ends: Vec<(End, Vec<f64>, Vec<f64>)>,
    /// Microseconds of a gateway's processor for a session: a second in which nothing changes, and a change that does not concern it.
    idle_us: f64,
    change_us: f64,
}

fn main() -> Result<()> {
    let (sessions, gateways) = (number("SESSIONS", 1_000_usize)?, number("GATEWAYS", 3_usize)?);
    let (rounds, changes, policies) = (number("ROUNDS", 5)?, number("CHANGES", 100)?, number("POLICIES", 100)?);
    let mut postgres = Postgres::start(PostgresOptions::default())?;
    let room = sessions.saturating_add(60);
    postgres.sql("postgres", &format!("ALTER SYSTEM SET max_connections = {room}"))?;
    postgres.stop()?;
    postgres.resume()?;
    let limits = format!("limits = {{ max_connections = {room} }}\nstaleness_limit = \"10m\"");
    let options = FleetOptions { gateways, agents: 0, gateway: limits, ..Default::default() };
    let mut fleet = Fleet::start(&postgres, options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let found = runtime.block_on(async {
        let mut admin = Admin::new(&fleet.cluster, &postgres.address())?;
        admin.bystanders(policies).await?;
        let mut ends = Vec::new();
        for end in End::ALL {
            let (mut idle, mut busy) = (Vec::new(), Vec::new());
            for round in 1..=rounds {
                let mut crowd = open(&mut fleet, gateways, sessions).await?;
                crowd.settle().await?;
                admin.end(end).await?;
                let acknowledged = Instant::now();
                let (idle_ends, busy_ends) = crowd.ends().await?;
                let since = |at: &Instant| at.saturating_duration_since(acknowledged).as_secs_f64() * 1e3;
                idle.extend(idle_ends.iter().map(since));
                busy.extend(busy_ends.iter().map(since));
                let longest = percentile(idle.iter().chain(&busy).copied(), 1.0);
                progress(&format!(
                    "{} {round}/{rounds}: {sessions} sessions ended, the longest {longest:.0} ms",
                    end.name()
                ));
                admin.undo(end).await?;
            }
            ends.push((end, idle, busy));
        }
        let (idle_us, change_us) = cost(&mut fleet, &mut admin, gateways, sessions, changes).await?;
        anyhow::Ok(Found { sessions, gateways, rounds, changes, policies, ends, idle_us, change_us })
    })?;
    report(&found)
}

/// So many sessions, spread over the gateways; every other one is busy. Retried while an undone end is still on its way.
async fn open(fleet: &mut Fleet, gateways: usize, sessions: usize) -> Result<Crowd> {
    let token = fleet.issuer().token(writes::SUBJECT, &["dba"])?;
    let mut addresses = Vec::new();
    for gateway in 0..gateways {
        addresses.push(fleet.gateway(gateway)?.postgres());
    }
    Crowd::open(&addresses, &token, sessions, true).await
}

/// Microseconds of the gateways' processors for a session: in an idle second, and for a change that does not concern it.
#[allow(clippy::cast_precision_loss)] // figures for people
async fn cost(
    fleet: &mut Fleet,
    admin: &mut Admin,
    gateways: usize,
    sessions: usize,
    changes: usize,
) -> Result<(f64, f64)> {
    let token = fleet.issuer().token(writes::SUBJECT, &["dba"])?;
    let (mut addresses, mut processes) = (Vec::new(), Vec::new());
    for gateway in 0..gateways {
        let node = fleet.gateway(gateway)?;
        addresses.push(node.postgres());
        processes.push(node.process()?.id());
    }
    let used = || processes.iter().try_fold(0.0, |sum, process| anyhow::Ok(sum + processor_seconds(*process)?));
    let mut crowd = Crowd::open(&addresses, &token, sessions, false).await?;
    crowd.settle().await?;
    let (before, began) = (used()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = (used()? - before) / began.elapsed().as_secs_f64();
    let (before, began) = (used()?, Instant::now());
    for place in 0..changes {
        admin.unrelated(place).await?;
        tokio::time::sleep(PACE).await;
    }
    let changed = used()? - before - idle * began.elapsed().as_secs_f64();
    ensure!(crowd.is_open(), "a change that does not concern them ended sessions");
    progress(&format!("{changes} changes that concern nobody"));
    Ok((idle / sessions as f64 * 1e6, (changed / changes.max(1) as f64 / sessions as f64 * 1e6).max(0.0)))
}

fn report(found: &Found) -> Result<()> {
    let mut out = format!("## Re-decision\n\n{}", where_and_when());
    writeln!(
        out,
        "- {} open sessions on {} gateways, each a process of its own, before one PostgreSQL; every other session is busy with one short query after the other; \
         one member of the control plane; all on the same machine, the clients too\n- From the acknowledged write to the end of each client's connection, in {} \
         rounds. Bound: {BOUND:.0} ms at p99\n",
        found.sessions, found.gateways, found.rounds
    )?;
    out.push_str("| the write | sessions | median ms | p99 ms | longest ms |\n| --- | --- | ---: | ---: | ---: |\n");
    for (end, idle, busy) in &found.ends {
        for (kind, values) in [("idle", idle), ("busy", busy)] {
            let of = |part| percentile(values.iter().copied(), part);
            writeln!(out, "| {} | {kind} | {:.1} | {:.1} | {:.1} |", end.name(), of(0.5), of(0.99), of(1.0))?;
        }
    }
    let worst = found.ends.iter().map(|(_, idle, busy)| percentile(idle.iter().chain(busy).copied(), 0.99));
    let worst = worst.fold(0.0, f64::max);
    writeln!(
        out,
        "\nWorst p99: {worst:.0} ms, {} the bound. A change that does not concern a session does not wake it, and costs {:.2} us of the gateway's processor \
         for each, over {} changes with {} policies (the part of the gateway itself, which takes and checks the change, included). Nothing at all costs {:.1} us a second.",
        if worst <= BOUND { "within" } else { "**past**" },
        found.change_us,
        found.changes,
        found.policies,
        found.idle_us,
    )?;
    write_part("redecide", &out)
}
