//! Gateways, their tunnels, and the directory of them.

use postern_proto::gateway::v1 as pb;
use postern_proto::resource::v1 as resource_pb;

use super::cluster::serves_from_proto;
use super::selector::targets_to_proto;
use super::{WireError, parse, timestamp_or_zero, timestamp_to_proto};
use crate::fleet::{Epoch, FleetGateway, FleetTunnel, Holding, News, Report, Transport, TunnelKey};
use crate::name::Name;
use crate::target::Address;

/// To protobuf.
#[must_use]
pub fn epoch_to_proto(epoch: &Epoch) -> resource_pb::FleetEpoch {
    resource_pb::FleetEpoch {
        incarnation: epoch.incarnation.clone(),
        term: epoch.term,
        began_at: Some(timestamp_to_proto(epoch.began_at)),
    }
}

/// From protobuf; an absent one is older than all.
///
/// # Errors
/// When the incarnation is too long.
pub fn epoch_from_proto(epoch: Option<resource_pb::FleetEpoch>) -> Result<Epoch, WireError> {
    let epoch = epoch.unwrap_or_default();
    Ok(Epoch {
        incarnation: short("epoch.incarnation", epoch.incarnation)?,
        term: epoch.term,
        began_at: timestamp_or_zero(epoch.began_at.as_ref()),
    })
}

/// To protobuf.
#[must_use]
pub fn gateway_to_proto(gateway: &FleetGateway) -> resource_pb::FleetGateway {
    let texts = |addresses: &[Address]| addresses.iter().map(ToString::to_string).collect();
    resource_pb::FleetGateway {
        name: gateway.name.to_string(),
        tunnel_addresses: texts(&gateway.tunnel_addresses),
        tunnel_tcp_addresses: texts(&gateway.tunnel_tcp_addresses),
        client_addresses: texts(&gateway.client_addresses),
        version: gateway.version.clone(),
        tunnel_version_min: gateway.tunnel_version_min,
        tunnel_version: gateway.tunnel_version,
        draining: gateway.draining,
        sessions: gateway.sessions,
        started_at: Some(timestamp_to_proto(gateway.started_at)),
        serves: gateway.serves.as_ref().map(targets_to_proto),
    }
}

/// From protobuf.
///
/// # Errors
/// When its name or an address is none, or there are too many.
pub fn gateway_from_proto(gateway: resource_pb::FleetGateway) -> Result<FleetGateway, WireError> {
    let name = parse("gateway.name", &gateway.name)?;
    gateway_named(gateway, name)
}

/// From protobuf, of a gateway whose name is known from elsewhere.
///
/// # Errors
/// As [`gateway_from_proto`].
pub fn gateway_named(gateway: resource_pb::FleetGateway, name: Name) -> Result<FleetGateway, WireError> {
    Ok(FleetGateway {
        name,
        tunnel_addresses: addresses("gateway.tunnel_addresses", &gateway.tunnel_addresses)?,
        tunnel_tcp_addresses: addresses("gateway.tunnel_tcp_addresses", &gateway.tunnel_tcp_addresses)?,
        client_addresses: addresses("gateway.client_addresses", &gateway.client_addresses)?,
        version: short("gateway.version", gateway.version)?,
        tunnel_version_min: gateway.tunnel_version_min,
        tunnel_version: gateway.tunnel_version,
        draining: gateway.draining,
        sessions: gateway.sessions,
        started_at: timestamp_or_zero(gateway.started_at.as_ref()),
        serves: gateway.serves.map(serves_from_proto),
    })
}

/// To protobuf.
#[must_use]
pub fn tunnel_to_proto((key, tunnel): &(TunnelKey, FleetTunnel)) -> resource_pb::FleetTunnel {
    resource_pb::FleetTunnel {
        agent: key.agent.to_string(),
        pool: key.pool.to_string(),
        since: Some(timestamp_to_proto(tunnel.since)),
        streams: tunnel.streams,
        rtt_us: tunnel.rtt_us,
        transport: transport_to_proto(tunnel.transport).into(),
        version: tunnel.version.clone(),
        draining: tunnel.draining,
    }
}

