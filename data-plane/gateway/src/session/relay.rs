//! The relay: one loop that moves bytes both ways, and wakes for everything else that may happen to a session.
//!
//! Memory is bounded (I11): a side is read only while what it leads to is below [`Relay::high`], so at most that and one frame wait in each
//! buffer. Both sides are written and read in the same loop, so that neither can block the other.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postern_core::policy::{Circumstances, OpenedReviews, PolicySlice};
use postern_core::{Code, OperationId, Principal};
use postern_protocols::postgres::analyze::AnalyzeContext;
use postern_protocols::postgres::codec;
use postern_protocols::postgres::session::{
    ClientStep, Limits as SessionLimits, Pending, ProtocolError, ResultEvent, ServerProgress, Session,
};
use postern_protocols::sql::Relation;
use postern_runtime::clock;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::begun::Beginning;
use super::clock::{Cancelling, Clock};
use super::decide::Asked;
use super::delayed::Delayed;
use super::drain::Drain;
use super::hold::{Next, Waiting};
use super::names::{Gate, Refresh, masking};
use super::outbox::Outbox;
use super::past::History;
use super::policy::in_flight;
use super::record::Rows;
use super::wait::{Flow, Woken};
use super::{End, Shared};
use crate::cancel::CancelKey;
use crate::catalogs::Dated;
use crate::credentials::Holding;
use crate::limits::Place;
use crate::policy_feed::{Feed, Seat, Standing};
use crate::recorder::SessionRecorder;
use crate::upstream::{BoxStream, Destination, Upstream};

pub(super) const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a relay is made of.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    /// Its place among the sessions.
    pub(super) place: Place,
    pub(super) principal: Principal,
    /// Where the client comes from.
    pub(super) source: IpAddr,
    pub(super) to: Destination,
    pub(super) recorder: SessionRecorder,
    pub(super) seat: Seat,
    pub(super) catalog: Dated,
    pub(super) beginning: Beginning,
    pub(super) key: CancelKey,
    pub(super) client: BoxStream,
    pub(super) from_client: BytesMut,
    pub(super) to_client: BytesMut,
    pub(super) upstream: Upstream,
}

/// Both connections, each in two halves.
pub(super) struct Sides {
    pub(super) client_read: ReadHalf<BoxStream>,
    pub(super) client_write: WriteHalf<BoxStream>,
    pub(super) server_read: ReadHalf<BoxStream>,
    pub(super) server_write: WriteHalf<BoxStream>,
}

/// A session's whole state.
pub(super) struct Relay {
    pub(super) shared: Arc<Shared>,
    /// Its place among the sessions.
    pub(super) place: Place,
    pub(super) principal: Principal,
    source: IpAddr,
    pub(super) to: Destination,
    pub(super) recorder: SessionRecorder,
    pub(super) seat: Seat,
    pub(super) standing: Arc<Standing>,
    pub(super) slice: PolicySlice,
    /// What the control plane has down for review.
    pub(super) reviews: OpenedReviews,
    pub(super) catalog: Dated,
    pub(super) beginning: Beginning,
    pub(super) context: Arc<AnalyzeContext>,
    pub(super) refresh: Option<Refresh>,
    pub(super) gate: Gate,
    pub(super) session: Session,
    pub(super) waiting: Option<Waiting>,
    pub(super) history: History,
    /// The target has said at its login what can be said again.
    pub(super) says_constant: bool,
    /// What cannot be decided yet.
    pub(super) delayed: Option<Delayed>,
    /// The client knows that operations wait for room in the spool.
    pub(super) told_roomless: bool,
    /// Relations that are there, and in no catalog.
    pub(super) unlisted: BTreeSet<Relation>,
    /// The operation that reads some of which nobody knows.
    pub(super) doubted: Option<(OperationId, Vec<Relation>)>,
    pub(super) sides: Sides,
    pub(super) outbox: Outbox,
    pub(super) to_client: BytesMut,
    pub(super) from_client: BytesMut,
    pub(super) from_server: BytesMut,
    pub(super) events: Vec<ResultEvent>,
    rows: Rows,
    /// What may wait for a side, in bytes, before the other is read no further.
    pub(super) high: usize,
    pub(super) feed: watch::Receiver<Feed>,
    pub(super) key: CancelKey,
    pub(super) server_key: (u32, bytes::Bytes),
    /// Keeps the lease up of the account that the target knows.
    _holding: Option<Arc<Holding>>,
    /// When the token ends.
    pub(super) expires: Instant,
    /// When something that permits may have become too old.
    pub(super) stale: Instant,
    pub(super) drain: Drain,
    pub(super) flow: Flow,
    /// For when the token ends, or something becomes too old.
    pub(super) ends: Alarm,
    /// For what was recorded and not written.
    pub(super) quiet: Alarm,
    /// When what runs has run for long enough.
    pub(super) clock: Clock,
    pub(super) cancelling: Option<Cancelling>,
    /// It has ended, and what it had under way is to be stopped at the target.
    pub(super) stops: bool,
}

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        Self { code: Some(error.code()), reason: error.to_string(), told: Some(error.fields()) }
    }
}

