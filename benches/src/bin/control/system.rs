//! What is compared: one face for all of them.

use anyhow::Result;
use postern_benches::processor_seconds;
use postern_chaos::live::cluster::{ClientOptions, ClusterClient, ClusterOptions, Failure, LiveCluster};

use crate::etcd::{Etcd, EtcdClient};

/// A cluster of three.
pub(crate) enum System {
    Postern(Box<LiveCluster>),
    Etcd(Etcd),
}

/// A client of it.
#[derive(Clone)]
pub(crate) enum Client {
    Postern(ClusterClient),
    Etcd(EtcdClient),
}

impl System {
    pub(crate) fn postern() -> Result<Self> {
        Ok(Self::Postern(Box::new(LiveCluster::start(ClusterOptions::default())?)))
    }

    pub(crate) fn etcd(tls: bool) -> Result<Self> {
        Ok(Self::Etcd(Etcd::start(tls)?))
    }

    /// The member that leads, once all that run agree.
    pub(crate) fn leader(&self) -> Result<usize> {
        match self {
            Self::Postern(cluster) => cluster.leader(),
            Self::Etcd(etcd) => etcd.leader(),
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, number: usize) -> Result<()> {
        match self {
            Self::Postern(cluster) => cluster.member(number)?.kill9(),
            Self::Etcd(etcd) => etcd.kill(number),
        }
    }

    /// Starts a member that was killed, and waits until all stand as before.
    pub(crate) fn restart(&mut self, number: usize) -> Result<()> {
        match self {
            Self::Postern(cluster) => {
                cluster.member(number)?.start()?;
                cluster.wait_healthy()
            }
            Self::Etcd(etcd) => {
                etcd.start_member(number)?;
                etcd.leader().map(drop)
            }
        }
    }

    /// A client of all members. Within a Tokio runtime.
    pub(crate) fn client(&self, options: ClientOptions) -> Result<Client> {
        match self {
            Self::Postern(cluster) => {
                let client = ClusterClient::new(&cluster.addresses(), &cluster.admin(), options)?;
                Ok(Client::Postern(client))
            }
            Self::Etcd(etcd) => Ok(Client::Etcd(etcd.client(options)?)),
        }
    }

    /// Processor time that its members have used so far, in seconds.
    pub(crate) fn processor_seconds(&mut self) -> f64 {
        let processes = match self {
            Self::Postern(cluster) => {
                (0..cluster.len()).filter_map(|n| Some(cluster.member(n).ok()?.process().ok()?.id())).collect()
            }
            Self::Etcd(etcd) => etcd.processes(),
        };
        processes.into_iter().filter_map(|process| processor_seconds(process).ok()).sum()
    }
}

impl Client {
    /// This member alone.
    pub(crate) fn only(&self, number: usize) -> Self {
        match self {
            Self::Postern(client) => Self::Postern(client.only(number)),
            Self::Etcd(client) => Self::Etcd(client.only(number)),
        }
    }

    /// A durable write.
    pub(crate) async fn put(&self, key: &str, value: &str) -> Result<(), Failure> {
        match self {
            Self::Postern(client) => client.put(key, value, None).await.map(drop),
            Self::Etcd(client) => client.put(key, value).await,
        }
    }
}