/// From protobuf.
///
/// # Errors
/// When a name is none, or the version too long.
pub fn tunnel_from_proto(tunnel: resource_pb::FleetTunnel) -> Result<(TunnelKey, FleetTunnel), WireError> {
    let transport = match tunnel.transport() {
        resource_pb::TunnelTransport::Tcp => Transport::Tcp,
        // What is newer than this version is for people to see, no more.
        resource_pb::TunnelTransport::Quic | resource_pb::TunnelTransport::Unspecified => Transport::Quic,
    };
    let key = TunnelKey { pool: parse("tunnel.pool", &tunnel.pool)?, agent: parse("tunnel.agent", &tunnel.agent)? };
    let since = timestamp_or_zero(tunnel.since.as_ref());
    let version = short("tunnel.version", tunnel.version)?;
    let (streams, rtt_us, draining) = (tunnel.streams, tunnel.rtt_us, tunnel.draining);
    Ok((key, FleetTunnel { since, streams, rtt_us, transport, version, draining }))
}

/// To protobuf.
#[must_use]
pub const fn transport_to_proto(transport: Transport) -> resource_pb::TunnelTransport {
    match transport {
        Transport::Quic => resource_pb::TunnelTransport::Quic,
        Transport::Tcp => resource_pb::TunnelTransport::Tcp,
    }
}

/// To protobuf.
#[must_use]
pub fn report_to_proto(report: &Report) -> pb::ReportRequest {
    let key = |key: &TunnelKey| pb::TunnelKey { pool: key.pool.to_string(), agent: key.agent.to_string() };
    pb::ReportRequest {
        whole: report.whole,
        more: report.more,
        gateway: report.gateway.as_ref().map(gateway_to_proto),
        tunnels: report.tunnels.iter().map(tunnel_to_proto).collect(),
        closed: report.closed.iter().map(key).collect(),
    }
}

/// From protobuf, as `from` tells it: of itself alone.
///
/// # Errors
/// When a part of it is not valid.
pub fn report_from_proto(report: pb::ReportRequest, from: &Name) -> Result<Report, WireError> {
    let key = |key: pb::TunnelKey| {
        Ok(TunnelKey { pool: parse("closed.pool", &key.pool)?, agent: parse("closed.agent", &key.agent)? })
    };
    let gateway = report.gateway.map(|gateway| gateway_named(gateway, from.clone())).transpose()?;
    Ok(Report {
        whole: report.whole,
        more: report.more,
        // What it serves is the control plane's word.
        gateway: gateway.map(|gateway| FleetGateway { serves: None, ..gateway }),
        tunnels: report.tunnels.into_iter().map(tunnel_from_proto).collect::<Result<_, _>>()?,
        closed: report.closed.into_iter().map(key).collect::<Result<_, _>>()?,
    })
}

/// To protobuf.
#[must_use]
pub fn news_to_proto(news: &News) -> pb::ReportResponse {
    let holding = |(gateway, pool, holding): &(Name, Name, Holding)| pb::Holding {
        gateway: gateway.to_string(),
        pool: pool.to_string(),
        agents: holding.agents,
        streams: holding.streams,
        draining: holding.draining,
    };
    pb::ReportResponse {
        epoch: Some(epoch_to_proto(&news.epoch)),
        version: news.version,
        whole: news.whole,
        more: news.more,
        settling: news.settling,
        gateways: news.gateways.iter().map(gateway_to_proto).collect(),
        gone: news.gone.iter().map(ToString::to_string).collect(),
        holdings: news.holdings.iter().map(holding).collect(),
    }
}

/// From protobuf.
///
/// # Errors
/// When a part of it is not valid.
pub fn news_from_proto(news: pb::ReportResponse) -> Result<News, WireError> {
    let holding = |holding: pb::Holding| {
        let held = Holding { agents: holding.agents, streams: holding.streams, draining: holding.draining };
        Ok((parse("holding.gateway", &holding.gateway)?, parse("holding.pool", &holding.pool)?, held))
    };
    Ok(News {
        epoch: epoch_from_proto(news.epoch)?,
        version: news.version,
        whole: news.whole,
        more: news.more,
        settling: news.settling,
        gateways: news.gateways.into_iter().map(gateway_from_proto).collect::<Result<_, _>>()?,
        gone: news.gone.iter().map(|name| parse("gone", name)).collect::<Result<_, _>>()?,
        holdings: news.holdings.into_iter().map(holding).collect::<Result<_, _>>()?,
    })
}

