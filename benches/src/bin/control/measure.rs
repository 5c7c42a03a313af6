//! Throughput and latency of writes, and how long it takes until another leads.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use postern_benches::percentile;
use postern_chaos::live::cluster::ClientOptions;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::system::{Client, System};

/// Objects that one client writes in turn: no two clients write the same one.
const OBJECTS: u32 = 16;
/// Clients on one connection: below the number of streams that servers permit on one.
const CLIENTS_EACH: u32 = 64;

/// What one round gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Acknowledged writes a second.
    pub(crate) rate: f64,
    /// Milliseconds.
    pub(crate) median: f64,
    /// Milliseconds.
    pub(crate) p99: f64,
    /// Microseconds of processor time, all members together, for one write.
    pub(crate) processor: f64,
}

/// Threads of the load itself: both systems share the machine with it.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// `clients` write to the leader for `seconds`, each the next as soon as the last is acknowledged.
pub(crate) fn writes(system: &mut System, clients: u32, seconds: u64) -> Result<Measured> {
    let leader = system.leader()?;
    let runtime = runtime()?;
    let _guard = runtime.enter();
    let connections = clients.div_ceil(CLIENTS_EACH).max(1) as usize;
    let options = ClientOptions { attempt: Duration::from_secs(10), limit: Duration::from_secs(30), connections };
    let client = system.client(options)?.only(leader);
    // Connections and caches are warm before it counts.
    runtime.block_on(load(&client, clients, Duration::from_millis(500)))?;
    let before = system.processor_seconds();
    let start = Instant::now();
    let times = runtime.block_on(load(&client, clients, Duration::from_secs(seconds)))?;
    let elapsed = start.elapsed().as_secs_f64();
    let processor = system.processor_seconds() - before;
    let count = f64::from(u32::try_from(times.len())?);
    let of = |part: f64| percentile(times.iter().copied(), part);
    Ok(Measured { rate: count / elapsed, median: of(0.5), p99: of(0.99), processor: processor / count * 1_000_000.0 })
}

/// The latency of each write in milliseconds.
async fn load(client: &Client, clients: u32, time: Duration) -> Result<Vec<f64>> {
    let mut tasks = JoinSet::new();
    let end = Instant::now() + time;
    for number in 0..clients {
        let client = client.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            let mut count = 0_u32;
            while Instant::now() < end {
                let start = Instant::now();
                let key = format!("bench-{number}-{}", count % OBJECTS);
                client.put(&key, &value(number, count)).await?;
                times.push(start.elapsed().as_secs_f64() * 1000.0);
                count += 1;
            }
            Ok::<_, postern_chaos::live::cluster::Failure>(times)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done.map_err(|error| anyhow!("a client panicked: {error}"))??);
    }
    Ok(all)
}

/// 128 bytes that no other write has.
fn value(client: u32, count: u32) -> String {
    format!("{client:08}{count:08}{:0112x}", fastrand::u128(..))
}

/// From SIGKILL of the leader to the first acknowledged write that began after it, in milliseconds, by a client that knows all members.
pub(crate) fn failover(system: &mut System) -> Result<f64> {
    let leader = system.leader()?;
    let runtime = runtime()?;
    let _guard = runtime.enter();
    let options = ClientOptions { attempt: Duration::from_millis(250), limit: Duration::from_secs(30), connections: 1 };
    let client = system.client(options)?;
    // It has connections, and writes have come through.
    for count in 0..20 {
        runtime.block_on(client.put("bench-failover", &value(0, count))).context("before the kill")?;
    }
    let start = Instant::now();
    system.kill(leader)?;
    let done = runtime.block_on(client.put("bench-failover", &value(0, 20)));
    let elapsed = start.elapsed().as_secs_f64() * 1000.0;
    if let Err(failure) = done {
        bail!("no write after the leader was killed: {failure}");
    }
    system.restart(leader)?;
    Ok(elapsed)
}
