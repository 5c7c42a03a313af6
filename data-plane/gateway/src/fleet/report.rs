//! What is told of this gateway: whole at first, then what has changed. No I/O, no clock.

use std::collections::BTreeMap;

use postern_core::fleet::{FleetGateway, FleetTunnel, Report, TunnelKey};

/// Tunnels in one report.
const PART: usize = 1_000;
/// A round trip that has changed by less is the same.
const RTT_US: u32 = 2_000;

/// What the control plane has been told over one stream.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    gateway: Option<FleetGateway>,
    tunnels: BTreeMap<TunnelKey, FleetTunnel>,
}

/// What is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) gateway: FleetGateway,
    pub(crate) tunnels: BTreeMap<TunnelKey, FleetTunnel>,
}

impl Reporter {
    /// The reports that tell what `own` is by now, none when all is told. Load that has hardly changed is told only when `exactly`.
    pub(crate) fn next(&mut self, own: Own, exactly: bool) -> Vec<Report> {
        let Own { gateway, tunnels } = own;
        let first = self.gateway.is_none();
        let same = |known: &FleetGateway| {
            let sessions =
                if exactly || noticeable(known.sessions, gateway.sessions) { gateway.sessions } else { known.sessions };
            *known == FleetGateway { sessions, ..gateway.clone() }
        };
        let closed: Vec<TunnelKey> = self.tunnels.keys().filter(|key| !tunnels.contains_key(key)).cloned().collect();
        let mut news: Vec<(TunnelKey, FleetTunnel)> = Vec::new();
        for (key, tunnel) in tunnels {
            if self.tunnels.get(&key).is_none_or(|known| differs(known, &tunnel, exactly)) {
                self.tunnels.insert(key.clone(), tunnel.clone());
                news.push((key, tunnel));
            }
        }
        for key in &closed {
            self.tunnels.remove(key);
        }
        let itself = if self.gateway.as_ref().is_some_and(same) { None } else { Some(gateway) };
        if let Some(gateway) = &itself {
            self.gateway = Some(gateway.clone());
        }
        parts(first, itself, news, closed)
    }
}

fn parts(
    whole: bool,
    gateway: Option<FleetGateway>,
    tunnels: Vec<(TunnelKey, FleetTunnel)>,
    closed: Vec<TunnelKey>,
) -> Vec<Report> {
    if gateway.is_none() && tunnels.is_empty() && closed.is_empty() {
        return Vec::new();
    }
    let mut reports = vec![Report { whole, gateway, ..Report::default() }];
    for part in closed.chunks(PART) {
        match reports.last_mut() {
            Some(last) if last.closed.is_empty() => last.closed = part.to_vec(),
            _ => reports.push(Report { closed: part.to_vec(), ..Report::default() }),
        }
    }
    for part in tunnels.chunks(PART) {
        match reports.last_mut() {
            Some(last) if last.tunnels.is_empty() => last.tunnels = part.to_vec(),
            _ => reports.push(Report { tunnels: part.to_vec(), ..Report::default() }),
        }
    }
    if let Some((_, all_but_last)) = reports.split_last_mut() {
        all_but_last.iter_mut().for_each(|report| report.more = true);
    }
    reports
}

fn differs(known: &FleetTunnel, now: &FleetTunnel, exactly: bool) -> bool {
    let streams = if exactly || noticeable(known.streams, now.streams) { now.streams } else { known.streams };
    // Seldom, and never exactly: it is another one at every look.
    let farther = exactly && known.rtt_us.abs_diff(now.rtt_us) >= RTT_US.max(known.rtt_us / 4);
    let rtt_us = if farther { now.rtt_us } else { known.rtt_us };
    *known != FleetTunnel { streams, rtt_us, ..now.clone() }
}

