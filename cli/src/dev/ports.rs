//! Free ports, and the same ones again.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::args::DevOptions;
use super::layout::Endpoints;
use crate::failure::Failure;

/// What is asked for, with a definite port wherever port 0 is: the one of the last start if it is still free, else any free one.
pub(super) fn choose(options: &DevOptions, last: Option<&Endpoints>) -> Result<Endpoints, Failure> {
    let tcp = |name: &str, asked: SocketAddr, before: Option<SocketAddr>| {
        definite(name, asked, before, |address| TcpListener::bind(address)?.local_addr())
    };
    let udp = |name: &str, asked: SocketAddr, before: Option<SocketAddr>| {
        definite(name, asked, before, |address| UdpSocket::bind(address)?.local_addr())
    };
    Ok(Endpoints {
        admin: tcp("--admin-listen", options.admin_listen, last.map(|last| last.admin))?,
        postgres: tcp("--postgres-listen", options.postgres_listen, last.map(|last| last.postgres))?,
        tunnel: udp("--tunnel-listen", options.tunnel_listen, last.map(|last| last.tunnel))?,
        issuer: tcp("--issuer-listen", options.issuer_listen, last.map(|last| last.issuer))?,
        ops: tcp("--ops-listen", options.ops_listen, last.map(|last| last.ops))?,
        pid: std::process::id(),
    })
}

fn definite(
    name: &str,
    asked: SocketAddr,
    before: Option<SocketAddr>,
    probe: impl Fn(SocketAddr) -> std::io::Result<SocketAddr>,
) -> Result<SocketAddr, Failure> {
    if asked.port() == 0
        && let Some(before) = before.filter(|before| before.ip() == asked.ip())
        && let Ok(address) = probe(before)
    {
        return Ok(address);
    }
    probe(asked).map_err(|error| Failure::failed(format!("cannot listen on {asked} ({name}): {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_port_again_unless_it_is_taken() {
        let probe = |address: SocketAddr| TcpListener::bind(address)?.local_addr();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let first = definite("x", any, None, probe).unwrap();
        assert_ne!(first.port(), 0);
        assert_eq!(definite("x", any, Some(first), probe).unwrap(), first);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
        assert_ne!(definite("x", any, Some(taken.1), probe).unwrap(), taken.1);
        let refused = definite("--x", taken.1, None, probe).unwrap_err().to_string();
        assert!(refused.contains("--x"), "{refused}");
    }
}
