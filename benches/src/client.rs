//! A client of PostgreSQL's protocol that does as little as can be, so that what is measured is not itself.

use anyhow::{Result, bail, ensure};
use postern_chaos::live::wire::{PROTOCOL_3, framed, message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const READY: &[u8] = b"Z\0\0\0\x05I";

/// Logs in without TLS, as loopback allows.
///
/// # Errors
/// When it is refused.
pub async fn login(address: &str, target: &str, token: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut startup = PROTOCOL_3.to_be_bytes().to_vec();
    startup.extend_from_slice(format!("user\0{target}\0database\0shop\0\0").as_bytes());
    stream.write_all(&framed(&startup)?).await?;
    stream.write_all(&message('p', format!("{token}\0").as_bytes())?).await?;
    ready(&mut stream).await?;
    Ok(stream)
}

/// Runs a statement, and tells whether it was refused.
///
/// # Errors
/// When the session is gone.
pub async fn query(stream: &mut TcpStream, sql: &str) -> Result<bool> {
    stream.write_all(&message('Q', format!("{sql}\0").as_bytes())?).await?;
    let seen = ready(stream).await?;
    Ok(seen.first() == Some(&b'E'))
}

/// Until the server is ready for a query; what it said before.
async fn ready(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut seen = Vec::new();
    while !seen.ends_with(READY) {
        ensure!(stream.read_buf(&mut seen).await? > 0, "the session ended");
        if seen.len() > 1 << 20 {
            bail!("an answer of more than 1 MiB");
        }
    }
    Ok(seen)
}
