//! What sessions may use up of gateways (I12), as a target or a policy says it.

/// How many bytes of one session a gateway must be let hold: less would hold up single frames.
pub const MIN_IN_FLIGHT: u32 = 4 << 10;
/// And may hold at most (I11).
pub const MAX_IN_FLIGHT: u32 = 4 << 20;

/// What may be used up. 0: no limit is said here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Sessions at a time.
    pub sessions: u32,
    /// New sessions in a second, and as many at once.
    pub connections_per_second: u32,
    /// Operations in a second, and as many at once.
    pub operations_per_second: u32,
    /// Bytes of one session that may wait for either side before the other is read no further.
    pub in_flight_bytes: u32,
}

impl Allowance {
    /// Both at once: of each the smaller.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            sessions: smaller(self.sessions, other.sessions),
            connections_per_second: smaller(self.connections_per_second, other.connections_per_second),
            operations_per_second: smaller(self.operations_per_second, other.operations_per_second),
            in_flight_bytes: smaller(self.in_flight_bytes, other.in_flight_bytes),
        }
    }

    /// The part of one of `count` who have it together, and at least one of each. What is a session's own is not divided.
    #[must_use]
    pub const fn share(self, count: u32) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self {
            sessions: self.sessions.div_ceil(count),
            connections_per_second: self.connections_per_second.div_ceil(count),
            operations_per_second: self.operations_per_second.div_ceil(count),
            in_flight_bytes: self.in_flight_bytes,
        }
    }
}

/// The smaller limit, where 0 is none.
#[must_use]
pub const fn smaller(one: u32, other: u32) -> u32 {
    match (one, other) {
        (0, limit) | (limit, 0) => limit,
        (one, other) if one < other => one,
        (_, other) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn of(sessions: u32, operations_per_second: u32) -> Allowance {
        Allowance { sessions, operations_per_second, connections_per_second: 0, in_flight_bytes: 4096 }
    }

    #[test]
    fn the_smallest_wins_and_nothing_said_is_no_limit() {
        assert_eq!(of(5, 0).and(of(3, 7)), of(3, 7));
        assert_eq!(of(3, 7).and(of(5, 0)), of(3, 7));
        assert_eq!(Allowance::default().and(Allowance::default()), Allowance::default());
    }

    #[test]
    fn shares_are_never_nothing() {
        assert_eq!(of(10, 0).share(4), of(3, 0));
        assert_eq!(of(1, 1).share(20), of(1, 1));
        assert_eq!(of(10, 3).share(0), of(10, 3));
    }
}
