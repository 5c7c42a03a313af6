//! Hosts as network namespaces: on a bridge, behind a wire whose weather the test makes, or on a private network with no route in.

mod cut;
mod private;
mod wire;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::process::{command_in, run};

pub use cut::Cut;
pub use private::Private;
pub use wire::{Weather, Wire};

/// Where a process runs: a namespace, and its address in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// For `ip netns exec`.
    pub namespace: String,
    /// Its address on the network.
    pub address: String,
}

/// A host. Dropping it takes it away.
#[derive(Debug)]
pub struct Host {
    place: Place,
    /// First of all: its devices are in the namespace.
    wire: Option<Wire>,
}

impl Host {
    /// A namespace of this name with nothing but loopback in it.
    fn new(namespace: &str, address: &str) -> Result<Self> {
        ip(&["netns", "add", namespace])?;
        let this = Self { place: Place { namespace: namespace.to_owned(), address: address.to_owned() }, wire: None };
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        Ok(this)
    }

    /// Plugs it into `bridge`, which is in this process' own namespace: `port` is the name of the bridge's end of the wire.
    pub(super) fn wired(namespace: &str, address: &str, bridge: &str, port: &str, seed: u64) -> Result<Self> {
        let mut this = Self::new(namespace, address)?;
        let inner = format!("{port}i");
        let wire = Wire::new(&inner, port, seed)?;
        ip(&["link", "set", port, "master", bridge, "up"])?;
        ip(&["link", "set", &inner, "netns", namespace])?;
        ip(&["-n", namespace, "link", "set", &inner, "name", "eth0"])?;
        ip(&["-n", namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        this.wire = Some(wire);
        Ok(this)
    }

    /// Where a process of it runs.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// Makes the weather on its wire.
    ///
    /// # Errors
    /// When it has none.
    pub fn weather(&self, weather: Weather) -> Result<()> {
        self.wire.as_ref().context("this host has no wire of its own")?.set(weather);
        Ok(())
    }

    /// Its wire.
    #[must_use]
    pub const fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Runs a program in it, to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<super::process::Finished> {
        let (program, arguments) = arguments.split_first().context("a program to run")?;
        let mut command = command_in(Some(&self.place.namespace), program);
        command.args(arguments);
        run(command, "", Duration::from_secs(30))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.wire.take());
        let _ = ip(&["netns", "del", &self.place.namespace]);
    }
}

/// `ip` (iproute2), to its end.
pub(super) fn ip(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments);
    let done = run(command, "", Duration::from_secs(10)).context("ip (Debian: iproute2)")?.ok();
    done.with_context(|| format!("ip {}", arguments.join(" ")))?;
    Ok(())
}
