//! The tables, as Markdown.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use postern_benches::{median, where_and_when, write_part};

use crate::stage::Peer;
use crate::{Found, loads, results};

/// Writes its part of the report.
pub(crate) fn write(peers: &[Peer], found: &[Found], rounds: u32, seconds: u32, rows: u32) -> Result<()> {
    let mut out = format!("## Enforcement\n\n{}", where_and_when());
    writeln!(
        out,
        "- Load, peers, server and control plane are all on this machine; the gateway is a process of its own, and its time alone counts as the proxy's"
    )?;
    writeln!(
        out,
        "- {rounds} rounds, interleaved, of {seconds} s for pgbench; medians. No TLS between client and peer. pgbouncer in session mode\n"
    )?;
    writeln!(
        out,
        "The gateway decides by 100 policies that concern the principal, has masking rules, and records every operation before it forwards it.\n"
    )?;
    writeln!(
        out,
        "### pgbench -S\n\n| load | clients | peer | transactions/s | p50 us | added p50 us | processor us a transaction | transactions per processor second, against pgbouncer |"
    )?;
    writeln!(out, "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")?;
    for (place, load) in loads::LOADS.iter().enumerate() {
        let of = |peer: usize, value: fn(&loads::Measured) -> f64| -> Result<f64> {
            Ok(median(found.get(peer).and_then(|found| found.loads.get(place)).context("measured")?.iter().map(value)))
        };
        for (number, peer) in peers.iter().enumerate() {
            let (tps, p50, processor) = (of(number, |m| m.tps)?, of(number, |m| m.p50)?, of(number, |m| m.processor)?);
            write!(out, "| select, {} | {} | {} | {tps:.0} | {p50:.0} |", load.mode, load.clients, peer.name)?;
            match peer.process {
                None => writeln!(out, " | | |")?,
                Some(_) => writeln!(
                    out,
                    " {:.0} | {processor:.1} | {:.2} |",
                    p50 - of(0, |m| m.p50)?,
                    of(1, |m| m.processor)? / processor
                )?,
            }
        }
    }
    writeln!(
        out,
        "\n### A result of {rows} rows\n\n| result | peer | rows/s | against pgbouncer | processor ns a row | memory grown kB |"
    )?;
    writeln!(out, "| --- | --- | ---: | ---: | ---: | ---: |")?;
    for (place, long) in results::RESULTS.iter().enumerate() {
        let of = |peer: usize, value: fn(&results::Measured) -> f64| -> Result<f64> {
            Ok(median(
                found.get(peer).and_then(|found| found.results.get(place)).context("measured")?.iter().map(value),
            ))
        };
        for (number, peer) in peers.iter().enumerate() {
            let rows = of(number, |m| m.rows)?;
            write!(out, "| {} | {} | {rows:.0} | {:.2} |", long.name, peer.name, rows / of(1, |m| m.rows)?)?;
            match peer.process {
                None => writeln!(out, " | |")?,
                Some(_) => writeln!(out, " {:.0} | {:.0} |", of(number, |m| m.processor)?, of(number, |m| m.grown)?)?,
            }
        }
    }
    write_part("enforcement", &out)
}
