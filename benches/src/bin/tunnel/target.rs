//! What the ways lead to: a process that echoes, gives and takes bytes, with and without TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use postern_chaos::live::{Process, wait_until};
use postern_runtime::pki::self_signed_listener;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_runtime::tls;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Echoes what it reads.
pub(crate) const ECHO: u8 = b'e';
/// Gives as many bytes as the eight that follow say.
pub(crate) const GIVE: u8 = b'g';
/// Takes as many bytes as the eight that follow say, and answers with one.
pub(crate) const TAKE: u8 = b't';

/// Bytes at a time, in both directions.
pub(crate) const PIECE: usize = 64 << 10;

/// The process. Dropping it kills it.
pub(crate) struct Target {
    /// Where it speaks plainly.
    pub(crate) plain: u16,
    /// Where it speaks TLS 1.3.
    pub(crate) tls: u16,
    _process: Process,
    _folder: TempDir,
}

impl Target {
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tunnel-bench-").tempdir()?;
        let program = std::env::current_exe()?;
        let arguments = ["target".to_owned(), folder.path().display().to_string()];
        let process = Process::start("target", &program, &arguments, &[], None, folder.path())?;
        let ports = folder.path().join("ports");
        wait_until(Duration::from_secs(10), "the target", || Ok(ports.exists()))?;
        let text = fs::read_to_string(&ports)?;
        let (plain, tls) = text.trim().split_once(' ').context("two ports")?;
        Ok(Self { plain: plain.parse()?, tls: tls.parse()?, _process: process, _folder: folder })
    }
}

/// The process' own main: writes its ports to `ports` in `folder`.
pub(crate) fn serve(folder: &Path) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let supervisor = Supervisor::new();
        let (certificate, key) = self_signed_listener(&["localhost".to_owned()])?;
        let acceptor = TlsAcceptor::from(Arc::new(tls::listener(&certificate, &key, &[])?));
        let plain = TcpListener::bind("127.0.0.1:0").await?;
        let secured = TcpListener::bind("127.0.0.1:0").await?;
        let text = format!("{} {}", plain.local_addr()?.port(), secured.local_addr()?.port());
        let part: PathBuf = folder.join("ports.part");
        fs::write(&part, text)?;
        fs::rename(part, folder.join("ports"))?;
        loop {
            tokio::select! {
                accepted = plain.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    supervisor.spawn("plain", OnEnd::EndSession, async move { drop(answer(stream).await); });
                }
                accepted = secured.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    let acceptor = acceptor.clone();
                    supervisor.spawn("tls", OnEnd::EndSession, async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            drop(answer(stream).await);
                        }
                    });
                }
            }
        }
    })
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE];
    match stream.read_u8().await? {
        GIVE => {
            let mut left = stream.read_u64().await?;
            while left > 0 {
                let size = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                stream.write_all(buffer.get(..size).unwrap_or_default()).await?;
                left = left.saturating_sub(u64::try_from(size).unwrap_or(0));
            }
        }
        TAKE => {
            let mut left = stream.read_u64().await?;
            while left > 0 {
                let size = stream.read(&mut buffer).await?;
                if size == 0 {
                    return Ok(());
                }
                left = left.saturating_sub(u64::try_from(size).unwrap_or(0));
            }
            stream.write_u8(b'.').await?;
        }
        _ => loop {
            let size = stream.read(&mut buffer).await?;
            if size == 0 {
                return Ok(());
            }
            stream.write_all(buffer.get(..size).unwrap_or_default()).await?;
            stream.flush().await?;
        },
    }
    stream.flush().await?;
    // The client closes when it has all.
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
