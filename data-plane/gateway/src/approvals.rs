//! Holds: asks the control plane for a review, follows it, and takes the grant (I7).
//!
//! Each held operation has one task of its own, so that a slow control plane never stalls the session's relay. The session reads what
//! happens from a channel; to give up, it drops the handle, and the task withdraws the request.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::approval::{Approval, ApprovalState, Review};
use postern_core::background::{Background, Ending};
use postern_core::operation::Digest;
use postern_core::policy::ConsumedApproval;
use postern_core::wire::WireError;
use postern_core::wire::identity::{approval_from_proto, approval_to_proto};
use postern_core::{ApprovalId, SessionId, Timestamp};
use postern_proto::gateway::v1::hold_service_client::HoldServiceClient;
use postern_proto::gateway::v1::{
    ConsumeApprovalRequest, RequestApprovalRequest, WatchApprovalRequest, WithdrawApprovalRequest,
};
use postern_proto::resource::v1::Approval as ApprovalProto;
use postern_runtime::backoff::Backoff;
use postern_runtime::clock;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use tokio::sync::{mpsc, oneshot};
use tonic::Code as Status;

use crate::control::Failover;
use crate::metrics;

/// How long each question to the control plane may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a request is tried while the control plane is away: a client waits for it.
const REQUEST: Duration = Duration::from_secs(5);
/// How long one that is known is followed while the control plane is away, where policy does not say that it waits.
const AWAY: Duration = Duration::from_secs(30);
/// How long a consumption or a withdrawal is.
const PERSIST: Duration = Duration::from_secs(30);
/// What happens to one approval: at most a request, a grant or an end, and partial reviews in between.
const UPDATES: usize = 16;

/// Asks for reviews.
#[derive(Clone, Debug)]
pub(crate) struct Approvals {
    client: HoldServiceClient<Failover>,
    supervisor: Supervisor,
}

/// What happened to a held operation.
#[derive(Debug)]
pub(crate) enum HoldUpdate {
    /// The control plane has the request: reviewers can see it.
    Requested {
        /// When it lapses.
        expires_at: Timestamp,
        /// When the target ends the transaction, or the session, by itself.
        ends: Option<Ending>,
    },
    /// Granted, and taken for this session alone.
    Granted {
        /// What makes a permit of it.
        consumed: ConsumedApproval,
        /// Who said what.
        reviews: Vec<Review>,
    },
    /// It ends without a grant.
    Refused {
        /// Denied, expired, or withdrawn.
        state: ApprovalState,
        /// Who said what.
        reviews: Vec<Review>,
    },
    /// The control plane cannot be asked, so there is no grant.
    Unavailable,
}

/// A held operation's request. Dropped, the request is withdrawn.
#[derive(Debug)]
pub(crate) struct Hold {
    /// The approval.
    pub id: ApprovalId,
    updates: mpsc::Receiver<HoldUpdate>,
    give_up: Option<oneshot::Sender<Cow<'static, str>>>,
}

#[derive(Debug, thiserror::Error)]
enum HoldError {
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("an answer that cannot be used: {0}")]
    Wire(#[from] WireError),
    #[error("an answer without an approval")]
    Empty,
    #[error("no answer in time")]
    TimedOut,
}

impl HoldError {
    /// Whether asking again may help: the control plane is away, not of another opinion.
    fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Status(status) => matches!(
                status.code(),
                Status::Unavailable
                    | Status::DeadlineExceeded
                    | Status::ResourceExhausted
                    | Status::Unknown
                    | Status::Cancelled
            ),
            Self::Wire(_) | Self::Empty => false,
        }
    }
}

impl Approvals {
    /// Over the channel to the control plane.
    #[must_use]
    pub(crate) fn new(channel: Failover, supervisor: Supervisor) -> Self {
        Self { client: HoldServiceClient::new(channel), supervisor }
    }

