//! Writes to three members of Postern's control plane, beside three of etcd on the same disk in the same minutes; then the leader is killed.
//!
//! `ROUNDS` (3), `SECONDS_EACH` (5) and `KILLS` (30) set how long; `SYSTEMS` which (`postern,etcd-tls,etcd`).

mod etcd;
mod measure;
mod report;
mod system;

use anyhow::{Context as _, Result, bail};
use postern_benches::{number, progress};

use crate::measure::{Measured, failover, writes};
use crate::system::System;

const CLIENTS: [u32; 3] = [1, 16, 256];

/// All that was measured of one system.
struct Results {
    name: String,
    /// By number of clients, then by round.
    writes: Vec<Vec<Measured>>,
    /// Milliseconds.
    failovers: Vec<f64>,
}

fn main() -> Result<()> {
    let (rounds, seconds, kills) = (number("ROUNDS", 3)?, number("SECONDS_EACH", 5)?, number("KILLS", 30)?);
    let asked = std::env::var("SYSTEMS").unwrap_or_else(|_| "postern,etcd-tls,etcd".to_owned());
    let mut results = Vec::new();
    let mut systems = Vec::new();
    for name in asked.split(',') {
        let (title, system) = match name {
            "postern" => ("Postern", System::postern()?),
            "etcd-tls" => ("etcd, TLS", System::etcd(true)?),
            "etcd" => ("etcd, no TLS", System::etcd(false)?),
            _ => bail!("SYSTEMS: {name} is neither postern, etcd-tls nor etcd"),
        };
        systems.push(system);
        let writes = vec![Vec::new(); CLIENTS.len()];
        results.push(Results { name: title.to_owned(), writes, failovers: Vec::new() });
    }
    for round in 1..=rounds {
        for (place, clients) in CLIENTS.into_iter().enumerate() {
            for (system, result) in systems.iter_mut().zip(&mut results) {
                let measured = writes(system, clients, u64::from(seconds))
                    .with_context(|| format!("{clients} clients of {}", result.name))?;
                progress(&format!(
                    "{round}/{rounds} {} x{clients}: {:.0}/s, median {:.2} ms, p99 {:.2} ms, {:.0} us of processor each",
                    result.name, measured.rate, measured.median, measured.p99, measured.processor
                ));
                if let Some(cell) = result.writes.get_mut(place) {
                    cell.push(measured);
                }
            }
        }
    }
    for kill in 1..=kills {
        for (system, result) in systems.iter_mut().zip(&mut results) {
            let took = failover(system).with_context(|| result.name.clone())?;
            progress(&format!("kill {kill}/{kills} {}: {took:.0} ms", result.name));
            result.failovers.push(took);
        }
    }
    drop(systems);
    report::write(&results, rounds, seconds)
}
