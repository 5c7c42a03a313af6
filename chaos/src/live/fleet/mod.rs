//! A fleet as processes: a control plane of one or more members, gateways, agents of one pool, and a PostgreSQL behind them.

mod ledger;
mod node;
mod probe;
mod site;

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::cluster::{ClusterOptions, LiveCluster};
use super::issuer::Issuer;
use super::net::{Cut, Place};
use super::postern::shop_objects;
use super::postgres::Postgres;
use super::process::wait_until;
use super::psql::Connection;

pub use ledger::{Entered, Ledger};
pub use node::Node;
pub use probe::Probe;
pub use site::Site;

/// How long until a client can log in.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The agents' pool, and the target that is reached through it.
const POOL: &str = "dev";

/// How a fleet is set up.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// The control plane.
    pub cluster: ClusterOptions,
    /// Gateways, named `gateway-1` and so on.
    pub gateways: usize,
    /// Agents, named `agent-1` and so on; each knows every gateway.
    pub agents: usize,
    /// Further lines of each gateway's `[gateway]` section.
    pub gateway: String,
    /// Further lines of each agent's `[agent]` section.
    pub agent: String,
}

impl Default for FleetOptions {
    fn default() -> Self {
        let cluster = ClusterOptions { members: 1, ..Default::default() };
        Self { cluster, gateways: 3, agents: 1, gateway: String::new(), agent: String::new() }
    }
}

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A member of the control plane.
    Member(usize),
    /// A gateway.
    Gateway(usize),
    /// An agent.
    Agent(usize),
    /// The PostgreSQL behind the agents.
    Target,
}

/// A direction between a gateway and the agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OneWay {
    /// What agents send to it.
    FromAgents,
    /// What it sends to agents.
    ToAgents,
}

/// A running fleet. Dropping it kills all of it.
#[derive(Debug)]
pub struct Fleet {
    gateways: Vec<Node>,
    agents: Vec<Node>,
    issuer: Issuer,
    options: FleetOptions,
    site: Option<Site>,
    /// The control plane; its folder is everybody's.
    pub cluster: LiveCluster,
}

impl Fleet {
    /// Starts it: every node is let in by a join token. Returns once a client can log in at each gateway, through an agent where there are
    /// some.
    ///
    /// # Errors
    /// When a part does not come up, or something is refused.
    pub fn start(postgres: &Postgres, options: FleetOptions) -> Result<Self> {
        let cluster = LiveCluster::start(options.cluster.clone())?;
        let issuer = Issuer::start()?;
        let objects = shop_objects(postgres);
        Self { gateways: Vec::new(), agents: Vec::new(), issuer, options, site: None, cluster }.filled(&objects)
    }

    /// The same, each node on a host of its own: gateways at the end of a wire, agents and a PostgreSQL of the fleet's own on a private
    /// network that has no route in. Needs root.
    ///
    /// # Errors
    /// See there.
    pub fn on_hosts(options: FleetOptions) -> Result<Self> {
        let cluster = LiveCluster::start(ClusterOptions { namespaces: true, ..options.cluster.clone() })?;
        let issuer = Issuer::start_at(cluster.network()?.gateway().parse()?)?;
        let site = Site::new(cluster.network()?)?;
        let objects = shop_objects(site.postgres());
        let site = Some(site);
        Self { gateways: Vec::new(), agents: Vec::new(), issuer, options, site, cluster }.filled(&objects)
    }

    fn filled(mut self, objects: &str) -> Result<Self> {
        self.cluster.cli().apply(&(self.issuer.object("test") + objects))?;
        for _ in 0..self.options.gateways {
            self.add_gateway()?;
        }
        for _ in 0..self.options.agents {
            self.add_agent()?;
        }
        for number in 0..self.options.gateways {
            self.wait_for_login(number)?;
        }
        Ok(self)
    }

    /// Its hosts.
    ///
    /// # Errors
    /// When it has none.
    pub fn site(&mut self) -> Result<&mut Site> {
        self.site.as_mut().context("this fleet has no hosts")
    }

    /// Where an end of a link is.
    ///
    /// # Errors
    /// When there is none such, or the fleet has no hosts.
    pub fn place(&self, end: End) -> Result<Place> {
        let site = self.site.as_ref().context("this fleet has no hosts")?;
        match end {
            End::Member(number) => {
                let network = self.cluster.network()?;
                Ok(Place { namespace: network.namespace(number), address: network.address(number) })
            }
            End::Gateway(number) => site.gateway(number),
            End::Agent(number) => site.agent(number),
            End::Target => Ok(site.server()),
        }
    }

    /// Cuts the link between two: `host` sees the `other` by its own address, so an agent is always the host.
    ///
    /// # Errors
    /// When there are none such, or the rules cannot be set.
    pub fn cut(&self, host: End, other: End) -> Result<Cut> {
        Cut::between(&self.place(host)?, &self.place(other)?.address)
    }

