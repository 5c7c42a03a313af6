//! Masking rules.

use postern_proto::resource::v1 as pb;

use super::faults::Faults;
use super::selector;
use crate::masking::{ColumnRegex, Detector, MaskingRule, type_name};
use crate::target::TargetSelector;

pub(super) fn rule(spec: pb::MaskingRuleSpec, faults: &mut Faults) -> MaskingRule {
    let names_nothing =
        spec.columns.is_empty() && spec.columns_matching.is_empty() && spec.types.is_empty() && spec.labels.is_empty();
    if names_nothing && spec.detect.is_empty() {
        faults.add(
            "spec.columns",
            "must name at least one column, or else columnsMatching, types, labels or detect must say what is masked",
        );
    }
    if !names_nothing && !spec.detect.is_empty() {
        faults.add("spec.detect", "stands instead of columns: what it tells is masked in all of them");
    }
    faults.bound_all("spec.columns", &spec.columns);
    let columns = selector::patterns("spec.columns", &spec.columns, faults);
    for (place, pattern) in columns.iter().enumerate() {
        if pattern.depth() < 3 {
            faults.add(format!("spec.columns[{place}]"), "must be SCHEMA.TABLE.COLUMN or DATABASE.SCHEMA.TABLE.COLUMN");
        }
    }
    faults.bound_all("spec.exemptGroups", &spec.exempt_groups);
    if spec.opaque && !spec.detect.is_empty() {
        faults.add("spec.opaque", "is for columns, not for what stands in texts");
    }
    let mask = selector::mask(spec.mask, faults);
    if !spec.detect.is_empty() && !mask.is_for_text() {
        faults.add("spec.mask", "is for dates and numbers, not for what stands in texts");
    }
    MaskingRule {
        targets: match spec.targets {
            // Whom and where it masks, policies say.
            None if spec.only_by_policy => TargetSelector::default(),
            targets => selector::targets(targets, faults),
        },
        detect: each("spec.detect", &spec.detect, Detector::parse, faults).into_iter().collect(),
        columns,
        matching: each("spec.columnsMatching", &spec.columns_matching, ColumnRegex::parse, faults),
        types: each("spec.types", &spec.types, type_name, faults),
        labels: each("spec.labels", &spec.labels, ColumnRegex::parse, faults),
        mask,
        opaque: spec.opaque,
        exempt_groups: spec.exempt_groups,
        only_by_policy: spec.only_by_policy,
    }
}

fn each<T>(field: &str, texts: &[String], read: fn(&str) -> Result<T, String>, faults: &mut Faults) -> Vec<T> {
    // Each is tried on every column of a target.
    if texts.len() > MAX_EACH {
        faults.add(field, format!("holds more than {MAX_EACH}"));
        return Vec::new();
    }
    let mut all = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        match read(text) {
            Ok(one) => all.push(one),
            Err(why) => faults.add(format!("{field}[{place}]"), why),
        }
    }
    all
}

/// Most expressions or types of one rule.
const MAX_EACH: usize = 64;

pub(super) fn to_proto(rule: &MaskingRule) -> pb::MaskingRuleSpec {
    pb::MaskingRuleSpec {
        targets: (!rule.only_by_policy || rule.targets != TargetSelector::default())
            .then(|| selector::targets_to_proto(&rule.targets)),
        columns: rule.columns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        mask: Some(selector::mask_to_proto(&rule.mask)),
        exempt_groups: rule.exempt_groups.clone(),
        columns_matching: rule.matching.iter().map(|regex| regex.as_str().to_owned()).collect(),
        types: rule.types.clone(),
        labels: rule.labels.iter().map(|regex| regex.as_str().to_owned()).collect(),
        opaque: rule.opaque,
        only_by_policy: rule.only_by_policy,
        detect: rule.detect.iter().map(|detector| detector.as_str().to_owned()).collect(),
    }
}
