use postern_core::approval::{Approval, ApprovalState};
use postern_core::operation::Digest;
use postern_core::resource::FieldFault;
use postern_core::{ApprovalId, SessionId};
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// Takes a granted approval for execution: a compare-and-set that succeeds once, for the operation that it binds (I7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumeApproval {
    /// Which approval.
    pub id: ApprovalId,
    /// The session that will execute it.
    pub session: SessionId,
    /// The operation that will be executed.
    pub digest: Digest,
}

impl ConsumeApproval {
    pub(crate) fn to_proto(&self) -> pb::ConsumeApproval {
        pb::ConsumeApproval {
            id: self.id.to_string(),
            session: self.session.to_string(),
            digest: self.digest.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(proto: pb::ConsumeApproval) -> Result<Self, Vec<FieldFault>> {
        Ok(Self {
            id: parse("id", &proto.id)?,
            session: parse("session", &proto.session)?,
            digest: Digest::from_slice(&proto.digest)
                .ok_or_else(|| vec![FieldFault::new("digest", "has not 32 bytes")])?,
        })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.approval(self.id) else {
            return Err(Refusal::not_found(format!("approval {}", self.id)));
        };
        if known.session != self.session || known.digest != self.digest {
            return Err(Refusal::Mismatch);
        }
        if known.state != ApprovalState::Approved {
            return Err(Refusal::ApprovalState(known.state));
        }
        let mut approval = Approval::clone(known);
        approval.state = ApprovalState::Consumed;
        approval.revision = cx.state.index;
        cx.state.put_approval(approval, cx.effects);
        Ok(Success::Approval(self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn exactly_once_and_only_for_what_it_binds() {
        let mut fixture = Fixture::new();
        let id = fixture.ask(1);
        let known = fixture.state.approval(id).unwrap().clone();
        let consume = ConsumeApproval { id, session: known.session, digest: known.digest };
        let early = fixture.run(consume.clone());
        assert_eq!(early, Err(Refusal::ApprovalState(ApprovalState::Pending)));
        fixture.approve(id);
        let mut other = consume.clone();
        other.digest.0[31] ^= 1;
        assert_eq!(fixture.run(other), Err(Refusal::Mismatch));
        let mut other = consume.clone();
        other.session = approval(9).session;
        assert_eq!(fixture.run(other), Err(Refusal::Mismatch));
        assert_eq!(fixture.run(consume.clone()), Ok(Success::Approval(id)));
        assert_eq!(fixture.run(consume), Err(Refusal::ApprovalState(ApprovalState::Consumed)));
    }

    #[test]
    fn a_retry_with_its_request_id_hears_the_first_outcome() {
        let mut fixture = Fixture::new();
        let id = fixture.ask(1);
        let known = fixture.state.approval(id).unwrap().clone();
        let consume = ConsumeApproval { id, session: known.session, digest: known.digest };
        fixture.approve(id);
        let request = Some(request_id(1));
        assert_eq!(fixture.run_as(request, consume.clone()), Ok(Success::Approval(id)));
        assert_eq!(fixture.run_as(request, consume.clone()), Ok(Success::Approval(id)));
        let other = fixture.run_as(Some(request_id(2)), consume);
        assert_eq!(other, Err(Refusal::ApprovalState(ApprovalState::Consumed)));
    }

    #[test]
    fn a_grant_lapses_too() {
        let mut fixture = Fixture::new();
        let id = fixture.ask(1);
        let known = fixture.state.approval(id).unwrap().clone();
        fixture.approve(id);
        fixture.now = known.expires_at.millis();
        let late = fixture.run(ConsumeApproval { id, session: known.session, digest: known.digest });
        assert_eq!(late, Err(Refusal::ApprovalState(ApprovalState::Expired)));
    }
}
