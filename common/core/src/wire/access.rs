//! What policies permit on request, requests, and grants.

use std::collections::BTreeSet;

use postern_proto::resource::v1 as pb;

use super::faults::Faults;
use super::identity::{principal_from_proto, principal_to_proto, review_from_proto, review_to_proto};
use super::{WireError, parse, timestamp_from_proto, timestamp_or_zero, timestamp_to_proto};
use crate::access::{
    AccessRequest, AccessState, AutoApprove, DAY, EVERY_DAY, Ended, Grant, Hours, OnRequest, Reviewers,
};
use crate::principal::PrincipalId;
use crate::time::Ttl;

const DEFAULT_SECONDS: u32 = 3_600;
/// A week: what lasts longer is no access for an occasion.
const MAX_SECONDS: u32 = 604_800;
const MAX_REASON: u32 = 1_000;
/// Places for reviewers, over all that is asked.
const MAX_REVIEWERS: u32 = 16;
const MAX_RULES: usize = 16;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

pub(super) fn on_request(spec: pb::OnRequest, faults: &mut Faults) -> OnRequest {
    const AT: &str = "spec.onRequest";
    if spec.review.is_empty() && spec.auto_approve.is_empty() {
        faults.add(AT, "names no reviewers and no rule, so that nobody could ever be granted anything");
    }
    let review = reviewers(&format!("{AT}.review"), spec.review, faults);
    let max_duration = seconds(&format!("{AT}.maxDuration"), spec.max_duration_seconds, faults);
    let expires = seconds(&format!("{AT}.expires"), spec.expires_seconds, faults);
    if spec.min_reason > MAX_REASON {
        faults.add(format!("{AT}.minReason"), format!("must be at most {MAX_REASON}"));
    }
    faults.bound(&format!("{AT}.autoApprove"), spec.auto_approve.len(), MAX_RULES);
    let rules = spec.auto_approve.into_iter().enumerate();
    let auto_approve = rules.map(|(place, rule)| auto(&format!("{AT}.autoApprove[{place}]"), rule, faults)).collect();
    OnRequest { review, max_duration, expires, min_reason: spec.min_reason.max(1), auto_approve }
}

pub(super) fn on_request_to_proto(asked: &OnRequest) -> pb::OnRequest {
    let rules = asked.auto_approve.iter().map(|rule| pb::AutoApprove {
        name: rule.name.clone(),
        groups: rule.groups.clone(),
        labels: rule.labels.clone(),
        hours: rule.hours.map(hours_to_proto),
        max_duration_seconds: rule.max_duration.map_or(0, |most| most.0),
        max_per_day: rule.max_per_day.unwrap_or_default(),
    });
    pb::OnRequest {
        review: asked.review.iter().map(reviewers_to_proto).collect(),
        max_duration_seconds: asked.max_duration.0,
        expires_seconds: asked.expires.0,
        min_reason: asked.min_reason,
        auto_approve: rules.collect(),
    }
}

fn seconds(path: &str, given: u32, faults: &mut Faults) -> Ttl {
    if given > MAX_SECONDS {
        faults.add(path, format!("must be at most {MAX_SECONDS} seconds"));
    }
    Ttl(if given == 0 { DEFAULT_SECONDS } else { given })
}

fn reviewers(path: &str, given: Vec<pb::Reviewers>, faults: &mut Faults) -> Vec<Reviewers> {
    let places = given.iter().fold(0_u32, |sum, of| sum.saturating_add(of.count.max(1)));
    if places > MAX_REVIEWERS {
        faults.add(path, format!("asks for more than {MAX_REVIEWERS} people"));
    }
    for (place, of) in given.iter().enumerate() {
        let path = format!("{path}[{place}].groups");
        if of.groups.is_empty() {
            faults.add(&*path, "must name at least one group of reviewers");
        }
        faults.bound_all(&path, &of.groups);
    }
    given.into_iter().map(|of| Reviewers { groups: of.groups, count: of.count.max(1) }).collect()
}

