//! Principals, approvals and sessions.

use std::sync::Arc;

use postern_proto::resource::v1 as pb;

use super::background::{background_from_proto, background_to_proto};
use super::{WireError, parse, timestamp_from_proto, timestamp_or_zero, timestamp_to_proto};
use crate::approval::{Approval, ApprovalRequirement, ApprovalState, Review, ReviewVerdict};
use crate::kept::KeptClaims;
use crate::name::Name;
use crate::operation::Digest;
use crate::policy::{ActionPattern, Pattern};
use crate::principal::{Actor, Link, Principal, PrincipalId};
use crate::scope::{Network, Scope};
use crate::session::{Ending, Session, SessionEnd};
use crate::time::Ttl;

/// To protobuf, without the claims that it keeps.
#[must_use]
pub fn principal_to_proto(principal: &Principal) -> pb::Principal {
    pb::Principal {
        issuer: principal.id.issuer.to_string(),
        subject: principal.id.subject.to_string(),
        groups: principal.groups.iter().map(ToString::to_string).collect(),
        token_id: principal.token_id.as_deref().unwrap_or_default().to_owned(),
        expires_at: principal.expires_at.map(timestamp_to_proto),
        chain: principal
            .chain
            .iter()
            .map(|link| {
                let actor = link.actor.as_ref();
                let issuer = actor.and_then(|actor| actor.issuer.as_ref());
                pb::Delegator {
                    issuer: issuer.map(ToString::to_string).unwrap_or_default(),
                    subject: actor.map(|actor| actor.name.to_string()).unwrap_or_default(),
                    token_id: link.token.to_string(),
                    scope: (link.scope != Scope::default()).then(|| scope_to_proto(&link.scope)),
                }
            })
            .collect(),
        claims: Vec::new(),
    }
}

/// To protobuf, with the claims that it keeps. These are for those who decide by them, and not for what is only to name it.
#[must_use]
pub fn principal_with_claims_to_proto(principal: &Principal) -> pb::Principal {
    let claims = principal.claims.iter().map(|(name, values)| pb::KeptClaim {
        name: name.to_owned(),
        values: values.iter().map(ToString::to_string).collect(),
    });
    pb::Principal { claims: claims.collect(), ..principal_to_proto(principal) }
}

/// To protobuf.
#[must_use]
pub fn scope_to_proto(scope: &Scope) -> pb::TokenScope {
    fn texts<T: ToString>(of: impl IntoIterator<Item = T>) -> Vec<String> {
        of.into_iter().map(|one| one.to_string()).collect()
    }
    pb::TokenScope {
        targets: texts(&scope.targets),
        actions: texts(&scope.actions),
        resources: texts(&scope.resources),
        networks: texts(&scope.networks),
        roles: texts(&scope.roles),
        uses: scope.uses,
    }
}