    /// Requests a review of `approval`, whose id the caller has made, once `look` has told what else reviewers are to know, and follows it. With
    /// `waits`, a control plane that is away is waited for as long as the request may take.
    #[must_use]
    pub(crate) fn request(
        &self,
        approval: Approval,
        waits: bool,
        look: impl Future<Output = Background> + Send + 'static,
    ) -> Hold {
        let id = approval.id;
        let (to, updates) = mpsc::channel(UPDATES);
        let (give_up, given_up) = oneshot::channel();
        let client = self.client.clone();
        self.supervisor.spawn("hold", OnEnd::EndSession, follow(client, (approval, waits), look, to, given_up));
        Hold { id, updates, give_up: Some(give_up) }
    }
}

impl Hold {
    /// What happens next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> HoldUpdate {
        // A closed channel means that the task is gone without a last word.
        self.updates.recv().await.unwrap_or(HoldUpdate::Unavailable)
    }

    /// Gives up, and says why to the reviewers.
    pub(crate) fn withdraw(mut self, because: Cow<'static, str>) {
        if let Some(give_up) = self.give_up.take() {
            // An error means that the task has ended, and with it the request.
            let _ = give_up.send(because);
        }
    }
}

async fn follow(
    client: HoldServiceClient<Failover>,
    (mut approval, waits): (Approval, bool),
    look: impl Future<Output = Background>,
    to: mpsc::Sender<HoldUpdate>,
    given_up: oneshot::Receiver<Cow<'static, str>>,
) {
    let _holding = metrics::holding();
    let began = Instant::now();
    let (id, session, digest) = (approval.id, approval.session, approval.digest);
    let outcome = tokio::select! {
        // A grant that has been taken is told, not withdrawn: look at that first.
        biased;
        outcome = async {
            approval.background = Some(Arc::new(look.await));
            run(&client, approval, waits, &to).await
        } => Some(outcome),
        because = given_up => {
            metrics::held("withdrawn", began.elapsed());
            withdraw(&client, id, &because.unwrap_or(Cow::Borrowed("the session ended"))).await;
            None
        }
    };
    match outcome {
        None => {}
        Some(Ok(update)) => {
            let label = match &update {
                HoldUpdate::Granted { .. } => "granted",
                HoldUpdate::Refused { state, .. } => state.as_str(),
                HoldUpdate::Requested { .. } | HoldUpdate::Unavailable => "unavailable",
            };
            metrics::held(label, began.elapsed());
            // The session may be gone: then nothing runs.
            let _ = to.send(update).await;
        }
        Some(Err(error)) => {
            metrics::held("unavailable", began.elapsed());
            tracing::warn!(approval = %id, %session, %digest, %error, "the control plane cannot be asked for an approval");
            let _ = to.send(HoldUpdate::Unavailable).await;
            withdraw(&client, id, "the gateway could not follow the request").await;
        }
    }
}

async fn run(
    client: &HoldServiceClient<Failover>,
    approval: Approval,
    waits: bool,
    to: &mpsc::Sender<HoldUpdate>,
) -> Result<HoldUpdate, HoldError> {
    let (id, session, digest) = (approval.id, approval.session, approval.digest);
    let ends = approval.background.as_ref().and_then(|background| background.ends.clone());
    let request = RequestApprovalRequest {
        expires_seconds: approval.requirement.expires.0,
        approval: Some(approval_to_proto(&approval)),
    };
    // The same id twice is one approval, so a request whose answer was lost may be repeated.
    let expires = approval.requirement.expires.duration();
    let asked = persistently(if waits { expires } else { REQUEST }, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { read(client.request_approval(request).await?.into_inner().approval) }
    });
    let mut now = match asked.await {
        Err(error) if waits && error.is_transient() => {
            return Ok(HoldUpdate::Refused { state: ApprovalState::Expired, reviews: Vec::new() });
        }
        asked => asked?,
    };
    let _ = to.send(HoldUpdate::Requested { expires_at: now.expires_at, ends }).await;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut heard = Instant::now();
    loop {
        match now.state {
            ApprovalState::Pending => {}
            ApprovalState::Approved => return consume(client, id, session, digest).await,
            state => return Ok(HoldUpdate::Refused { state, reviews: now.reviews }),
        }
        match watch(client, id, (&mut now, &mut heard)).await {
            Ok(()) => backoff.reset(),
            Err(error) if error.is_transient() && (waits || heard.elapsed() < AWAY) => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(error) => return Err(error),
        }
        // A control plane that is away cannot tell that the time is over.
        if now.state == ApprovalState::Pending && clock::now() > now.expires_at.plus(PERSIST) {
            return Ok(HoldUpdate::Refused { state: ApprovalState::Expired, reviews: now.reviews });
        }
    }
}

