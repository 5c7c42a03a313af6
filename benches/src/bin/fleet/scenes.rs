//! What befalls the fleet, and what is measured of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use postern_benches::{memory_kb, processor_seconds, progress};
use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::crowd::{Crowd, CrowdOptions, Load, Steady, Storm};
use postern_chaos::live::{Issuer, Postgres, PostgresOptions, shop_objects};

use crate::pings::Pings;

const LIMIT: Duration = Duration::from_secs(600);
/// Between the last tunnel and the measurement of calm.
const SETTLE: Duration = Duration::from_secs(12);
/// Sessions whose answers are timed.
const SESSIONS: usize = 8;
/// Agents that stop and come again, to see what one change costs.
const CHANGES: usize = 20;

/// One size of the fleet.
pub(crate) struct Scene {
    pub(crate) agents: usize,
    /// Agents that were let in for the first time, and seconds until the last was.
    pub(crate) let_in: (usize, f64),
    /// All agents at once.
    pub(crate) start: Part,
    pub(crate) spread: (u64, u64),
    /// Nothing happens: the leader, and seconds of the processor of all gateways and agents a second.
    pub(crate) calm: Load,
    pub(crate) crowd_processor: f64,
    /// Resident memory of all gateways and agents, MiB.
    pub(crate) memory: f64,
    /// What agents that stop or start bring to the leader, each.
    pub(crate) change: Load,
    /// One gateway is killed and starts again.
    pub(crate) one: Part,
    /// Milliseconds of answers at other gateways: before, and while it comes back.
    pub(crate) pings: (Vec<f64>, Vec<f64>),
}

/// Something that took time to settle.
pub(crate) struct Part {
    pub(crate) seconds: f64,
    pub(crate) load: Load,
    pub(crate) storm: Storm,
}

/// All gateways and the leader die at once.
pub(crate) struct Disaster {
    pub(crate) agents: usize,
    pub(crate) seconds: f64,
    pub(crate) storm: Storm,
    /// Of the new leader, from when it leads until all is steady.
    pub(crate) load: Load,
}

fn pause(long: Duration) {
    #[allow(clippy::disallowed_methods)] // no async worker here
    std::thread::sleep(long);
}

