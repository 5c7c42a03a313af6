//! Watchers of policy: how soon one change reaches a thousand gateways, and what a watcher costs.
//!
//! `WATCHERS` (1000), `CHANGES` (100), `SUBSCRIBERS` (10000) and `MEMBERS` (1) set how much. With more members the watchers are all on one
//! that does not lead.

mod hub;
mod streams;

use std::fmt::Write as _;

use anyhow::Result;
use postern_benches::{number, percentile, where_and_when, write_part};

/// What the streams gave.
struct Streams {
    watchers: usize,
    changes: usize,
    members: usize,
    /// Milliseconds for each change: from the acknowledgement to the last watcher's receipt, and from the asking.
    since_acknowledged: Vec<f64>,
    since_asked: Vec<f64>,
    /// Milliseconds for each change and watcher, from the asking.
    each: Vec<f64>,
    /// Kilobytes of the serving node for a watcher.
    memory_kb: f64,
    /// Microseconds of the serving node's processor for a watcher: a second when nothing changes, and a change.
    idle_us: f64,
    change_us: f64,
}

/// What subscribers in the process gave.
struct Subscribers {
    count: usize,
    /// Milliseconds from the change to the last subscriber, for each change.
    last: Vec<f64>,
    /// Microseconds that the change holds up the writer.
    writer: Vec<f64>,
    bytes: f64,
}

fn main() -> Result<()> {
    let (watchers, changes) = (number("WATCHERS", 1_000)?, number("CHANGES", 100)?);
    let subscribers = hub::measure(number("SUBSCRIBERS", 10_000)?, changes)?;
    let streams = streams::measure(watchers, changes, number("MEMBERS", 1)?)?;
    report(&streams, &subscribers)
}

fn report(streams: &Streams, subscribers: &Subscribers) -> Result<()> {
    let mut out = format!("## Watchers\n\n{}", where_and_when());
    let place = if streams.members == 1 { "of one member" } else { "of three members, on one that does not lead" };
    writeln!(
        out,
        "- {} gRPC streams {place}: each a connection of its own with mutual TLS over loopback, as each gateway has one; all clients are in one \
         process, on the same machine, and decode but do not verify\n- {} changes, one every 200 ms; each is one write of one object, durable before it is \
         acknowledged\n",
        streams.watchers, streams.changes
    )?;
    out.push_str("| one change reaches | median ms | p99 ms | longest ms |\n| --- | ---: | ---: | ---: |\n");
    let mut row = |what: &str, values: &[f64]| {
        let of = |part| percentile(values.iter().copied(), part);
        writeln!(out, "| {what} | {:.1} | {:.1} | {:.1} |", of(0.5), of(0.99), of(1.0))
    };
    row("the last watcher, from the acknowledged write", &streams.since_acknowledged)?;
    row("the last watcher, from the request to write", &streams.since_asked)?;
    row("any watcher, from the request to write", &streams.each)?;
    row(&format!("the last of {} subscribers in the process", subscribers.count), &subscribers.last)?;
    writeln!(
        out,
        "\nA watcher costs the serving node {:.0} KB of memory (its TLS connection included), {:.0} us of processor a second when nothing changes, and {:.0} us for a \
         change. A subscriber in the process costs {:.0} bytes, its task included; a change holds up the writer for {:.1} us (median; p99 {:.1} us), however \
         many there are.",
        streams.memory_kb,
        streams.idle_us,
        streams.change_us,
        subscribers.bytes,
        percentile(subscribers.writer.iter().copied(), 0.5),
        percentile(subscribers.writer.iter().copied(), 0.99),
    )?;
    write_part("watch", &out)
}
