use postern_core::access::{AccessRequest, AccessState, agreed, may_review};
use postern_core::approval::{Review, ReviewVerdict};
use postern_core::resource::FieldFault;
use postern_core::wire::identity::{principal_from_proto, principal_to_proto, verdict_from_proto, verdict_to_proto};
use postern_core::{AccessId, Principal};
use postern_proto::state::v1 as pb;

use super::reviewing::may_answer;
use crate::entry::{fault, parse};
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::{Context, Limits};

/// A reviewer's answer. One denial denies; when all that is asked for have people of their own who approve, it is granted from now on (I7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewAccess {
    /// Which request.
    pub id: AccessId,
    /// Who answers: verified by the node that proposes this.
    pub reviewer: Principal,
    /// The answer.
    pub verdict: ReviewVerdict,
    /// Why, in their words.
    pub comment: String,
}

impl ReviewAccess {
    pub(crate) fn to_proto(&self) -> pb::ReviewAccess {
        pb::ReviewAccess {
            id: self.id.to_string(),
            reviewer: Some(principal_to_proto(&self.reviewer)),
            verdict: verdict_to_proto(self.verdict).into(),
            comment: self.comment.clone(),
        }
    }

    pub(crate) fn from_proto(proto: pb::ReviewAccess) -> Result<Self, Vec<FieldFault>> {
        let reviewer = proto.reviewer.ok_or_else(|| vec![FieldFault::new("reviewer", "is missing")])?;
        Ok(Self {
            id: parse("id", &proto.id)?,
            reviewer: principal_from_proto(reviewer).map_err(fault)?,
            verdict: verdict_from_proto(proto.verdict).map_err(fault)?,
            comment: proto.comment,
        })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.access(self.id) else {
            return Err(Refusal::not_found(format!("request {}", self.id)));
        };
        let named = may_review(&known.review, &self.reviewer);
        let open = if known.state == AccessState::Pending { Ok(()) } else { Err(Refusal::AccessState(known.state)) };
        may_answer(&known.requester, (&self.reviewer, &self.comment), named, open, &known.reviews)?;
        let mut access = AccessRequest::clone(known);
        let now = cx.state.now;
        let (reviewer, verdict, comment) = (self.reviewer, self.verdict, self.comment);
        access.reviews.push(Review { reviewer, verdict, comment, at: now });
        if verdict == ReviewVerdict::Deny {
            access.state = AccessState::Denied;
        } else if agreed(&access.review, &access.reviews) {
            access.state = AccessState::Active;
            access.granted_at = Some(now);
            access.ends_at = Some(now.plus(access.duration.duration()));
        }
        // Whoever has enough to say no can.
        if verdict == ReviewVerdict::Approve && access.weight() > Limits::STANDARD.access_bytes {
            return Err(Refusal::Limit(format!("{} bytes in one request", Limits::STANDARD.access_bytes)));
        }
        cx.state.put_access(access, cx.effects);
        Ok(Success::Access { id: self.id, automatic: None })
    }
}

#[cfg(test)]
#[path = "review_access_tests.rs"]
mod tests;