impl Relay {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { shared, place, principal, source, to, recorder, mut seat, catalog, beginning, .. } = parts;
        let (context, names_known) = beginning.context(&to.database, &catalog.catalog);
        let standing = seat.now();
        let slice = standing.slice.clone().unwrap_or_default();
        let slice_may_hold = slice.may_hold();
        let (high, limits) = (in_flight(&standing, &slice, &shared), &shared.limits);
        let limits = SessionLimits {
            frames: codec::Limits {
                statement: usize::try_from(limits.max_statement_bytes.0).unwrap_or(usize::MAX),
                ..codec::Limits::default()
            },
            recorded_rows: limits.recorded_rows.into(),
            recorded_bytes: limits.recorded_bytes.0,
            digest_omitted: limits.digest_omitted,
            high_water: high,
        };
        let masking = masking(&standing, &catalog.catalog, &to.database);
        let mut session = Session::new(limits, Arc::clone(&context), masking, clock::random_u128());
        let Upstream { stream, received, ready, holding, .. } = parts.upstream;
        let reported = ready.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        session.begin_with(reported, names_known);
        if let Some(begun) = &beginning.begun {
            session.begin_as(begun);
        }
        let says_constant = Self::said_constant(&ready.parameters);
        let fresh = shared.feed.borrow().freshness(shared.config.staleness_limit.0);
        session.set_open(slice.grants_everything(fresh));
        session.set_obliging(slice.may_oblige());
        let (client_read, client_write) = tokio::io::split(parts.client);
        let (server_read, server_write) = tokio::io::split(stream);
        // It was let in by what may be older.
        place.allow_pair(slice.limits());
        let drain = Drain::new(&shared.supervisor, &shared.config);
        let left = principal.expires_at.map_or(FAR, |at| at.since(clock::now())).min(FAR);
        let feed = shared.feed.clone();
        // Whatever came since it was let in is looked at first.
        seat.look_again();
        let mut this = Self {
            shared,
            place,
            principal,
            source,
            to,
            recorder,
            seat,
            standing,
            slice,
            reviews: OpenedReviews::default(),
            catalog,
            beginning,
            context,
            refresh: None,
            gate: Gate::default(),
            session,
            waiting: None,
            history: History::new(slice_may_hold),
            says_constant,
            delayed: None,
            told_roomless: false,
            unlisted: BTreeSet::new(),
            doubted: None,
            sides: Sides { client_read, client_write, server_read, server_write },
            outbox: Outbox::default(),
            to_client: parts.to_client,
            from_client: parts.from_client,
            from_server: received,
            events: Vec::new(),
            rows: Rows::default(),
            high,
            feed,
            key: parts.key,
            // Its own copy: as a part of what was read it would hold all of that.
            server_key: (ready.pid, bytes::Bytes::copy_from_slice(&ready.secret)),
            _holding: holding,
            expires: Instant::now() + left,
            stale: Instant::now(),
            drain,
            flow: Flow::default(),
            ends: Alarm::default(),
            quiet: Alarm::default(),
            clock: Clock::default(),
            cancelling: None,
            stops: false,
        };
        this.watch_age();
        this
    }

    /// What its operations are decided by beside policy.
    pub(super) fn circumstances(&self) -> Circumstances {
        Circumstances::new(clock::now(), self.freshness()).from(self.source)
    }

    /// And those of an operation that is to be decided.
    pub(super) fn circumstances_of(&self, pending: &Pending) -> Circumstances {
        self.circumstances().in_transaction(self.session.in_transaction(pending))
    }

    /// Relays until the session ends, and says why it did. What it does when something has come is boxed: mostly it waits, and thousands do.
    pub(super) async fn run(&mut self) -> End {
        let end = loop {
            if let Err(end) = Box::pin(self.work()).await {
                break end;
            }
            let woken = match self.write_now().await {
                Some(woken) => woken,
                None => self.wait().await,
            };
            if !matches!(woken, Woken::Moved)
                && let Err(end) = Box::pin(self.wake(woken)).await
            {
                break end;
            }
        };
        if end.cuts_off() {
            self.cut_off();
        }
        end
    }

    /// For everything that the session's task logs.
    pub(super) fn span(&self) -> tracing::Span {
        tracing::info_span!("session", session_id = %self.to.session, principal = %self.principal, target = %self.to.name)
    }

    /// What was under way when the session ended, into the recording.
    pub(super) async fn last_events(&mut self) -> Result<(), End> {
        self.abandon_held("the session ended").await?;
        self.abandon_delayed().await?;
        self.session.abandon(&mut self.events);
        Ok(self.rows.record(&mut self.recorder, &mut self.events).await?)
    }

    /// Works off what is buffered, until both sides want more or are full.
    async fn work(&mut self) -> Result<(), End> {
        loop {
            let server = self.take_server().await?;
            let client = self.take_client().await?;
            if !server && !client {
                self.watch_clock();
                return Ok(());
            }
        }
    }

    /// Takes the server's bytes; true when anything came of them.
    async fn take_server(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while self.to_client.len() < self.high {
            let (before, length) = (self.from_server.len(), self.to_client.len());
            let idle = self.session.target_is_idle();
            let progress = self.session.next_server(&mut self.from_server, &mut self.to_client, &mut self.events)?;
            moved |= before != self.from_server.len() || length != self.to_client.len();
            if let Some(bytes) = self.session.take_to_server() {
                self.outbox.protocol(&bytes);
            }
            self.note_outcomes();
            if before != self.from_server.len() {
                self.history.answered(self.session.transaction_status());
                self.note_target_ends(length, idle);
            }
            if let Err(error) = self.rows.record(&mut self.recorder, &mut self.events).await {
                // What could not be recorded does not leave.
                self.to_client.truncate(length);
                return Err(error.into());
            }
            self.flow.wants_server = progress == ServerProgress::NeedMore;
            if self.flow.wants_server {
                break;
            }
        }
        Ok(moved)
    }

    /// Takes the client's bytes; true when anything came of them.
    async fn take_client(&mut self) -> Result<bool, End> {
        let mut moved = false;
        self.flow.wants_client = false;
        while self.waiting.is_none()
            && self.delayed.is_none()
            && !self.flow.terminated
            && self.outbox.len() < self.high
            && self.to_client.len() < self.high
        {
            if !self.from_client.is_empty() {
                if !self.keep_names() {
                    break;
                }
                self.take_policy().await?;
            }
            match self.session.next_client(&mut self.from_client)? {
                ClientStep::NeedMore => {
                    self.flow.wants_client = true;
                    break;
                }
                ClientStep::Wait => break,
                ClientStep::Forward(bytes) => self.outbox.protocol(&bytes),
                ClientStep::Decide(pending) | ClientStep::Prepare(pending) if self.gate.cancels() => {
                    self.cancelled(pending).await?;
                }
                ClientStep::Decide(pending) => self.decide(pending, Asked::Run).await?,
                ClientStep::Prepare(pending) => self.decide(pending, Asked::Prepare).await?,
                ClientStep::Terminate(bytes) => {
                    self.outbox.protocol(&bytes);
                    self.flow.terminated = true;
                }
            }
            moved = true;
        }
        Ok(moved)
    }

    async fn wake(&mut self, woken: Woken) -> Result<(), End> {
        match woken {
            Woken::Moved => Ok(()),
            Woken::Terminated => Err(End::orderly("the client ended the session")),
            Woken::ClientEnded(how) => Err(match how {
                Ok(()) => End::orderly("the client went away"),
                Err(error) => End { code: None, reason: format!("the client's connection broke: {error}"), told: None },
            }),
            Woken::ServerEnded(how) => {
                // It may have said why, and that goes first.
                self.take_server().await?;
                Err(match how {
                    _ if self.flow.terminated => End::orderly("the client ended the session"),
                    Ok(()) => End {
                        code: Some(Code::TargetUnavailable),
                        reason: "the target closed the connection".into(),
                        told: None,
                    },
                    Err(error) => {
                        let told = End::fatal(Code::TargetUnavailable, "the connection to the target was lost");
                        // A server that has said why may still close in haste, and the client knows.
                        let told = End { told: told.told.filter(|_| !self.session.said_last()), ..told };
                        End { reason: format!("the connection to the target was lost: {error}"), ..told }
                    }
                })
            }
            Woken::Cancel(from) => self.cancel(from).await,
            Woken::Hold(Next::Beat) => {
                self.beat();
                Ok(())
            }
            Woken::Hold(Next::Update(update)) => {
                // A grant is of no use to what was denied meanwhile.
                self.take_policy().await?;
                self.hold_update(update).await
            }
            Woken::Policy => self.take_policy().await,
            Woken::Stale => self.aged().await,
            Woken::OverTime => self.over_time().map_or(Ok(()), Err),
            Woken::TargetTold => {
                self.cancelling = None;
                self.session.cancelled();
                Ok(())
            }
            Woken::Delayed => self.go_on().await,
            Woken::Catalog(dated) => self.refreshed(dated).await,
            Woken::Quiet => Ok(self.recorder.push().await?),
            Woken::Expired => Err(End::fatal(Code::TokenExpired, "the token has expired")),
            Woken::Drained(why) => Err(End::fatal(Code::ShuttingDown, why)),
        }
    }
}
