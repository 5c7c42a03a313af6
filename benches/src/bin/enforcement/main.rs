//! What enforcement costs: the server itself, pgbouncer (session mode) and a gateway that has a hundred policies and masking rules to go by and records
//! everything, with the same loads in turn. No TLS between client and peer; all on one machine.
//!
//! `ROUNDS` (3) of `SECONDS_EACH` (5) for each of pgbench's loads, `SCALE` (10) of its tables; `ROWS` (1,000,000) of results.

mod loads;
mod report;
mod results;
mod stage;

use anyhow::{Context as _, Result};
use postern_benches::number;

use stage::Stage;

/// What was measured of one peer.
#[derive(Clone, Debug, Default)]
struct Found {
    /// For each of [`loads::LOADS`], a measurement for each round.
    loads: Vec<Vec<loads::Measured>>,
    /// For each of [`results::RESULTS`].
    results: Vec<Vec<results::Measured>>,
}

fn main() -> Result<()> {
    let (rounds, seconds) = (number("ROUNDS", 3_u32)?, number("SECONDS_EACH", 5_u32)?);
    let rows = number("ROWS", 1_000_000_u32)?;
    let stage = Stage::set(number("SCALE", 10_u32)?, rows)?;
    let peers = stage.peers()?;
    let mut found = vec![Found::default(); peers.len()];
    for found in &mut found {
        found.loads.resize_with(loads::LOADS.len(), Vec::new);
        found.results.resize_with(results::RESULTS.len(), Vec::new);
    }
    for round in 1..=rounds {
        for (place, load) in loads::LOADS.iter().enumerate() {
            for (peer, found) in peers.iter().zip(&mut found) {
                let measured =
                    load.run(peer, seconds, stage.folder()).with_context(|| format!("{load:?} on {}", peer.name))?;
                measured.tell(round, rounds, load, peer);
                found.loads.get_mut(place).context("a place")?.push(measured);
            }
        }
        for (place, result) in results::RESULTS.iter().enumerate() {
            for (peer, found) in peers.iter().zip(&mut found) {
                let measured = result.run(peer, rows).with_context(|| format!("{} on {}", result.name, peer.name))?;
                measured.tell(round, rounds, result, peer);
                found.results.get_mut(place).context("a place")?.push(measured);
            }
        }
    }
    report::write(&peers, &found, rounds, seconds, rows)
}