fn reviewers_to_proto(of: &Reviewers) -> pb::Reviewers {
    pb::Reviewers { groups: of.groups.clone(), count: of.count }
}

fn auto(path: &str, rule: pb::AutoApprove, faults: &mut Faults) -> AutoApprove {
    if rule.name.is_empty() || rule.name.len() > 128 || rule.name.chars().any(char::is_control) {
        faults.add(format!("{path}.name"), "must have 1 to 128 bytes: the audit log says it");
    }
    faults.bound_all(&format!("{path}.groups"), &rule.groups);
    faults.bound(&format!("{path}.labels"), rule.labels.len(), 64);
    if rule.max_duration_seconds > MAX_SECONDS {
        faults.add(format!("{path}.maxDuration"), format!("must be at most {MAX_SECONDS} seconds"));
    }
    AutoApprove {
        name: rule.name,
        groups: rule.groups,
        labels: rule.labels,
        hours: rule.hours.map(|given| hours(&format!("{path}.hours"), &given, faults)),
        max_duration: Some(Ttl(rule.max_duration_seconds)).filter(|most| most.0 > 0),
        max_per_day: Some(rule.max_per_day).filter(|most| *most > 0),
    }
}

fn hours(path: &str, given: &pb::Hours, faults: &mut Faults) -> Hours {
    let mut at = |name: &str, text: &str| {
        clock(text).unwrap_or_else(|| {
            faults.add(format!("{path}.{name}"), "must be a time of the day in UTC, \"08:00\"");
            0
        })
    };
    let (from, to) = (at("from", &given.from), at("to", &given.to));
    let mut days = BTreeSet::new();
    for (place, text) in given.days.iter().enumerate() {
        match DAYS.iter().position(|day| day == text) {
            Some(day) => drop(days.insert(day)),
            None => faults.add(format!("{path}.days[{place}]"), format!("must be one of {}", DAYS.join(", "))),
        }
    }
    let bits = if days.is_empty() { EVERY_DAY } else { days.into_iter().fold(0, |bits, day| bits | 1 << day) };
    Hours { from, to, days: bits }
}

fn hours_to_proto(hours: Hours) -> pb::Hours {
    let at = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    let days = DAYS.iter().enumerate().filter(|(day, _)| hours.days != EVERY_DAY && hours.days >> day & 1 == 1);
    pb::Hours { from: at(hours.from), to: at(hours.to), days: days.map(|(_, day)| (*day).to_owned()).collect() }
}

