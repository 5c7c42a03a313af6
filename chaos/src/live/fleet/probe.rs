//! Sessions that stay open and ask again and again: what they notice of what befalls others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::super::postgres::Postgres;
use super::super::process::wait_until;
use super::super::wire::Wire;

/// How long a probe waits for an answer before its session counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(25);
const SOON: Duration = Duration::from_secs(30);

/// One session through one gateway. Dropping it ends it.
#[derive(Debug)]
pub struct Probe {
    name: String,
    /// Where its gateway is among all.
    pub gateway: usize,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// When it asked, and how long the answer took.
    answers: Vec<(Instant, Duration)>,
    asked: Option<Instant>,
    lost: Option<String>,
}

impl Probe {
    /// Logs in, and asks from then on.
    pub(super) fn start(number: usize, gateway: usize, address: &str, token: &str) -> Result<Self> {
        let name = format!("probe_{number}");
        let mut wire = Wire::connect_tls(address, PATIENCE)?;
        wire.login("shop", "shop", token).with_context(|| format!("{name} at {address}"))?;
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (written, told) = (Arc::clone(&state), Arc::clone(&stop));
        let sql = format!("SELECT 1 AS {name}");
        let thread = std::thread::spawn(move || {
            let state = || written.lock().unwrap_or_else(PoisonError::into_inner);
            while !told.load(Ordering::Relaxed) {
                let asked = Instant::now();
                state().asked = Some(asked);
                let answer = wire.query(&sql);
                let mut state = state();
                state.asked = None;
                let told = match answer {
                    Ok(answer) => answer.iter().find_map(|message| (message.kind == 'E').then(|| message.field('C'))),
                    Err(error) => Some(Some(format!("{error:#}"))),
                };
                if let Some(why) = told {
                    state.lost = Some(why.unwrap_or_default());
                    return;
                }
                state.answers.push((asked, asked.elapsed()));
                drop(state);
                std::thread::park_timeout(PAUSE);
            }
            // Orderly, so that its recording says so.
            let _ = wire.message('X', b"");
        });
        let this = Self { name, gateway, state, stop, thread: Some(thread) };
        wait_until(SOON, "the probe's first answer", || Ok(!this.state().answers.is_empty()))?;
        Ok(this)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address by which its target sees it: which agent it goes through.
    ///
    /// # Errors
    /// When the target does not see it.
    pub fn agent(&self, postgres: &Postgres) -> Result<String> {
        let seen = postgres.sql(
            "shop",
            &format!("SELECT host(client_addr) FROM pg_stat_activity WHERE query = 'SELECT 1 AS {}'", self.name),
        )?;
        let seen = seen.trim();
        ensure!(!seen.is_empty() && !seen.contains('\n'), "{}: {seen:?}", self.name);
        Ok(seen.to_owned())
    }

    /// The median and the slowest of its answers since `since`, one that is still awaited among them.
    ///
    /// # Errors
    /// When its session was lost, or nothing was answered.
    pub fn latency(&self, since: Instant) -> Result<(Duration, Duration)> {
        let state = self.state();
        if let Some(why) = &state.lost {
            anyhow::bail!("{} is lost: {why}", self.name);
        }
        let mut all: Vec<Duration> =
            state.answers.iter().filter(|(asked, _)| *asked >= since).map(|(_, took)| *took).collect();
        all.extend(state.asked.map(|asked| asked.elapsed()));
        all.sort_unstable();
        let (median, slowest) = (all.get(all.len() / 2), all.last());
        Ok((*median.context("nothing was asked")?, *slowest.context("nothing was asked")?))
    }

    /// Whether its session goes on.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.state().lost.is_none()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
