use postern_core::resource::FieldFault;
use postern_proto::state::v1 as pb;

use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::Context;

/// Lets commands of a newer feature level into the log: only when every member knows them. There is no way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaiseFeatureLevel {
    /// The level from now on.
    pub level: u32,
}

impl RaiseFeatureLevel {
    pub(crate) const fn to_proto(&self) -> pb::RaiseFeatureLevel {
        pb::RaiseFeatureLevel { level: self.level }
    }

    #[allow(clippy::unnecessary_wraps)] // as every command's
    pub(crate) const fn from_proto(proto: pb::RaiseFeatureLevel) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { level: proto.level })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let members = &mut cx.state.members;
        if self.level <= members.feature_level {
            return Err(Refusal::InvalidState(format!("the cluster is at feature level {}", members.feature_level)));
        }
        if let Some(older) = members.nodes.values().find(|node| node.feature_level < self.level) {
            let (name, knows) = (&older.name, older.feature_level);
            return Err(Refusal::InvalidState(format!("member {name} knows feature levels up to {knows} only")));
        }
        members.feature_level = self.level;
        Effect::Changed(ObjectKey::Cluster).add_to(cx.effects);
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{CreateJoinToken, RedeemJoinToken, UpdateNode};
    use super::*;
    use crate::entry::{Entry, FEATURE_LEVEL};
    use crate::outcome::Halt;
    use postern_core::Timestamp;
    use postern_core::node::NodeRole;
    use postern_core::operation::Digest;

    #[test]
    fn only_when_all_members_know_it() {
        let mut fixture = Fixture::new();
        let newer = |id, of: &str| postern_core::cluster::ControlNode {
            feature_level: FEATURE_LEVEL + 1,
            ..control_node(id, of)
        };
        fixture.run(UpdateNode { node: newer(1, "c1") }).unwrap();
        fixture.run(CreateJoinToken { token: join_token("t", NodeRole::Control) }).unwrap();
        let redeem = |node| RedeemJoinToken {
            id: "t".into(),
            secret_sha256: Digest([7; 32]),
            certificate: certificate("ab", NodeRole::Control, "c2"),
            node: Some(node),
        };
        fixture.run(redeem(control_node(0, "c2"))).unwrap();
        assert!(fixture.run(RaiseFeatureLevel { level: FEATURE_LEVEL + 1 }).is_err());
        fixture.run(UpdateNode { node: newer(2, "c2") }).unwrap();
        // Every member says that it knows more than this version does: so this one is the one to be upgraded.
        let raise = Entry {
            proposed_at: Timestamp::default(),
            request_id: None,
            command: RaiseFeatureLevel { level: FEATURE_LEVEL + 1 }.into(),
            audit: None,
        };
        let halt = Halt::FeatureLevel { index: 20, level: FEATURE_LEVEL + 1, known: FEATURE_LEVEL };
        assert_eq!(fixture.state.apply(20, &raise.encode()), Err(halt));
        assert!(fixture.run(RaiseFeatureLevel { level: 1 }).is_err());
        assert_eq!(fixture.state.feature_level(), 1);
    }
}
