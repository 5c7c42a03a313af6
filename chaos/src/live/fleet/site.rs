//! The hosts of a fleet, and what may befall their networks.

use anyhow::{Context as _, Result};

use super::super::cluster::LiveCluster;
use super::super::cluster::Network;
use super::super::net::{Host, Place, Private, Weather};
use super::super::postgres::{Postgres, PostgresOptions};

/// Hosts: gateways on the outer network, agents and a PostgreSQL on a private one.
#[derive(Debug)]
pub struct Site {
    // First the processes, then the hosts, then the networks.
    postgres: Postgres,
    gateways: Vec<Host>,
    agents: Vec<Host>,
    server: Host,
    private: Private,
}

impl Site {
    pub(super) fn new(network: &Network) -> Result<Self> {
        let private = network.private()?;
        let server = private.host()?;
        let postgres = Postgres::start_at(PostgresOptions::default(), server.place())?;
        Ok(Self { postgres, gateways: Vec::new(), agents: Vec::new(), server, private })
    }

    pub(super) fn add_gateway(&mut self, cluster: &LiveCluster) -> Result<Place> {
        let host = cluster.network()?.host()?;
        let place = host.place().clone();
        self.gateways.push(host);
        Ok(place)
    }

    pub(super) fn add_agent(&mut self) -> Result<Place> {
        let host = self.private.host()?;
        let place = host.place().clone();
        self.agents.push(host);
        Ok(place)
    }

    pub(super) fn gateway(&self, number: usize) -> Result<Place> {
        Ok(self.gateways.get(number).with_context(|| format!("no gateway {number}"))?.place().clone())
    }

    pub(super) fn agent(&self, number: usize) -> Result<Place> {
        Ok(self.agents.get(number).with_context(|| format!("no agent {number}"))?.place().clone())
    }

    pub(super) fn server(&self) -> Place {
        self.server.place().clone()
    }

    /// The PostgreSQL on the private network.
    #[must_use]
    pub const fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The weather between a gateway and everybody else: clients, members, agents, other gateways.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn gateway_weather(&self, number: usize, weather: Weather) -> Result<()> {
        self.gateways.get(number).with_context(|| format!("no gateway {number}"))?.weather(weather)
    }

    /// The weather between the private network and the world.
    ///
    /// # Errors
    /// When its router has no wire.
    pub fn private_weather(&self, weather: Weather) -> Result<()> {
        self.private.weather(weather)
    }

    /// The private network.
    pub const fn private(&mut self) -> &mut Private {
        &mut self.private
    }
}