/// `08:00` as minutes of the day; the day's end is `24:00`.
fn clock(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let part = |text: &str| (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?;
    let (hour, minute): (u16, u16) = (part(hour)?, part(minute)?);
    let at = hour.checked_mul(60)?.checked_add(minute)?;
    (minute < 60 && at <= DAY).then_some(at)
}

/// To protobuf.
#[must_use]
pub fn grant_to_proto(grant: &Grant) -> pb::AccessGrant {
    pb::AccessGrant {
        id: grant.id.to_string(),
        issuer: grant.principal.issuer.to_string(),
        subject: grant.principal.subject.to_string(),
        chain: grant.chain.iter().map(ToString::to_string).collect(),
        target: grant.target.to_string(),
        policy: grant.policy.to_string(),
        ends_at: Some(timestamp_to_proto(grant.ends_at)),
        reason: grant.reason.to_string(),
    }
}

/// From protobuf.
///
/// # Errors
/// When an id or name in it is none. Without an end it ended long ago.
pub fn grant_from_proto(grant: pb::AccessGrant) -> Result<Grant, WireError> {
    Ok(Grant {
        id: parse("grant.id", &grant.id)?,
        principal: PrincipalId { issuer: parse("grant.issuer", &grant.issuer)?, subject: grant.subject.into() },
        chain: grant.chain.into_iter().map(Into::into).collect(),
        target: parse("grant.target", &grant.target)?,
        policy: parse("grant.policy", &grant.policy)?,
        ends_at: timestamp_or_zero(grant.ends_at.as_ref()),
        reason: grant.reason.into(),
    })
}

/// To protobuf.
#[must_use]
pub fn access_to_proto(access: &AccessRequest) -> pb::AccessRequest {
    let ended = access.ended.as_ref();
    pb::AccessRequest {
        id: access.id.to_string(),
        state: state_to_proto(access.state).into(),
        requester: Some(principal_to_proto(&access.requester)),
        target: access.target.to_string(),
        policy: access.policy.to_string(),
        reason: access.reason.clone(),
        duration_seconds: access.duration.0,
        review: access.review.iter().map(reviewers_to_proto).collect(),
        reviews: access.reviews.iter().map(review_to_proto).collect(),
        requested_at: Some(timestamp_to_proto(access.requested_at)),
        expires_at: Some(timestamp_to_proto(access.expires_at)),
        granted_at: access.granted_at.map(timestamp_to_proto),
        ends_at: access.ends_at.map(timestamp_to_proto),
        automatic: access.automatic.clone().unwrap_or_default(),
        ended_by: ended.map(|ended| ended.by.clone()).unwrap_or_default(),
        ended_because: ended.map(|ended| ended.because.clone()).unwrap_or_default(),
        revision: access.revision,
    }
}

/// From protobuf.
///
/// # Errors
/// When an id, name or state in it is none.
pub fn access_from_proto(access: pb::AccessRequest) -> Result<AccessRequest, WireError> {
    let requester = access.requester.ok_or_else(|| WireError::new("access.requester", "is missing"))?;
    let ended = Ended { by: access.ended_by, because: access.ended_because };
    Ok(AccessRequest {
        id: parse("access.id", &access.id)?,
        state: state_from_proto(access.state)?,
        requester: principal_from_proto(requester)?,
        target: parse("access.target", &access.target)?,
        policy: parse("access.policy", &access.policy)?,
        reason: access.reason,
        duration: Ttl(access.duration_seconds),
        review: access.review.into_iter().map(|of| Reviewers { groups: of.groups, count: of.count.max(1) }).collect(),
        reviews: access.reviews.into_iter().map(review_from_proto).collect::<Result<_, _>>()?,
        requested_at: timestamp_or_zero(access.requested_at.as_ref()),
        expires_at: timestamp_or_zero(access.expires_at.as_ref()),
        granted_at: access.granted_at.as_ref().map(timestamp_from_proto),
        ends_at: access.ends_at.as_ref().map(timestamp_from_proto),
        automatic: Some(access.automatic).filter(|rule| !rule.is_empty()),
        ended: Some(ended).filter(|ended| !ended.by.is_empty()),
        revision: access.revision,
    })
}

const fn state_to_proto(state: AccessState) -> pb::AccessState {
    match state {
        AccessState::Pending => pb::AccessState::Pending,
        AccessState::Active => pb::AccessState::Active,
        AccessState::Denied => pb::AccessState::Denied,
        AccessState::Expired => pb::AccessState::Expired,
        AccessState::Withdrawn => pb::AccessState::Withdrawn,
        AccessState::Ended => pb::AccessState::Ended,
        AccessState::Over => pb::AccessState::Over,
    }
}

fn state_from_proto(state: i32) -> Result<AccessState, WireError> {
    match pb::AccessState::try_from(state) {
        Ok(pb::AccessState::Pending) => Ok(AccessState::Pending),
        Ok(pb::AccessState::Active) => Ok(AccessState::Active),
        Ok(pb::AccessState::Denied) => Ok(AccessState::Denied),
        Ok(pb::AccessState::Expired) => Ok(AccessState::Expired),
        Ok(pb::AccessState::Withdrawn) => Ok(AccessState::Withdrawn),
        Ok(pb::AccessState::Ended) => Ok(AccessState::Ended),
        Ok(pb::AccessState::Over) => Ok(AccessState::Over),
        _ => Err(WireError::new("access.state", "is unknown")),
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
