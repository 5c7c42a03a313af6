//! From an accepted connection to a session that can be relayed: handshake, token, target, recording, login.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use postern_core::policy::PolicySlice;
use postern_core::recording::Started;
use postern_core::secret::SecretBytes;
use postern_core::{Code, Name, Principal, SessionId};
use postern_protocols::postgres::codec::write;
use postern_protocols::postgres::errors::{ErrorFields, client_message};
use postern_protocols::postgres::handshake::{
    AwaitStartup, HandshakeError, Opened as Step, PasswordStep, Startup, Tls,
};
use postern_runtime::clock;
use postern_runtime::jwt::TokenError;
use postern_runtime::net::keep_alive;
use postern_runtime::tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Shared;
use super::begun::{Beginning, ask_begun};
use super::relay::Relay;
use super::startup::{Settings, Unbegun, taken};
use crate::identify::{Admitted, Refusal, identify};
use crate::limits::{Central, Exceeded, Handshake, Place};
use crate::metrics;
use crate::policy_feed::Current;
use crate::replayed::Replayed;
use crate::upstream::{BoxStream, Destination, Recorded};

/// How long a refused client may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);
const BUFFER: usize = 8 << 10;
/// Who was granted access a moment ago comes with it before the control plane has told of it: it may take so long.
const GRANTED_SOON: Duration = Duration::from_millis(700);
/// A new session begins with a catalog no older than this.
const FRESH_AT_OPENING: Duration = Duration::from_secs(5);

/// A connection is not let in.
enum Refused {
    /// The client goes away, or only came to cancel: nothing to tell.
    Silently,
    Because(Code, ErrorFields, String),
    /// By the target, whose words those are.
    AsSaid(Code, Bytes, String),
}

impl Refused {
    fn because(code: Code, log: impl std::fmt::Display) -> Self {
        Self::Because(code, ErrorFields::fatal(code, client_message(code)), log.to_string())
    }
}

impl From<std::io::Error> for Refused {
    fn from(_: std::io::Error) -> Self {
        Self::Silently
    }
}

impl From<HandshakeError> for Refused {
    fn from(error: HandshakeError) -> Self {
        if error.is_of_no_client() {
            return Self::AsSaid(error.code(), Bytes::new(), error.to_string());
        }
        Self::Because(error.code(), error.fields(), error.to_string())
    }
}

/// The connection itself, through every layer.
struct Connection {
    stream: BoxStream,
    received: BytesMut,
    /// SHA-256 of the certificate that the client has shown.
    certificate: Option<[u8; 32]>,
}

/// A client that is let in, and its place among the sessions.
struct Entered {
    startup: Startup,
    admitted: Admitted,
    current: Arc<Current>,
    place: Place,
}

/// Opens a session, or tells the client why not. Until its token is accepted it may have to make room for others.
pub(super) async fn open(
    stream: TcpStream,
    from: SocketAddr,
    shared: &Arc<Shared>,
    handshake: Handshake,
) -> Option<Box<Relay>> {
    let mut connection = None;
    let hurry = shared.supervisor.hurry_token();
    let draining = || Refused::because(Code::Draining, "shutting down");
    let entered = tokio::select! {
        entered = enter(stream, from, shared, &mut connection) => entered,
        () = handshake.has_to_go() => Err(Refused::Silently),
        () = hurry.cancelled() => Err(draining()),
    };
    let entered = match entered {
        Ok(entered) => entered,
        Err(refused) => {
            tokio::select! {
                () = tell(refused, from, connection) => {}
                () = handshake.has_to_go() => {}
            }
            return None;
        }
    };
    drop(handshake);
    // Kept until the client has been told, when it comes to that.
    let mut place = Some(entered.place);
    let begun = tokio::select! {
        begun = begin(entered.startup, entered.admitted, entered.current, from, shared, &mut connection, &mut place) => begun,
        () = hurry.cancelled() => Err(draining()),
    };
    match begun {
        Ok(relay) => Some(relay),
        Err(refused) => {
            tell(refused, from, connection).await;
            None
        }
    }
}

async fn tell(refused: Refused, from: SocketAddr, connection: Option<Connection>) {
    let (code, words, log) = match refused {
        Refused::Silently => return,
        Refused::Because(code, fields, log) => (code, fields.to_bytes(), log),
        Refused::AsSaid(code, words, log) => (code, words, log),
    };
    metrics::refused(code);
    if code == Code::Overloaded {
        // Counted by what there is too much of; a flood must not become one of log lines.
        tracing::debug!(%from, %code, reason = log, "session refused");
    } else {
        tracing::info!(%from, %code, reason = log, "session refused");
    }
    if let Some(Connection { stream, .. }) = connection {
        farewell(stream, &words).await;
    }
}

