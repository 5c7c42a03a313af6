//! Bytes between two streams: each direction by itself, with its end, its reset and its stop passed on as they come.

use postern_runtime::tunnel::{RecvHalf, SendHalf, StreamFault, cause};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::metrics;

/// An idle direction keeps this much; a busy one up to the most.
const LEAST: usize = 1 << 10;
const MOST: usize = 64 << 10;

/// Carries until both directions have ended.
pub(super) async fn both(one: (SendHalf, RecvHalf), other: (SendHalf, RecvHalf)) {
    let ((one_send, one_recv), (other_send, other_recv)) = (one, other);
    tokio::join!(direction(one_recv, other_send), direction(other_recv, one_send));
}

/// How a direction ended before its end.
enum Broken {
    /// By whoever sends.
    Reset(u32),
    /// By whoever reads.
    Stopped(u32),
}

async fn direction(mut from: RecvHalf, mut to: SendHalf) {
    match pump(&mut from, &mut to).await {
        Ok(()) => {
            // Whoever reads may be gone: then it knows already.
            let _ = to.finish();
        }
        Err(Broken::Reset(why)) => to.reset(why),
        Err(Broken::Stopped(why)) => from.stop(why),
    }
}

async fn pump(from: &mut RecvHalf, to: &mut SendHalf) -> Result<(), Broken> {
    let mut buffer = vec![0; LEAST];
    // Also while nothing comes: whoever sends shall hear that nobody reads any more.
    let stopped = to.stopped();
    tokio::pin!(stopped);
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.map_err(|error| match StreamFault::of(&error) {
                Some(StreamFault::Reset(why) | StreamFault::Stopped(why)) => Broken::Reset(why),
                None => Broken::Reset(cause::BROKEN),
            })?,
            stopped = &mut stopped => return Err(Broken::Stopped(stopped.ok().flatten().unwrap_or(cause::BROKEN))),
        };
        if read == 0 {
            return Ok(());
        }
        let bytes = buffer.get(..read).unwrap_or_default();
        to.write_all(bytes).await.map_err(|error| match StreamFault::of(&error) {
            Some(StreamFault::Stopped(why) | StreamFault::Reset(why)) => Broken::Stopped(why),
            None => Broken::Stopped(cause::BROKEN),
        })?;
        metrics::carried(read);
        if read == buffer.len() && read < MOST {
            buffer = vec![0; read.saturating_mul(4).min(MOST)];
        } else if read < LEAST && buffer.len() > LEAST {
            buffer = vec![0; LEAST];
        }
    }
}
