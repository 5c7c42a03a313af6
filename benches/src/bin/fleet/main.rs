//! A fleet of thousands of agents: how long until it is steady, what the leader of the control plane has to do for it, and what storms do
//! when gateways are killed. `AGENTS` (250,500,1000,2000), `GATEWAYS` (20), `STEADY` (20, seconds) and `STORM` (1; 0 leaves out the storm in
//! which the leader dies too) set how much.

mod pings;
mod report;
mod scenes;

use anyhow::{Context as _, Result};
use postern_benches::{number, progress};

use scenes::{Disaster, Scene};

/// What was found.
struct Found {
    gateways: usize,
    scenes: Vec<Scene>,
    disaster: Option<Disaster>,
}

fn main() -> Result<()> {
    let gateways = number("GATEWAYS", 20)?;
    let sizes = std::env::var("AGENTS").unwrap_or_else(|_| "250,500,1000,2000".to_owned());
    let sizes: Result<Vec<usize>, _> = sizes.split(',').map(str::parse).collect();
    let sizes = sizes.context("AGENTS is numbers with commas between")?;
    let mut found = Found { gateways, scenes: Vec::new(), disaster: None };
    scenes::growth(gateways, &sizes, number("STEADY", 20)?, |scene| {
        // Each as soon as it is there: a later one may fail.
        found.scenes.push(scene);
        report::write(&found)
    })?;
    if number("STORM", 1_u8)? > 0 {
        let most = sizes.iter().max().copied().unwrap_or_default();
        found.disaster = Some(scenes::disaster(gateways, most)?);
    }
    progress("writing the report");
    report::write(&found)
}
