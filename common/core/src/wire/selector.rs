//! Selectors and masks: parts that several kinds of object share.

use postern_proto::resource::v1 as pb;

use super::faults::Faults;
use crate::masking::{InvalidMask, MaskFunction};
use crate::policy::{Pattern, PrincipalSelector};
use crate::principal::PrincipalId;
use crate::target::TargetSelector;

/// The longest `jti`.
const MAX_TOKEN_ID: usize = 256;

pub(super) fn principals(
    field: &str,
    selector: Option<pb::PrincipalSelector>,
    faults: &mut Faults,
) -> PrincipalSelector {
    let selector = selector.unwrap_or_default();
    if selector.groups.is_empty() && selector.subjects.is_empty() && selector.tokens.is_empty() {
        faults.add(field, "names no groups and no subjects, so it speaks of nobody");
    }
    let mut subjects = Vec::new();
    for (place, text) in selector.subjects.iter().enumerate() {
        let parsed = text.split_once('/').filter(|(_, subject)| !subject.is_empty());
        match parsed.and_then(|(issuer, subject)| Some((issuer.parse().ok()?, subject))) {
            Some((issuer, subject)) => subjects.push(PrincipalId { issuer, subject: subject.into() }),
            None => faults.add(format!("{field}.subjects[{place}]"), "must be ISSUER/SUBJECT"),
        }
    }
    for (place, group) in selector.groups.iter().enumerate() {
        if group.is_empty() {
            faults.add(format!("{field}.groups[{place}]"), "is empty");
        }
    }
    let path = format!("{field}.tokens");
    faults.bound_all(&path, &selector.tokens);
    for (place, token) in selector.tokens.iter().enumerate() {
        // A token itself must not lie in a policy, to be read by whoever reads policies (I5).
        if token.is_empty() || token.len() > MAX_TOKEN_ID || token.matches('.').count() >= 2 {
            faults.add(format!("{path}[{place}]"), "must be the token's id, its \"jti\"");
        }
    }
    PrincipalSelector { groups: selector.groups, subjects, tokens: selector.tokens }
}

pub(super) fn principals_to_proto(selector: &PrincipalSelector) -> pb::PrincipalSelector {
    pb::PrincipalSelector {
        groups: selector.groups.clone(),
        subjects: selector.subjects.iter().map(ToString::to_string).collect(),
        tokens: selector.tokens.clone(),
    }
}

pub(super) fn targets(selector: Option<pb::TargetSelector>, faults: &mut Faults) -> TargetSelector {
    let selector = selector.unwrap_or_default();
    if selector.names.is_empty() && selector.labels.is_empty() {
        faults.add("spec.targets", "names no target and no labels, so it speaks of none");
    }
    for (place, name) in selector.names.iter().enumerate() {
        if name != "*"
            && let Err(error) = name.parse::<crate::name::Name>()
        {
            faults.add(format!("spec.targets.names[{place}]"), format!("must be a target's name or \"*\": {error}"));
        }
    }
    TargetSelector { names: selector.names, labels: selector.labels }
}

pub(super) fn targets_to_proto(selector: &TargetSelector) -> pb::TargetSelector {
    pb::TargetSelector { names: selector.names.clone(), labels: selector.labels.clone() }
}

pub(super) fn patterns(field: &str, texts: &[String], faults: &mut Faults) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => faults.add(format!("{field}[{place}]"), error),
        }
    }
    patterns
}

pub(super) fn mask(mask: Option<pb::Mask>, faults: &mut Faults) -> MaskFunction {
    use pb::mask::Function;
    let read = match mask.and_then(|mask| mask.function) {
        Some(Function::Null(_)) => Ok(MaskFunction::Null),
        Some(Function::Redact(redact)) => MaskFunction::redact(&redact.text),
        Some(Function::Partial(partial)) => MaskFunction::partial(partial.keep_last),
        Some(Function::Hash(_)) => Ok(MaskFunction::Hash),
        Some(Function::Truncate(truncate)) => MaskFunction::truncate(&truncate.to),
        Some(Function::Bucket(bucket)) => MaskFunction::bucket(bucket.width),
        Some(Function::Digits(digits)) => Ok(MaskFunction::Digits { luhn: digits.luhn }),
        None => Err(InvalidMask(format!("is missing: one of {}", MaskFunction::FORMS))),
    };
    read.unwrap_or_else(|InvalidMask(why)| {
        faults.add("spec.mask", why);
        MaskFunction::Null
    })
}

pub(super) fn mask_to_proto(mask: &MaskFunction) -> pb::Mask {
    use pb::mask::Function;
    let function = match mask {
        MaskFunction::Null => Function::Null(pb::NullMask {}),
        MaskFunction::Redact(text) => Function::Redact(pb::RedactMask { text: text.to_string() }),
        MaskFunction::Partial { keep_last } => Function::Partial(pb::PartialMask { keep_last: *keep_last }),
        MaskFunction::Hash => Function::Hash(pb::HashMask {}),
        MaskFunction::Truncate(unit) => Function::Truncate(pb::TruncateMask { to: unit.as_str().into() }),
        MaskFunction::Bucket(width) => Function::Bucket(pb::BucketMask { width: width.get() }),
        MaskFunction::Digits { luhn } => Function::Digits(pb::DigitsMask { luhn: *luhn }),
    };
    pb::Mask { function: Some(function) }
}
