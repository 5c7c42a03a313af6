//! Masking rules.

use postern_proto::resource::v1 as pb;

use super::faults::Faults;
use super::selector;
use crate::masking::{ColumnRegex, MaskingRule, type_name};

pub(super) fn rule(spec: pb::MaskingRuleSpec, faults: &mut Faults) -> MaskingRule {
    if spec.columns.is_empty() && spec.columns_matching.is_empty() && spec.types.is_empty() {
        faults.add("spec.columns", "must name at least one column, or else columnsMatching or types must name some");
    }
    faults.bound_all("spec.columns", &spec.columns);
    let columns = selector::patterns("spec.columns", &spec.columns, faults);
    for (place, pattern) in columns.iter().enumerate() {
        if pattern.depth() < 3 {
            faults.add(format!("spec.columns[{place}]"), "must be SCHEMA.TABLE.COLUMN or DATABASE.SCHEMA.TABLE.COLUMN");
        }
    }
    faults.bound_all("spec.exemptGroups", &spec.exempt_groups);
    MaskingRule {
        targets: selector::targets(spec.targets, faults),
        columns,
        matching: each("spec.columnsMatching", &spec.columns_matching, ColumnRegex::parse, faults),
        types: each("spec.types", &spec.types, type_name, faults),
        mask: selector::mask(spec.mask, faults),
        exempt_groups: spec.exempt_groups,
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
        targets: Some(selector::targets_to_proto(&rule.targets)),
        columns: rule.columns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        mask: Some(selector::mask_to_proto(&rule.mask)),
        exempt_groups: rule.exempt_groups.clone(),
        columns_matching: rule.matching.iter().map(|regex| regex.as_str().to_owned()).collect(),
        types: rule.types.clone(),
    }
}
