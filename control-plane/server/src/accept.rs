//! Accepts connections, so many at once: more wait in the listener's queue (I12).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

/// Out of file descriptors, for one: waiting lets others end.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener, and places for what it accepts.
pub(crate) struct Acceptor {
    listener: TcpListener,
    slots: Arc<Semaphore>,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener, most: usize) -> Self {
        Self { listener, slots: Arc::new(Semaphore::new(most)) }
    }

    /// The next connection, and its place, which it has until that is dropped. Cancel-safe.
    pub(crate) async fn next(&self) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        // Never closed.
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return Some((stream, address, slot)),
                Err(error) => {
                    let listener = self.listener.local_addr().ok();
                    warn!(?listener, %error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}