/// The fleet at each size, before one member of the control plane.
pub(crate) fn growth(
    gateways: usize,
    sizes: &[usize],
    calm: u64,
    mut found: impl FnMut(Scene) -> Result<()>,
) -> Result<()> {
    let postgres = Postgres::start(PostgresOptions::default())?;
    let issuer = Issuer::start()?;
    let cluster = ClusterOptions { members: 1, ..Default::default() };
    let options = CrowdOptions { cluster, gateways, let_in_through_gateways: true, ..Default::default() };
    let mut crowd = Crowd::start(options)?;
    crowd.cluster.cli().apply(&(issuer.object("bench") + &shop_objects(&postgres)))?;
    progress(&format!("{gateways} gateways"));
    let mut known = 0;
    for &agents in sizes {
        let token = issuer.token("bench", &["dba"])?;
        found(scene(&mut crowd, (known, agents), &token, Duration::from_secs(calm))?)?;
        known = known.max(agents);
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn scene(crowd: &mut Crowd, (known, agents): (usize, usize), token: &str, calm: Duration) -> Result<Scene> {
    let began = Instant::now();
    crowd.start_agents(agents)?;
    crowd.let_in(agents, LIMIT)?;
    let let_in = (agents.saturating_sub(known), began.elapsed().as_secs_f64());
    crowd.steady(0, LIMIT)?;
    progress(&format!("{agents} agents: {} let in within {:.1} s", let_in.0, let_in.1));
    crowd.stop_agents()?;
    crowd.steady(0, LIMIT)?;

    let (start, steady) = part(crowd, |crowd| {
        crowd.start_agents(agents)?;
        crowd.steady(0, LIMIT)
    })?;
    progress(&format!("{agents} agents: steady within {:.1} s, {:?}", start.seconds, start.storm));
    pause(SETTLE);
    let own = std::process::id();
    let (window, before) = (crowd.watch_leader()?, processor_seconds(own)?);
    pause(calm);
    let crowd_processor = (processor_seconds(own)? - before) / calm.as_secs_f64();
    let calm = crowd.load(&window)?;
    let memory = memory_kb(own)? / 1024.0;
    progress(&format!("{agents} agents: calm, {calm:?}, crowd {crowd_processor:.2}"));

    let changing = CHANGES.min(agents);
    let window = crowd.watch_leader()?;
    for number in 0..changing {
        crowd.stop_agent(number)?;
    }
    crowd.steady(0, LIMIT)?;
    for number in 0..changing {
        crowd.start_agent(number)?;
    }
    crowd.steady(0, LIMIT)?;
    let change = each(&crowd.load(&window)?, &calm, changing as f64 * 2.0);

    let mut addresses = Vec::new();
    for number in 1..=SESSIONS.min(steady.agents.len().saturating_sub(1)) {
        addresses.push(crowd.gateway(number)?.postgres());
    }
    let pings = Pings::start(&addresses, token)?;
    pause(Duration::from_secs(5));
    let quiet = pings.take();
    let (one, _) = part(crowd, |crowd| {
        crowd.gateway(0)?.kill()?;
        crowd.start_gateways()?;
        crowd.steady(0, LIMIT)
    })?;
    let during = pings.take();
    pings.finish()?;
    progress(&format!("{agents} agents: one gateway killed, steady within {:.1} s, {:?}", one.seconds, one.storm));
    crowd.stop_agents()?;
    Ok(Scene {
        agents,
        let_in,
        start,
        spread: steady.spread(),
        calm,
        crowd_processor,
        memory,
        change,
        one,
        pings: (quiet, during),
    })
}

/// What is done takes so long, and has the leader do so much.
fn part(crowd: &mut Crowd, act: impl FnOnce(&mut Crowd) -> Result<Steady>) -> Result<(Part, Steady)> {
    let (window, before, began) = (crowd.watch_leader()?, crowd.storm(), Instant::now());
    let steady = act(crowd)?;
    let seconds = began.elapsed().as_secs_f64();
    Ok((Part { seconds, load: crowd.load(&window)?, storm: crowd.storm().since(&before) }, steady))
}

/// For one of `count`, without what calm costs.
fn each(load: &Load, calm: &Load, count: f64) -> Load {
    let of = |pick: fn(&Load) -> f64| (pick(load) - pick(calm) / calm.seconds * load.seconds).max(0.0) / count;
    Load {
        seconds: load.seconds / count,
        processor: of(|load| load.processor),
        reports: of(|load| load.reports),
        report_bytes: of(|load| load.report_bytes),
        answers: of(|load| load.answers),
        answer_bytes: of(|load| load.answer_bytes),
    }
}

/// Every gateway and the leader at once, before three members.
pub(crate) fn disaster(gateways: usize, agents: usize) -> Result<Disaster> {
    let mut crowd = Crowd::start(CrowdOptions { gateways, ..Default::default() })?;
    crowd.start_agents(agents)?;
    let steady = crowd.steady(0, LIMIT)?;
    pause(SETTLE);
    progress(&format!("{agents} agents before three members: steady"));
    let leader = crowd.cluster.leader()?;
    let (before, began) = (crowd.storm(), Instant::now());
    crowd.cluster.member(leader)?.kill9()?;
    crowd.kill_gateways()?;
    crowd.start_gateways()?;
    let window = crowd.watch_leader().context("another leader")?;
    crowd.steady(steady.term, LIMIT)?;
    let seconds = began.elapsed().as_secs_f64();
    let (load, storm) = (crowd.load(&window)?, crowd.storm().since(&before));
    progress(&format!("all gateways and the leader killed: steady within {seconds:.1} s, {storm:?}"));
    Ok(Disaster { agents, seconds, storm, load })
}