    /// What goes one way between a gateway and the private network vanishes; the other way everything passes.
    ///
    /// # Errors
    /// See there.
    pub fn black_hole(&mut self, gateway: usize, way: OneWay) -> Result<Cut> {
        let (gateway, router) = (self.place(End::Gateway(gateway))?, self.site()?.private().router().clone());
        match way {
            OneWay::FromAgents => Cut::one_way(&gateway, &router.address),
            OneWay::ToAgents => Cut::one_way(&router, &gateway.address),
        }
    }

    /// A session through `gateway` that asks again and again.
    ///
    /// # Errors
    /// When it is not let in.
    pub fn probe(&self, number: usize, gateway: usize) -> Result<Probe> {
        let node = self.gateways.get(gateway).with_context(|| format!("no gateway {gateway}"))?;
        Probe::start(number, gateway, &node.postgres(), &self.issuer.token("paula", &["dba"])?)
    }

    /// A further gateway, started; its number.
    ///
    /// # Errors
    /// When it is not let in, or does not come up.
    pub fn add_gateway(&mut self) -> Result<usize> {
        let number = self.gateways.len();
        let place = self.site.as_mut().map(|site| site.add_gateway(&self.cluster)).transpose()?;
        let node = Node::gateway(&self.cluster, number, place, &self.options.gateway)?;
        self.gateways.push(node);
        self.gateway(number)?.start()?;
        Ok(number)
    }

    /// A further agent, started, with a tunnel to every gateway that there is; its number.
    ///
    /// # Errors
    /// When it is not let in, or does not come up.
    pub fn add_agent(&mut self) -> Result<usize> {
        let tunnels: Vec<String> = self.gateways.iter().map(Node::tunnel).collect();
        self.add_agent_of(&tunnels)
    }

    /// The same, told of these gateways alone.
    ///
    /// # Errors
    /// See there.
    pub fn add_agent_of(&mut self, tunnels: &[String]) -> Result<usize> {
        let number = self.new_agent(tunnels)?;
        self.agent(number)?.start()?;
        Ok(number)
    }

    /// The same, let in and not yet started.
    ///
    /// # Errors
    /// See there.
    pub fn new_agent(&mut self, tunnels: &[String]) -> Result<usize> {
        let number = self.agents.len();
        let place = self.site.as_mut().map(Site::add_agent).transpose()?;
        let node = Node::agent(&self.cluster, number, place, (POOL, tunnels), &self.options.agent)?;
        self.agents.push(node);
        Ok(number)
    }

    /// A gateway.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn gateway(&mut self, number: usize) -> Result<&mut Node> {
        self.gateways.get_mut(number).with_context(|| format!("no gateway {number}"))
    }

    /// An agent.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn agent(&mut self, number: usize) -> Result<&mut Node> {
        self.agents.get_mut(number).with_context(|| format!("no agent {number}"))
    }

    /// The issuer of its tokens.
    #[must_use]
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// A stock client's connection to `target` at a gateway: `shop` through an agent, `shop-direct` dialed by the gateway itself.
    ///
    /// # Errors
    /// When there is no such gateway, or no token can be had.
    pub fn connection(&self, gateway: usize, target: &str, subject: &str, groups: &[&str]) -> Result<Connection> {
        let node = self.gateways.get(gateway).with_context(|| format!("no gateway {gateway}"))?;
        Ok(Connection {
            host: node.host().to_owned(),
            port: node.postgres_port(),
            user: target.to_owned(),
            database: "shop".to_owned(),
            password: self.issuer.token(subject, groups)?,
            sslmode: "prefer",
        })
    }

    /// Clients that write through all gateways and keep book.
    ///
    /// # Errors
    /// When no token can be had.
    pub fn ledger(&self, clients: usize) -> Result<Ledger> {
        let gateways: Vec<String> = self.gateways.iter().map(Node::postgres).collect();
        Ok(Ledger::start(clients, &gateways, &self.issuer.token("dora", &["dba"])?))
    }

    /// Waits until a client can log in at a gateway.
    ///
    /// # Errors
    /// When it cannot in time; with what the client was told and the logs.
    pub fn wait_for_login(&self, gateway: usize) -> Result<()> {
        self.wait_for_login_to(gateway, if self.agents.is_empty() { "shop-direct" } else { "shop" })
    }

    /// The same, to `target`.
    ///
    /// # Errors
    /// See there.
    pub fn wait_for_login_to(&self, gateway: usize, target: &str) -> Result<()> {
        let connection = self.connection(gateway, target, "start", &["dba"])?;
        let mut last = String::new();
        wait_until(START_LIMIT, "a first login", || {
            let run = connection.run("SELECT 1")?;
            last = run.stderr;
            Ok(run.status.success())
        })
        .with_context(|| format!("{last}\n{}", self.logs()))
    }

    /// All that gateways and agents logged.
    #[must_use]
    pub fn logs(&self) -> String {
        let nodes = self.gateways.iter().chain(&self.agents);
        nodes.map(|node| format!("== {}\n{}\n", node.name(), node.log())).collect()
    }
}
