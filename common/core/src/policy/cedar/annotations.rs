//! What follows from a policy in Cedar, as its annotations say it.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use super::InvalidRule;
use crate::allowance::{Allowance, MAX_IN_FLIGHT, MIN_IN_FLIGHT};
use crate::approval::{ApprovalRequirement, DEFAULT_APPROVAL_EXPIRY, MAX_APPROVAL_EXPIRY};
use crate::name::Name;
use crate::policy::{
    DEFAULT_REVIEW_WITHIN, Durability, Effect, MAX_REVIEW_WITHIN, MAX_STALENESS, MAX_STATEMENT_TIMEOUT, Obligations,
    OnStale, ReviewAfterwards, Staleness,
};
use crate::time::Ttl;

/// The longest reason, in bytes.
const MAX_TEXT: usize = 4_096;

/// What the annotations of a policy say. What they do not say may stand beside the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotated {
    /// `@approval("GROUP, GROUP")`, with `@approvalCount("2")` and `@approvalExpires("15m")`: only after review.
    pub approval: Option<ApprovalRequirement>,
    /// `@approvalWhenAway("wait")`: what is held waits while the control plane is away.
    pub waits: bool,
    /// `@maxStaleness("5m")`, `@onStale("keep")`.
    pub staleness: Option<Staleness>,
    /// `@sessions("5")`, `@connectionsPerSecond("5")`, `@operationsPerSecond("50")`, `@inFlightBytes("65536")`.
    pub limits: Option<Allowance>,
    /// `@rowLimit("1000")`, `@statementTimeout("30s")`, `@readOnly`, `@mask("RULE, RULE")`, `@durability("quorum")`, `@review("GROUP, GROUP")` with `@reviewWithin("24h")`.
    pub obligations: Option<Obligations>,
    /// `@reason("…")`: shown to whoever is denied or held by it.
    pub reason: Option<String>,
}

impl Annotated {
    /// Of `policy`.
    ///
    /// # Errors
    /// When one is unknown: somebody believes that it does something. When its value cannot be read, or has no meaning with the policy's effect.
    pub(super) fn read(policy: &cedar_policy::Policy) -> Result<Self, InvalidRule> {
        let effect = match policy.effect() {
            cedar_policy::Effect::Permit => Effect::Permit,
            cedar_policy::Effect::Forbid => Effect::Deny,
        };
        let mut all: Vec<(&str, &str)> = policy.annotations().collect();
        all.sort_unstable();
        let mut read = Self::default();
        let mut asked: Option<Asked<'_>> = None;
        let mut staleness: Option<Staleness> = None;
        let mut limits: Option<Allowance> = None;
        let mut asks: Option<Obligations> = None;
        let mut review: Option<Afterwards<'_>> = None;
        for (key, value) in all {
            let fault = |why: &str| InvalidRule(format!("@{key}({value:?}): {why}"));
            if effect == Effect::Deny && !matches!(key, "id" | "reason" | "description") {
                return Err(fault("has no meaning with what forbids"));
            }
            let number = || value.parse::<u32>().map_err(|_| fault("must be a whole number"));
            let seconds = || seconds(value).ok_or_else(|| fault("must be a duration such as \"30s\", \"15m\", \"8h\""));
            match key {
                "id" | "description" => {}
                "reason" if value.is_empty() || value.len() > MAX_TEXT => {
                    return Err(fault("must have 1 to 4096 bytes"));
                }
                "reason" => read.reason = Some(value.to_owned()),
                "approval" => asked.get_or_insert_default().groups = Some(value),
                "approvalCount" => asked.get_or_insert_default().count = Some(number()?),
                "approvalExpires" => asked.get_or_insert_default().expires = Some(seconds()?),
                "approvalWhenAway" => {
                    asked.get_or_insert_default();
                    read.waits = match value {
                        "wait" => true,
                        "fail" => false,
                        _ => return Err(fault("must be \"fail\" or \"wait\"")),
                    };
                }
                "maxStaleness" => match seconds()? {
                    at if at > MAX_STALENESS => return Err(fault("must be at most 24h")),
                    at => staleness.get_or_insert_default().max = Some(Duration::from_secs(at.into())),
                },
                "onStale" => {
                    staleness.get_or_insert_default().then = match value {
                        "end" => OnStale::End,
                        "keep" => OnStale::Keep,
                        _ => return Err(fault("must be \"end\" or \"keep\"")),
                    };
                }
                "sessions" => limits.get_or_insert_default().sessions = positive(number()?, fault)?,
                "connectionsPerSecond" => {
                    limits.get_or_insert_default().connections_per_second = positive(number()?, fault)?;
                }
                "operationsPerSecond" => {
                    limits.get_or_insert_default().operations_per_second = positive(number()?, fault)?;
                }
                "inFlightBytes" => match number()? {
                    bytes @ MIN_IN_FLIGHT..=MAX_IN_FLIGHT => {
                        limits.get_or_insert_default().in_flight_bytes = bytes;
                    }
                    _ => return Err(fault("must be 4096 to 4194304")),
                },
                "durability" => match Durability::by_name(value) {
                    Some(class) => asks.get_or_insert_default().durability = Some(class),
                    None => return Err(fault("must be \"quorum\", \"spooled\" or \"buffered\"")),
                },
                "rowLimit" => match value.parse::<NonZeroU64>() {
                    Ok(rows) => asks.get_or_insert_default().row_limit = Some(rows),
                    Err(_) => return Err(fault("must be a whole number of at least 1")),
                },
                "statementTimeout" => match seconds()? {
                    time @ 1..=MAX_STATEMENT_TIMEOUT => {
                        asks.get_or_insert_default().statement_timeout = Some(Ttl(time));
                    }
                    _ => return Err(fault("must be 1s to 24h")),
                },
                "mask" => {
                    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                    let masks: Result<BTreeSet<Name>, _> = names.map(str::parse).collect();
                    match masks {
                        Ok(masks) if !masks.is_empty() => asks.get_or_insert_default().masks = masks,
                        Ok(_) => return Err(fault("must name at least one MaskingRule")),
                        Err(error) => return Err(fault(&format!("must name MaskingRules: {error}"))),
                    }
                }
                "review" => review.get_or_insert_default().groups = Some(value),
                "reviewWithin" => match seconds()? {
                    time @ 1..=MAX_REVIEW_WITHIN => review.get_or_insert_default().within = Some(time),
                    _ => return Err(fault("must be 1s to 30d")),
                },
                "readOnly" if value.is_empty() || value == "true" => asks.get_or_insert_default().read_only = true,
                "readOnly" => return Err(fault("says all by its name: @readOnly")),
                _ => return Err(fault("is no annotation that Postern knows")),
            }
        }
        if let Some(review) = review {
            asks.get_or_insert_default().reviews = [review.requirement()?].into_iter().collect();
        }
        read.approval = asked.map(Asked::requirement).transpose()?;
        Ok(Self { staleness, limits, obligations: asks, ..read })
    }
}

