//! The way to the control plane, through whichever gateway: a stream that the gateway passes on.

use std::io;
use std::time::Duration;

use postern_protocols::tunnel::{self, MAX_MESSAGE, OpenStatus, Opened, ToControlPlane};
use postern_runtime::tunnel::wire;
use postern_runtime::tunnel::{Link, RecvHalf, SendHalf};
use tokio::io::Join;

use super::Shared;

const ANSWER: Duration = Duration::from_secs(8);

/// A stream to the control plane over `link`. What follows is TLS with it, end to end.
pub(crate) async fn to_control_plane(link: &Link) -> io::Result<Join<RecvHalf, SendHalf>> {
    let asked = async {
        let (mut send, mut recv) = link.open().await.map_err(io::Error::other)?;
        wire::write(&mut send, tunnel::frame(&ToControlPlane {})).await.map_err(io::Error::other)?;
        let opened: Opened = wire::read(&mut recv, MAX_MESSAGE, tunnel::decode).await.map_err(io::Error::other)?;
        match opened.status() {
            OpenStatus::Connected => Ok(tokio::io::join(recv, send)),
            _ => Err(io::Error::other(opened.detail)),
        }
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the gateway does not answer");
    tokio::time::timeout(ANSWER, asked).await.map_err(late)?
}

impl Shared {
    /// A stream to the control plane through any gateway that has a tunnel.
    ///
    /// # Errors
    /// When there is none, or none passes on.
    pub(crate) async fn control_plane(&self) -> io::Result<Join<RecvHalf, SendHalf>> {
        let mut last = io::Error::other("no gateway that passes on to the control plane has a tunnel");
        for link in self.links() {
            match to_control_plane(&link).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