async fn enter(
    stream: TcpStream,
    from: SocketAddr,
    shared: &Arc<Shared>,
    slot: &mut Option<Connection>,
) -> Result<Entered, Refused> {
    let limit = shared.limits.handshake_timeout.0;
    let greeted = tokio::time::timeout(limit, async {
        let (startup, waiting) = greet(stream, from, shared, slot).await?;
        takes_sessions(shared)?;
        let connection = slot.as_mut().ok_or(Refused::Silently)?;
        let token = password(connection, waiting).await?;
        takes_sessions(shared)?;
        Ok::<_, Refused>((startup, token, connection.certificate))
    });
    let (startup, token, certificate) = match greeted.await {
        Ok(greeted) => greeted?,
        Err(_) => {
            let fields = ErrorFields::fatal(Code::ProtocolViolation, "no token in time");
            return Err(Refused::Because(Code::ProtocolViolation, fields, "handshake timed out".into()));
        }
    };
    let current = shared.feed.borrow().fresh(shared.config.staleness_limit.0);
    let (current, fresh) = current.ok_or_else(|| Refused::because(Code::PolicyUnavailable, "no fresh policy"))?;
    let (shown, wanted) = (Instant::now(), (&*startup.target, &*startup.database));
    let by = (from.ip(), certificate.as_ref());
    let (mut current, mut admitted) =
        (Arc::clone(&current), identify(&current, fresh, &token, wanted, by, clock::now()));
    if let Err(Refusal::Token(TokenError::UnknownKey)) = &admitted
        && let Ok(text) = std::str::from_utf8(token.expose())
        && shared.issuer_keys.learn(shared.feed.clone(), &current, text.trim_ascii()).await
        && let Some((newer, fresh)) = shared.feed.borrow().fresh(shared.config.staleness_limit.0)
    {
        takes_sessions(shared)?;
        admitted = identify(&newer, fresh, &token, wanted, by, clock::now());
        current = newer;
    }
    let (mut feed, until) = (shared.feed.clone(), tokio::time::Instant::now() + GRANTED_SOON);
    while matches!(&admitted, Err(Refusal::OnRequest { .. })) {
        let newer = feed.borrow_and_update().fresh(shared.config.staleness_limit.0);
        if let Some((newer, fresh)) = newer {
            takes_sessions(shared)?;
            admitted = identify(&newer, fresh, &token, wanted, by, clock::now());
            current = newer;
        }
        if admitted.is_ok() || !matches!(tokio::time::timeout_at(until, feed.changed()).await, Ok(Ok(()))) {
            break;
        }
    }
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            shared.failed_logins.pause(&refusal, from.ip(), shown).await;
            return Err(match refusal.told() {
                Some(text) => {
                    let code = refusal.code();
                    Refused::Because(code, ErrorFields::fatal(code, text), refusal.to_string())
                }
                None => Refused::because(refusal.code(), refusal),
            });
        }
    };
    let central =
        Central::of(&current.snapshot, &admitted.slice, &admitted.name, (&shared.gateway, &shared.fleet.view()));
    let place = shared.limiter.admit(&admitted.principal.id, &admitted.name, central).map_err(|exceeded| {
        let log = format!("{exceeded} ({} on {})", admitted.principal, admitted.name);
        Refused::Because(Code::Overloaded, ErrorFields::fatal(Code::Overloaded, exceeded.to_string()), log)
    })?;
    Ok(Entered { startup: *startup, admitted, current, place })
}

/// Who comes after shutdown has begun is told as soon as it can be told. Whoever had shown a token by then still gets a session.
fn takes_sessions(shared: &Shared) -> Result<(), Refused> {
    let draining = shared.supervisor.shutdown_token().is_cancelled();
    if draining { Err(Refused::because(Code::Draining, "shutting down")) } else { Ok(()) }
}

/// In clear only on the machine itself.
fn demanded_of(client: IpAddr) -> Tls {
    if client.to_canonical().is_loopback() { Tls::Optional } else { Tls::Required }
}

impl From<Exceeded> for Refused {
    fn from(exceeded: Exceeded) -> Self {
        let fields = ErrorFields::fatal(Code::Overloaded, exceeded.to_string());
        Self::Because(Code::Overloaded, fields, exceeded.to_string())
    }
}