/// A review after the fact.
#[derive(Default)]
struct Afterwards<'a> {
    groups: Option<&'a str>,
    within: Option<u32>,
}

impl Afterwards<'_> {
    fn requirement(self) -> Result<ReviewAfterwards, InvalidRule> {
        let groups = self.groups.unwrap_or_default().split(',').map(str::trim);
        let groups: BTreeSet<String> = groups.filter(|group| !group.is_empty()).map(str::to_owned).collect();
        if groups.is_empty() {
            return Err(InvalidRule("@review must name at least one group of reviewers".to_owned()));
        }
        Ok(ReviewAfterwards { groups, within: Ttl(self.within.unwrap_or(DEFAULT_REVIEW_WITHIN)) })
    }
}

#[derive(Default)]
struct Asked<'a> {
    groups: Option<&'a str>,
    count: Option<u32>,
    expires: Option<u32>,
}

impl Asked<'_> {
    fn requirement(self) -> Result<ApprovalRequirement, InvalidRule> {
        let groups = self.groups.unwrap_or_default().split(',').map(str::trim);
        let groups: Vec<String> = groups.filter(|group| !group.is_empty()).map(str::to_owned).collect();
        if groups.is_empty() {
            return Err(InvalidRule("@approval must name at least one group of reviewers".to_owned()));
        }
        let count = self.count.unwrap_or(1);
        if !(1..=16).contains(&count) {
            return Err(InvalidRule("@approvalCount must be 1 to 16".to_owned()));
        }
        let expires = self.expires.unwrap_or(DEFAULT_APPROVAL_EXPIRY);
        if !(1..=MAX_APPROVAL_EXPIRY).contains(&expires) {
            return Err(InvalidRule("@approvalExpires must be 1s to 24h".to_owned()));
        }
        Ok(ApprovalRequirement { groups, count, expires: Ttl(expires) })
    }
}

fn positive(number: u32, fault: impl Fn(&str) -> InvalidRule) -> Result<u32, InvalidRule> {
    if number == 0 { Err(fault("must be at least 1")) } else { Ok(number) }
}

/// `30s`, `15m`, `8h`, `2d`.
fn seconds(text: &str) -> Option<u32> {
    let unit = match text.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3_600,
        b'd' => 86_400,
        _ => return None,
    };
    let number = text.get(..text.len().checked_sub(1)?)?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse::<u32>().ok()?.checked_mul(unit))?
}
