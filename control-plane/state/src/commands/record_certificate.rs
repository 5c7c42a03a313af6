use postern_core::cluster::NodeCertificate;
use postern_core::resource::FieldFault;
use postern_core::wire::cluster::{certificate_from_proto, certificate_to_proto};
use postern_proto::state::v1 as pb;

use crate::entry::fault;
use crate::outcome::{Effect, ObjectKey, Outcome, Success};
use crate::state::Context;

/// Records a certificate before it is handed out, so that it can be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordCertificate {
    /// The certificate; its time, revocation and revision are set when applied.
    pub certificate: NodeCertificate,
}

impl RecordCertificate {
    pub(crate) fn to_proto(&self) -> pb::RecordCertificate {
        pb::RecordCertificate { certificate: Some(certificate_to_proto(&self.certificate)) }
    }

    pub(crate) fn from_proto(proto: pb::RecordCertificate) -> Result<Self, Vec<FieldFault>> {
        let certificate = proto.certificate.ok_or_else(|| vec![FieldFault::new("certificate", "is missing")])?;
        Ok(Self { certificate: certificate_from_proto(certificate).map_err(fault)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let serial = self.certificate.serial.clone();
        cx.state.members.admit(self.certificate, cx.state.index, cx.state.now)?;
        Effect::Changed(ObjectKey::Certificate(serial)).add_to(cx.effects);
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use postern_core::node::NodeRole;

    use super::super::testing::*;
    use super::*;
    use crate::outcome::Refusal;

    #[test]
    fn known_until_its_end() {
        let mut fixture = Fixture::new();
        let certificate = certificate("ab", NodeRole::Agent, "a1");
        let end = certificate.not_after;
        fixture.run(RecordCertificate { certificate: certificate.clone() }).unwrap();
        let again = fixture.run(RecordCertificate { certificate: certificate.clone() });
        assert!(matches!(again, Err(Refusal::AlreadyExists { .. })));
        fixture.now = end.millis();
        assert!(matches!(fixture.run(RecordCertificate { certificate }), Err(Refusal::Invalid(_))));
        assert_eq!(fixture.state.certificate("ab"), None);
    }
}
