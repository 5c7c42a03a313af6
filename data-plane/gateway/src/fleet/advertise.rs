//! Where others reach this gateway: as configured, or found out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use postern_core::fleet::FleetGateway;
use postern_core::target::Address;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;

use crate::config::Addresses;

/// How a gateway takes part in the fleet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FleetConfig {
    /// `host:port` by which clients reach this gateway, for people to see. Empty: where it listens.
    pub client_addresses: Vec<String>,
    /// Sessions whose agents have no tunnel here go through a gateway that has one.
    pub relay: bool,
    /// Connections that this gateway carries for other gateways, at most.
    pub max_relayed: u32,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self { client_addresses: Vec::new(), relay: true, max_relayed: 16_384 }
    }
}

/// An address that cannot be told to others.
#[derive(Debug, thiserror::Error)]
pub enum AdvertiseError {
    /// Not `host:port`.
    #[error("{setting}: {address:?} is not host:port")]
    Address {
        /// Which setting.
        setting: &'static str,
        /// What it says.
        address: String,
    },
    /// Nobody needs so many.
    #[error("{setting}: at most {} addresses", FleetGateway::MAX_ADDRESSES)]
    TooMany {
        /// Which setting.
        setting: &'static str,
    },
}

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) clients: SocketAddr,
    pub(crate) quic: Option<SocketAddr>,
    pub(crate) tcp: Option<SocketAddr>,
}

/// What others are told.
#[derive(Clone, Debug)]
pub(crate) struct Advertised {
    clients: Vec<Address>,
    quic: Vec<Address>,
    tcp: Vec<Address>,
    bound: Bound,
    control_plane: Addresses,
}

impl Advertised {
    /// `quic` and `tcp` are as configured; what is not is found out.
    pub(crate) fn new(
        config: &FleetConfig,
        quic: &[String],
        tcp: &[String],
        bound: Bound,
        control_plane: &Addresses,
    ) -> Result<Self, AdvertiseError> {
        Ok(Self {
            clients: parse("fleet.client_addresses", &config.client_addresses)?,
            quic: parse("tunnels.addresses", quic)?,
            tcp: parse("tunnels.tcp_addresses", tcp)?,
            bound,
            control_plane: control_plane.clone(),
        })
    }

    /// Addresses for clients, and for tunnels over QUIC and TCP. Where nothing is configured and the listener takes any address, the one by
    /// which this machine reaches the control plane stands for it: it may have changed since it was last asked.
    pub(crate) async fn addresses(&self) -> (Vec<Address>, Vec<Address>, Vec<Address>) {
        let own = self.own_address().await;
        let or_found = |configured: &[Address], bound: Option<SocketAddr>| {
            if configured.is_empty() { found(bound, own).into_iter().collect() } else { configured.to_vec() }
        };
        (
            or_found(&self.clients, Some(self.bound.clients)),
            // What is configured for a listener that is none is told to nobody.
            if self.bound.quic.is_some() { or_found(&self.quic, self.bound.quic) } else { Vec::new() },
            if self.bound.tcp.is_some() { or_found(&self.tcp, self.bound.tcp) } else { Vec::new() },
        )
    }

    /// The address by which this machine reaches the control plane. Nothing is sent to find out.
    async fn own_address(&self) -> Option<IpAddr> {
        for address in self.control_plane.iter() {
            for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
                let Ok(socket) = UdpSocket::bind((any, 0)).await else { continue };
                if socket.connect(address).await.is_ok()
                    && let Ok(local) = socket.local_addr()
                {
                    return Some(local.ip());
                }
            }
        }
        None
    }
}

fn found(bound: Option<SocketAddr>, own: Option<IpAddr>) -> Option<Address> {
    let bound = bound?;
    let ip = if bound.ip().is_unspecified() { own? } else { bound.ip() };
    SocketAddr::new(ip.to_canonical(), bound.port()).to_string().parse().ok()
}

fn parse(setting: &'static str, texts: &[String]) -> Result<Vec<Address>, AdvertiseError> {
    if texts.len() > FleetGateway::MAX_ADDRESSES {
        return Err(AdvertiseError::TooMany { setting });
    }
    let address = |text: &String| text.parse().map_err(|_| AdvertiseError::Address { setting, address: text.clone() });
    texts.iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Addresses {
        serde_json::from_value(serde_json::json!(["127.0.0.1:9"])).unwrap()
    }

    fn bound(ip: &str) -> Bound {
        let at = |port| SocketAddr::new(ip.parse().unwrap(), port);
        Bound { clients: at(5432), quic: Some(at(7443)), tcp: None }
    }

    fn texts(addresses: &[Address]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn what_is_configured_is_told_and_the_rest_is_found_out() {
        let config = FleetConfig::default();
        let quic = ["gw.example:443".to_owned()];
        let tcp = ["gw.example:444".to_owned()];
        let told = Advertised::new(&config, &quic, &tcp, bound("0.0.0.0"), &control()).unwrap().addresses().await;
        assert_eq!((texts(&told.0), texts(&told.1)), (vec!["127.0.0.1:5432".into()], vec!["gw.example:443".into()]));
        assert_eq!(told.2, Vec::new());
        let told = Advertised::new(&config, &[], &[], bound("192.0.2.7"), &control()).unwrap().addresses().await;
        assert_eq!(texts(&told.1), ["192.0.2.7:7443"]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let config = FleetConfig { client_addresses: vec!["nowhere".into()], ..FleetConfig::default() };
        assert!(Advertised::new(&config, &[], &[], bound("::"), &control()).is_err());
        let many = vec!["a:1".to_owned(); FleetGateway::MAX_ADDRESSES + 1];
        assert!(Advertised::new(&FleetConfig::default(), &many, &[], bound("::"), &control()).is_err());
    }
}
