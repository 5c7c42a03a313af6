use std::sync::Arc;

use postern_core::cluster::{ControlNode, GatewayNode, JoinToken, NodeCertificate};
use postern_core::node::NodeRole;
use postern_core::operation::Digest;
use postern_core::resource::FieldFault;
use postern_core::wire::cluster::{certificate_from_proto, certificate_to_proto, node_from_proto, node_to_proto};
use postern_proto::state::v1 as pb;

use super::revoke_certificates::revoke;
use crate::entry::fault;
use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::{Context, Limits};

/// Takes one use of a join token: records the certificate that is then handed out, and lets its holder in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedeemJoinToken {
    /// The token's id.
    pub id: String,
    /// Of the secret that was shown.
    pub secret_sha256: Digest,
    /// The certificate that was made.
    pub certificate: NodeCertificate,
    /// For a member of the control plane: what it tells of itself. Its id is allocated.
    pub node: Option<ControlNode>,
}

impl RedeemJoinToken {
    pub(crate) fn to_proto(&self) -> pb::RedeemJoinToken {
        pb::RedeemJoinToken {
            id: self.id.clone(),
            secret_sha256: self.secret_sha256.0.to_vec(),
            certificate: Some(certificate_to_proto(&self.certificate)),
            node: self.node.as_ref().map(node_to_proto),
        }
    }

    pub(crate) fn from_proto(proto: pb::RedeemJoinToken) -> Result<Self, Vec<FieldFault>> {
        let missing = |field: &str| vec![FieldFault::new(field, "is missing")];
        let certificate = proto.certificate.ok_or_else(|| missing("certificate"))?;
        Ok(Self {
            id: proto.id,
            secret_sha256: Digest::from_slice(&proto.secret_sha256).ok_or_else(|| missing("secret_sha256"))?,
            certificate: certificate_from_proto(certificate).map_err(fault)?,
            node: proto.node.map(node_from_proto).transpose().map_err(fault)?,
        })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let token = self.check_token(cx)?;
        let (role, name) = (self.certificate.role, self.certificate.name.clone());
        if (role == NodeRole::Control) != self.node.is_some() {
            return Err(Refusal::invalid("node", "goes with the role control, and only with it"));
        }
        let (index, now) = (cx.state.index, cx.state.now);
        let node = self.node.map(|node| Self::place(cx, node, &name, &token)).transpose()?;
        let held = cx.state.members.good_certificates(role, &name);
        if matches!(role, NodeRole::Gateway | NodeRole::Agent) && !held.is_empty() && token.name.is_none() {
            // Else whoever has any token could step into another node's place.
            return Err(Refusal::InUse {
                what: format!("the name {name}"),
                by: format!(
                    "a {} that was let in: revoke its certificates, or make a token for this name",
                    role.as_str()
                ),
            });
        }
        cx.state.members.admit(self.certificate.clone(), index, now)?;
        // A token for this very name replaces who had it.
        if matches!(role, NodeRole::Gateway | NodeRole::Agent) {
            for old in held {
                revoke(cx, &old, "postern", "another node took its place by a join token");
            }
        }
        Effect::Changed(ObjectKey::Certificate(self.certificate.serial)).add_to(cx.effects);
        let node_id = node.as_ref().map(|node| node.id);
        if let Some(node) = node {
            cx.state.members.next_node_id = node.id.saturating_add(1);
            Effect::Changed(ObjectKey::Node(node.id)).add_to(cx.effects);
            cx.state.members.nodes.insert(node.id, Arc::new(node));
        }
        if role == NodeRole::Gateway {
            let gateway =
                GatewayNode { name: name.clone(), serves: token.serves.clone(), joined_at: now, revision: index };
            cx.state.members.gateways.insert(name.clone(), Arc::new(gateway));
            Effect::Changed(ObjectKey::Gateway(name)).add_to(cx.effects);
        }
        let uses_left = token.uses_left.saturating_sub(1);
        cx.state.members.put_token(JoinToken { uses_left, revision: index, ..token });
        Effect::Changed(ObjectKey::JoinToken(self.id)).add_to(cx.effects);
        Ok(Success::Redeemed { node_id })
    }

    fn check_token(&self, cx: &Context<'_>) -> Result<JoinToken, Refusal> {
        let unknown = || Refusal::Token("is unknown".to_owned());
        let token = cx.state.members.tokens.get(&self.id).ok_or_else(unknown)?;
        if token.secret_sha256 != self.secret_sha256 {
            return Err(unknown());
        }
        if token.expires_at <= cx.state.now {
            return Err(Refusal::Token(format!("expired at {}", token.expires_at)));
        }
        if token.uses_left == 0 {
            return Err(Refusal::Token("is used up".to_owned()));
        }
        if token.role != self.certificate.role {
            return Err(Refusal::Token(format!("is for the role {}", token.role.as_str())));
        }
        if token.agent_pool != self.certificate.agent_pool {
            return Err(Refusal::Token("is for another agent pool".to_owned()));
        }
        if let Some(name) = &token.name
            && *name != self.certificate.name
        {
            return Err(Refusal::Token(format!("is for the name {name}")));
        }
        Ok(JoinToken::clone(token))
    }

