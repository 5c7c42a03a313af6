//! TCP connections that may be silent for hours, while an operation is held, say.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence after which the other side is probed. Home routers, and the NATs of cloud providers, forget a connection after 5 minutes or so.
pub const SILENCE: Duration = Duration::from_secs(60);
/// Between probes that nobody answers.
const AGAIN: Duration = Duration::from_secs(15);
/// Unanswered probes after which the connection is broken: some three minutes after the other side vanished.
const PROBES: u32 = 8;

/// Has the system probe the other side of a silent connection: what lies between goes on knowing it, and a side that vanished is noticed.
///
/// # Errors
/// When the system refuses.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let how = TcpKeepalive::new().with_time(SILENCE).with_interval(AGAIN).with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&how)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_connection_is_probed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!SockRef::from(&stream).keepalive().unwrap());
        keep_alive(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), SILENCE);
        assert_eq!(
            (socket.tcp_keepalive_interval().unwrap(), socket.tcp_keepalive_retries().unwrap()),
            (AGAIN, PROBES)
        );
    }
}
