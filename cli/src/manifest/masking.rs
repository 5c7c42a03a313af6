//! The `spec` of a MaskingRule.

use postern_core::masking::MaskFunction;
use postern_proto::resource::v1 as pb;

use super::object::Object;

pub(super) fn rule(spec: &mut Object<'_>) -> pb::MaskingRuleSpec {
    pb::MaskingRuleSpec {
        targets: super::kinds::targets(spec),
        columns: spec.strings("columns"),
        mask: mask(spec).map(|function| pb::Mask { function: Some(function) }),
        exempt_groups: spec.strings("exemptGroups"),
        columns_matching: spec.strings("columnsMatching"),
        types: spec.strings("types"),
        labels: spec.strings("labels"),
        detect: spec.strings("detect"),
        opaque: spec.bool("opaque").unwrap_or_default(),
        only_by_policy: spec.bool("onlyByPolicy").unwrap_or_default(),
    }
}

/// One word, or a mapping with one entry: [`MaskFunction::FORMS`].
fn mask(spec: &mut Object<'_>) -> Option<pb::mask::Function> {
    use pb::mask::Function;
    let expected = || format!("expected {}", MaskFunction::FORMS);
    let Some(node) = spec.any_node("mask") else {
        spec.fault("mask", format!("is required: {}", expected()));
        return None;
    };
    if let crate::yaml::Value::Scalar { text, .. } = &node.value {
        return match text.as_str() {
            "null" | "~" => Some(Function::Null(pb::NullMask {})),
            "hash" => Some(Function::Hash(pb::HashMask {})),
            "redact" => Some(Function::Redact(pb::RedactMask::default())),
            "digits" => Some(Function::Digits(pb::DigitsMask::default())),
            _ => {
                spec.fault("mask", expected());
                None
            }
        };
    }
    let mut forms = spec.object("mask")?;
    let read = [
        form(&mut forms, "redact", |form| {
            Function::Redact(pb::RedactMask { text: form.string("text").unwrap_or_default() })
        }),
        form(&mut forms, "partial", |form| {
            Function::Partial(pb::PartialMask { keep_last: form.number("keepLast").unwrap_or_default() })
        }),
        form(&mut forms, "truncate", |form| {
            Function::Truncate(pb::TruncateMask { to: form.string("to").unwrap_or_default() })
        }),
        form(&mut forms, "bucket", |form| {
            Function::Bucket(pb::BucketMask { width: form.number("width").unwrap_or_default() })
        }),
        form(&mut forms, "digits", |form| {
            Function::Digits(pb::DigitsMask { luhn: form.bool("luhn").unwrap_or_default() })
        }),
    ];
    let mut found = read.into_iter().flatten();
    let function = match (found.next(), found.next()) {
        (Some(function), None) => Some(function),
        _ => {
            forms.faults.add(forms.line(), "spec.mask", expected());
            None
        }
    };
    forms.finish();
    function
}

fn form(
    forms: &mut Object<'_>,
    name: &'static str,
    read: impl FnOnce(&mut Object<'_>) -> pb::mask::Function,
) -> Option<pb::mask::Function> {
    let mut form = forms.object(name)?;
    let function = read(&mut form);
    form.finish();
    Some(function)
}