/// By a quarter and by 4 at least, or from or to nothing.
const fn noticeable(known: u32, now: u32) -> bool {
    let by = known.abs_diff(now);
    (known == 0) != (now == 0) || (by >= 4 && by >= known / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::Timestamp;
    use postern_core::fleet::Transport;

    fn gateway(sessions: u32) -> FleetGateway {
        FleetGateway {
            name: "g1".parse().unwrap(),
            tunnel_addresses: Vec::new(),
            tunnel_tcp_addresses: Vec::new(),
            client_addresses: Vec::new(),
            version: String::new(),
            tunnel_version_min: 1,
            tunnel_version: 2,
            draining: false,
            sessions,
            started_at: Timestamp::from_millis(0),
            serves: None,
        }
    }

    fn own(sessions: u32, held: &[(&str, u32)]) -> Own {
        let tunnel = |(agent, streams): &(&str, u32)| {
            let key = TunnelKey { pool: "lab".parse().unwrap(), agent: agent.parse().unwrap() };
            let since = Timestamp::from_millis(1);
            let (version, draining) = (String::new(), false);
            (key, FleetTunnel { since, streams: *streams, rtt_us: 900, transport: Transport::Quic, version, draining })
        };
        Own { gateway: gateway(sessions), tunnels: held.iter().map(tunnel).collect() }
    }

    #[test]
    fn whole_at_first_then_what_has_changed() {
        let mut reporter = Reporter::default();
        let first = reporter.next(own(0, &[("a1", 0), ("a2", 8)]), false);
        assert_eq!((first.len(), first[0].whole, first[0].more, first[0].tunnels.len()), (1, true, false, 2));
        assert!(reporter.next(own(0, &[("a1", 0), ("a2", 8)]), true).is_empty());
        let next = reporter.next(own(0, &[("a1", 1), ("a3", 0)]), false);
        assert_eq!((next[0].whole, next[0].tunnels.len(), next[0].closed.len()), (false, 2, 1));
        assert!(next[0].gateway.is_none());
        let mut own_stops = own(0, &[("a1", 1), ("a3", 0)]);
        own_stops.tunnels.values_mut().for_each(|tunnel| tunnel.draining = tunnel.streams == 1);
        let told = reporter.next(own_stops, false);
        assert_eq!((told[0].tunnels.len(), told[0].tunnels[0].1.draining), (1, true));
        let drains = Own { gateway: FleetGateway { draining: true, ..gateway(0) }, ..own(0, &[("a1", 1), ("a3", 0)]) };
        assert!(reporter.next(drains, false)[0].gateway.as_ref().unwrap().draining);
    }

    #[test]
    fn load_that_hardly_changes_waits() {
        let mut reporter = Reporter::default();
        reporter.next(own(100, &[("a1", 100)]), false);
        assert!(reporter.next(own(110, &[("a1", 110)]), false).is_empty());
        assert_eq!(reporter.next(own(110, &[("a1", 130)]), false)[0].tunnels[0].1.streams, 130);
        let exact = reporter.next(own(110, &[("a1", 131)]), true);
        assert_eq!((exact[0].gateway.as_ref().unwrap().sessions, exact[0].tunnels[0].1.streams), (110, 131));
    }

    /// The round trip of an idle tunnel is never twice the same: thousands of them would tell everything anew, again and again.
    #[test]
    fn a_round_trip_that_hardly_changes_is_not_told() {
        let mut reporter = Reporter::default();
        let at = |rtt_us: u32| {
            let mut own = own(0, &[("a1", 3)]);
            own.tunnels.values_mut().for_each(|tunnel| tunnel.rtt_us = rtt_us);
            own
        };
        reporter.next(at(400), false);
        for rtt_us in [499, 501, 1_200, 2_399, 40] {
            assert!(reporter.next(at(rtt_us), true).is_empty(), "{rtt_us}");
        }
        assert!(reporter.next(at(40_000), false).is_empty());
        assert_eq!(reporter.next(at(40_000), true)[0].tunnels[0].1.rtt_us, 40_000);
        assert!(reporter.next(at(48_000), true).is_empty());
        assert_eq!(reporter.next(at(52_000), true)[0].tunnels[0].1.rtt_us, 52_000);
    }

    #[test]
    fn much_goes_in_parts() {
        let names: Vec<String> = (0..2_500).map(|number| format!("a{number}")).collect();
        let all: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 0)).collect();
        let mut reporter = Reporter::default();
        let parts = reporter.next(own(0, &all), false);
        assert_eq!(parts.iter().map(|part| part.tunnels.len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert_eq!(
            parts.iter().map(|part| (part.whole, part.more)).collect::<Vec<_>>(),
            [(true, true), (false, true), (false, false)]
        );
        let parts = reporter.next(own(0, &[("b", 0)]), false);
        assert_eq!(parts.iter().map(|part| part.closed.len()).sum::<usize>(), 2_500);
        assert!(parts.iter().all(|part| !part.whole) && !parts.last().unwrap().more);
    }
}
