use postern_core::resource::FieldFault;
use postern_proto::state::v1 as pb;

use crate::outcome::{Outcome, Success};
use crate::state::Context;

/// Lapses every approval whose time is over. Each entry does so by its own time; this one exists to bring the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpireApprovals;

impl ExpireApprovals {
    #[allow(clippy::wrong_self_convention)] // as its siblings
    pub(crate) const fn to_proto(&self) -> pb::ExpireApprovals {
        pb::ExpireApprovals {}
    }

    pub(crate) const fn from_proto(_: pb::ExpireApprovals) -> Result<Self, Vec<FieldFault>> {
        Ok(Self)
    }

    pub(crate) const fn apply(self, _: &mut Context<'_>) -> Outcome {
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use postern_core::approval::ApprovalState;

    use super::super::testing::*;
    use super::*;
    use crate::outcome::Effect;

    #[test]
    fn lapses_by_logical_time() {
        let mut fixture = Fixture::new();
        let id = fixture.ask(1);
        let deadline = fixture.state.next_deadline().unwrap();
        fixture.now = deadline.millis() - 1;
        fixture.run(ExpireApprovals).unwrap();
        assert_eq!((fixture.state.approval(id).unwrap().state, fixture.effects.len()), (ApprovalState::Pending, 0));
        fixture.now = deadline.millis();
        fixture.run(ExpireApprovals).unwrap();
        let approval = fixture.state.approval(id).unwrap();
        assert_eq!((approval.state, approval.revision), (ApprovalState::Expired, fixture.state.index()));
        assert_eq!(fixture.effects[..1], [Effect::ApprovalsChanged]);
        assert!(fixture.state.next_deadline().is_none());
    }

    #[test]
    fn time_never_goes_back() {
        let mut fixture = Fixture::new();
        fixture.now = 5_000_000;
        fixture.run(ExpireApprovals).unwrap();
        fixture.now = 1;
        fixture.run(ExpireApprovals).unwrap();
        assert_eq!(fixture.state.now().millis(), 5_000_000);
    }
}
