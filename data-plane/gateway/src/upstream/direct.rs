//! Connections that the gateway itself dials.

use std::time::Duration;

use postern_core::target::Address;
use postern_runtime::net::keep_alive;
use tokio::net::TcpStream;

use super::UpstreamError;

const CONNECT: Duration = Duration::from_secs(10);

pub(super) async fn connect(address: &Address) -> Result<TcpStream, UpstreamError> {
    let dialled = TcpStream::connect((address.host(), address.port()));
    let stream = tokio::time::timeout(CONNECT, dialled)
        .await
        .map_err(|_| UpstreamError::TimedOut)?
        .map_err(UpstreamError::Connect)?;
    stream.set_nodelay(true).and_then(|()| keep_alive(&stream)).map_err(UpstreamError::Connect)?;
    Ok(stream)
}
