//! A private network: hosts on it reach out through a router that translates addresses, and nobody reaches in.

use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result, ensure};

use super::{Host, Place, Weather, ip};

/// Only the router knows it: every private network may have the same addresses.
const SUBNET: &str = "192.168.77";

/// A private network and its router. Dropping it takes both away; its hosts must be gone before.
#[derive(Debug)]
pub struct Private {
    router: Host,
    hosts: AtomicU8,
    /// Which ports the router gives to what goes out.
    ports: u16,
}

impl Private {
    /// Behind `router`, which is on the outer network by its wire.
    pub(in crate::live) fn behind(router: Host) -> Result<Self> {
        let this = Self { router, hosts: AtomicU8::new(0), ports: 20_000 };
        let space = this.space();
        ip(&["-n", space, "link", "add", "lan", "type", "bridge"])?;
        ip(&["-n", space, "addr", "add", &format!("{SUBNET}.1/24"), "dev", "lan"])?;
        ip(&["-n", space, "link", "set", "lan", "up"])?;
        this.exec(&["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        // What nobody inside has asked for is dropped, not refused: it looks as if nothing were there.
        this.exec(&[
            "nft",
            "table ip wall { chain forward { type filter hook forward priority 0; policy drop; iifname lan accept; \
             ct state established,related accept; }; chain in { type filter hook input priority 0; iifname eth0 ct state new drop; }; }",
        ])?;
        this.translate()?;
        Ok(this)
    }

    fn space(&self) -> &str {
        &self.router.place().namespace
    }

    fn exec(&self, arguments: &[&str]) -> Result<()> {
        self.router.run(arguments)?.ok().with_context(|| arguments.join(" "))?;
        Ok(())
    }

    fn translate(&self) -> Result<()> {
        let (from, to) = (self.ports, self.ports + 9_999);
        self.exec(&[
            "nft",
            &format!(
                "table ip nat {{ chain out {{ type nat hook postrouting priority 100; oifname eth0 meta l4proto {{ tcp, udp }} masquerade to :{from}-{to} random; \
                 oifname eth0 masquerade; }}; }}"
            ),
        ])
    }

    /// The router forgets a TCP connection after so long a silence, in seconds, and what comes of it later is dropped: home routers and the NATs of
    /// cloud providers do.
    ///
    /// # Errors
    /// When it cannot.
    pub fn forget_tcp_after(&self, seconds: u64) -> Result<()> {
        let silence = format!("net.netfilter.nf_conntrack_tcp_timeout_established={seconds}");
        self.exec(&["sysctl", "-qw", &silence, "net.netfilter.nf_conntrack_tcp_loose=0"])
    }

    /// A host on it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn host(&self) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        ensure!(number < 200, "the private network is full");
        let (space, address) = (format!("{}-p{number}", self.space()), format!("{SUBNET}.{}", number + 11));
        let host = Host::new(&space, &address)?;
        let port = format!("p{number}");
        ip(&["-n", self.space(), "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
        ip(&["-n", self.space(), "link", "set", &port, "master", "lan", "up"])?;
        ip(&["-n", &space, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        ip(&["-n", &space, "route", "add", "default", "via", &format!("{SUBNET}.1")])?;
        Ok(host)
    }

    /// Its router, as others see it.
    #[must_use]
    pub const fn router(&self) -> &Place {
        self.router.place()
    }

    /// Makes the weather on the wire from its router to the world.
    ///
    /// # Errors
    /// When the router has no wire.
    pub fn weather(&self, weather: Weather) -> Result<()> {
        self.router.weather(weather)
    }

    /// The router forgets all that goes through it, and gives other ports from now on: to the other side, every UDP peer in here has moved.
    ///
    /// # Errors
    /// When it cannot.
    pub fn rebind(&mut self) -> Result<()> {
        self.ports = if self.ports == 20_000 { 40_000 } else { 20_000 };
        self.exec(&["nft", "delete table ip nat"])?;
        self.translate()?;
        self.exec(&["conntrack", "-F"])
    }
}
