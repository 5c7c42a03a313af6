//! The tables, as Markdown.

use std::fmt::Write as _;

use anyhow::Result;
use postern_benches::{median, percentile, sync_time, where_and_when, write_part};

use crate::{CLIENTS, Measured, Results, etcd};

/// Writes its part of the report.
pub(crate) fn write(results: &[Results], rounds: u32, seconds: u32) -> Result<()> {
    let mut out = format!("## Control plane\n\n{}", where_and_when());
    let sync = sync_time(300)?.as_secs_f64();
    writeln!(
        out,
        "- Peer: {}, its defaults; every node of every system on this machine, and the load too",
        etcd::version()
    )?;
    writeln!(
        out,
        "- Disk: an append of 300 bytes and fdatasync takes {:.2} ms when nothing else runs: {:.0} a second, one after the other. Every \
         node has its data on this disk, and every acknowledged write was flushed by a majority",
        sync * 1000.0,
        1.0 / sync
    )?;
    writeln!(
        out,
        "- {rounds} rounds of {seconds} s each, interleaved; medians of the rounds. Clients talk to the leader over gRPC\n"
    )?;
    out.push_str(
        "A write replaces an object with a value of 128 bytes. Postern speaks mutual TLS with clients and between members, always: the peer \
         is measured with and without it.\n\n### Writes\n\n| clients | system | writes/s | median ms | p99 ms | processor us a write, all members |\n\
         | ---: | --- | ---: | ---: | ---: | ---: |\n",
    );
    for (place, clients) in CLIENTS.into_iter().enumerate() {
        for result in results {
            let rounds = result.writes.get(place).map(Vec::as_slice).unwrap_or_default();
            let of = |pick: fn(&Measured) -> f64| median(rounds.iter().map(pick));
            writeln!(
                out,
                "| {clients} | {} | {:.0} | {:.2} | {:.2} | {:.0} |",
                result.name,
                of(|it| it.rate),
                of(|it| it.median),
                of(|it| it.p99),
                of(|it| it.processor)
            )?;
        }
    }
    if results.iter().any(|result| !result.failovers.is_empty()) {
        out.push_str(
            "\n### The leader is killed\n\nFrom SIGKILL of the leader to the first acknowledged write by a client that knows all members, \
             milliseconds; election timeouts as each system has them by default.\n\n\
             | system | kills | median | p99 | longest |\n| --- | ---: | ---: | ---: | ---: |\n",
        );
        for result in results {
            let of = |part: f64| percentile(result.failovers.iter().copied(), part);
            let (half, most, longest) = (of(0.5), of(0.99), of(1.0));
            writeln!(out, "| {} | {} | {half:.0} | {most:.0} | {longest:.0} |", result.name, result.failovers.len())?;
        }
    }
    write_part("control", &out)
}
