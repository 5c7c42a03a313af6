//! The table, as Markdown.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{Measured, WORKLOADS};

const PATH: &str = "docs/benchmarks.md";

/// One line of progress, on standard error.
pub(crate) fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).output();
    run.ok().and_then(|run| String::from_utf8(run.stdout).ok()).unwrap_or_default().trim().to_owned()
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    format!("{cores} cores ({model}), {} GiB, Linux {}", total / (1 << 20), output_of("uname", &["-r"]))
}

/// The median time of an append and `fdatasync` where the spool lies, in milliseconds: the floor under every recorded operation.
fn sync_ms() -> Result<f64> {
    let mut file = tempfile::tempfile()?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        file.write_all(&[0; 600])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(times))
}

/// Writes the whole report.
pub(crate) fn write(peers: &[&str], results: &[Vec<Vec<Measured>>], rounds: u32, seconds: u32) -> Result<()> {
    let mut out = String::from("# Benchmarks\n\nWritten by `make bench`; not by hand.\n\n");
    writeln!(out, "- Date: {}", output_of("date", &["-u", "+%Y-%m-%d %H:%M UTC"]))?;
    writeln!(out, "- Machine: {}; load, peers and server all on it", machine())?;
    writeln!(out, "- Commit: {}", output_of("git", &["describe", "--always", "--dirty"]))?;
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
    writeln!(out, "- Disk: an append and fdatasync takes {:.2} ms there when nothing else runs", sync_ms()?)?;
    writeln!(out, "- {rounds} rounds of {seconds} s each, interleaved; medians. No TLS between client and peer.\n")?;
    out.push_str(
        "Postern decides and durably records every operation (one shared fdatasync for all that wait) before it forwards it; neither peer \
         does. \"Postern\" dials the server itself, \"Postern, tunnel\" goes through an agent over QUIC.\n\n## Transactions a second\n\n",
    );
    table(&mut out, peers, results, |measured| measured.tps, true)?;
    out.push_str("\n## Mean latency, milliseconds\n\n");
    table(&mut out, peers, results, |measured| measured.latency_ms, false)?;
    fs::write(std::env::var("OUTPUT").unwrap_or_else(|_| PATH.to_owned()), out).context("cannot write the report")
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
        let medians: Vec<f64> = row.iter().map(|cell| median(cell.iter().map(&of).collect())).collect();
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

/// Appends criterion's figures to the report.
pub(crate) fn append_micro(file: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let mut out = fs::read_to_string(PATH)?;
    out.push_str("\n## One operation inside the gateway\n\nBy criterion, on the same machine; the middle figure is the estimate.\n\n");
    out.push_str("| what | time |\n| --- | --- |\n");
    for line in text.lines() {
        if let Some((name, time)) = line.split_once("time:") {
            writeln!(out, "| {} | {} |", name.trim(), time.trim().trim_matches(['[', ']']))?;
        }
    }
    fs::write(PATH, out).context("cannot write the report")
}
