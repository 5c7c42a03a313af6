//! The table, as Markdown.

use std::fmt::Write as _;

use anyhow::Result;
use postern_benches::{median, output_of, where_and_when, write_part};

use crate::Results;
use crate::measure::Measured;

/// Writes its part of the report.
pub(crate) fn write(results: &[Results], rounds: u32) -> Result<()> {
    let mut out = format!("## Tunnels\n\n{}", where_and_when());
    let ssh = output_of("sh", &["-c", "ssh -V 2>&1"]);
    let haproxy = output_of("sh", &["-c", "/usr/sbin/haproxy -v 2>&1 | head -n 1"]);
    writeln!(
        out,
        "- Peers: {ssh}; {haproxy}. Client, target, agent and sshd on this machine, over loopback\n- {rounds} rounds, interleaved; medians of the rounds\n"
    )?;
    out.push_str(
        "TCP and TLS go straight to the target; haproxy, `ssh -L` and the tunnel have a process of their own in between (two for ssh), which connects to it: \
         what a forward costs by itself is the difference between the two rows of TLS over TCP. \
         A connection is set up when its first byte is back: for TLS that is a whole handshake, for the others a stream of what is there.\n\n\
         | way | from the target MB/s | to the target MB/s | 32 streams MB/s | 64 bytes there and back us (p50) | p99 | set-up us (p50) | p99 |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for result in results {
        let of = |pick: fn(&Measured) -> f64| median(result.rounds.iter().map(pick));
        writeln!(
            out,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            result.name,
            of(|it| it.down),
            of(|it| it.up),
            of(|it| it.many),
            of(|it| it.ping),
            of(|it| it.ping_p99),
            of(|it| it.open),
            of(|it| it.open_p99)
        )?;
    }
    write_part("tunnel", &out)
}
