use postern_core::ApprovalId;
use postern_core::approval::{Approval, ApprovalState};
use postern_core::resource::FieldFault;
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// The longest reason, in bytes.
const MAX_REASON: usize = 1_024;

/// Takes a request back: its client went away or cancelled. A grant that was not taken yet is withdrawn too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithdrawApproval {
    /// Which approval.
    pub id: ApprovalId,
    /// Why.
    pub because: String,
}

impl WithdrawApproval {
    pub(crate) fn to_proto(&self) -> pb::WithdrawApproval {
        pb::WithdrawApproval { id: self.id.to_string(), because: self.because.clone() }
    }

    pub(crate) fn from_proto(proto: pb::WithdrawApproval) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { id: parse("id", &proto.id)?, because: proto.because })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.approval(self.id) else {
            return Err(Refusal::not_found(format!("approval {}", self.id)));
        };
        match known.state {
            ApprovalState::Pending | ApprovalState::Approved => {}
            ApprovalState::Withdrawn => return Ok(Success::Approval(self.id)),
            state => return Err(Refusal::ApprovalState(state)),
        }
        if self.because.len() > MAX_REASON {
            return Err(Refusal::invalid("because", format!("is longer than {MAX_REASON} bytes")));
        }
        let mut approval = Approval::clone(known);
        approval.state = ApprovalState::Withdrawn;
        approval.withdrawn_because = self.because;
        approval.revision = cx.state.index;
        cx.state.put_approval(approval, cx.effects);
        Ok(Success::Approval(self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConsumeApproval;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn withdraws_what_was_not_taken() {
        let mut fixture = Fixture::new();
        let id = fixture.ask(1);
        fixture.approve(id);
        let withdraw = WithdrawApproval { id, because: "client went away".into() };
        assert_eq!(fixture.run(withdraw.clone()), Ok(Success::Approval(id)));
        assert_eq!(fixture.run(withdraw.clone()), Ok(Success::Approval(id)));
        let known = fixture.state.approval(id).unwrap().clone();
        assert_eq!(known.withdrawn_because, "client went away");
        let consume = ConsumeApproval { id, session: known.session, digest: known.digest };
        assert_eq!(fixture.run(consume), Err(Refusal::ApprovalState(ApprovalState::Withdrawn)));
    }
}
