//! Clients that ask `SELECT 1` through a gateway, a tunnel and an agent all the while, and keep how long each answer took.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use postern_chaos::live::wire::Wire;

const EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

/// Sessions that are open, one at each gateway.
pub(crate) struct Pings {
    stop: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<f64>>>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Pings {
    /// Opens the sessions; returns when all are.
    pub(crate) fn start(addresses: &[String], token: &str) -> Result<Self> {
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut clients = Vec::new();
        for address in addresses {
            let mut wire = Wire::connect_tls(address, PATIENCE)?;
            wire.login("shop", "shop", token).with_context(|| address.clone())?;
            let (stop, taken) = (Arc::clone(&stop), Arc::clone(&taken));
            clients.push(std::thread::spawn(move || ping(wire, &stop, &taken)));
        }
        Ok(Self { stop, taken, clients })
    }

    /// Milliseconds of each answer since this was last asked.
    pub(crate) fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the sessions; none of them may have been lost.
    pub(crate) fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(())
    }
}

fn ping(mut wire: Wire, stop: &AtomicBool, taken: &Mutex<Vec<f64>>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = wire.query("SELECT 1").context("a session was lost in the storm")?;
        if let Some(error) = answer.iter().find(|message| message.kind == 'E') {
            bail!("a session was refused an answer: {:?}", error.fields());
        }
        let millis = asked.elapsed().as_secs_f64() * 1e3;
        taken.lock().unwrap_or_else(PoisonError::into_inner).push(millis);
        std::thread::park_timeout(EVERY.saturating_sub(asked.elapsed()));
    }
    wire.message('X', b"")
}
