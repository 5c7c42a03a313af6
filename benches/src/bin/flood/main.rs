//! What a flood costs those who are let in (I12): the latency of one identity's operations while another floods the gateway, beside that
//! without a flood, in turns.
//!
//! `SECONDS_EACH` (5) for each, `ROUNDS` (3) times.

mod attack;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use attack::{Aim, Flood};
use postern_benches::{client, number, percentile, processor_seconds, progress, where_and_when, write_part};
use postern_chaos::live::idle::ListenerCertificate;
use postern_chaos::live::{Postgres, PostgresOptions, RoleOptions, ThreeProcesses};

const TARGET: &str = "shop-direct";
/// Sessions of whom is measured, one operation after the other with a pause between: they are to wait for nobody of their own.
const SESSIONS: usize = 4;
const PAUSE: Duration = Duration::from_millis(5);
/// What the flooding identity is let have.
const RATE: u32 = 200;
const LIMITED: &str = "\
apiVersion: postern/v1
kind: Policy
metadata: {name: flooder}
spec:
  effect: permit
  principals: {subjects: [test/flooder]}
  targets: {names: [shop-direct]}
  actions: ['sql:select']
  resources: [public.orders]
  limits: {operationsPerSecond: @RATE@}
";

/// What was seen under one flood.
#[derive(Default)]
struct Seen {
    /// Milliseconds of each operation.
    latencies: Vec<f64>,
    seconds: f64,
    flooded: f64,
    /// Of the gateway's processor.
    processor: f64,
}

fn main() -> Result<()> {
    let (rounds, seconds) = (number("ROUNDS", 3_usize)?, number("SECONDS_EACH", 5_u64)?);
    let folder = tempfile::Builder::new().prefix("postern-flood-").tempdir()?;
    let certificate = ListenerCertificate::make(folder.path())?;
    let postgres = Postgres::start(PostgresOptions::default())?;
    let gateway = format!(
        "listener.certificate_file = \"{}\"\nlistener.key_file = \"{}\"\nlimits.operation_wait = \"0s\"\n",
        certificate.certificate_file, certificate.key_file
    );
    let mut three = ThreeProcesses::start(&postgres, RoleOptions { gateway, ..Default::default() })?;
    three.apply(&LIMITED.replace("@RATE@", &RATE.to_string()))?;
    let process = three.gateway()?.id();
    let address = three.postgres_address();
    let token = three.issuer().token("flooder", &["analysts"])?;
    let aim = Aim { address: address.clone(), target: TARGET.to_owned(), token, certificate };
    let token = three.issuer().token("measured", &["analysts"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut seen: Vec<(Flood, Seen)> = Flood::ALL.into_iter().map(|flood| (flood, Seen::default())).collect();
    for round in 1..=rounds {
        for (flood, seen) in &mut seen {
            let running = flood.start(&aim);
            runtime.block_on(async {
                let mut sessions = Vec::new();
                for _ in 0..SESSIONS {
                    sessions.push(persist(&address, &token).await?);
                }
                // The flood has begun by then.
                measure(&mut sessions, Duration::from_secs(1)).await?;
                let (before, began, done) = (processor_seconds(process)?, Instant::now(), running.done());
                seen.latencies.extend(measure(&mut sessions, Duration::from_secs(seconds)).await?);
                #[allow(clippy::cast_precision_loss)] // figures for people
                let flooded = running.done().saturating_sub(done) as f64;
                seen.flooded += flooded;
                seen.processor += processor_seconds(process)? - before;
                seen.seconds += began.elapsed().as_secs_f64();
                anyhow::Ok(())
            })?;
            running.end()?;
            let p99 = percentile(seen.latencies.iter().copied(), 0.99);
            progress(&format!("{round}/{rounds} {}: p99 {p99:.2} ms", flood.name()));
        }
    }
    report(&seen, rounds, seconds)
}

/// A login that is refused for the flood's sake is tried again: so does a client.
async fn persist(address: &str, token: &str) -> Result<tokio::net::TcpStream> {
    let began = Instant::now();
    loop {
        match client::login(address, TARGET, token).await {
            Err(error) if began.elapsed() > Duration::from_secs(60) => return Err(error).context("no login"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            done => return done,
        }
    }
}

/// Milliseconds of each operation.
async fn measure(sessions: &mut [tokio::net::TcpStream], time: Duration) -> Result<Vec<f64>> {
    let until = Instant::now() + time;
    let each = sessions.iter_mut().map(|stream| async move {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let began = Instant::now();
            anyhow::ensure!(!client::query(stream, "SELECT count(*) FROM orders").await?, "an operation was refused");
            latencies.push(began.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(PAUSE).await;
        }
        anyhow::Ok(latencies)
    });
    Ok(futures::future::try_join_all(each).await?.concat())
}

fn report(seen: &[(Flood, Seen)], rounds: usize, seconds: u64) -> Result<()> {
    let mut out = format!("## Floods\n\n{}", where_and_when());
    writeln!(
        out,
        "- {SESSIONS} sessions of one identity, each with one short query after the other and {} ms between, through one gateway to one PostgreSQL, while another \
         floods the gateway; {rounds} rounds of {seconds} s each, in turns. {}\n- Flood, clients and all servers are on the same machine: what a flood's own \
         client uses of it (one core at most) is in the figures, too\n- The gateway's limits are those it has by itself (500 connections a second, 512 handshakes), \
         and a policy's {RATE} operations a second for the identity that floods; past it an operation is refused at once\n",
        PAUSE.as_millis(),
        if cfg!(debug_assertions) { "Built without optimisation" } else { "Release build" }
    )?;
    out.push_str(
        "| flood | of it a second | p50 ms | p99 ms | longest ms | p99, times that without | gateway's processor, cores |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let of = |seen: &Seen, part| percentile(seen.latencies.iter().copied(), part);
    let quiet = seen.first().map_or(f64::NAN, |(_, quiet)| of(quiet, 0.99));
    for (flood, seen) in seen {
        writeln!(
            out,
            "| {} | {:.0} | {:.2} | {:.2} | {:.1} | {:.1} | {:.2} |",
            flood.name(),
            seen.flooded / seen.seconds,
            of(seen, 0.5),
            of(seen, 0.99),
            of(seen, 1.0),
            of(seen, 0.99) / quiet,
            seen.processor / seen.seconds,
        )?;
    }
    write_part("flood", &out)
}
