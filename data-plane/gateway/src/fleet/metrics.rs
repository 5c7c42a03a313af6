//! What is measured of the directory.

use metrics::{counter, gauge};

fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(super) fn known(gateways: usize, term: u64) {
    gauge!("postern_gateway_fleet_gateways").set(count(gateways));
    gauge!("postern_gateway_fleet_term").set(f64::from(u32::try_from(term).unwrap_or(u32::MAX)));
}

pub(super) fn reporting(reporting: bool) {
    gauge!("postern_gateway_fleet_reporting").set(f64::from(u8::from(reporting)));
}

pub(super) fn failed() {
    counter!("postern_gateway_fleet_failures_total").increment(1);
}
