use postern_core::resource::FieldFault;
use postern_proto::state::v1 as pb;

use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::Context;

/// Ends a join token before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteJoinToken {
    /// Which.
    pub id: String,
}

impl DeleteJoinToken {
    pub(crate) fn to_proto(&self) -> pb::DeleteJoinToken {
        pb::DeleteJoinToken { id: self.id.clone() }
    }

    #[allow(clippy::unnecessary_wraps)] // as every command's
    pub(crate) fn from_proto(proto: pb::DeleteJoinToken) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { id: proto.id })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        if !cx.state.members.remove_token(&self.id) {
            return Err(Refusal::not_found(format!("join token {}", self.id)));
        }
        Effect::Changed(ObjectKey::JoinToken(self.id)).add_to(cx.effects);
        Ok(Success::Deleted { revision: cx.state.index })
    }
}

#[cfg(test)]
mod tests {
    use postern_core::node::NodeRole;

    use super::super::CreateJoinToken;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn gone_is_gone() {
        let mut fixture = Fixture::new();
        fixture.run(CreateJoinToken { token: join_token("t", NodeRole::Admin) }).unwrap();
        assert_eq!(fixture.run(DeleteJoinToken { id: "t".into() }), Ok(Success::Deleted { revision: 3 }));
        assert!(matches!(fixture.run(DeleteJoinToken { id: "t".into() }), Err(Refusal::NotFound { .. })));
    }
}
