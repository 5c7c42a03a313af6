//! What is told of each tunnel. Agents have labels of their own up to a limit; further ones share one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use postern_core::Name;
use postern_runtime::tunnel::{LinkError, LinkStats};

use super::Tunnel;

/// Agents with a label of their own, as long as the process lives.
const LABELS: usize = 256;
const OTHERS: &str = "others";
/// How often a tunnel's numbers are taken.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Which agents have a label.
#[derive(Debug, Default)]
pub(super) struct Labels(BTreeMap<Name, Arc<str>>);

impl Labels {
    pub(super) fn of(&mut self, agent: &Name) -> Arc<str> {
        if let Some(label) = self.0.get(agent) {
            return Arc::clone(label);
        }
        if self.0.len() >= LABELS {
            return OTHERS.into();
        }
        let label: Arc<str> = agent.as_str().into();
        self.0.insert(agent.clone(), Arc::clone(&label));
        label
    }
}

/// A peer that was not let in, or sent away, and in a word why.
pub(super) fn refused(reason: &'static str) {
    counter!("postern_gateway_tunnels_refused_total", "reason" => reason).increment(1);
}

/// A tunnel that was up was lost.
pub(super) fn lost(error: &LinkError) {
    let reason = if error.is_silence() { "silent" } else { "closed" };
    counter!("postern_gateway_tunnels_lost_total", "reason" => reason).increment(1);
}

/// What a peer said that this build does not understand, and skips.
pub(super) fn skipped() {
    counter!("postern_gateway_tunnel_messages_skipped_total").increment(1);
}

/// A stream was not to be had through one tunnel.
pub(super) fn open_failed(reason: &'static str) {
    counter!("postern_gateway_tunnel_opens_failed_total", "reason" => reason).increment(1);
}

/// An agent was passed on to the control plane, or not.
pub(super) fn passed_on(outcome: &'static str) {
    counter!("postern_gateway_control_streams_total", "outcome" => outcome).increment(1);
}

/// One tunnel's numbers, told as they grow.
pub(super) struct Numbers {
    agent: Arc<str>,
    carrier: &'static str,
    before: LinkStats,
}

impl Numbers {
    pub(super) fn new(agent: Arc<str>, carrier: &'static str) -> Self {
        gauge!("postern_gateway_tunnels_by_carrier", "carrier" => carrier).increment(1.0);
        Self { agent, carrier, before: LinkStats::default() }
    }

    /// Takes the tunnel's numbers.
    pub(super) fn take(&mut self, tunnel: &Tunnel) {
        let now = tunnel.link.stats();
        let labels = [("agent", self.agent.to_string()), ("carrier", self.carrier.to_owned())];
        counter!("postern_gateway_tunnel_sent_bytes_total", &labels)
            .increment(now.sent.saturating_sub(self.before.sent));
        counter!("postern_gateway_tunnel_received_bytes_total", &labels)
            .increment(now.received.saturating_sub(self.before.received));
        counter!("postern_gateway_tunnel_lost_packets_total", &labels)
            .increment(now.lost.saturating_sub(self.before.lost));
        self.before = now;
        // Of several together a gauge would tell the last one's.
        if *self.agent != *OTHERS {
            let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
            let streams = tunnel.streams.load(std::sync::atomic::Ordering::Relaxed);
            self.gauges(now.rtt, count(streams), count(now.waiting));
        }
    }

    fn gauges(&self, rtt: Duration, streams: f64, waiting: f64) {
        let labels = [("agent", self.agent.to_string()), ("carrier", self.carrier.to_owned())];
        gauge!("postern_gateway_tunnel_rtt_seconds", &labels).set(rtt.as_secs_f64());
        gauge!("postern_gateway_tunnel_streams_open", &labels).set(streams);
        gauge!("postern_gateway_tunnel_streams_waiting", &labels).set(waiting);
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        gauge!("postern_gateway_tunnels_by_carrier", "carrier" => self.carrier).decrement(1.0);
        if *self.agent != *OTHERS {
            self.gauges(Duration::ZERO, 0.0, 0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_end_somewhere() {
        let mut labels = Labels::default();
        for number in 0..LABELS {
            let name: Name = format!("agent-{number}").parse().unwrap();
            assert_eq!(&*labels.of(&name), name.as_str());
        }
        assert_eq!(&*labels.of(&"one-more".parse().unwrap()), OTHERS);
        assert_eq!(&*labels.of(&"agent-0".parse().unwrap()), "agent-0");
    }
}
