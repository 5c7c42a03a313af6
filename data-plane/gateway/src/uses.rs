//! Tokens that are good for a number of sessions: the control plane counts, for all gateways together, and without its word none is opened (I9).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postern_core::wire::timestamp_to_proto;
use postern_core::{Code, Principal, SessionId};
use postern_proto::gateway::v1::token_use_service_client::TokenUseServiceClient;
use postern_proto::gateway::v1::{CountedToken, TakeUsesRequest};
use postern_runtime::backoff::Backoff;
use tonic::Code as Status;

use crate::control::Failover;

/// How long a client waits for the control plane, over all of its members.
const WAIT: Duration = Duration::from_secs(5);
/// How long for one.
const ONE: Duration = Duration::from_secs(2);

/// Tokens that are known to be spent, at most (I11).
const SPENT: usize = 4_096;

/// No session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UseError {
    /// One of the chain has no more.
    #[error("a token of the chain was used as often as it may be")]
    Spent,
    /// It is not known whether there is one left.
    #[error("the token is good for a number of sessions, and the control plane does not count: {0}")]
    Uncounted(String),
}

impl UseError {
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Spent => Code::TokenSpent,
            Self::Uncounted(_) => Code::ControlPlaneUnavailable,
        }
    }
}

/// Takes uses. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Uses {
    client: TokenUseServiceClient<Failover>,
    /// Tokens of which there is none left: that never changes, and nobody has to be asked again.
    spent: Arc<Mutex<BTreeSet<Arc<str>>>>,
}

impl Uses {
    pub(crate) fn new(control: Failover) -> Self {
        Self { client: TokenUseServiceClient::new(control), spent: Arc::default() }
    }

    /// Takes one of each of `principal`'s tokens that are counted, for `session`. It stays taken, whatever becomes of that.
    pub(crate) async fn take(&self, principal: &Principal, session: SessionId) -> Result<(), UseError> {
        let counted = principal.counted().map(|(token, most)| CountedToken { token: token.to_string(), most });
        let request = TakeUsesRequest {
            session: session.to_string(),
            uses: counted.collect(),
            until: principal.expires_at.map(timestamp_to_proto),
        };
        if request.uses.is_empty() {
            return Ok(());
        }
        let shown = principal.token_id.clone().unwrap_or_default();
        if self.spent().contains(&shown) {
            return Err(UseError::Spent);
        }
        let mut last = "no answer in time".to_owned();
        let asked = async {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
            loop {
                // The same session twice is one use.
                match tokio::time::timeout(ONE, self.client.clone().take_uses(request.clone())).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(status)) if status.code() == Status::Unauthenticated => return Err(UseError::Spent),
                    Ok(Err(status)) => {
                        last = format!("{}: {}", status.code(), status.message());
                        if !may_pass(status.code()) {
                            return Err(UseError::Uncounted(std::mem::take(&mut last)));
                        }
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        };
        match tokio::time::timeout(WAIT, asked).await {
            Ok(Err(UseError::Spent)) => {
                let mut spent = self.spent();
                if spent.len() >= SPENT {
                    spent.clear();
                }
                spent.insert(shown);
                Err(UseError::Spent)
            }
            Ok(settled) => settled,
            Err(_) => Err(UseError::Uncounted(last)),
        }
    }

    fn spent(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether asking again may help: a member that is of another opinion stays so.
pub(crate) fn may_pass(code: Status) -> bool {
    matches!(
        code,
        Status::Unavailable
            | Status::DeadlineExceeded
            | Status::ResourceExhausted
            | Status::Unknown
            | Status::Cancelled
    )
}
