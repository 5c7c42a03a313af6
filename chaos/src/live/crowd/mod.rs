//! A crowd: a control plane as processes, and in this process so many gateways and agents as one likes. Both are the real ones, whole, over
//! real sockets on loopback, with certificates by join tokens; each gateway has a runtime of its own, so that one can end as by SIGKILL,
//! and all agents share one.

mod agent;
mod gateway;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postern_core::Name;
use postern_runtime::telemetry::{self, MetricsHandle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use super::cluster::{ClusterOptions, LiveCluster};
use super::process::wait_until;

pub use gateway::Gateway;
pub use look::{Load, Storm, Window};

use agent::Agent;

/// The pool of all agents.
pub const POOL: &str = "dev";
/// Files that may be open: the agents' sockets, those of gateways and sessions, and what a control plane has.
const FILES: u64 = 200_000;
/// The most uses of one join token.
const TOKEN_USES: usize = 1_000;
/// How long a gateway may take to have its ports again.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How a crowd is set up.
#[derive(Clone, Debug)]
pub struct CrowdOptions {
    /// The control plane.
    pub cluster: ClusterOptions,
    /// Gateways, named `gateway-1` and so on.
    pub gateways: usize,
    /// Gateways that each agent has a tunnel to.
    pub tunnels: usize,
    /// Newcomers ask gateways to be let in, and not the control plane.
    pub let_in_through_gateways: bool,
}

impl Default for CrowdOptions {
    fn default() -> Self {
        Self { cluster: ClusterOptions::default(), gateways: 5, tunnels: 3, let_in_through_gateways: false }
    }
}

/// A running crowd. Dropping it ends all of it.
#[derive(Debug)]
pub struct Crowd {
    gateways: Vec<Gateway>,
    agents: Vec<Agent>,
    agents_runtime: Runtime,
    options: CrowdOptions,
    metrics: MetricsHandle,
    /// The control plane; its folder is everybody's.
    pub cluster: LiveCluster,
}

/// How a crowd came to rest.
#[derive(Clone, Debug)]
pub struct Steady {
    /// How long it took.
    pub after: Duration,
    /// Agents that each gateway has a tunnel of.
    pub agents: BTreeMap<Name, u64>,
    /// Of the leader whose directory all gateways have.
    pub term: u64,
}

impl Steady {
    /// The agents of the gateway that has the fewest, and of the one that has the most.
    #[must_use]
    pub fn spread(&self) -> (u64, u64) {
        (
            self.agents.values().min().copied().unwrap_or_default(),
            self.agents.values().max().copied().unwrap_or_default(),
        )
    }
}

impl Crowd {
    /// Starts the control plane and the gateways; there are no agents yet.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(options: CrowdOptions) -> Result<Self> {
        more_files();
        let metrics = telemetry::install_metrics();
        let cluster = LiveCluster::start(options.cluster.clone())?;
        let agents_runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let mut this = Self { gateways: Vec::new(), agents: Vec::new(), agents_runtime, options, metrics, cluster };
        for number in 0..this.options.gateways {
            let mut gateway = Gateway::new(&this.cluster, number)?;
            gateway.start(START_LIMIT)?;
            this.gateways.push(gateway);
        }
        wait_until(START_LIMIT, "every gateway to know all", || {
            let known = |gateway: &Gateway| gateway.handle().map(|handle| handle.known().agents.len());
            Ok(this.gateways.iter().all(|gateway| known(gateway).is_some_and(|known| known == this.gateways.len())))
        })?;
        Ok(this)
    }

    /// A gateway.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn gateway(&mut self, number: usize) -> Result<&mut Gateway> {
        self.gateways.get_mut(number).with_context(|| format!("no gateway {number}"))
    }

    /// The gateways that run.
    fn running(&self) -> impl Iterator<Item = (&Name, &postern_gateway::GatewayHandle)> {
        self.gateways.iter().filter_map(|gateway| Some((gateway.name(), gateway.handle()?)))
    }

    /// Starts agents until `count` run, all at once. Those that have never run are let in by join tokens, each for as many as one may be for.
    ///
    /// # Errors
    /// When no token is given, or one cannot be started.
    pub fn start_agents(&mut self, count: usize) -> Result<()> {
        while self.agents.len() < count {
            let uses = count.saturating_sub(self.agents.len()).min(TOKEN_USES);
            let token = self.cluster.join_token(&["--role", "agent", "--pool", POOL, "--uses", &uses.to_string()])?;
            let file = self.cluster.folder().join(format!("agents-token-{}", self.agents.len()));
            fs::write(&file, token)?;
            for _ in 0..uses {
                self.agents.push(self.new_agent(self.agents.len(), &file)?);
            }
        }
        let gateways: Vec<String> = self.gateways.iter().map(Gateway::tunnel).collect();
        let (runtime, agents) = (&self.agents_runtime, &mut self.agents);
        runtime.block_on(async {
            for agent in agents.iter_mut().take(count) {
                agent.start(&gateways).await?;
            }
            Ok(())
        })
    }

    fn new_agent(&self, number: usize, token: &Path) -> Result<Agent> {
        let name: Name = format!("agent-{:05}", number.saturating_add(1)).parse()?;
        let folder: PathBuf = self.cluster.folder().join("agents").join(name.as_str());
        let direct = if self.options.let_in_through_gateways { Vec::new() } else { self.cluster.addresses() };
        Ok(Agent::new(name, folder, token.to_owned(), direct, self.options.tunnels))
    }

    /// Waits until so many agents have their certificates; how long that took.
    ///
    /// # Errors
    /// When they have not in time.
    pub fn let_in(&self, count: usize, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        let mut left: Vec<&Agent> = self.agents.iter().take(count).collect();
        let let_in = wait_until(within, "every agent to be let in", || {
            left.retain(|agent| !agent.is_let_in());
            Ok(left.is_empty())
        });
        let_in.with_context(|| format!("{} are not", left.len()))?;
        Ok(began.elapsed())
    }

    /// Stops every agent in good order.
    ///
    /// # Errors
    /// When one does not end.
    pub fn stop_agents(&mut self) -> Result<()> {
        let all = self.agents.iter_mut().filter_map(Agent::take);
        let ends: Vec<_> =
            all.map(|supervisor| async move { supervisor.drain(Duration::from_secs(20)).await }).collect();
        let runtime = &self.agents_runtime;
        runtime.block_on(async {
            // Each waits for its own tasks: one after the other they all wait at once, as all were told before.
            let waits: Vec<_> = ends.into_iter().map(|end| runtime.spawn(end)).collect();
            for wait in waits {
                ensure!(wait.await?.all_ended, "an agent did not end");
            }
            Ok(())
        })
    }

    /// Stops one agent in good order.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop_agent(&mut self, number: usize) -> Result<()> {
        let supervisor = self.agents.get_mut(number).and_then(Agent::take).context("an agent that runs")?;
        let ended = self.agents_runtime.block_on(supervisor.drain(Duration::from_secs(20)));
        ensure!(ended.all_ended, "agent {number} did not end");
        Ok(())
    }

    /// Starts one that was stopped.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn start_agent(&mut self, number: usize) -> Result<()> {
        let gateways: Vec<String> = self.gateways.iter().map(Gateway::tunnel).collect();
        let agent = self.agents.get_mut(number).context("an agent")?;
        self.agents_runtime.block_on(agent.start(&gateways))
    }

    /// Ends all gateways as SIGKILL does, at once.
    ///
    /// # Errors
    /// When one cannot be ended.
    pub fn kill_gateways(&mut self) -> Result<()> {
        self.gateways.iter_mut().filter(|gateway| gateway.handle().is_some()).try_for_each(Gateway::kill)
    }

    /// Starts all gateways that do not run.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_gateways(&mut self) -> Result<()> {
        let stopped = self.gateways.iter_mut().filter(|gateway| gateway.handle().is_none());
        stopped.into_iter().try_for_each(|gateway| gateway.start(START_LIMIT))
    }

    /// Waits until every agent has its tunnels, and every gateway knows of exactly those that there are, and of a leader past `term`.
    ///
    /// # Errors
    /// When that is not so in time, with what is amiss; or a part has ended.
    pub fn steady(&self, past: u64, within: Duration) -> Result<Steady> {
        let began = Instant::now();
        let mut found = None;
        let mut amiss = String::new();
        let waited = wait_until(within, "a steady crowd", || {
            self.alive()?;
            match self.agents_by_gateway(past) {
                Ok(steady) => found = Some(steady),
                Err(error) => amiss = format!("{error:#}"),
            }
            Ok(found.is_some())
        });
        waited.with_context(|| format!("{amiss}\n{}", self.amiss()))?;
        let (agents, term) = found.context("a steady crowd")?;
        Ok(Steady { after: began.elapsed(), agents, term })
    }

    /// Some of the agents that have other tunnels than they should, and to which gateways.
    fn amiss(&self) -> String {
        let wanted = self.options.tunnels.min(self.running().count());
        let mut each: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (agent, gateway) in self.pairs() {
            each.entry(agent).or_default().push(gateway);
        }
        each.retain(|_, gateways| gateways.len() != wanted);
        format!("{} agents are amiss: {:?}", each.len(), each.iter().take(10).collect::<Vec<_>>())
    }

    fn alive(&self) -> Result<()> {
        for agent in &self.agents {
            if let Some(why) = agent.failure() {
                bail!("{} has ended: {why}", agent.name());
            }
        }
        self.gateways.iter().try_for_each(Gateway::check)
    }

    fn agents_by_gateway(&self, past: u64) -> Result<(BTreeMap<Name, u64>, u64)> {
        let wanted = self.options.tunnels.min(self.running().count());
        let agents: Vec<&Agent> = self.agents.iter().filter(|agent| agent.runs()).collect();
        let count: usize = self.running().map(|(_, handle)| handle.tunnel_count()).sum();
        ensure!(count == agents.len() * wanted, "{count} tunnels of {} agents", agents.len());
        let mut each: BTreeMap<Name, usize> = BTreeMap::new();
        let mut held = BTreeMap::new();
        for (name, handle) in self.running() {
            let agents: BTreeSet<(Name, Name)> = handle.agents();
            held.insert(name.clone(), u64::try_from(agents.len())?);
            agents.into_iter().for_each(|(_, agent)| *each.entry(agent).or_default() += 1);
        }
        for agent in &agents {
            let has = each.get(agent.name()).copied().unwrap_or_default();
            ensure!(has == wanted, "{} has {has} tunnels", agent.name());
        }
        let mut term = 0;
        for (name, handle) in self.running() {
            let known = handle.known();
            ensure!(known.agents == held, "{name} knows of {:?} and not {held:?}", known.agents);
            ensure!(known.term > past, "{name} knows of the leader of term {}", known.term);
            term = known.term;
        }
        Ok((held, term))
    }

    /// The pairs of agent and gateway between which there is a tunnel.
    #[must_use]
    pub fn pairs(&self) -> BTreeSet<(String, String)> {
        let of = |(name, handle): (&Name, &postern_gateway::GatewayHandle)| {
            let gateway = name.to_string();
            handle.agents().into_iter().map(move |(_, agent)| (agent.to_string(), gateway.clone())).collect::<Vec<_>>()
        };
        self.running().flat_map(of).collect()
    }

    /// The metrics of all gateways and agents together.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // Not in good order: nobody waits for it.
        for gateway in &mut self.gateways {
            let _ = gateway.kill();
        }
    }
}

/// As many files as are allowed to this process.
fn more_files() {
    let own = getrlimit(Resource::Nofile);
    let most = own.maximum.unwrap_or(FILES);
    // Only root may raise the hard limit.
    let raised = Rlimit { current: Some(FILES.max(most)), maximum: Some(FILES.max(most)) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) });
    }
}
