//! pgbench: many small operations.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use postern_benches::{percentile, progress};
use postern_chaos::live::run;

use crate::stage::Peer;

/// One kind of load: `SELECT` of one row by its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) mode: &'static str,
    pub(crate) clients: u32,
}

pub(crate) const LOADS: [Load; 3] = [
    Load { mode: "prepared", clients: 16 },
    Load { mode: "prepared", clients: 1 },
    Load { mode: "simple", clients: 16 },
];

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Transactions a second.
    pub(crate) tps: f64,
    /// Of a transaction, microseconds.
    pub(crate) p50: f64,
    /// Processor time of the process between for each transaction, microseconds.
    pub(crate) processor: f64,
}

impl Load {
    pub(crate) fn run(&self, peer: &Peer, seconds: u32, folder: &Path) -> Result<Measured> {
        let logs = tempfile::tempdir_in(folder)?;
        let mut pgbench = peer.connection.client("pgbench");
        pgbench.current_dir(logs.path()).args(["-n", "-S", "-M", self.mode, "-T", &seconds.to_string()]);
        pgbench.args(["-c", &self.clients.to_string(), "-j", &self.clients.min(2).to_string()]);
        // Of many clients, a share of the lines says enough.
        pgbench.args(["-l", "--sampling-rate", if self.clients > 1 { "0.01" } else { "0.2" }]);
        let before = peer.processor()?;
        let out = run(pgbench, "", Duration::from_secs(u64::from(seconds) + 60))?.ok()?;
        let used = peer.processor()? - before;
        let value = |start: &str| -> Result<f64> {
            let line = out
                .lines()
                .find_map(|line| line.strip_prefix(start))
                .with_context(|| format!("no {start:?} in {out}"))?;
            line.split_whitespace().next().context("a number")?.parse().context("a number")
        };
        let transactions = value("number of transactions actually processed: ")?;
        Ok(Measured {
            tps: value("tps = ")?,
            p50: percentile(latencies(logs.path())?, 0.5),
            processor: used * 1e6 / transactions,
        })
    }
}

/// The third field of each line is how long a transaction took, in microseconds.
fn latencies(logs: &Path) -> Result<Vec<f64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(logs)? {
        let text = fs::read_to_string(entry?.path())?;
        found.extend(text.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<f64>().ok()));
    }
    Ok(found)
}

impl Measured {
    pub(crate) fn tell(&self, round: u32, rounds: u32, load: &Load, peer: &Peer) {
        let Load { mode, clients } = load;
        let Self { tps, p50, processor } = self;
        progress(&format!(
            "{round}/{rounds} select, {mode} x{clients} {}: {tps:.0}/s, p50 {p50:.0} us, processor {processor:.1} us",
            peer.name
        ));
    }
}
