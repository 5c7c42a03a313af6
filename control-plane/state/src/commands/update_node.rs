use std::sync::Arc;

use postern_core::cluster::ControlNode;
use postern_core::resource::FieldFault;
use postern_core::wire::cluster::{node_from_proto, node_to_proto};
use postern_proto::state::v1 as pb;

use crate::entry::fault;
use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::Context;

/// What a member tells of itself at its start. The founder's is the first, and makes it a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateNode {
    /// By its id; its name, its join time and whether it stays a learner do not change.
    pub node: ControlNode,
}

impl UpdateNode {
    pub(crate) fn to_proto(&self) -> pb::UpdateNode {
        pb::UpdateNode { node: Some(node_to_proto(&self.node)) }
    }

    pub(crate) fn from_proto(proto: pb::UpdateNode) -> Result<Self, Vec<FieldFault>> {
        let node = proto.node.ok_or_else(|| vec![FieldFault::new("node", "is missing")])?;
        Ok(Self { node: node_from_proto(node).map_err(fault)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let (id, index) = (self.node.id, cx.state.index);
        let members = &mut cx.state.members;
        let node = match members.nodes.get(&id) {
            Some(known) if known.name != self.node.name => {
                return Err(Refusal::invalid("node.name", format!("is not member {id}'s, which is {}", known.name)));
            }
            Some(known) => {
                let (joined_at, learner) = (known.joined_at, known.learner);
                let node = ControlNode { joined_at, learner, revision: known.revision, ..self.node };
                if node == **known {
                    return Ok(Success::Done);
                }
                node
            }
            None if members.nodes.is_empty() && members.next_node_id == id => {
                members.next_node_id = id.saturating_add(1);
                ControlNode { joined_at: cx.state.now, ..self.node }
            }
            None => return Err(Refusal::not_found(format!("member {id}"))),
        };
        members.nodes.insert(id, Arc::new(ControlNode { revision: index, ..node }));
        Effect::Changed(ObjectKey::Node(id)).add_to(cx.effects);
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_founder_and_then_members_only() {
        let mut fixture = Fixture::new();
        assert!(fixture.run(UpdateNode { node: control_node(2, "c2") }).is_err());
        fixture.run(UpdateNode { node: control_node(1, "c1") }).unwrap();
        assert!(fixture.run(UpdateNode { node: control_node(2, "c2") }).is_err());
        assert!(fixture.run(UpdateNode { node: control_node(1, "other") }).is_err());
        let before = fixture.state.node(1).unwrap().revision;
        fixture.run(UpdateNode { node: control_node(1, "c1") }).unwrap();
        assert_eq!((fixture.state.node(1).unwrap().revision, fixture.effects.len()), (before, 0));
        let mut moved = control_node(1, "c1");
        moved.peer_address = "elsewhere:1".into();
        moved.learner = true;
        fixture.run(UpdateNode { node: moved }).unwrap();
        let node = fixture.state.node(1).unwrap();
        assert_eq!((node.peer_address.as_str(), node.learner), ("elsewhere:1", false));
        assert_eq!(fixture.effects, [Effect::Changed(ObjectKey::Node(1))]);
    }
}
