//! Floods, each by a thread of its own: one core is what they get, whatever they try.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postern_benches::client;
use postern_chaos::live::idle::ListenerCertificate;
use postern_chaos::live::wire::{SSL_REQUEST, framed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Connections that send a byte a second.
const CROWD: usize = 2_000;
/// Handshakes, and sessions, at a time.
const AT_ONCE: usize = 8;

/// What is done to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    Nothing,
    Handshakes,
    Loris,
    Operations,
}

/// Where, and as whom.
#[derive(Clone)]
pub(crate) struct Aim {
    pub(crate) address: String,
    pub(crate) target: String,
    pub(crate) token: String,
    pub(crate) certificate: ListenerCertificate,
}

/// A flood that goes on as long as this lives.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Flood {
    pub(crate) const ALL: [Self; 4] = [Self::Nothing, Self::Handshakes, Self::Loris, Self::Operations];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Handshakes => "TLS handshakes, as fast as they go",
            Self::Loris => "2,000 connections that send a byte a second",
            Self::Operations => "operations of one identity, as fast as they go",
        }
    }

    pub(crate) fn start(self, aim: &Aim) -> Running {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (aim, stopped, counted) = (aim.clone(), Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                match self {
                    Self::Nothing => Ok(()),
                    Self::Handshakes => handshakes(&aim, &stopped, &counted).await,
                    Self::Loris => loris(&aim, &stopped, &counted).await,
                    Self::Operations => operations(&aim, &stopped, &counted).await,
                }
            })
        });
        Running { stop, done, thread: Some(thread) }
    }
}

impl Running {
    /// How many handshakes, connections or operations there were so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(ended)) => ended,
            _ => Err(anyhow::anyhow!("a flood panicked")),
        }
    }
}

/// A whole handshake each: it costs the gateway a signature.
async fn handshakes(aim: &Aim, stop: &Arc<AtomicBool>, done: &Arc<AtomicU64>) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(aim.certificate.der.clone())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    let tls = TlsConnector::from(Arc::new(config));
    let mut all = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (tls, address, stop, done) = (tls.clone(), aim.address.clone(), Arc::clone(stop), Arc::clone(done));
        all.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // Past the limit it is refused, which is what is to be seen.
                if handshake(&address, &tls).await.is_ok() {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    while all.join_next().await.is_some() {}
    Ok(())
}

async fn handshake(address: &str, tls: &TlsConnector) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&framed(&SSL_REQUEST.to_be_bytes())?).await?;
    ensure!(stream.read_u8().await? == b'S', "no TLS");
    tls.connect(ServerName::try_from("localhost")?, stream).await?;
    Ok(())
}

async fn loris(aim: &Aim, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let mut crowd: Vec<Option<TcpStream>> = (0..CROWD).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        let second = tokio::time::Instant::now() + Duration::from_secs(1);
        for stream in &mut crowd {
            let alive = stream.as_ref().is_some_and(|stream| stream.try_write(&[0]).is_ok());
            if !alive {
                *stream = TcpStream::connect(&aim.address).await.ok();
                done.fetch_add(1, Ordering::Relaxed);
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        tokio::time::sleep_until(second).await;
    }
    Ok(())
}

async fn operations(aim: &Aim, stop: &Arc<AtomicBool>, done: &Arc<AtomicU64>) -> Result<()> {
    let mut all = JoinSet::new();
    for _ in 0..AT_ONCE {
        let mut stream = client::login(&aim.address, &aim.target, &aim.token).await.context("the flood's login")?;
        let (stop, done) = (Arc::clone(stop), Arc::clone(done));
        all.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client::query(&mut stream, "SELECT 1").await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    Ok(())
}
