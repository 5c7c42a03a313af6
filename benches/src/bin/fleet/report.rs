//! The report.

use std::fmt::Write as _;

use anyhow::Result;
use postern_benches::{percentile, where_and_when, write_part};
use postern_chaos::live::crowd::Storm;

use crate::Found;
use crate::scenes::Scene;

/// Writes its part of the report.
pub(crate) fn write(found: &Found) -> Result<()> {
    let mut out = format!("## A fleet of thousands of agents\n\n{}", where_and_when());
    writeln!(
        out,
        "- {} gateways and all agents in one process, the leader of the control plane in its own, all on this machine: the gateways and agents \
         are the real ones, whole, over QUIC on loopback, with certificates of the cluster's authority and three tunnels for each agent, which has \
         one socket. {}\n\
         - Simplified: no network between them, one source address for all agents, and the processors are shared by all; a gateway that is \
         killed loses its tasks and sockets at once, without a word, as by SIGKILL, but no process ends\n\
         - Steady: every agent has its tunnels, and every gateway knows of exactly the tunnels that there are\n",
        found.gateways,
        if cfg!(debug_assertions) { "Built without optimisation" } else { "Release build" }
    )?;
    growth(&mut out, &found.scenes)?;
    storms(&mut out, found)?;
    write_part("fleet", &out)
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn growth(out: &mut String, scenes: &[Scene]) -> Result<()> {
    out.push_str(
        "One member of the control plane. \"Let in\": agents that come for the first time, all at once, with a join token, through gateways. \
         \"Start\": all agents start at once with a certificate.\n\n\
         | agents | let in, a second | start: steady after s | tunnels dialled for each agent | agents of a gateway, fewest and most | leader's processor, s | messages to it | from it |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for scene in scenes {
        let (new, seconds) = scene.let_in;
        writeln!(
            out,
            "| {} | {:.0} | {:.1} | {:.2} | {} to {} | {:.2} | {:.0} | {:.0} |",
            scene.agents,
            new as f64 / seconds,
            scene.start.seconds,
            dialled(&scene.start.storm) / scene.agents as f64,
            scene.spread.0,
            scene.spread.1,
            scene.start.load.processor,
            scene.start.load.reports,
            scene.start.load.answers,
        )?;
    }
    out.push_str(
        "\nNothing happens, and then single agents stop and start; the leader's part:\n\n\
         | agents | calm: processor | messages to it a second | KB a second | from it | KB a second | a change: processor ms | messages to it | KB | from it | KB | gateways and agents together: processor | MiB |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for scene in scenes {
        let (calm, change) = (&scene.calm, &scene.change);
        let second = |value: f64| value / calm.seconds;
        writeln!(
            out,
            "| {} | {:.1} % | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.1} | {:.2} | {:.0} % | {:.0} |",
            scene.agents,
            second(calm.processor) * 100.0,
            second(calm.reports),
            second(calm.report_bytes) / 1e3,
            second(calm.answers),
            second(calm.answer_bytes) / 1e3,
            change.processor * 1e3,
            change.reports,
            change.report_bytes / 1e3,
            change.answers,
            change.answer_bytes / 1e3,
            scene.crowd_processor * 100.0,
            scene.memory,
        )?;
    }
    Ok(())
}

fn dialled(storm: &Storm) -> f64 {
    storm.up + storm.failed
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn storms(out: &mut String, found: &Found) -> Result<()> {
    out.push_str(
        "\nOne gateway is killed and started again at once. Meanwhile sessions of PostgreSQL at other gateways ask `SELECT 1` through their tunnels, \
         recorded and all, 20 times a second each.\n\n\
         | agents | steady after s | tunnels dialled for each agent of it | sent away | leader's processor, s | answers before: p50 ms | p99 ms | meanwhile: p50 ms | p99 ms | longest ms |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for scene in &found.scenes {
        let its = scene.agents as f64 * 3.0 / found.gateways as f64;
        let of = |values: &[f64], part| percentile(values.iter().copied(), part);
        let (before, during) = &scene.pings;
        writeln!(
            out,
            "| {} | {:.1} | {:.2} | {:.0} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            scene.agents,
            scene.one.seconds,
            dialled(&scene.one.storm) / its,
            scene.one.storm.busy,
            scene.one.load.processor,
            of(before, 0.5),
            of(before, 0.99),
            of(during, 0.5),
            of(during, 0.99),
            of(during, 1.0),
        )?;
    }
    if let Some(disaster) = &found.disaster {
        writeln!(
            out,
            "\nAll {} gateways and the leader (of three members) are killed at once, with {} agents; the gateways start again, the member does not. Steady, with the directory \
             of the new leader, after {:.1} s: {:.2} tunnels dialled for each agent, {:.0} tries sent away as too many at once, {:.0} handshakes given up, {:.0} tunnels over TCP \
             at the end. The new leader's processor for it: {:.2} s, {:.0} messages to it ({:.0} KB) and {:.0} from it ({:.0} KB).",
            found.gateways,
            disaster.agents,
            disaster.seconds,
            dialled(&disaster.storm) / disaster.agents as f64,
            disaster.storm.busy,
            disaster.storm.handshakes,
            disaster.storm.over_tcp,
            disaster.load.processor,
            disaster.load.reports,
            disaster.load.report_bytes / 1e3,
            disaster.load.answers,
            disaster.load.answer_bytes / 1e3,
        )?;
    }
    Ok(())
}
