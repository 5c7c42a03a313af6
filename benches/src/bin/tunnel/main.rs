//! Bytes through a tunnel, beside the ways that people take else: TCP, TLS over TCP, haproxy, and a forward of
//! OpenSSH.
//!
//! The client is this process, which plays the gateway's end of the tunnel; the agent is the real one, the target another process, all on
//! loopback. `ROUNDS` (3) and `SCALE` (100, in percent) set how long; `WAYS` which (parts of their names, with commas between).

mod forward;
mod measure;
mod report;
mod target;
mod ways;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use postern_benches::{number, progress};
use tokio::runtime::Runtime;

use crate::measure::Measured;
use crate::ways::Way;

/// All that was measured of one way.
struct Results {
    name: &'static str,
    rounds: Vec<Measured>,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("target") {
        return target::serve(&PathBuf::from(arguments.next().context("a folder")?));
    }
    let (rounds, scale) = (number("ROUNDS", 3)?, number("SCALE", 100)?);
    let runtime = Runtime::new()?;
    let target = target::Target::start()?;
    let mut all = Vec::new();
    let wanted = std::env::var("WAYS").unwrap_or_default();
    let wanted: Vec<String> = wanted.split(',').filter(|way| !way.is_empty()).map(str::to_owned).collect();
    for way in runtime.block_on(Way::all(&target, &wanted))? {
        all.push((way, Vec::new()));
    }
    for round in 1..=rounds {
        for (way, results) in &mut all {
            let measured = runtime.block_on(measure::measure(way, scale)).with_context(|| way.name())?;
            progress(&format!("{round}/{rounds} {}: {measured:?}", way.name()));
            results.push(measured);
        }
    }
    let results: Vec<Results> = all.into_iter().map(|(way, rounds)| Results { name: way.name(), rounds }).collect();
    report::write(&results, rounds)
}