/// From protobuf.
///
/// # Errors
/// When something in it is no name, action, pattern or network, or there is too much of it.
pub fn scope_from_proto(field: &str, scope: &pb::TokenScope) -> Result<Scope, WireError> {
    fn read<T, E: std::fmt::Display, C: FromIterator<T>>(
        field: String,
        texts: &[String],
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<C, WireError> {
        texts
            .iter()
            .map(|text| parse(text).map_err(|fault| WireError::new(&field, format!("{text:?}: {fault}"))))
            .collect()
    }
    let action = |text: &str| ActionPattern::parse(text).ok_or("not an action");
    let role = |text: &str| if text.is_empty() { Err("empty") } else { Ok(text.into()) };
    let scope = Scope {
        targets: read(format!("{field}.targets"), &scope.targets, str::parse::<Name>)?,
        actions: read(format!("{field}.actions"), &scope.actions, action)?,
        resources: read(format!("{field}.resources"), &scope.resources, Pattern::parse)?,
        networks: read(format!("{field}.networks"), &scope.networks, str::parse::<Network>)?,
        roles: read(format!("{field}.roles"), &scope.roles, role)?,
        uses: scope.uses,
    };
    scope.check().map_err(|fault| WireError::new(field, fault.to_string()))?;
    Ok(scope)
}

/// From protobuf.
///
/// # Errors
/// When a name in it is none.
pub fn principal_from_proto(principal: pb::Principal) -> Result<Principal, WireError> {
    let id = |issuer: &str, subject: String| -> Result<PrincipalId, WireError> {
        Ok(PrincipalId { issuer: parse("principal.issuer", issuer)?, subject: subject.into() })
    };
    let mut claims = KeptClaims::default();
    for pb::KeptClaim { name, values } in principal.claims {
        if !claims.keep(&name, values.into_iter().map(Into::into).collect()) {
            return Err(WireError::new("principal.claims", "are more than are kept"));
        }
    }
    Ok(Principal {
        id: id(&principal.issuer, principal.subject)?,
        groups: principal.groups.into_iter().map(Into::into).collect(),
        token_id: Some(principal.token_id).filter(|token| !token.is_empty()).map(Into::into),
        expires_at: principal.expires_at.as_ref().map(timestamp_from_proto),
        chain: principal.chain.into_iter().map(link_from_proto).collect::<Result<_, _>>()?,
        claims,
    })
}

fn link_from_proto(link: pb::Delegator) -> Result<Link, WireError> {
    let issuer = (!link.issuer.is_empty()).then(|| parse("principal.chain.issuer", &link.issuer)).transpose()?;
    let actor = (!link.subject.is_empty()).then(|| Actor { issuer, name: link.subject.into() });
    let scope = link.scope.as_ref().map(|scope| scope_from_proto("principal.chain.scope", scope)).transpose()?;
    Ok(Link { token: link.token_id.into(), actor, scope: scope.unwrap_or_default() })
}

/// To protobuf.
#[must_use]
pub fn approval_to_proto(approval: &Approval) -> pb::Approval {
    pb::Approval {
        id: approval.id.to_string(),
        state: state_to_proto(approval.state).into(),
        requester: Some(principal_to_proto(&approval.requester)),
        target: approval.target.to_string(),
        session: approval.session.to_string(),
        operation: approval.operation.to_string(),
        digest: approval.digest.0.to_vec(),
        text: approval.text.clone(),
        parameters: approval.parameters.clone(),
        actions: approval.actions.clone(),
        policies: approval.policies.clone(),
        reason: approval.reason.clone(),
        reviewer_groups: approval.requirement.groups.clone(),
        required: approval.requirement.count,
        reviews: approval.reviews.iter().map(review_to_proto).collect(),
        requested_at: Some(timestamp_to_proto(approval.requested_at)),
        expires_at: Some(timestamp_to_proto(approval.expires_at)),
        revision: approval.revision,
        withdrawn_because: approval.withdrawn_because.clone(),
        background: approval.background.as_deref().map(background_to_proto),
    }
}

/// From protobuf.
///
/// # Errors
/// When an id, name or digest in it is none.
pub fn approval_from_proto(approval: pb::Approval) -> Result<Approval, WireError> {
    let requester = approval.requester.ok_or_else(|| WireError::new("approval.requester", "is missing"))?;
    let (requested_at, expires_at) =
        (timestamp_or_zero(approval.requested_at.as_ref()), timestamp_or_zero(approval.expires_at.as_ref()));
    let expires = u32::try_from(expires_at.since(requested_at).as_secs()).unwrap_or(u32::MAX);
    Ok(Approval {
        id: parse("approval.id", &approval.id)?,
        state: state_from_proto(approval.state)?,
        requester: principal_from_proto(requester)?,
        target: parse("approval.target", &approval.target)?,
        session: parse("approval.session", &approval.session)?,
        operation: parse("approval.operation", &approval.operation)?,
        digest: Digest::from_slice(&approval.digest)
            .ok_or_else(|| WireError::new("approval.digest", "has not 32 bytes"))?,
        text: approval.text,
        parameters: approval.parameters,
        actions: approval.actions,
        policies: approval.policies,
        reason: approval.reason,
        requirement: ApprovalRequirement {
            groups: approval.reviewer_groups,
            count: approval.required.max(1),
            expires: Ttl(expires),
        },
        reviews: approval.reviews.into_iter().map(review_from_proto).collect::<Result<_, _>>()?,
        requested_at,
        expires_at,
        revision: approval.revision,
        withdrawn_because: approval.withdrawn_because,
        background: approval.background.map(background_from_proto).transpose()?.map(Arc::new),
    })
}

/// To protobuf.
#[must_use]
pub fn session_to_proto(session: &Session) -> pb::Session {
    let state = match &session.end {
        None => pb::SessionState::Open,
        Some(end) if end.ending.is_interrupted() => pb::SessionState::Interrupted,
        Some(_) => pb::SessionState::Ended,
    };
    let end = session.end.as_ref();
    pb::Session {
        id: session.id.to_string(),
        state: state.into(),
        principal: Some(principal_to_proto(&session.principal)),
        target: session.target.to_string(),
        gateway: session.gateway.clone(),
        client_address: session.client_address.clone(),
        database: session.database.clone(),
        started_at: Some(timestamp_to_proto(session.started_at)),
        ended_at: end.map(|end| timestamp_to_proto(end.at)),
        end_reason: end.map(|end| end.reason.clone()).unwrap_or_default(),
        events: end.map_or(0, |end| end.events),
        head: end.map(|end| end.head.0.to_vec()).unwrap_or_default(),
        revision: session.revision,
        orphaned: session.is_orphaned(),
    }
}

/// From protobuf.
///
/// # Errors
/// When an id, name or digest in it is none.
pub fn session_from_proto(session: pb::Session) -> Result<Session, WireError> {
    let principal = session.principal.ok_or_else(|| WireError::new("session.principal", "is missing"))?;
    let ending = match pb::SessionState::try_from(session.state) {
        Ok(pb::SessionState::Open) => None,
        Ok(pb::SessionState::Ended) => Some(Ending::Orderly),
        Ok(pb::SessionState::Interrupted) if session.orphaned => Some(Ending::Orphaned),
        Ok(pb::SessionState::Interrupted) => Some(Ending::Interrupted),
        _ => return Err(WireError::new("session.state", "is unknown")),
    };
    let end = match ending {
        None => None,
        Some(ending) => Some(SessionEnd {
            ending,
            at: timestamp_or_zero(session.ended_at.as_ref()),
            reason: session.end_reason,
            events: session.events,
            head: Digest::from_slice(&session.head)
                .ok_or_else(|| WireError::new("session.head", "has not 32 bytes"))?,
        }),
    };
    Ok(Session {
        id: parse("session.id", &session.id)?,
        principal: principal_from_proto(principal)?,
        target: parse("session.target", &session.target)?,
        gateway: session.gateway,
        client_address: session.client_address,
        database: session.database,
        started_at: timestamp_or_zero(session.started_at.as_ref()),
        end,
        revision: session.revision,
    })
}

/// To protobuf.
#[must_use]
pub const fn verdict_to_proto(verdict: ReviewVerdict) -> pb::Verdict {
    match verdict {
        ReviewVerdict::Approve => pb::Verdict::Approve,
        ReviewVerdict::Deny => pb::Verdict::Deny,
    }
}

/// From protobuf.
///
/// # Errors
/// When it is neither.
pub fn verdict_from_proto(verdict: i32) -> Result<ReviewVerdict, WireError> {
    match pb::Verdict::try_from(verdict) {
        Ok(pb::Verdict::Approve) => Ok(ReviewVerdict::Approve),
        Ok(pb::Verdict::Deny) => Ok(ReviewVerdict::Deny),
        _ => Err(WireError::new("verdict", "must be approve or deny")),
    }
}

pub(super) fn review_to_proto(review: &Review) -> pb::Review {
    pb::Review {
        reviewer: Some(principal_to_proto(&review.reviewer)),
        verdict: verdict_to_proto(review.verdict).into(),
        comment: review.comment.clone(),
        at: Some(timestamp_to_proto(review.at)),
    }
}

pub(super) fn review_from_proto(review: pb::Review) -> Result<Review, WireError> {
    let reviewer = review.reviewer.ok_or_else(|| WireError::new("review.reviewer", "is missing"))?;
    Ok(Review {
        reviewer: principal_from_proto(reviewer)?,
        verdict: verdict_from_proto(review.verdict)?,
        comment: review.comment,
        at: timestamp_or_zero(review.at.as_ref()),
    })
}

const fn state_to_proto(state: ApprovalState) -> pb::ApprovalState {
    match state {
        ApprovalState::Pending => pb::ApprovalState::Pending,
        ApprovalState::Approved => pb::ApprovalState::Approved,
        ApprovalState::Denied => pb::ApprovalState::Denied,
        ApprovalState::Consumed => pb::ApprovalState::Consumed,
        ApprovalState::Expired => pb::ApprovalState::Expired,
        ApprovalState::Withdrawn => pb::ApprovalState::Withdrawn,
    }
}

fn state_from_proto(state: i32) -> Result<ApprovalState, WireError> {
    match pb::ApprovalState::try_from(state) {
        Ok(pb::ApprovalState::Pending) => Ok(ApprovalState::Pending),
        Ok(pb::ApprovalState::Approved) => Ok(ApprovalState::Approved),
        Ok(pb::ApprovalState::Denied) => Ok(ApprovalState::Denied),
        Ok(pb::ApprovalState::Consumed) => Ok(ApprovalState::Consumed),
        Ok(pb::ApprovalState::Expired) => Ok(ApprovalState::Expired),
        Ok(pb::ApprovalState::Withdrawn) => Ok(ApprovalState::Withdrawn),
        _ => Err(WireError::new("approval.state", "is unknown")),
    }
}
