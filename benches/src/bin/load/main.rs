//! pgbench through Postern, beside the same load direct and through pgbouncer, interleaved so that a slow minute hits all alike.

mod peers;
mod report;

use std::time::Duration;

use anyhow::{Context as _, Result};
use postern_benches::number;
use postern_chaos::live::{Connection, run};

/// One kind of load.
#[derive(Clone, Copy, Debug)]
struct Workload {
    name: &'static str,
    select_only: bool,
    mode: &'static str,
    clients: u32,
}

const fn workload(name: &'static str, select_only: bool, mode: &'static str, clients: u32) -> Workload {
    Workload { name, select_only, mode, clients }
}

const WORKLOADS: [Workload; 6] = [
    workload("select, simple", true, "simple", 1),
    workload("select, simple", true, "simple", 16),
    workload("select, prepared", true, "prepared", 1),
    workload("select, prepared", true, "prepared", 16),
    workload("TPC-B, simple", false, "simple", 1),
    workload("TPC-B, simple", false, "simple", 16),
];

/// What pgbench measured.
#[derive(Clone, Copy, Debug)]
struct Measured {
    tps: f64,
    latency_ms: f64,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--append-micro") {
        return report::append_micro(&arguments.next().context("the file of criterion's output")?);
    }
    let rounds = number("ROUNDS", 3)?;
    let seconds = number("SECONDS_EACH", 5)?;
    let stage = peers::Stage::set()?;
    let peers = stage.peers()?;
    let mut results = vec![vec![Vec::new(); peers.len()]; WORKLOADS.len()];
    for round in 1..=rounds {
        for (workload, row) in WORKLOADS.iter().zip(&mut results) {
            for ((name, connection), cell) in peers.iter().zip(row) {
                let measured = measure(connection, workload, seconds)
                    .with_context(|| format!("{} with {} clients on {name}", workload.name, workload.clients))?;
                postern_benches::progress(&format!(
                    "{round}/{rounds} {} x{} {name}: {:.0}/s",
                    workload.name, workload.clients, measured.tps
                ));
                cell.push(measured);
            }
        }
    }
    let names: Vec<&str> = peers.iter().map(|(name, _)| *name).collect();
    report::write(&names, &results, rounds, seconds)
}

fn measure(connection: &Connection, workload: &Workload, seconds: u32) -> Result<Measured> {
    let mut pgbench = connection.client("pgbench");
    pgbench.args(["-n", "-M", workload.mode, "-T", &seconds.to_string(), "-c", &workload.clients.to_string()]);
    pgbench.args(["-j", &workload.clients.min(2).to_string()]);
    if workload.select_only {
        pgbench.arg("-S");
    }
    let out = run(pgbench, "", Duration::from_secs(u64::from(seconds) + 60))?.ok()?;
    let value = |start: &str| -> Result<f64> {
        let line =
            out.lines().find_map(|line| line.strip_prefix(start)).with_context(|| format!("no {start:?} in {out}"))?;
        line.split_whitespace().next().context("a number")?.parse().context("a number")
    };
    Ok(Measured { tps: value("tps = ")?, latency_ms: value("latency average = ")? })
}
