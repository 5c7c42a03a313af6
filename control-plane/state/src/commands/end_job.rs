use std::sync::Arc;

use postern_core::Timestamp;
use postern_core::resource::FieldFault;
use postern_core::revocation::{MARGIN, Revocation, Revoked, TokenName};
use postern_proto::state::v1 as pb;

use super::RevokeTokens;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// A job is finished, or was not heard of in time: its token and all that was made of it are revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndJob {
    /// The token that it is tied to.
    pub token: Arc<str>,
    /// Only if it was to be heard of until then, and has not been since.
    pub unheard_of_since: Option<Timestamp>,
    /// Who says so; empty: who had the token.
    pub by: String,
    /// Why.
    pub because: String,
}

impl EndJob {
    pub(crate) fn to_proto(&self) -> pb::EndJob {
        pb::EndJob {
            token: self.token.to_string(),
            unheard_of_since_ms: self.unheard_of_since.map_or(0, Timestamp::millis),
            by: self.by.clone(),
            because: self.because.clone(),
        }
    }

    #[allow(clippy::unnecessary_wraps)] // as every command's
    pub(crate) fn from_proto(proto: pb::EndJob) -> Result<Self, Vec<FieldFault>> {
        let since = Some(proto.unheard_of_since_ms).filter(|since| *since > 0);
        Ok(Self {
            token: proto.token.into(),
            unheard_of_since: since.map(Timestamp::from_millis),
            by: proto.by,
            because: proto.because,
        })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.job(&self.token).cloned() else {
            return Err(Refusal::not_found("job"));
        };
        // It was heard of while somebody took it for dead.
        if self.unheard_of_since.is_some_and(|since| since != known.deadline) {
            return Err(Refusal::InvalidState("the job was heard of meanwhile".to_owned()));
        }
        let token = TokenName::session(&known.token).ok_or_else(|| Refusal::invalid("token", "is none"))?;
        let revocation = Revocation {
            of: Revoked::Subtree(token),
            issued_before: Timestamp::default(),
            until: known.ends_at.plus(MARGIN),
            by: self.by,
            because: self.because,
            at: Timestamp::default(),
            revision: 0,
        };
        // Refused, the job stays, and is ended later.
        RevokeTokens { revocations: vec![revocation] }.apply(cx)?;
        // That took it along, unless somebody had revoked the token before there was a job.
        cx.state.jobs.remove(&known.token);
        Ok(Success::Done)
    }
}
