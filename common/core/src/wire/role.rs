//! Roles and their bindings.

use postern_proto::resource::v1 as pb;

use super::faults::{Faults, MAX_TEXT};
use super::selector;
use crate::name::Name;
use crate::role::{BUILT_IN, Grant, OBJECTS, Role, RoleBinding, VERBS};

pub(super) fn role(spec: pb::RoleSpec, faults: &mut Faults) -> Role {
    if spec.grants.is_empty() {
        faults.add("spec.grants", "must grant something");
    }
    faults.bound("spec.grants", spec.grants.len(), 100);
    faults.bound("spec.description", spec.description.len(), MAX_TEXT);
    for (place, grant) in spec.grants.iter().enumerate() {
        known(&format!("spec.grants[{place}].objects"), &grant.objects, &OBJECTS, faults);
        known(&format!("spec.grants[{place}].verbs"), &grant.verbs, &VERBS, faults);
    }
    let grants = spec.grants.into_iter().map(|grant| Grant { objects: grant.objects, verbs: grant.verbs });
    Role { grants: grants.collect(), description: spec.description }
}

pub(super) fn role_to_proto(role: &Role) -> pb::RoleSpec {
    let grant = |grant: &Grant| pb::Grant { objects: grant.objects.clone(), verbs: grant.verbs.clone() };
    pb::RoleSpec { grants: role.grants.iter().map(grant).collect(), description: role.description.clone() }
}

pub(super) fn binding(spec: pb::RoleBindingSpec, faults: &mut Faults) -> RoleBinding {
    if !BUILT_IN.contains(&spec.role.as_str())
        && let Err(error) = spec.role.parse::<Name>()
    {
        faults.add("spec.role", error);
    }
    let subjects = selector::principals("spec.subjects", spec.subjects, faults);
    if subjects.groups.iter().any(|group| group == "*") {
        faults.add("spec.subjects.groups", "must name groups: \"*\" would give the role to everybody");
    }
    if !subjects.tokens.is_empty() {
        faults.add("spec.subjects.tokens", "is for policies that deny");
    }
    RoleBinding { role: spec.role, subjects }
}

pub(super) fn binding_to_proto(binding: &RoleBinding) -> pb::RoleBindingSpec {
    pb::RoleBindingSpec { role: binding.role.clone(), subjects: Some(selector::principals_to_proto(&binding.subjects)) }
}

fn known(field: &str, texts: &[String], all: &[&str], faults: &mut Faults) {
    if texts.is_empty() {
        faults.add(field, "is empty");
    }
    faults.bound(field, texts.len(), all.len());
    for (place, text) in texts.iter().enumerate() {
        if text != "*" && !all.contains(&text.as_str()) {
            faults.add(format!("{field}[{place}]"), format!("must be \"*\" or one of {}", all.join(", ")));
        }
    }
}
