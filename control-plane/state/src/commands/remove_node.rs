use postern_core::node::NodeRole;
use postern_core::resource::FieldFault;
use postern_proto::state::v1 as pb;

use super::revoke_certificates::revoke;
use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::Context;

/// Forgets a member that has left the Raft group, and revokes its certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveNode {
    /// Its id.
    pub id: u64,
    /// Who removed it.
    pub by: String,
}

impl RemoveNode {
    pub(crate) fn to_proto(&self) -> pb::RemoveNode {
        pb::RemoveNode { id: self.id, by: self.by.clone() }
    }

    #[allow(clippy::unnecessary_wraps)] // as every command's
    pub(crate) fn from_proto(proto: pb::RemoveNode) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { id: proto.id, by: proto.by })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(node) = cx.state.members.forget_node(self.id) else {
            return Err(Refusal::not_found(format!("member {}", self.id)));
        };
        for certificate in cx.state.members.good_certificates(NodeRole::Control, &node.name) {
            revoke(cx, &certificate, &self.by, "the member was removed from the cluster");
        }
        Effect::Changed(ObjectKey::Node(self.id)).add_to(cx.effects);
        Ok(Success::Deleted { revision: cx.state.index })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{RecordCertificate, UpdateNode};
    use super::*;

    #[test]
    fn a_removed_member_is_known_as_such_and_its_certificates_end() {
        let mut fixture = Fixture::new();
        fixture.run(UpdateNode { node: control_node(1, "c1") }).unwrap();
        fixture.run(RecordCertificate { certificate: certificate("aa", NodeRole::Control, "c1") }).unwrap();
        fixture.run(RecordCertificate { certificate: certificate("bb", NodeRole::Gateway, "c1") }).unwrap();
        fixture.run(RemoveNode { id: 1, by: "alice".into() }).unwrap();
        assert!(fixture.state.is_revoked("aa") && !fixture.state.is_revoked("bb"));
        assert_eq!(fixture.state.removed_node(1), Some(&name("c1")));
        assert!(matches!(fixture.run(RemoveNode { id: 1, by: "alice".into() }), Err(Refusal::NotFound { .. })));
        // Its id is never given again, and nobody founds a second time.
        assert!(fixture.run(UpdateNode { node: control_node(1, "c1") }).is_err());
    }
}
