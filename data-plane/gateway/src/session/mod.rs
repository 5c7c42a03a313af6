//! One client connection, from its first byte to its sealed recording. One task, one owner of everything in it, no locks.
//!
//! [`open`] takes the connection through handshake, token, recording and the target's login; [`relay`] then carries it, [`decide`] being
//! the only way by which an operation gets into the [`outbox`]; [`end`] tells the client why and seals.

mod acknowledged;
mod alarm;
mod begun;
mod buffers;
mod cancel;
mod clock;
mod decide;
mod delayed;
mod drain;
mod end;
mod hold;
mod names;
mod open;
mod outbox;
mod past;
mod policy;
mod record;
mod relay;
mod reviewed;
mod room;
mod startup;
mod wait;

use std::net::SocketAddr;
use std::sync::Arc;

use postern_core::{Code, Name};
use postern_protocols::postgres::errors::ErrorFields;
use postern_runtime::supervisor::Supervisor;
use postern_runtime::workers::Workers;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::approvals::Approvals;
use crate::cancel::CancelKeys;
use crate::catalogs::Catalogs;
use crate::config::{GatewayConfig, Limits};
use crate::estimate::Estimator;
use crate::fleet::Fleet;
use crate::issuer_keys::IssuerKeys;
use crate::limits::{FailedLogins, Handshake, Limiter};
use crate::metrics;
use crate::policy_feed::{Feed, Standings};
use crate::recorder::RecorderHandle;
use crate::reviews::Reviews;
use crate::upstream::Dialer;
use crate::uses::Uses;

/// What all sessions of a gateway share; each part is a handle.
pub(crate) struct Shared {
    pub(crate) gateway: Name,
    pub(crate) limits: Limits,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) config: GatewayConfig,
    pub(crate) tls: TlsAcceptor,
    pub(crate) feed: watch::Receiver<Feed>,
    pub(crate) standings: Standings,
    pub(crate) recorder: RecorderHandle,
    pub(crate) dialer: Dialer,
    pub(crate) catalogs: Catalogs,
    pub(crate) approvals: Approvals,
    pub(crate) estimator: Estimator,
    pub(crate) cancels: CancelKeys,
    pub(crate) issuer_keys: IssuerKeys,
    pub(crate) uses: Uses,
    pub(crate) reviews: Reviews,
    pub(crate) failed_logins: FailedLogins,
    pub(crate) fleet: Fleet,
    pub(crate) supervisor: Supervisor,
    /// Where sessions run.
    pub(crate) workers: Workers,
}

/// Why a session ends.
#[derive(Debug)]
pub(crate) struct End {
    /// As a stable code; none for an orderly end.
    code: Option<Code>,
    /// For the recording and the log.
    reason: String,
    /// What the client is told, when it is told anything.
    told: Option<ErrorFields>,
}

impl End {
    /// In good order.
    fn orderly(reason: &str) -> Self {
        Self { code: None, reason: reason.to_owned(), told: None }
    }

    /// Broken off: the client is told `message`.
    fn fatal(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code: Some(code), reason: message.clone(), told: Some(ErrorFields::fatal(code, message)) }
    }

    /// Whether the session has lost the right to what it has under way: its statement may have had its time, and not been stopped by the target.
    const fn cuts_off(&self) -> bool {
        matches!(
            self.code,
            Some(
                Code::Denied
                    | Code::PolicyUnavailable
                    | Code::TokenExpired
                    | Code::Revoked
                    | Code::Killed
                    | Code::Cancelled
            )
        )
    }

    /// Broken off: the client is told what `code` says, the log more.
    fn logged(code: Code, reason: impl std::fmt::Display) -> Self {
        let told =
            ErrorFields { severity: postern_protocols::postgres::errors::Severity::Fatal, ..ErrorFields::of(code) };
        Self { code: Some(code), reason: reason.to_string(), told: Some(told) }
    }
}

/// Serves one client connection to its end.
pub(crate) async fn serve(stream: TcpStream, from: SocketAddr, shared: Arc<Shared>, handshake: Handshake) {
    let _alive = metrics::connection();
    // Boxed, each part: what only the beginning and the end need must not lie in the task while the session is idle.
    let Some(mut relay) = Box::pin(open::open(stream, from, &shared, handshake)).await else { return };
    let _open = (metrics::session_opened(), shared.fleet.session());
    drop(shared);
    let span = relay.span();
    let relayed = async {
        tracing::info!(%from, "session begins");
        let end = relay.run().await;
        Box::pin(end::finish(relay, end)).await;
    };
    tracing::Instrument::instrument(relayed, span).await;
}
