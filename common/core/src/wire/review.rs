//! Items of review.

use postern_proto::resource::v1 as pb;

use super::background::{relations_from_proto, relations_to_proto, values_from_proto, values_to_proto};
use super::identity::{principal_from_proto, principal_to_proto};
use super::{WireError, parse, timestamp_or_zero, timestamp_to_proto};
use crate::background::MAX_VALUES;
use crate::operation::Digest;
use crate::review::{Closing, Finding, ReviewItem};

/// To protobuf.
#[must_use]
pub fn item_to_proto(item: &ReviewItem) -> pb::ReviewItem {
    pb::ReviewItem {
        id: item.id.to_string(),
        principal: Some(principal_to_proto(&item.principal)),
        target: item.target.to_string(),
        session: item.session.to_string(),
        gateway: item.gateway.clone(),
        operation: item.operation.to_string(),
        digest: item.digest.0.to_vec(),
        text: item.text.clone(),
        text_cut: item.text_cut,
        parameters: item.parameters.clone(),
        actions: item.actions.clone(),
        policies: item.policies.clone(),
        policy_revision: item.policy_revision,
        reason: item.reason.clone(),
        reviewer_groups: item.groups.clone(),
        opened_at: Some(timestamp_to_proto(item.opened_at)),
        due_at: Some(timestamp_to_proto(item.due_at)),
        overdue: item.overdue,
        session_over: item.session_over,
        closed: item.closed.as_ref().map(|closed| pb::ReviewClosing {
            by: Some(principal_to_proto(&closed.by)),
            finding: finding_to_proto(closed.finding).into(),
            comment: closed.comment.clone(),
            at: Some(timestamp_to_proto(closed.at)),
        }),
        revision: item.revision,
        relations: relations_to_proto(&item.relations),
        values: values_to_proto(&item.values),
        veiled: false,
    }
}

/// From protobuf.
///
/// # Errors
/// When an id, name or digest in it is none, or it tells more than a gateway does.
pub fn item_from_proto(item: pb::ReviewItem) -> Result<ReviewItem, WireError> {
    let principal = item.principal.ok_or_else(|| WireError::new("review.principal", "is missing"))?;
    let closed = item.closed.map(|closed| {
        let by = closed.by.ok_or_else(|| WireError::new("review.closed.by", "is missing"))?;
        Ok::<_, WireError>(Closing {
            by: principal_from_proto(by)?,
            finding: finding_from_proto(closed.finding)?,
            comment: closed.comment,
            at: timestamp_or_zero(closed.at.as_ref()),
        })
    });
    if item.values.len() > MAX_VALUES {
        return Err(WireError::new("review.values", format!("must be at most {MAX_VALUES}")));
    }
    Ok(ReviewItem {
        id: parse("review.id", &item.id)?,
        principal: principal_from_proto(principal)?,
        target: parse("review.target", &item.target)?,
        session: parse("review.session", &item.session)?,
        gateway: item.gateway,
        operation: parse("review.operation", &item.operation)?,
        digest: Digest::from_slice(&item.digest).ok_or_else(|| WireError::new("review.digest", "has not 32 bytes"))?,
        text: item.text,
        text_cut: item.text_cut,
        parameters: item.parameters,
        actions: item.actions,
        policies: item.policies,
        policy_revision: item.policy_revision,
        reason: item.reason,
        groups: item.reviewer_groups,
        opened_at: timestamp_or_zero(item.opened_at.as_ref()),
        due_at: timestamp_or_zero(item.due_at.as_ref()),
        overdue: item.overdue,
        session_over: item.session_over,
        closed: closed.transpose()?,
        revision: item.revision,
        relations: relations_from_proto(item.relations),
        values: values_from_proto(item.values),
    })
}

/// To protobuf.
#[must_use]
pub const fn finding_to_proto(finding: Finding) -> pb::Finding {
    match finding {
        Finding::Ok => pb::Finding::Ok,
        Finding::Concern => pb::Finding::Concern,
    }
}

/// From protobuf.
///
/// # Errors
/// When it is neither.
pub fn finding_from_proto(finding: i32) -> Result<Finding, WireError> {
    match pb::Finding::try_from(finding) {
        Ok(pb::Finding::Ok) => Ok(Finding::Ok),
        Ok(pb::Finding::Concern) => Ok(Finding::Concern),
        _ => Err(WireError::new("finding", "must be \"ok\" or \"concern\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::{ValuePlace, ValueUse};
    use crate::id::{OperationId, ReviewId, SessionId};
    use crate::principal::{Principal, PrincipalId};
    use crate::time::Timestamp;

    #[test]
    fn comes_back_as_it_was() {
        let principal = |subject: &str| Principal {
            id: PrincipalId { issuer: "corp".parse().unwrap(), subject: subject.into() },
            groups: ["on-call".into()].into_iter().collect(),
            token_id: None,
            expires_at: None,
            chain: Vec::new(),
            claims: Default::default(),
        };
        let mut item = ReviewItem {
            id: ReviewId::from_bytes([1; 16]),
            principal: principal("olga"),
            target: "shop".parse().unwrap(),
            session: SessionId::from_bytes([2; 16]),
            gateway: "g1".into(),
            operation: OperationId::from_bytes([3; 16]),
            digest: Digest([7; 32]),
            text: "DELETE FROM t WHERE a = 'x'".into(),
            text_cut: true,
            parameters: vec!["1".into()],
            actions: vec!["sql:delete on shop.public.t".into()],
            policies: vec!["break-glass".into()],
            policy_revision: 7,
            reason: "why".into(),
            groups: vec!["dba".into(), "security".into()],
            opened_at: Timestamp::from_millis(1),
            due_at: Timestamp::from_millis(9),
            overdue: true,
            session_over: true,
            closed: None,
            revision: 4,
            relations: vec![["shop".into(), "public".into(), "t".into()]],
            values: vec![ValueUse { place: ValuePlace::Text(24, 27), columns: vec!["a".into()] }],
        };
        assert_eq!(item_from_proto(item_to_proto(&item)), Ok(item.clone()));
        for finding in [Finding::Ok, Finding::Concern] {
            let at = Timestamp::from_millis(12);
            item.closed = Some(Closing { by: principal("rita"), finding, comment: "seen".into(), at });
            assert_eq!(item_from_proto(item_to_proto(&item)), Ok(item.clone()));
        }
        let mut many = item_to_proto(&item);
        many.values = vec![many.values[0].clone(); MAX_VALUES + 1];
        assert!(item_from_proto(many).is_err());
        assert!(finding_from_proto(0).is_err());
    }
}
