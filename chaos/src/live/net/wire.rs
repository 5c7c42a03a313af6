//! A wire between a host and its network that loses, delays, doubles and reorders frames as it is told, in both directions.
//!
//! Two TAP devices, and a thread that carries frames from one to the other. Frames go as the hosts' kernels made them: no offloading
//! merges them on the way, so that what is lost is what a real wire would lose.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

/// Frames that are on their way at a time; more are lost, as in a router's queue.
const QUEUE: usize = 2_048;
const FRAME: usize = 2_048;

/// How a wire treats what goes over it. The default is a good wire.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Of all frames, how many are lost: 0 to 1.
    pub loss: f64,
    /// Of all frames, how many come twice: 0 to 1.
    pub twice: f64,
    /// How long each takes, one way.
    pub delay: Duration,
    /// Up to so much more for each frame, by chance: frames overtake each other.
    pub jitter: Duration,
    /// UDP is dropped, as by a firewall.
    pub no_udp: bool,
    /// Nothing goes from the host to the network.
    pub mute: bool,
    /// Nothing goes from the network to the host.
    pub deaf: bool,
}

impl Weather {
    /// Nothing goes either way.
    #[must_use]
    pub fn cut() -> Self {
        Self { mute: true, deaf: true, ..Self::default() }
    }
}

/// A wire. Dropping it ends it, and its devices with it.
#[derive(Debug)]
pub struct Wire {
    weather: Arc<Mutex<Weather>>,
    carried: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Makes the devices `inner` (for the host) and `outer` (for the network), and carries between them. By `seed` everything happens by
    /// chance in the same way.
    ///
    /// # Errors
    /// When this is not root, or there is no `/dev/net/tun`.
    pub(super) fn new(inner: &str, outer: &str, seed: u64) -> Result<Self> {
        let weather = Arc::new(Mutex::new(Weather::default()));
        let carried = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let (made, ready) = std::sync::mpsc::channel();
        let names = (inner.to_owned(), outer.to_owned());
        let shared = (Arc::clone(&weather), Arc::clone(&carried));
        let thread = std::thread::Builder::new().name("wire".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(made.send(Err(anyhow!(error)))),
            };
            runtime.block_on(async {
                let devices = device(&names.0).and_then(|inner| Ok((inner, device(&names.1)?)));
                let (inner, outer) = match devices {
                    Ok(devices) => devices,
                    Err(error) => return drop(made.send(Err(error))),
                };
                // Whoever made it waits for this.
                let _ = made.send(Ok(()));
                let direction = |from, to, outward| Direction {
                    from,
                    to,
                    outward,
                    weather: &shared.0,
                    carried: &shared.1,
                    chance: fastrand::Rng::with_seed(seed.wrapping_mul(2).wrapping_add(u64::from(outward))),
                    queue: BinaryHeap::new(),
                    count: 0,
                };
                tokio::select! {
                    _ = stopped => {}
                    _ = direction(&inner, &outer, true).carry() => {}
                    _ = direction(&outer, &inner, false).carry() => {}
                }
            });
        })?;
        ready.recv().context("the wire's thread ended")??;
        Ok(Self { weather, carried, stop: Some(stop), thread: Some(thread) })
    }

    /// From now on it treats frames so.
    pub fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Frames that arrived so far, both ways.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn device(name: &str) -> Result<AsyncDevice> {
    let device = DeviceBuilder::new().name(name).layer(Layer::L2).build_async();
    device.with_context(|| format!("no TAP device {name}: is this root, and is there a /dev/net/tun?"))
}

struct Direction<'a> {
    from: &'a AsyncDevice,
    to: &'a AsyncDevice,
    outward: bool,
    weather: &'a Mutex<Weather>,
    carried: &'a AtomicU64,
    chance: fastrand::Rng,
    /// By when they are due, then in order.
    queue: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
}

impl Direction<'_> {
    async fn carry(mut self) -> std::io::Result<()> {
        let mut buffer = vec![0; FRAME];
        loop {
            let due = self.queue.peek().map(|Reverse((due, ..))| *due);
            tokio::select! {
                biased;
                () = until(due) => {
                    if let Some(Reverse((_, _, frame))) = self.queue.pop() {
                        self.deliver(&frame).await;
                    }
                }
                size = self.from.recv(&mut buffer) => {
                    let frame = buffer.get(..size?).unwrap_or_default();
                    for delay in self.fate(frame).into_iter().flatten() {
                        if delay.is_zero() && self.queue.is_empty() {
                            self.deliver(frame).await;
                        } else if self.queue.len() < QUEUE {
                            self.count = self.count.wrapping_add(1);
                            self.queue.push(Reverse((Instant::now() + delay, self.count, frame.to_vec())));
                        }
                    }
                }
            }
        }
    }

    async fn deliver(&self, frame: &[u8]) {
        // A device that is down loses it, as a cable that is not plugged in does.
        if self.to.send(frame).await.is_ok() {
            self.carried.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// After what delay it arrives, once or twice or never.
    fn fate(&mut self, frame: &[u8]) -> [Option<Duration>; 2] {
        let weather = *self.weather.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = if self.outward { weather.mute } else { weather.deaf };
        if silent || (weather.no_udp && is_udp(frame)) || self.chance.f64() < weather.loss {
            return [None, None];
        }
        let mut delay = || weather.delay + weather.jitter.mul_f64(self.chance.f64());
        let (first, second) = (delay(), delay());
        let twice = self.chance.f64() < weather.twice;
        [Some(first), twice.then_some(second)]
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Ethernet (IEEE 802.3) with IPv4 (RFC 791) and UDP in it.
fn is_udp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00]) && frame.get(23) == Some(&17)
}
