use postern_core::Name;
use postern_core::resource::{FieldFault, Kind, Spec};
use postern_core::wire::resource::{kind_from_proto, kind_to_proto};
use postern_proto::state::v1 as pb;

use super::revoke_tokens::revoke_accounts;
use crate::entry::parse;
use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::{Context, State};

/// Removes an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteResource {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// The revision that it must be at; 0: any.
    pub expected_revision: u64,
}

impl DeleteResource {
    pub(crate) fn to_proto(&self) -> pb::DeleteResource {
        pb::DeleteResource {
            kind: kind_to_proto(self.kind).into(),
            name: self.name.to_string(),
            expected_revision: self.expected_revision,
        }
    }

    pub(crate) fn from_proto(proto: pb::DeleteResource) -> Result<Self, Vec<FieldFault>> {
        Ok(Self {
            kind: kind_from_proto(proto.kind).ok_or_else(|| vec![FieldFault::new("kind", "is unknown")])?,
            name: parse("name", &proto.name)?,
            expected_revision: proto.expected_revision,
        })
    }

    /// Whether applying it to `state` now would succeed: for a dry run. Gives the object's revision.
    ///
    /// What a member does not know it could not delete as others do.
    pub(crate) fn feature_level(&self) -> u32 {
        match self.kind {
            Kind::Webhook => 5,
            Kind::ServiceAccount => 4,
            _ => 1,
        }
    }

    /// # Errors
    /// As applying it.
    pub fn check(&self, state: &State) -> Result<u64, Refusal> {
        let what = format!("{} {}", self.kind, self.name);
        let Some(known) = state.resource(self.kind, &self.name) else { return Err(Refusal::not_found(what)) };
        let actual = known.metadata.revision;
        if self.expected_revision != 0 && self.expected_revision != actual {
            return Err(Refusal::Stale { what, expected: self.expected_revision, actual });
        }
        if self.kind == Kind::Secret {
            let uses = |spec: &Spec| match spec {
                Spec::Target(target) => target.credential.secret() == Some(&self.name),
                _ => false,
            };
            if let Some(user) = state.resources(Kind::Target).find(|target| uses(&target.spec)) {
                return Err(Refusal::InUse { what, by: format!("Target {}", user.metadata.name) });
            }
            let signs = |spec: &Spec| matches!(spec, Spec::Webhook(hook) if hook.secret.as_ref() == Some(&self.name));
            if let Some(user) = state.resources(Kind::Webhook).find(|webhook| signs(&webhook.spec)) {
                return Err(Refusal::InUse { what, by: format!("Webhook {}", user.metadata.name) });
            }
        }
        if self.kind == Kind::Role {
            let uses = |spec: &Spec| matches!(spec, Spec::RoleBinding(binding) if binding.role == self.name.as_str());
            if let Some(user) = state.resources(Kind::RoleBinding).find(|binding| uses(&binding.spec)) {
                return Err(Refusal::InUse { what, by: format!("RoleBinding {}", user.metadata.name) });
            }
        }
        Ok(actual)
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        self.check(cx.state)?;
        if self.kind == Kind::Issuer {
            if cx.state.issuer_keys.remove(&self.name).is_some() {
                Effect::Changed(ObjectKey::IssuerKeys(self.name.clone())).add_to(cx.effects);
            }
            Effect::IssuersChanged.add_to(cx.effects);
        }
        if self.kind == Kind::ServiceAccount {
            revoke_accounts(cx, std::slice::from_ref(&self.name), "the service account was deleted");
        }
        if self.kind == Kind::Webhook {
            cx.state.webhooks.forget(&self.name);
        }
        cx.state.resources.remove(self.kind, &self.name);
        cx.access_follows(self.kind, &self.name);
        Effect::Changed(ObjectKey::Resource(self.kind, self.name)).add_to(cx.effects);
        if self.kind.is_for_gateways() {
            cx.policy_changed();
        }
        Ok(Success::Deleted { revision: cx.state.index })
    }
}

#[cfg(test)]
mod tests {
    use super::super::PutResources;
    use super::super::testing::*;
    use super::*;

    fn delete(kind: Kind, of: &str, expected_revision: u64) -> DeleteResource {
        DeleteResource { kind, name: name(of), expected_revision }
    }

    #[test]
    fn deletes_what_nothing_refers_to() {
        let mut fixture = Fixture::new();
        let both = vec![secret("pw", 1, 0), target("db", Some("pw"), 0)];
        fixture.run(PutResources { resources: both }).unwrap();
        assert!(matches!(fixture.run(delete(Kind::Secret, "pw", 0)), Err(Refusal::InUse { .. })));
        assert!(matches!(fixture.run(delete(Kind::Target, "db", 1)), Err(Refusal::Stale { actual: 2, .. })));
        assert_eq!(fixture.run(delete(Kind::Target, "db", 2)), Ok(Success::Deleted { revision: 5 }));
        assert_eq!(fixture.run(delete(Kind::Secret, "pw", 0)), Ok(Success::Deleted { revision: 6 }));
        assert!(matches!(fixture.run(delete(Kind::Secret, "pw", 0)), Err(Refusal::NotFound { .. })));
    }
}
