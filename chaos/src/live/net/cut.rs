//! A link between two hosts that is cut, both ways or one: who is not heard is not told.

use anyhow::{Context as _, Result};

use super::{Place, ip};

/// The table of rules; one link of a host is cut at a time.
const TABLE: &str = "link";

/// Two hosts that do not hear each other, until it is healed or dropped.
#[derive(Debug)]
pub struct Cut(Option<String>);

impl Cut {
    /// Between `host` and whoever has `other` for an address, both ways; everything else passes.
    ///
    /// # Errors
    /// When the rules cannot be set, as when another link of this host is cut already.
    pub fn between(host: &Place, other: &str) -> Result<Self> {
        let rules = format!(
            "create table ip {TABLE}; table ip {TABLE} {{ chain in {{ type filter hook input priority 0; ip saddr {other} drop; }}; \
             chain out {{ type filter hook output priority 0; ip daddr {other} drop; }}; }}"
        );
        nft(&host.namespace, &rules)?;
        Ok(Self(Some(host.namespace.clone())))
    }

    /// Nothing that `from` sends arrives at `host` or goes through it; what it sends itself does, and nobody is told.
    ///
    /// # Errors
    /// See there.
    pub fn one_way(host: &Place, from: &str) -> Result<Self> {
        let rules = format!(
            "create table ip {TABLE}; table ip {TABLE} {{ chain in {{ type filter hook prerouting priority -300; ip saddr {from} drop; }}; }}"
        );
        nft(&host.namespace, &rules)?;
        Ok(Self(Some(host.namespace.clone())))
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// When it cannot.
    pub fn heal(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |space| nft(&space, &format!("delete table ip {TABLE}")))
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(space) = self.0.take() {
            // The namespace may be gone already, and the rules with it.
            let _ = nft(&space, &format!("delete table ip {TABLE}"));
        }
    }
}

fn nft(namespace: &str, rules: &str) -> Result<()> {
    ip(&["netns", "exec", namespace, "nft", rules]).context("nft (Debian: nftables)")
}
