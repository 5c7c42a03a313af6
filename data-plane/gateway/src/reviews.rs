//! Reviews after the fact: the control plane takes an item before anything runs that is to be reviewed. Without its word nothing does: a use of which
//! nobody will know is the failure.

use std::time::Duration;

use postern_core::SessionId;
use postern_core::policy::{OpenedReview, ReviewAsked};
use postern_core::review::ReviewItem;
use postern_core::wire::review::{item_from_proto, item_to_proto};
use postern_proto::gateway::v1::OpenReviewRequest;
use postern_proto::gateway::v1::review_service_client::ReviewServiceClient;
use postern_runtime::backoff::Backoff;

use crate::control::Failover;
use crate::metrics;
use crate::uses::may_pass;

/// How long a client waits for the control plane, over all of its members.
pub(crate) const WAIT: Duration = Duration::from_secs(5);
/// How long for one.
const ONE: Duration = Duration::from_secs(2);

/// Why there is no item of review.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReviewError {
    /// It was asked, and says no.
    #[error("the control plane refuses it: {0}")]
    Refused(String),
    /// It cannot be asked.
    #[error("the control plane does not answer: {0}")]
    Away(String),
    /// Its answer is of something else.
    #[error("the control plane answers with another review")]
    Other,
}

/// Opens items of review. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reviews {
    client: ReviewServiceClient<Failover>,
}

impl Reviews {
    pub(crate) fn new(control: Failover) -> Self {
        Self { client: ReviewServiceClient::new(control) }
    }

    /// Has the control plane take `item`, for what `asked` asks. It stays there, whatever becomes of the operation.
    pub(crate) async fn open(&self, item: &ReviewItem, asked: &ReviewAsked) -> Result<OpenedReview, ReviewError> {
        let session: SessionId = item.session;
        let request = OpenReviewRequest { item: Some(item_to_proto(item)), within_seconds: asked.within.0 };
        let mut last = "no answer in time".to_owned();
        let asking = async {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
            loop {
                // The same id twice is one item.
                match tokio::time::timeout(ONE, self.client.clone().open_review(request.clone())).await {
                    Ok(Ok(answer)) => {
                        let taken = answer.into_inner().item.and_then(|item| item_from_proto(item).ok());
                        let opened = taken.and_then(|taken| OpenedReview::from_answer(&taken, asked, session));
                        return opened.ok_or(ReviewError::Other);
                    }
                    Ok(Err(status)) if !may_pass(status.code()) => {
                        return Err(ReviewError::Refused(status.message().to_owned()));
                    }
                    Ok(Err(status)) => last = format!("{}: {}", status.code(), status.message()),
                    Err(_) => {}
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        };
        let settled = tokio::time::timeout(WAIT, asking).await.unwrap_or(Err(ReviewError::Away(last)));
        metrics::review_opened(match &settled {
            Ok(_) => "opened",
            Err(ReviewError::Away(_)) => "away",
            Err(ReviewError::Refused(_) | ReviewError::Other) => "refused",
        });
        settled
    }

    /// Every one of `items`.
    pub(crate) async fn open_all(&self, items: &[(ReviewItem, ReviewAsked)]) -> Result<Vec<OpenedReview>, ReviewError> {
        let opening = items.iter().map(|(item, asked)| self.open(item, asked));
        futures::future::try_join_all(opening).await
    }
}