/// The handshake up to the request for the token. A connection counts from when it makes work: before TLS, whose keys cost the most.
async fn greet(
    stream: TcpStream,
    from: SocketAddr,
    shared: &Shared,
    slot: &mut Option<Connection>,
) -> Result<(Box<Startup>, postern_protocols::postgres::handshake::AwaitPassword), Refused> {
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    let (mut state, mut counted) = (AwaitStartup::new(demanded_of(from.ip())), false);
    *slot = Some(Connection { stream: Box::new(stream), received: BytesMut::with_capacity(BUFFER), certificate: None });
    loop {
        let connection = slot.as_mut().ok_or(Refused::Silently)?;
        match state.next(&mut connection.received)? {
            Step::NeedMore(same) => {
                state = same;
                more(connection).await?;
            }
            Step::Reply(same, bytes) => {
                state = same;
                send(connection, &bytes).await?;
            }
            Step::StartTls(same, bytes) => {
                state = same;
                shared.limiter.connection()?;
                counted = true;
                send(connection, &bytes).await?;
                let Connection { stream, .. } = slot.take().ok_or(Refused::Silently)?;
                *slot = Some(secure(stream, from, shared, false).await?);
            }
            Step::DirectTls(same) => {
                state = same;
                shared.limiter.connection()?;
                counted = true;
                let Connection { stream, received, .. } = slot.take().ok_or(Refused::Silently)?;
                *slot = Some(secure(Box::new(Replayed::new(received, stream)), from, shared, true).await?);
            }
            Step::Cancel { pid, secret } => {
                // A flood of them is passed on no faster than one at a time each, and only by keys that could be right.
                if !shared.cancels.cancel(pid, &secret, from) {
                    shared.dialer.cancel_elsewhere(pid, &secret, from).await;
                }
                return Err(Refused::Silently);
            }
            Step::Startup(startup, waiting, bytes) => {
                if !counted {
                    shared.limiter.connection()?;
                }
                send(connection, &bytes).await?;
                return Ok((startup, waiting));
            }
        }
    }
}

/// Speaks TLS with the client. One that begins with it must say which protocol is inside (section "SSL Session Encryption"): else what was meant for
/// another service could be led here (ALPACA).
async fn secure(stream: BoxStream, from: SocketAddr, shared: &Shared, direct: bool) -> Result<Connection, Refused> {
    // A failed TLS handshake tells the client itself.
    let stream = shared.tls.accept(stream).await.map_err(|error| {
        metrics::refused(Code::ProtocolViolation);
        tracing::info!(%from, %error, "TLS handshake failed");
        Refused::Silently
    })?;
    let tls = stream.get_ref().1;
    if direct && tls.alpn_protocol().is_none() {
        metrics::refused(Code::ProtocolViolation);
        tracing::info!(%from, "TLS without a request for it, and without ALPN");
        return Err(Refused::Silently);
    }
    let certificate = tls::shown_certificate(tls);
    Ok(Connection { stream: Box::new(stream), received: BytesMut::with_capacity(BUFFER), certificate })
}

async fn password(
    connection: &mut Connection,
    mut waiting: postern_protocols::postgres::handshake::AwaitPassword,
) -> Result<SecretBytes, Refused> {
    loop {
        match waiting.next(&mut connection.received)? {
            PasswordStep::Password(token) => return Ok(token),
            PasswordStep::NeedMore(same) => {
                waiting = same;
                more(connection).await?;
            }
        }
    }
}

