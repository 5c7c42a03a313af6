//! Many clients that keep a session open, and note when it ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postern_benches::{client, progress};
use postern_chaos::live::wire::message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Logins at a time.
const AT_ONCE: usize = 16;
const LIMIT: Duration = Duration::from_secs(120);
/// Between two queries of a busy client.
const PAUSE: Duration = Duration::from_millis(50);
const READY: &[u8] = b"Z\0\0\0\x05I";

/// Clients with open sessions.
pub(crate) struct Crowd {
    clients: JoinSet<Result<(bool, Instant)>>,
    open: Arc<AtomicUsize>,
    count: usize,
}

impl Crowd {
    /// Opens `count` sessions in turn at each of the gateways. With `busy` every other one queries all the time.
    pub(crate) async fn open(gateways: &[String], token: &str, count: usize, busy: bool) -> Result<Self> {
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        let open = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for place in 0..count {
            let address = gateways.get(place % gateways.len().max(1)).context("a gateway")?.clone();
            let (token, gate, open) = (token.to_owned(), Arc::clone(&gate), Arc::clone(&open));
            // By twos, so that each gateway has both kinds.
            let busy = busy && (place / gateways.len().max(1)) % 2 == 1;
            clients.spawn(async move {
                let permit = gate.acquire().await?;
                let stream = persist(&address, &token).await?;
                drop(permit);
                open.fetch_add(1, Ordering::Relaxed);
                stay(stream, busy).await.map(|end| (busy, end))
            });
        }
        Ok(Self { clients, open, count })
    }

    /// Until all are open, and a moment has passed.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.open.load(Ordering::Relaxed) < self.count {
            ensure!(began.elapsed() < LIMIT, "{} of {} are open", self.open.load(Ordering::Relaxed), self.count);
            if let Some(ended) = self.clients.try_join_next() {
                bail!("a session ended: {ended:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(self.is_open(), "sessions ended by themselves");
        progress(&format!("{} sessions, after {:.1} s", self.count, began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Whether none has ended.
    pub(crate) fn is_open(&mut self) -> bool {
        self.clients.try_join_next().is_none()
    }

    /// When each ended: the idle ones, and the busy ones.
    pub(crate) async fn ends(mut self) -> Result<(Vec<Instant>, Vec<Instant>)> {
        let (mut idle, mut busy) = (Vec::new(), Vec::new());
        while let Some(ended) =
            tokio::time::timeout(LIMIT, self.clients.join_next()).await.context("some do not end")?
        {
            let (was_busy, at) = ended??;
            if was_busy { busy.push(at) } else { idle.push(at) }
        }
        Ok((idle, busy))
    }
}

/// Logs in; again, while a change that takes a right back is on its way.
async fn persist(address: &str, token: &str) -> Result<TcpStream> {
    let began = Instant::now();
    loop {
        match client::login(address, crate::writes::TARGET, token).await {
            Ok(stream) => return Ok(stream),
            Err(error) if began.elapsed() > LIMIT => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Stays until the connection ends: when that was.
async fn stay(mut stream: TcpStream, busy: bool) -> Result<Instant> {
    let query = message('Q', b"SELECT count(*) FROM orders\0")?;
    let mut seen = Vec::new();
    loop {
        if busy && stream.write_all(&query).await.is_err() {
            return Ok(Instant::now());
        }
        seen.clear();
        // An idle one reads on for ever.
        while !busy || !seen.ends_with(READY) {
            match stream.read_buf(&mut seen).await {
                Ok(0) | Err(_) => return Ok(Instant::now()),
                Ok(_) => {}
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