    /// A new member's record, with its id.
    fn place(
        cx: &Context<'_>,
        node: ControlNode,
        name: &postern_core::Name,
        token: &JoinToken,
    ) -> Result<ControlNode, Refusal> {
        let members = &cx.state.members;
        if node.name != *name {
            return Err(Refusal::invalid("node.name", "is not the certificate's"));
        }
        if let Some(other) = members.nodes.values().find(|other| other.name == *name) {
            return Err(Refusal::InUse {
                what: format!("the name {name}"),
                by: format!("member {}: remove it first", other.id),
            });
        }
        if members.nodes.len() >= Limits::STANDARD.nodes {
            return Err(Refusal::Limit(format!("{} members of the control plane", Limits::STANDARD.nodes)));
        }
        if node.feature_level < members.feature_level {
            return Err(Refusal::InvalidState(format!(
                "the cluster is at feature level {}, this node knows up to {}",
                members.feature_level, node.feature_level
            )));
        }
        let (id, learner) = (members.next_node_id, token.learner);
        Ok(ControlNode { id, learner, joined_at: cx.state.now, revision: cx.state.index, ..node })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{CreateJoinToken, UpdateNode};
    use super::*;

    fn redeem(token: &str, role: NodeRole, serial: &str, name: &str) -> RedeemJoinToken {
        let node = (role == NodeRole::Control).then(|| control_node(0, name));
        RedeemJoinToken {
            id: token.into(),
            secret_sha256: Digest([7; 32]),
            certificate: certificate(serial, role, name),
            node,
        }
    }

    #[test]
    fn each_use_once_and_ids_grow() {
        let mut fixture = Fixture::new();
        fixture.run(UpdateNode { node: control_node(1, "c1") }).unwrap();
        let mut token = join_token("t", NodeRole::Control);
        token.uses_left = 2;
        fixture.run(CreateJoinToken { token }).unwrap();
        let second = fixture.run(redeem("t", NodeRole::Control, "a2", "c2"));
        assert_eq!(second, Ok(Success::Redeemed { node_id: Some(2) }));
        let taken = fixture.run(redeem("t", NodeRole::Control, "a3", "c2"));
        assert!(matches!(taken, Err(Refusal::InUse { .. })), "{taken:?}");
        assert_eq!(fixture.state.certificate("a3"), None);
        let third = fixture.run(redeem("t", NodeRole::Control, "a3", "c3"));
        assert_eq!(third, Ok(Success::Redeemed { node_id: Some(3) }));
        let used = fixture.run(redeem("t", NodeRole::Control, "a4", "c4"));
        assert_eq!(used, Err(Refusal::Token("is used up".into())));
        assert_eq!(fixture.state.nodes().count(), 3);
    }

    #[test]
    fn only_for_whom_and_while_it_is_good() {
        let mut fixture = Fixture::new();
        let mut token = join_token("t", NodeRole::Gateway);
        token.name = Some(name("g1"));
        let end = token.expires_at;
        fixture.run(CreateJoinToken { token }).unwrap();
        let mut wrong = redeem("t", NodeRole::Gateway, "b1", "g1");
        wrong.secret_sha256 = Digest([8; 32]);
        assert_eq!(fixture.run(wrong), Err(Refusal::Token("is unknown".into())));
        assert!(matches!(fixture.run(redeem("t", NodeRole::Gateway, "b1", "g2")), Err(Refusal::Token(_))));
        assert!(matches!(fixture.run(redeem("t", NodeRole::Admin, "b1", "g1")), Err(Refusal::Token(_))));
        fixture.now = end.millis();
        let late = fixture.run(redeem("t", NodeRole::Gateway, "b1", "g1"));
        assert!(matches!(&late, Err(Refusal::Token(why)) if why.starts_with("expired")), "{late:?}");
    }

    #[test]
    fn a_gateways_name_is_not_taken_but_by_a_token_for_it() {
        let mut fixture = Fixture::new();
        let mut token = join_token("any", NodeRole::Gateway);
        token.uses_left = 9;
        fixture.run(CreateJoinToken { token }).unwrap();
        fixture.run(redeem("any", NodeRole::Gateway, "c1", "g1")).unwrap();
        let second = fixture.run(redeem("any", NodeRole::Gateway, "c2", "g1"));
        assert!(matches!(second, Err(Refusal::InUse { .. })), "{second:?}");
        let mut token = join_token("g1", NodeRole::Gateway);
        token.name = Some(name("g1"));
        fixture.run(CreateJoinToken { token }).unwrap();
        fixture.run(redeem("g1", NodeRole::Gateway, "c3", "g1")).unwrap();
        assert!(fixture.state.is_revoked("c1") && !fixture.state.is_revoked("c3"));
        assert!(fixture.effects.contains(&Effect::PolicyChanged));
    }
}
