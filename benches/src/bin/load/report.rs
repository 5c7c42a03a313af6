//! The table, as Markdown.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use postern_benches::{median, output_of, sync_time, where_and_when, write_part};

use crate::{Measured, WORKLOADS};

/// Writes its part of the report.
pub(crate) fn write(peers: &[&str], results: &[Vec<Vec<Measured>>], rounds: u32, seconds: u32) -> Result<()> {
    let mut out = format!("## Sessions\n\n{}- Load, peers and server are all on this machine\n", where_and_when());
    writeln!(
        out,
        "- Server: {}, fsync off, scale 10",
        output_of("psql", &["--version"]).replace("psql (PostgreSQL)", "PostgreSQL")
    )?;
    writeln!(
        out,
        "- pgbouncer: {}, session mode",
        output_of("/usr/sbin/pgbouncer", &["--version"]).lines().next().unwrap_or_default()
    )?;
    writeln!(
        out,
        "- Disk: an append and fdatasync takes {:.2} ms there when nothing else runs",
        sync_time(600)?.as_secs_f64() * 1000.0
    )?;
    writeln!(out, "- {rounds} rounds of {seconds} s each, interleaved; medians. No TLS between client and peer.\n")?;
    out.push_str(
        "Postern decides and durably records every operation (one shared fdatasync for all that wait) before it forwards it; neither peer \
         does. \"Postern\" dials the server itself, \"Postern, tunnel\" goes through an agent over QUIC.\n\n### Transactions a second\n\n",
    );
    table(&mut out, peers, results, |measured| measured.tps, true)?;
    out.push_str("\n### Mean latency, milliseconds\n\n");
    table(&mut out, peers, results, |measured| measured.latency_ms, false)?;
    write_part("sessions", &out)
}

fn table(
    out: &mut String,
    peers: &[&str],
    results: &[Vec<Vec<Measured>>],
    of: impl Fn(&Measured) -> f64,
    counts: bool,
) -> Result<()> {
    write!(out, "| load | clients |")?;
    for peer in peers {
        write!(out, " {peer} |")?;
    }
    if counts {
        write!(out, " Postern / direct | Postern / pgbouncer | tunnel / direct |")?;
    }
    writeln!(out, "\n| --- | ---: |{}", " ---: |".repeat(peers.len() + if counts { 3 } else { 0 }))?;
    for (workload, row) in WORKLOADS.iter().zip(results) {
        let medians: Vec<f64> = row.iter().map(|cell| median(cell.iter().map(&of))).collect();
        write!(out, "| {} | {} |", workload.name, workload.clients)?;
        for value in &medians {
            if counts {
                write!(out, " {value:.0} |")?;
            } else {
                write!(out, " {value:.2} |")?;
            }
        }
        if let (true, [direct, bouncer, postern, tunnel]) = (counts, medians.as_slice()) {
            write!(out, " {:.2} | {:.2} | {:.2} |", postern / direct, postern / bouncer, tunnel / direct)?;
        }
        out.push('\n');
    }
    Ok(())
}

/// Writes criterion's figures to the report.
pub(crate) fn append_micro(file: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let mut out = format!(
        "## One operation inside the gateway\n\n{}\nBy criterion; the middle figure is the estimate.\n\n",
        where_and_when()
    );
    out.push_str("| what | time |\n| --- | --- |\n");
    for line in text.lines() {
        if let Some((name, time)) = line.split_once("time:") {
            writeln!(out, "| {} | {} |", name.trim(), time.trim().trim_matches(['[', ']']))?;
        }
    }
    write_part("operation", &out)
}
