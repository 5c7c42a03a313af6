//! The end of a session: outcomes that stay unknown are recorded as such, the client is told why, the recording is sealed.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;

use super::End;
use super::cancel::Stop;
use super::open::farewell;
use super::policy::CLIENTS_FIRST;
use super::relay::{Relay, Sides};
use crate::metrics;

/// How long the target may take to take what was forwarded, Terminate among it.
const TARGET: Duration = Duration::from_secs(1);

/// Ends `relay` because of `end`.
pub(super) async fn finish(mut relay: Box<Relay>, end: End) {
    if let Err(worse) = relay.last_events().await {
        tracing::warn!(reason = worse.reason, "the session's last events could not be recorded");
    }
    let stop = relay.stops.then(|| Stop::of(&relay));
    let Relay { recorder, session, sides, mut outbox, mut to_client, .. } = *relay;
    let Sides { client_read, client_write, mut server_read, mut server_write } = sides;
    metrics::session_ended(end.code);
    match end.code {
        None => tracing::info!(reason = end.reason, "session ends"),
        Some(code) => tracing::warn!(%code, reason = end.reason, "session ends"),
    }
    if let Some(told) = &end.told {
        // In the middle of a message, words would be taken for a part of it.
        if !session.is_amid() {
            told.encode(&mut to_client);
        }
    }
    // Of all sessions that end at the same moment the clients are told first: the rest comes after the tasks that are ready now, and where policy ended
    // them, which may be a thousand, after a while: targets and recordings have more to do with an end than clients.
    let later = end.cuts_off().then(|| CLIENTS_FIRST.mul_f64(1.0 + fastrand::f64()));
    let after_clients = || async move {
        match later {
            Some(later) => tokio::time::sleep(later).await,
            None => tokio::task::yield_now().await,
        }
    };
    let client = client_read.unsplit(client_write);
    let told = async {
        // Nothing to tell: a client that left must not hold its recording up.
        if !to_client.is_empty() {
            farewell(client, &to_client).await;
        }
    };
    let target = async {
        after_clients().await;
        let pending: &mut BytesMut = outbox.pending();
        let sent = async {
            server_write.write_all(pending).await?;
            server_write.flush().await?;
            server_write.shutdown().await
        };
        let _ = tokio::time::timeout(TARGET, sent).await;
        if let Some(stop) = stop {
            stop.until_closed(&mut server_read).await;
        }
        drop(server_read);
    };
    let sealed = async {
        after_clients().await;
        if let Err(error) = recorder.seal(end.code, &end.reason).await {
            tracing::warn!(%error, "the recording is sealed once the spool can be written again");
        }
    };
    tokio::join!(told, target, sealed);
}
