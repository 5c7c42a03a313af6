//! What is measured of relaying.

use metrics::counter;

use crate::metrics::Alive;

/// A link that this gateway has dialled.
pub(super) fn link_out() -> Alive {
    Alive::new("postern_gateway_relay_links_out_open")
}

/// A link that another gateway has dialled.
pub(super) fn link_in() -> Alive {
    Alive::new("postern_gateway_relay_links_in_open")
}

/// A stream through another gateway.
pub(super) fn stream_out() -> Alive {
    Alive::new("postern_gateway_relay_streams_out_open")
}

/// A stream for another gateway.
pub(super) fn stream_in() -> Alive {
    Alive::new("postern_gateway_relay_streams_in_open")
}

pub(super) fn opened(outcome: &'static str) {
    counter!("postern_gateway_relay_opens_total", "outcome" => outcome).increment(1);
}

pub(super) fn served(outcome: &'static str) {
    counter!("postern_gateway_relay_served_total", "outcome" => outcome).increment(1);
}

pub(super) fn carried(bytes: usize) {
    counter!("postern_gateway_relay_bytes_total").increment(u64::try_from(bytes).unwrap_or(u64::MAX));
}

pub(super) fn refused(reason: &'static str) {
    counter!("postern_gateway_relay_refused_total", "reason" => reason).increment(1);
}