/// Follows the approval until it is no longer pending, or the stream ends.
async fn watch(
    client: &HoldServiceClient<Failover>,
    id: ApprovalId,
    (now, heard): (&mut Approval, &mut Instant),
) -> Result<(), HoldError> {
    let mut client = client.clone();
    let asked = client.watch_approval(WatchApprovalRequest { id: id.to_string() });
    let mut answers = tokio::time::timeout(ANSWER, asked).await.map_err(|_| HoldError::TimedOut)??.into_inner();
    loop {
        let answer = answers.message().await;
        // It was there until now, even if it said nothing.
        *heard = Instant::now();
        let Some(answer) = answer? else { break };
        *now = read(answer.approval)?;
        if now.state != ApprovalState::Pending {
            break;
        }
    }
    Ok(())
}

async fn consume(
    client: &HoldServiceClient<Failover>,
    id: ApprovalId,
    session: SessionId,
    digest: Digest,
) -> Result<HoldUpdate, HoldError> {
    // One request id for all tries: the control plane answers a repeated one as it did the first.
    let request = ConsumeApprovalRequest {
        id: id.to_string(),
        session: session.to_string(),
        digest: digest.0.to_vec(),
        request_id: clock::request_id().to_string(),
    };
    let answer = persistently(PERSIST, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { read(client.consume_approval(request).await?.into_inner().approval) }
    })
    .await;
    match answer {
        Ok(approval) => match ConsumedApproval::from_answer(&approval) {
            Some(consumed) => Ok(HoldUpdate::Granted { consumed, reviews: approval.reviews }),
            None => Ok(HoldUpdate::Refused { state: approval.state, reviews: approval.reviews }),
        },
        // It lapsed or was withdrawn between the grant and now.
        Err(HoldError::Status(status)) if status.code() == Status::FailedPrecondition => {
            Ok(HoldUpdate::Refused { state: ApprovalState::Expired, reviews: Vec::new() })
        }
        Err(error) => Err(error),
    }
}

async fn withdraw(client: &HoldServiceClient<Failover>, id: ApprovalId, because: &str) {
    let request = WithdrawApprovalRequest { id: id.to_string(), because: because.to_owned() };
    let told = persistently(PERSIST, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { Ok(client.withdraw_approval(request).await.map(drop)?) }
    })
    .await;
    match told {
        Ok(()) => {}
        // It was never requested, or is final already.
        Err(HoldError::Status(status)) if matches!(status.code(), Status::NotFound | Status::FailedPrecondition) => {}
        Err(error) => tracing::warn!(approval = %id, %error, "an approval could not be withdrawn: it will expire"),
    }
}

/// Asks until there is an answer, or the control plane has been away for too long.
async fn persistently<T, F>(limit: Duration, ask: impl Fn() -> F) -> Result<T, HoldError>
where
    F: Future<Output = Result<T, HoldError>>,
{
    let began = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        let answer = tokio::time::timeout(ANSWER, ask()).await.unwrap_or(Err(HoldError::TimedOut));
        match answer {
            Err(error) if error.is_transient() && began.elapsed() < limit => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            other => return other,
        }
    }
}

fn read(approval: Option<ApprovalProto>) -> Result<Approval, HoldError> {
    Ok(approval_from_proto(approval.ok_or(HoldError::Empty)?)?)
}
