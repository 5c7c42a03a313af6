//! What is measured of each way.

use std::time::Instant;

use anyhow::{Result, anyhow};
use postern_benches::percentile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::target::{ECHO, GIVE, PIECE, TAKE};
use crate::ways::{Stream, Way};

const BULK: u64 = 512 << 20;
const STREAMS: u64 = 32;
const EACH: u64 = 16 << 20;
const ROUND_TRIPS: u32 = 10_000;
const OPENINGS: u32 = 500;

/// One round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Megabytes a second from the target, on one stream.
    pub(crate) down: f64,
    /// To the target.
    pub(crate) up: f64,
    /// From the target, over many streams at once.
    pub(crate) many: f64,
    /// Microseconds there and back for 64 bytes.
    pub(crate) ping: f64,
    pub(crate) ping_p99: f64,
    /// Microseconds to open a stream and have its first byte back.
    pub(crate) open: f64,
    pub(crate) open_p99: f64,
}

pub(crate) async fn measure(way: &Way, percent: u32) -> Result<Measured> {
    // Whole mebibytes: what is given and taken goes in whole pieces.
    let part = |whole: u64| (whole * u64::from(percent) / 100).max(1 << 20).next_multiple_of(1 << 20);
    // Windows and caches are warm before it counts.
    down(way.open().await?, 16 << 20).await?;
    let (bulk, each) = (part(BULK), part(EACH));
    let start = Instant::now();
    down(way.open().await?, bulk).await?;
    let down_rate = rate(bulk, start);
    let mut stream = way.open().await?;
    let start = Instant::now();
    stream.write_u8(TAKE).await?;
    stream.write_u64(bulk).await?;
    let piece = vec![7; PIECE];
    for _ in 0..bulk / u64::try_from(PIECE)? {
        stream.write_all(&piece).await?;
    }
    stream.flush().await?;
    stream.read_u8().await?;
    let up = rate(bulk, start);
    drop(stream);

    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(way.open().await?);
    }
    let start = Instant::now();
    let all = streams.into_iter().map(|stream| down(stream, each));
    for done in futures::future::join_all(all).await {
        done?;
    }
    let many = rate(each * STREAMS, start);

    let mut stream = way.open().await?;
    stream.write_u8(ECHO).await?;
    let mut pings = Vec::new();
    let (message, mut back) = ([1; 64], [0; 64]);
    for _ in 0..(ROUND_TRIPS * percent / 100).max(100) {
        let start = Instant::now();
        stream.write_all(&message).await?;
        stream.flush().await?;
        stream.read_exact(&mut back).await?;
        pings.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let mut opens = Vec::new();
    for _ in 0..(OPENINGS * percent / 100).max(20) {
        let start = Instant::now();
        let mut stream = way.open().await?;
        stream.write_all(&[ECHO, b'x']).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        opens.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let of = |values: &[f64], part| percentile(values.iter().copied(), part);
    let (ping, ping_p99) = (of(&pings, 0.5), of(&pings, 0.99));
    Ok(Measured { down: down_rate, up, many, ping, ping_p99, open: of(&opens, 0.5), open_p99: of(&opens, 0.99) })
}

async fn down(mut stream: Box<dyn Stream>, bytes: u64) -> Result<()> {
    stream.write_u8(GIVE).await?;
    stream.write_u64(bytes).await?;
    stream.flush().await?;
    let mut buffer = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        let size = stream.read(&mut buffer).await?;
        left = match u64::try_from(size)? {
            0 => return Err(anyhow!("the stream ended {left} bytes too soon")),
            size => left.saturating_sub(size),
        };
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // megabytes
fn rate(bytes: u64, since: Instant) -> f64 {
    bytes as f64 / 1e6 / since.elapsed().as_secs_f64()
}
