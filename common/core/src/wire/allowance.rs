//! What sessions may use up.

use postern_proto::resource::v1 as pb;

use super::faults::Faults;
use crate::allowance::{Allowance, MAX_IN_FLIGHT, MIN_IN_FLIGHT};

pub(super) fn read(limits: Option<pb::Limits>, faults: &mut Faults) -> Allowance {
    let limits = limits.unwrap_or_default();
    let in_flight = limits.in_flight_bytes;
    if in_flight != 0 && !(MIN_IN_FLIGHT..=MAX_IN_FLIGHT).contains(&in_flight) {
        faults.add("spec.limits.inFlightBytes", format!("must be {MIN_IN_FLIGHT} to {MAX_IN_FLIGHT}"));
    }
    Allowance {
        sessions: limits.sessions,
        connections_per_second: limits.connections_per_second,
        operations_per_second: limits.operations_per_second,
        in_flight_bytes: in_flight,
    }
}

/// Nothing where nothing is limited: the same object is the same bytes as before there were limits.
pub(super) fn to_proto(limits: Allowance) -> Option<pb::Limits> {
    (limits != Allowance::default()).then_some(pb::Limits {
        sessions: limits.sessions,
        connections_per_second: limits.connections_per_second,
        operations_per_second: limits.operations_per_second,
        in_flight_bytes: limits.in_flight_bytes,
    })
}