/// The recording begins while the target is dialled: nothing of the target's credential is shown, and nothing of the client's goes there, before it has.
async fn begin(
    startup: Startup,
    admitted: Admitted,
    current: Arc<Current>,
    from: SocketAddr,
    shared: &Arc<Shared>,
    slot: &mut Option<Connection>,
    place: &mut Option<Place>,
) -> Result<Box<Relay>, Refused> {
    let Admitted { principal, bearer, name, target, mut slice, sent, database } = admitted;
    let open = is_open(&principal, &name, &slice, &current, shared);
    let settings = Settings::of(&startup, open)?;
    let policy_age = shared.feed.borrow().freshness(shared.config.staleness_limit.0);
    let session: SessionId = clock::session_id();
    // Before anything of it is seen anywhere: of those who come at once, one too many has never begun.
    shared.uses.take(&principal, session).await.map_err(|error| Refused::because(error.code(), error))?;
    let started = Started {
        session,
        principal: principal.clone(),
        target: name.clone(),
        protocol: target.protocol,
        database: database.clone(),
        cluster: current.snapshot.cluster_id.clone(),
        gateway: shared.gateway.to_string(),
        client_address: from.to_string(),
        application: startup.application.clone(),
        revision: current.snapshot.revision,
    };
    let mut to = Destination { name, target, sent, database: database.into(), session };
    // Whatever it says of itself.
    let login_to = to.clone();
    if startup.beyond.is_of_no_database() {
        to.database = to.target.databases.first().map_or("postgres", String::as_str).into();
    }
    let (begins, recorded) = Recorded::soon();
    let quorum_limit = shared.config.quorum_limit.0;
    let record = async {
        let recorder = shared.recorder.open(started).await?;
        let decided = settings.decide(&mut slice, (session, from.ip(), policy_age), recorder, quorum_limit).await?;
        begins.begun();
        Ok::<_, Unbegun>(decided)
    };

    let fresh_enough = Instant::now().checked_sub(FRESH_AT_OPENING).unwrap_or_else(Instant::now);
    let reached = tokio::time::timeout(shared.limits.connect_timeout.0, async {
        let login = shared.dialer.open(&login_to, &settings.told, &recorded);
        let login = async { login.await.map_err(|e| (e.code(), e.to_string(), e.told())) };
        let catalog = shared.catalogs.get(&to, fresh_enough);
        let catalog = async { catalog.await.map_err(|e| (e.code(), e.to_string(), e.told())) };
        // In this order: the login's error tells more than the catalog's of the same cause.
        let (mut upstream, catalog) = tokio::try_join!(biased; login, catalog)?;
        let begun = ask_begun(&mut upstream, &catalog.catalog, open).await?;
        Ok((upstream, catalog, begun))
    });
    let (recorder, reached) = tokio::join!(record, reached);
    let (mut recorder, asked) = recorder.map_err(|unbegun| {
        let (code, fields, log) = unbegun.told();
        Refused::Because(code, fields, log)
    })?;
    let reached = reached.unwrap_or_else(|_| Err((Code::TargetUnavailable, "no session in time".into(), None)));
    let (upstream, catalog, begun) = match reached {
        Ok(reached) => reached,
        Err((code, why, said)) => {
            metrics::upstream_failed(code);
            if let Err(error) = recorder.seal(Some(code), client_message(code)).await {
                tracing::warn!(%session, %error, "the refused session's recording is sealed later");
            }
            let log = format!("{session}: target {}: {why}", to.name);
            return Err(match said.filter(|_| open) {
                Some(said) => Refused::AsSaid(code, said, log),
                None => Refused::because(code, log),
            });
        }
    };

    if let Some(operation) = asked {
        recorder.enqueue(&taken(operation)).await.map_err(|error| Refused::because(error.code(), error))?;
    }
    let key = shared.cancels.register(upstream.ready.pid, startup.minor >= 2, current.snapshot.mask_key.expose());
    let mut hello = BytesMut::new();
    write::authentication_ok(&mut hello);
    if open {
        // Of others' logins a trigger might tell what is masked.
        hello.extend_from_slice(&upstream.ready.notices);
    }
    for (name, value) in &upstream.ready.parameters {
        write::parameter_status(&mut hello, name, value);
    }
    write::backend_key(&mut hello, key.pid, &key.secret);
    write::ready_for_query(&mut hello, upstream.ready.status);
    let on = (&to.name, &to.database);
    let seat = shared.standings.join(session, (&principal, &bearer), on, &current.snapshot);
    let seat = seat.ok_or_else(|| Refused::because(Code::PolicyUnavailable, "no policy"))?;
    let Connection { stream, received, .. } = slot.take().ok_or(Refused::Silently)?;
    let max_statement = usize::try_from(shared.limits.max_statement_bytes.0).unwrap_or(usize::MAX);
    let beginning = Beginning::of(&startup, &upstream.ready.parameters, &catalog.catalog, begun, max_statement);
    Ok(Box::new(Relay::new(super::relay::Parts {
        shared: Arc::clone(shared),
        place: place.take().ok_or(Refused::Silently)?,
        principal,
        source: from.ip(),
        to,
        recorder,
        seat,
        catalog,
        beginning,
        key,
        client: stream,
        from_client: received,
        to_client: hello,
        upstream,
    })))
}

/// Whether everything is granted, and nothing masked.
fn is_open(principal: &Principal, name: &Name, slice: &PolicySlice, current: &Current, shared: &Shared) -> bool {
    let fresh = shared.feed.borrow().freshness(shared.config.staleness_limit.0);
    slice.grants_everything(fresh) && current.snapshot.mask_slice(principal, name, &slice.masks()).is_empty()
}

async fn more(connection: &mut Connection) -> Result<(), Refused> {
    if connection.stream.read_buf(&mut connection.received).await? == 0 {
        return Err(Refused::Silently);
    }
    Ok(())
}

async fn send(connection: &mut Connection, bytes: &Bytes) -> Result<(), Refused> {
    connection.stream.write_all(bytes).await?;
    Ok(connection.stream.flush().await?)
}

/// Sends the last words and waits until the client has read them: closing with unread input would reset the connection before.
pub(super) async fn farewell(mut stream: BoxStream, bytes: &[u8]) {
    let told = async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(FAREWELL, told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_demanded_off_loopback() {
        for near in ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(demanded_of(near.parse().unwrap()), Tls::Optional, "{near}");
        }
        for far in ["10.0.0.1", "0.0.0.0", "192.0.2.7", "fe80::1", "::ffff:10.0.0.1", "2001:db8::1"] {
            assert_eq!(demanded_of(far.parse().unwrap()), Tls::Required, "{far}");
        }
    }
}
