//! What a session waits for, and how it moves what needs no thought.

use std::task::Poll;
use std::time::Duration;

use super::buffers::{poll_write, read, release, write};
use super::clock::reached;
use super::delayed::over;
use super::hold::{Next, Waiting};
use super::names::Refresh;
use super::relay::{Relay, Sides};
use crate::catalogs::Dated;

/// After so long what was recorded goes to the disk without waiting for the next operation's permit.
const QUIET: Duration = Duration::from_millis(20);

/// What each side waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    /// The session wants more of the client's bytes.
    pub(super) wants_client: bool,
    /// The session wants more of the server's bytes.
    pub(super) wants_server: bool,
    /// Written and not flushed.
    pub(super) client_unflushed: bool,
    pub(super) server_unflushed: bool,
    /// The client has sent its last byte.
    pub(super) terminated: bool,
}

/// What woke the loop.
pub(super) enum Woken {
    Moved,
    Terminated,
    ClientEnded(std::io::Result<()>),
    ServerEnded(std::io::Result<()>),
    Cancel(std::net::SocketAddr),
    Hold(Next),
    Delayed,
    Policy,
    Stale,
    OverTime,
    TargetTold,
    Catalog(Option<Dated>),
    Quiet,
    Expired,
    Drained(&'static str),
}

impl Relay {
    /// Writes what waits for either side, as far as each takes it at once: mostly all of it, and then nothing but the sides' own words is waited for.
    /// Some when that makes room for more work, or a side is gone.
    pub(super) async fn write_now(&mut self) -> Option<Woken> {
        let was_full = self.outbox.len() >= self.high || self.to_client.len() >= self.high;
        let Self { sides, flow, outbox, to_client, .. } = self;
        let (client, server) = std::future::poll_fn(|cx| {
            let client = poll_write(cx, &mut sides.client_write, to_client, &mut flow.client_unflushed);
            let server = poll_write(cx, &mut sides.server_write, outbox.pending(), &mut flow.server_unflushed);
            Poll::Ready((client, server))
        })
        .await;
        match (client, server) {
            (Poll::Ready(Err(error)), _) => Some(Woken::ClientEnded(Err(error))),
            (_, Poll::Ready(Err(error))) => Some(Woken::ServerEnded(Err(error))),
            _ => {
                let is_full = self.outbox.len() >= self.high || self.to_client.len() >= self.high;
                (was_full && !is_full).then_some(Woken::Moved)
            }
        }
    }

    /// Waits until something can be moved, or something happens.
    pub(super) async fn wait(&mut self) -> Woken {
        let idle = self.session.is_idle()
            && self.waiting.is_none()
            && self.delayed.is_none()
            && self.from_client.is_empty()
            && self.to_client.is_empty()
            && self.outbox.is_empty();
        // What the target still works at ends before it takes the Terminate, and closes then.
        if self.flow.terminated
            && self.outbox.is_empty()
            && !self.flow.server_unflushed
            && self.session.current_operation().is_none()
        {
            return Woken::Terminated;
        }
        self.ends.set(self.expires.min(self.stale));
        if self.recorder.has_waiting() {
            self.quiet.set_if_off(QUIET);
        }
        let Self {
            sides,
            flow,
            outbox,
            to_client,
            from_client,
            from_server,
            waiting,
            delayed,
            refresh,
            seat,
            key,
            drain,
            high,
            ends,
            quiet,
            expires,
            stale,
            clock,
            cancelling,
            ..
        } = self;
        let Sides { client_read, client_write, server_read, server_write } = sides;
        release(from_client);
        release(from_server);
        // While an operation is held, or the target works, the client is read only as far as its going away must be noticed.
        let read_client = flow.wants_client || (from_client.len() < *high && !flow.terminated);
        let read_server = flow.wants_server && to_client.len() < *high;
        let write_client = !to_client.is_empty() || flow.client_unflushed;
        let write_server = !outbox.is_empty() || flow.server_unflushed;
        tokio::select! {
            biased;
            () = ends.rings() => if *expires <= *stale { Woken::Expired } else { Woken::Stale },
            () = clock.over(), if clock.runs() => Woken::OverTime,
            () = reached(cancelling), if cancelling.is_some() => Woken::TargetTold,
            why = drain.over(idle) => Woken::Drained(why),
            Some(from) = key.requests.recv() => Woken::Cancel(from),
            update = next_update(waiting), if waiting.is_some() => Woken::Hold(update),
            () = over(delayed.as_mut()), if delayed.is_some() => Woken::Delayed,
            () = seat.changed() => Woken::Policy,
            dated = next_catalog(refresh), if refresh.is_some() => Woken::Catalog(dated),
            written = write(client_write, to_client, &mut flow.client_unflushed), if write_client => match written {
                Ok(()) => Woken::Moved,
                Err(error) => Woken::ClientEnded(Err(error)),
            },
            written = write(server_write, outbox.pending(), &mut flow.server_unflushed), if write_server => match written {
                Ok(()) => Woken::Moved,
                Err(error) => Woken::ServerEnded(Err(error)),
            },
            read = read(server_read, from_server), if read_server => match read {
                Ok(0) => Woken::ServerEnded(Ok(())),
                Ok(_) => Woken::Moved,
                Err(error) => Woken::ServerEnded(Err(error)),
            },
            read = read(client_read, from_client), if read_client => match read {
                Ok(0) => Woken::ClientEnded(Ok(())),
                Ok(_) => Woken::Moved,
                Err(error) => Woken::ClientEnded(Err(error)),
            },
            () = quiet.rings() => Woken::Quiet,
        }
    }
}

async fn next_update(waiting: &mut Option<Waiting>) -> Next {
    match waiting {
        Some(waiting) => waiting.next().await,
        None => std::future::pending().await,
    }
}

async fn next_catalog(refresh: &mut Option<Refresh>) -> Option<Dated> {
    match refresh {
        Some(refresh) => refresh.done().await,
        None => std::future::pending().await,
    }
}