fn addresses(field: &str, texts: &[String]) -> Result<Vec<Address>, WireError> {
    if texts.len() > FleetGateway::MAX_ADDRESSES {
        return Err(WireError::new(field, format!("has more than {}", FleetGateway::MAX_ADDRESSES)));
    }
    texts.iter().map(|text| parse(field, text)).collect()
}

fn short(field: &str, text: String) -> Result<String, WireError> {
    if text.len() > FleetGateway::MAX_VERSION {
        return Err(WireError::new(field, format!("is longer than {} bytes", FleetGateway::MAX_VERSION)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::TargetSelector;
    use crate::time::Timestamp;

    fn gateway() -> FleetGateway {
        FleetGateway {
            name: "g1".parse().unwrap(),
            tunnel_addresses: vec!["gw.example:7443".parse().unwrap(), "[2001:db8::1]:7443".parse().unwrap()],
            tunnel_tcp_addresses: vec!["gw.example:7444".parse().unwrap()],
            client_addresses: vec!["gw.example:5432".parse().unwrap()],
            version: "0.4.0".into(),
            tunnel_version_min: 1,
            tunnel_version: 2,
            draining: true,
            sessions: 7,
            started_at: Timestamp::from_millis(5),
            serves: None,
        }
    }

    #[test]
    fn reports_and_news_come_back_as_they_went() {
        let key = TunnelKey { pool: "lab".parse().unwrap(), agent: "a1".parse().unwrap() };
        let tunnel = FleetTunnel {
            since: Timestamp::from_millis(9),
            streams: 3,
            rtt_us: 250,
            transport: Transport::Tcp,
            version: "0.4.0".into(),
            draining: true,
        };
        let report = Report {
            whole: true,
            more: true,
            gateway: Some(gateway()),
            tunnels: vec![(key.clone(), tunnel)],
            closed: vec![key],
        };
        assert_eq!(report_from_proto(report_to_proto(&report), &"g1".parse().unwrap()).unwrap(), report);
        let serves = Some(TargetSelector { names: vec!["db".into()], ..Default::default() });
        let news = News {
            epoch: Epoch { incarnation: "i".into(), term: 4, began_at: Timestamp::from_millis(1) },
            version: 12,
            whole: true,
            more: true,
            settling: true,
            gateways: vec![FleetGateway { serves, ..gateway() }],
            gone: vec!["g2".parse().unwrap()],
            holdings: vec![(
                "g1".parse().unwrap(),
                "lab".parse().unwrap(),
                Holding { agents: 2, streams: 5, draining: 1 },
            )],
        };
        assert_eq!(news_from_proto(news_to_proto(&news)).unwrap(), news);
    }

    #[test]
    fn a_gateway_speaks_for_itself_and_not_of_what_it_serves() {
        let all = Some(TargetSelector { names: vec!["*".into()], ..Default::default() });
        let lie = FleetGateway { name: "other".parse().unwrap(), serves: all, ..gateway() };
        let told = Report { gateway: Some(lie), ..Default::default() };
        let heard = report_from_proto(report_to_proto(&told), &"g1".parse().unwrap()).unwrap();
        assert_eq!(heard.gateway, Some(gateway()));
    }

    #[test]
    fn what_is_too_much_or_no_name_is_refused() {
        let good = gateway_to_proto(&gateway());
        let many = vec!["a:1".to_owned(); FleetGateway::MAX_ADDRESSES + 1];
        let long = "x".repeat(FleetGateway::MAX_VERSION + 1);
        for bad in [
            resource_pb::FleetGateway { tunnel_addresses: many, ..good.clone() },
            resource_pb::FleetGateway { client_addresses: vec!["no port".into()], ..good.clone() },
            resource_pb::FleetGateway { version: long, ..good.clone() },
            resource_pb::FleetGateway { name: "No Name".into(), ..good },
        ] {
            assert!(gateway_from_proto(bad).is_err());
        }
        assert!(tunnel_from_proto(resource_pb::FleetTunnel::default()).is_err());
    }
}
