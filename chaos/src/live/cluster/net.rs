//! A network of the test's own: each member in a network namespace, all on one bridge, so that a member can be cut off in earnest.
//!
//! Packets are dropped without a word (nftables): neither side is told that the other is gone.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};

use super::super::net::{Host, Private, ip};
use super::super::postgres::is_root;

/// How a member is cut off from other members; clients still reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Neither side hears the other.
    Both,
    /// It hears the others, and they do not hear it.
    Outgoing,
    /// They hear it, and it does not hear them.
    Incoming,
}

/// The namespaces of one cluster. Dropping it takes them away.
#[derive(Debug)]
pub struct Network {
    /// Unique on this machine: the process and a count.
    name: String,
    /// The second and third number of its addresses.
    subnet: (u8, u8),
    members: usize,
    /// Further hosts.
    hosts: AtomicU8,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Network {
    /// A bridge and `members` namespaces on it.
    ///
    /// # Errors
    /// When this is not root, or `ip` and `nft` are not installed.
    pub fn new(members: usize) -> Result<Self> {
        ensure!(is_root(), "network namespaces need root: run the tests as root, or leave out those of `partitions`");
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // 10.64.0.0/10 in networks of 256 addresses: no two processes that run at the same time are likely to meet, and a bridge of the
        // same name would be an error.
        let number = process.wrapping_mul(7).wrapping_add(count) % (64 * 256);
        let subnet = (u8::try_from(64 + number / 256)?, u8::try_from(number % 256)?);
        sweep();
        let this = Self { name: format!("ps{process:x}-{count:x}"), subnet, members, hosts: AtomicU8::new(0) };
        this.make()?;
        Ok(this)
    }

    fn make(&self) -> Result<()> {
        let bridge = &self.name;
        ip(&["link", "add", bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", self.gateway()), "dev", bridge])?;
        ip(&["link", "set", bridge, "up"])?;
        for member in 0..self.members {
            let (space, port) = (self.namespace(member), format!("{}-{member}", self.name));
            ip(&["netns", "add", &space])?;
            ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            ip(&["link", "set", &port, "master", bridge, "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            ip(&["-n", &space, "addr", "add", &format!("{}/24", self.address(member)), "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        }
        Ok(())
    }

    /// The tests' own address on it.
    #[must_use]
    pub fn gateway(&self) -> String {
        format!("10.{}.{}.1", self.subnet.0, self.subnet.1)
    }

    /// A member's address.
    #[must_use]
    pub fn address(&self, member: usize) -> String {
        format!("10.{}.{}.{}", self.subnet.0, self.subnet.1, member + 11)
    }

    /// A member's namespace, for `ip netns exec`.
    #[must_use]
    pub fn namespace(&self, member: usize) -> String {
        format!("{}-n{member}", self.name)
    }

    /// A further host on it, at the end of a wire of its own. It must be gone before the network.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn host(&self) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        ensure!(number < 100, "the network is full");
        let address = format!("10.{}.{}.{}", self.subnet.0, self.subnet.1, number + 101);
        let (space, port) = (format!("{}-h{number}", self.name), format!("{}-h{number}", self.name));
        Host::wired(&space, &address, &self.name, &port, number.into())
    }

    /// A private network, behind a router that is a host on this one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn private(&self) -> Result<Private> {
        Private::behind(self.host()?)
    }

    /// Cuts `member` off from the other members.
    ///
    /// # Errors
    /// When the rules cannot be set.
    pub fn cut(&self, member: usize, how: Cut) -> Result<()> {
        let others: Vec<String> =
            (0..self.members).filter(|other| *other != member).map(|other| self.address(other)).collect();
        let others = others.join(", ");
        let mut rules = String::from("table ip cut { ");
        if how != Cut::Outgoing {
            rules += &format!("chain in {{ type filter hook input priority 0; ip saddr {{ {others} }} drop; }}; ");
        }
        if how != Cut::Incoming {
            rules += &format!("chain out {{ type filter hook output priority 0; ip daddr {{ {others} }} drop; }}; ");
        }
        rules += "}";
        self.nft(member, &rules)
    }

    /// Lets `member` through again.
    ///
    /// # Errors
    /// When it was not cut off.
    pub fn heal(&self, member: usize) -> Result<()> {
        self.nft(member, "delete table ip cut")
    }

    fn nft(&self, member: usize, rules: &str) -> Result<()> {
        ip(&["netns", "exec", &self.namespace(member), "nft", rules]).context("nft (Debian: nftables)")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What lies in a namespace goes with it; what was never made cannot be taken away.
        for member in 0..self.members {
            let _ = ip(&["netns", "del", &self.namespace(member)]);
        }
        let _ = ip(&["link", "del", &self.name]);
    }
}

/// Takes away what test processes left behind that were killed themselves.
fn sweep() {
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let abandoned = |name: &String| {
        let process = name.strip_prefix("ps").and_then(|rest| u32::from_str_radix(rest.split_once('-')?.0, 16).ok());
        process.is_some_and(|process| !std::path::Path::new(&format!("/proc/{process}")).exists())
    };
    // A port goes with its namespace.
    for name in names("/run/netns").iter().filter(|name| abandoned(name)) {
        let _ = ip(&["netns", "del", name]);
    }
    for name in names("/sys/class/net").iter().filter(|name| abandoned(name)) {
        let _ = ip(&["link", "del", name]);
    }
}
