use postern_core::audit::AuditRecord;
use postern_core::resource::FieldFault;
use postern_core::wire::cluster::{audit_from_proto, audit_to_proto};
use postern_proto::state::v1 as pb;

use crate::entry::fault;
use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::Context;

/// Records in one command.
const MAX_RECORDS: usize = 1_000;

/// Appends calls to the audit log that changed nothing: reads, and those that were refused before they came to the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordAudit {
    /// In order; number, time and hash are set when applied.
    pub records: Vec<AuditRecord>,
}

impl RecordAudit {
    pub(crate) fn to_proto(&self) -> pb::RecordAudit {
        pb::RecordAudit { records: self.records.iter().map(audit_to_proto).collect() }
    }

    pub(crate) fn from_proto(proto: pb::RecordAudit) -> Result<Self, Vec<FieldFault>> {
        let records = proto.records.into_iter().map(audit_from_proto).collect::<Result<_, _>>();
        Ok(Self { records: records.map_err(fault)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        if self.records.len() > MAX_RECORDS {
            return Err(Refusal::Limit(format!("{MAX_RECORDS} audit records in one entry")));
        }
        for record in self.records {
            cx.state.audit.append(record, cx.state.now);
        }
        Effect::Changed(ObjectKey::Audit).add_to(cx.effects);
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use postern_core::Timestamp;

    use super::super::ExpireApprovals;
    use super::super::testing::*;
    use super::*;
    use crate::entry::Entry;

    #[test]
    fn reads_and_writes_stand_in_one_chain() {
        let mut fixture = Fixture::new();
        fixture.run(RecordAudit { records: vec![audit("read"), audit("list")] }).unwrap();
        let entry = |n: u64, command| Entry {
            proposed_at: Timestamp::from_millis(5_000 + n),
            request_id: Some(request_id(n.into())),
            command,
            audit: Some(audit("write")),
        };
        let refused = super::super::DeleteJoinToken { id: "none".into() };
        fixture.state.apply(3, &entry(1, ExpireApprovals.into()).encode()).unwrap();
        let applied = fixture.state.apply(4, &entry(2, refused.into()).encode()).unwrap();
        assert!(applied.outcome.is_err() && applied.effects.contains(&Effect::Changed(ObjectKey::Audit)));
        let told: Vec<_> =
            fixture.state.audit().map(|r| (r.sequence, r.method.as_str(), r.code.as_str(), r.at.millis())).collect();
        assert_eq!(
            told,
            [
                (1, "read", "", 1_000),
                (2, "list", "", 1_000),
                (3, "write", "OK", 5_001),
                (4, "write", "NOT_FOUND", 5_002)
            ]
        );
        // A retry is a call too.
        fixture.state.apply(5, &entry(2, ExpireApprovals.into()).encode()).unwrap();
        assert_eq!(fixture.state.audit().next_back().unwrap().code, "NOT_FOUND");
        assert_eq!(fixture.state.audit_head().0, 5);
    }
}
