//! What a write needs beside the verb: nobody grants what they do not hold.

use std::collections::BTreeMap;

use postern_core::Name;
use postern_core::resource::{Resource, Spec};
use tonic::Status;

use super::super::access::Caller;
use super::super::grants::Grants;
use super::super::roles::granted_by;
use super::super::status;

/// Refuses a write that would give anybody what the caller has not got. `declared`: the roles that bindings here name, as they stand.
pub(super) fn check(caller: &Caller, objects: &[Resource], declared: &BTreeMap<Name, Grants>) -> Result<(), Status> {
    if caller.is_admin() {
        return Ok(());
    }
    let mut roles = declared.clone();
    roles.extend(objects.iter().filter_map(|object| match &object.spec {
        Spec::Role(role) => Some((object.metadata.name.clone(), Grants::from(role))),
        _ => None,
    }));
    for object in objects {
        let name = &object.metadata.name;
        let granted = match &object.spec {
            Spec::Role(_) => roles.get(name).copied(),
            Spec::RoleBinding(binding) => granted_by(&binding.role, |role| roles.get(role).copied()),
            // Whoever says who is trusted can become anybody, an administrator too.
            Spec::Issuer(_) | Spec::ServiceAccount(_) => Some(Grants::ALL),
            // It is told what reviewers are, and signs by a Secret.
            Spec::Webhook(_) => Some(Grants::told_of_approvals()),
            Spec::Target(_) | Spec::Policy(_) | Spec::MaskingRule(_) | Spec::Secret(_) => None,
        };
        let Some(granted) = granted.filter(|granted| !caller.grants().covers(granted)) else { continue };
        let lacking = granted.iter().find(|(object, verb)| !caller.may(*object, *verb));
        let lacking =
            lacking.map(|(object, verb)| format!("{} of {}", verb.as_str(), object.as_str())).unwrap_or_default();
        let kind = object.spec.kind();
        let text = match object.spec {
            Spec::Issuer(_) => format!("{kind} {name}: only an administrator says which issuers are trusted"),
            Spec::ServiceAccount(_) => format!("{kind} {name}: only an administrator says who is let in by which key"),
            _ => format!("{kind} {name} would grant {lacking}, which the caller does not hold"),
        };
        return Err(status::with_reason(Status::permission_denied(text), "ESCALATION"));
    }
    Ok(())
}
