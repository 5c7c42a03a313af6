use postern_core::Name;
use postern_core::cluster::{NodeCertificate, Revocation};
use postern_core::node::NodeRole;
use postern_core::resource::FieldFault;
use postern_core::wire::cluster::{role_from_proto, role_to_proto};
use postern_proto::state::v1 as pb;

use crate::entry::{fault, parse};
use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::Context;

/// Ends certificates before their time: by serial, or all of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeCertificates {
    /// These.
    pub serials: Vec<String>,
    /// And all of this node.
    pub node: Option<(NodeRole, Name)>,
    /// Who does it.
    pub by: String,
    /// Why.
    pub because: String,
}

impl RevokeCertificates {
    pub(crate) fn to_proto(&self) -> pb::RevokeCertificates {
        pb::RevokeCertificates {
            serials: self.serials.clone(),
            role: self.node.as_ref().map_or(0, |(role, _)| role_to_proto(*role).into()),
            name: self.node.as_ref().map(|(_, name)| name.to_string()).unwrap_or_default(),
            by: self.by.clone(),
            because: self.because.clone(),
        }
    }

    pub(crate) fn from_proto(proto: pb::RevokeCertificates) -> Result<Self, Vec<FieldFault>> {
        let node = if proto.name.is_empty() {
            None
        } else {
            Some((role_from_proto(proto.role).map_err(fault)?, parse("name", &proto.name)?))
        };
        Ok(Self { serials: proto.serials, node, by: proto.by, because: proto.because })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let members = &cx.state.members;
        let mut found = Vec::new();
        for serial in &self.serials {
            let known = members.certificates.get(serial);
            found.push(known.cloned().ok_or_else(|| Refusal::not_found(format!("certificate {serial}")))?);
        }
        if let Some((role, name)) = &self.node {
            let of_node = members.good_certificates(*role, name);
            if of_node.is_empty() {
                return Err(Refusal::not_found(format!("certificate of {} {name}", role.as_str())));
            }
            found.extend(of_node);
        }
        let mut revoked = 0_u32;
        for certificate in found {
            if revoke(cx, &certificate, &self.by, &self.because) {
                revoked = revoked.saturating_add(1);
            }
        }
        Ok(Success::Revoked(revoked))
    }
}

/// Revokes one, if it is not revoked yet.
pub(super) fn revoke(cx: &mut Context<'_>, certificate: &NodeCertificate, by: &str, because: &str) -> bool {
    let known = cx.state.members.certificates.get(&certificate.serial);
    let Some(known) = known.filter(|known| known.revoked.is_none()) else { return false };
    let text = |text: &str| text.chars().take(256).collect::<String>();
    let revoked = Some(Revocation { at: cx.state.now, by: text(by), because: text(because) });
    let serial = known.serial.clone();
    let certificate = NodeCertificate { revoked, revision: cx.state.index, ..NodeCertificate::clone(known) };
    cx.state.members.put_certificate(certificate);
    Effect::Changed(ObjectKey::Certificate(serial)).add_to(cx.effects);
    // Gateways refuse them too.
    cx.policy_changed();
    true
}

#[cfg(test)]
mod tests {
    use super::super::RecordCertificate;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn by_serial_or_by_node_and_once() {
        let mut fixture = Fixture::new();
        for (serial, name) in [("a1", "x"), ("a2", "x"), ("a3", "y")] {
            fixture.run(RecordCertificate { certificate: certificate(serial, NodeRole::Agent, name) }).unwrap();
        }
        let revoke = |serials: &[&str], node: Option<&str>| RevokeCertificates {
            serials: serials.iter().map(|serial| (*serial).to_owned()).collect(),
            node: node.map(|of| (NodeRole::Agent, name(of))),
            by: "alice".into(),
            because: "lost".into(),
        };
        assert_eq!(fixture.run(revoke(&["a1"], None)), Ok(Success::Revoked(1)));
        assert_eq!(fixture.state.policy_revision(), fixture.state.index());
        assert_eq!(fixture.run(revoke(&["a1"], Some("x"))), Ok(Success::Revoked(1)));
        assert!(fixture.state.is_revoked("a2") && !fixture.state.is_revoked("a3"));
        assert!(fixture.run(revoke(&[], Some("x"))).is_err());
        assert!(fixture.run(revoke(&["a3", "nope"], None)).is_err());
        assert!(!fixture.state.is_revoked("a3"));
    }
}
