use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postern_core::Name;
use postern_core::allowance::Allowance;
use postern_core::issuer::{Issuer, OidcIssuer};
use postern_core::policy::Staleness;
use postern_core::resource::{ANY_REVISION, FieldFault, Kind, Resource, Spec};
use postern_core::role::BUILT_IN;
use postern_core::service_account::SERVICE_ACCOUNT_ISSUER;
use postern_core::target::CredentialKind;
use postern_core::token::SESSION_TOKEN_ISSUER;
use postern_core::wire::resource::{from_proto, to_proto};
use postern_proto::state::v1 as pb;

use super::revoke_tokens::revoke_accounts;
use crate::outcome::{Change, Effect, ObjectKey, Outcome, Put, Refusal, Success};
use crate::state::{Context, Limits, State};

/// Webhooks of a cluster.
const MAX_WEBHOOKS: usize = 100;
/// Objects in one command.
const MAX_OBJECTS: usize = 1_000;

/// Creates or changes objects: all or none. `metadata.revision` is the revision that each must be at (0: it must not exist;
/// [`ANY_REVISION`]: whatever is there).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutResources {
    /// The objects; each kind and name at most once.
    pub resources: Vec<Resource>,
}

impl PutResources {
    pub(crate) fn to_proto(&self) -> pb::PutResources {
        pb::PutResources { resources: self.resources.iter().map(to_proto).collect() }
    }

    pub(crate) fn from_proto(proto: pb::PutResources) -> Result<Self, Vec<FieldFault>> {
        let (mut resources, mut faults) = (Vec::new(), Vec::new());
        for (place, resource) in proto.resources.into_iter().enumerate() {
            match from_proto(resource) {
                Ok(resource) => resources.push(resource),
                Err(found) => faults.extend(found.into_iter().map(|fault| at(place, &fault.path, fault.message))),
            }
        }
        if faults.is_empty() { Ok(Self { resources }) } else { Err(faults) }
    }

    /// Level 2: policies that say how old they may be, that a hold waits while the control plane is away, or that speak of tokens; limits.
    /// Level 3: issuers that say more than where to discover them, or speak SAML.
    /// Level 4: issuers that say which claims are kept, that people log in at or how long tokens live, policies that ask how or permit on request, targets of which
    /// sessions are kept ready, service accounts.
    /// Level 5: webhooks, policies with obligations, policies in Cedar that ask for columns, LIMIT or what was granted; masking rules that are more than names of columns and the first four functions;
    /// targets that a certificate is shown to.
    /// Level 6: policies that name a class of durability.
    pub(crate) fn feature_level(&self) -> u32 {
        self.resources.iter().map(|resource| level_of(&resource.spec)).max().unwrap_or(1)
    }

    /// What applying it to `state` now would give, without changing anything: for a dry run, and before proposing.
    ///
    /// # Errors
    /// As applying it.
    pub fn check(&self, state: &State) -> Result<Vec<Put>, Refusal> {
        if self.resources.len() > MAX_OBJECTS {
            return Err(Refusal::Limit(format!("{MAX_OBJECTS} objects in one change")));
        }
        self.check_revisions(state)?;
        let faults = self.faults(state);
        if !faults.is_empty() {
            return Err(Refusal::Invalid(faults));
        }
        self.check_limits(state)?;
        let put = |resource: &Resource| {
            let name = resource.metadata.name.clone();
            let kind = resource.spec.kind();
            match state.resource(kind, &name) {
                None => Put { kind, name, change: Change::Created, revision: state.index },
                Some(known) if same(known, resource) => {
                    Put { kind, name, change: Change::Unchanged, revision: known.metadata.revision }
                }
                Some(_) => Put { kind, name, change: Change::Changed, revision: state.index },
            }
        };
        Ok(self.resources.iter().map(put).collect())
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        // The entry's own index stands in the state already, so `check` gives the new revisions.
        let puts = self.check(cx.state)?;
        let (mut for_gateways, mut disabled) = (false, Vec::new());
        for (put, mut resource) in puts.iter().zip(self.resources) {
            if put.change == Change::Unchanged {
                continue;
            }
            for_gateways |= put.kind.is_for_gateways();
            let known = cx.state.resource(put.kind, &put.name);
            resource.metadata.revision = put.revision;
            resource.metadata.updated_at = cx.state.now;
            resource.metadata.created_at = known.map_or(cx.state.now, |known| known.metadata.created_at);
            if let Spec::Issuer(issuer) = &resource.spec {
                Effect::IssuersChanged.add_to(cx.effects);
                // Keys were fetched from the old place: they are not the new one's word.
                let moved = known.is_some_and(|known| match &known.spec {
                    Spec::Issuer(before) => {
                        let source = |of: &Issuer| of.oidc().map(|oidc| oidc.keys.clone());
                        before.url != issuer.url || source(before) != source(issuer)
                    }
                    _ => false,
                });
                if moved {
                    cx.state.issuer_keys.remove(&put.name);
                    Effect::Changed(ObjectKey::IssuerKeys(put.name.clone())).add_to(cx.effects);
                }
            }
            if matches!(&resource.spec, Spec::ServiceAccount(account) if account.disabled) {
                disabled.push(put.name.clone());
            }
            Effect::Changed(ObjectKey::Resource(put.kind, put.name.clone())).add_to(cx.effects);
            cx.state.resources.insert(Arc::new(resource));
            cx.access_follows(put.kind, &put.name);
        }
        if for_gateways {
            cx.policy_changed();
        }
        revoke_accounts(cx, &disabled, "the service account was disabled");
        Ok(Success::Put(puts))
    }

    fn check_revisions(&self, state: &State) -> Result<(), Refusal> {
        for resource in &self.resources {
            let (kind, name) = (resource.spec.kind(), &resource.metadata.name);
            let actual = state.resource(kind, name).map_or(0, |known| known.metadata.revision);
            let expected = resource.metadata.revision;
            if actual == expected || expected == ANY_REVISION {
                continue;
            }
            let what = format!("{kind} {name}");
            return Err(match expected {
                0 => Refusal::AlreadyExists { what },
                _ => Refusal::Stale { what, expected, actual },
            });
        }
        Ok(())
    }

    /// What each object's own validity does not show: how they fit together.
    fn faults(&self, state: &State) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut seen = BTreeSet::new();
        // By URL and audience: what a token names its issuer by.
        let mut known_as: BTreeMap<(&str, &str), &Name> = BTreeMap::new();
        let put: BTreeSet<(Kind, &Name)> =
            self.resources.iter().map(|resource| (resource.spec.kind(), &resource.metadata.name)).collect();
        let issuers = put.iter().any(|(kind, _)| *kind == Kind::Issuer);
        for known in state.resources(Kind::Issuer).filter(|_| issuers) {
            if let Spec::Issuer(issuer) = &known.spec
                && !put.contains(&(Kind::Issuer, &known.metadata.name))
            {
                known_as.extend(issuer.audiences().iter().map(|a| ((&*issuer.url, &**a), &known.metadata.name)));
            }
        }
        for (place, resource) in self.resources.iter().enumerate() {
            let name = &resource.metadata.name;
            if !seen.insert((resource.spec.kind(), name)) {
                faults.push(at(place, "metadata.name", format!("{} {name} stands here twice", resource.spec.kind())));
            }
            match &resource.spec {
                Spec::Issuer(issuer) => {
                    if name.as_str() == SESSION_TOKEN_ISSUER {
                        faults.push(at(place, "metadata.name", "is reserved for the cluster's own identities"));
                    }
                    let accounts = || {
                        let of_them = |(kind, _): &(Kind, &Name)| *kind == Kind::ServiceAccount;
                        state.resources(Kind::ServiceAccount).next().is_some() || put.iter().any(of_them)
                    };
                    if name.as_str() == SERVICE_ACCOUNT_ISSUER && accounts() {
                        faults.push(at(place, "metadata.name", "is the service accounts' own"));
                    }
                    for audience in issuer.audiences() {
                        if let Some(other) = known_as.insert((&issuer.url, audience), name)
                            && other != name
                        {
                            let message = format!("with audience {audience:?} is already Issuer {other}'s");
                            faults.push(at(place, "spec.url", message));
                        }
                    }
                }
                Spec::Target(target) => {
                    if let Some(secret) = target.credential.secret()
                        && !put.contains(&(Kind::Secret, secret))
                        && state.resource(Kind::Secret, secret).is_none()
                    {
                        faults.push(at(place, "spec.credential.secret", format!("there is no Secret {secret}")));
                    }
                }
                Spec::Role(_) if BUILT_IN.contains(&name.as_str()) => {
                    faults.push(at(place, "metadata.name", "is a built-in role's"));
                }
                Spec::RoleBinding(binding) => {
                    let declared =
                        |name: &Name| put.contains(&(Kind::Role, name)) || state.resource(Kind::Role, name).is_some();
                    let known = BUILT_IN.contains(&binding.role.as_str())
                        || binding.role.parse().is_ok_and(|name| declared(&name));
                    if !known {
                        faults.push(at(place, "spec.role", format!("there is no Role {}", binding.role)));
                    }
                }
                Spec::ServiceAccount(_) => {
                    let taken = state.resources(Kind::Issuer).map(|issuer| &issuer.metadata.name);
                    if taken.into_iter().any(|issuer| issuer.as_str() == SERVICE_ACCOUNT_ISSUER) {
                        let why = format!(
                            "an Issuer is called {SERVICE_ACCOUNT_ISSUER}: its subjects would be service accounts"
                        );
                        faults.push(at(place, "metadata.name", why));
                    }
                }
                Spec::Webhook(webhook) => {
                    if let Some(secret) = &webhook.secret
                        && !put.contains(&(Kind::Secret, secret))
                        && state.resource(Kind::Secret, secret).is_none()
                    {
                        faults.push(at(place, "spec.secret", format!("there is no Secret {secret}")));
                    }
                }
                Spec::Policy(_) | Spec::MaskingRule(_) | Spec::Secret(_) | Spec::Role(_) => {}
            }
        }
        faults
    }

    fn check_limits(&self, state: &State) -> Result<(), Refusal> {
        for kind in Kind::ALL {
            let new = self.resources.iter().filter(|resource| {
                resource.spec.kind() == kind && state.resource(kind, &resource.metadata.name).is_none()
            });
            let new = new.count();
            // Each is looked at for each change of an approval.
            if kind == Kind::Webhook && new > 0 && state.resources.count(kind).saturating_add(new) > MAX_WEBHOOKS {
                return Err(Refusal::Limit(format!("{MAX_WEBHOOKS} objects of kind {kind}")));
            }
            if new > 0 && state.resources.count(kind).saturating_add(new) > Limits::STANDARD.resources {
                return Err(Refusal::Limit(format!("{} objects of kind {kind}", Limits::STANDARD.resources)));
            }
        }
        Ok(())
    }
}

/// Whether a write of `wanted` would change nothing.
fn same(known: &Resource, wanted: &Resource) -> bool {
    known.metadata.labels == wanted.metadata.labels && known.spec == wanted.spec
}

fn at(place: usize, path: &str, message: impl Into<String>) -> FieldFault {
    FieldFault::new(format!("resources[{place}].{path}"), message)
}

/// The feature level that knows all that an object says.
fn level_of(spec: &Spec) -> u32 {
    match spec {
        Spec::Target(target) if target.tls.direct => 6,
        Spec::Policy(policy) if !policy.is_of_level_5() => 6,
        Spec::MaskingRule(rule) if !rule.is_of_level_4() => 5,
        Spec::Issuer(issuer) if !issuer.keep.is_empty() => 4,
        Spec::Issuer(issuer) if issuer.max_token_ttl.is_some() || issuer.token_ttl.is_some() => 4,
        Spec::ServiceAccount(_) => 4,
        Spec::Webhook(_) => 5,
        // A member that does not know the word would refuse the whole.
        Spec::Role(role) if role.grants.iter().any(|grant| grant.objects.iter().any(|word| word == "webhooks")) => 5,
        Spec::Issuer(issuer) if issuer.oidc().is_some_and(|oidc| oidc.login.is_some()) => 4,
        Spec::Issuer(issuer) if issuer.oidc().is_none_or(OidcIssuer::is_of_level_3) => 3,
        Spec::Policy(policy) if !policy.is_of_level_4() => 5,
        Spec::Target(target) if target.credential.kind == CredentialKind::Certificate => 5,
        Spec::Target(target) if target.spare_sessions > 0 => 4,
        Spec::Policy(policy) if policy.when.authentication.is_some() => 4,
        Spec::Target(target) if target.limits != Allowance::default() => 2,
        Spec::Policy(policy) if policy.on_request.is_some() || policy.cedar.is_some() => 4,
        Spec::Policy(policy)
            if policy.waits
                || policy.staleness != Staleness::default()
                || !policy.principals.tokens.is_empty()
                || policy.limits != Allowance::default() =>
        {
            2
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{DeleteResource, RaiseFeatureLevel};
    use super::*;

    #[test]
    fn direct_tls_needs_level_6() {
        let with = |direct: bool| {
            let mut put = target("db", None, 0);
            if let Spec::Target(spec) = &mut put.spec {
                spec.tls.direct = direct;
            }
            level_of(&put.spec)
        };
        assert_eq!(with(true), 6);
        assert!(with(false) < 6);
    }

    #[test]
    fn service_accounts_need_level_4_and_a_name_of_their_own() {
        let account = |of: &str| Resource {
            metadata: issuer(of, "https://x", 0).metadata,
            spec: Spec::ServiceAccount(postern_core::service_account::ServiceAccount {
                jwks: r#"{"keys":[]}"#.into(),
                ..Default::default()
            }),
        };
        let put = |resources: Vec<Resource>| PutResources { resources };
        let mut fixture = Fixture::new();
        assert!(matches!(fixture.run(put(vec![account("ci")])), Err(Refusal::FeatureLevel { needed: 4, .. })));
        for level in 2..=4 {
            fixture.run(RaiseFeatureLevel { level }).unwrap();
        }
        fixture.run(put(vec![issuer("service-account", "https://x", 0)])).unwrap();
        assert!(matches!(fixture.run(put(vec![account("ci")])), Err(Refusal::Invalid(_))));
        let kind = Kind::Issuer;
        fixture.run(DeleteResource { kind, name: name("service-account"), expected_revision: 0 }).unwrap();
        let both = vec![account("ci"), issuer("service-account", "https://x", 0)];
        assert!(matches!(fixture.run(put(both)), Err(Refusal::Invalid(_))));
        fixture.run(put(vec![account("ci")])).unwrap();
        let issuer = put(vec![issuer("service-account", "https://x", 0)]);
        assert!(matches!(fixture.run(issuer), Err(Refusal::Invalid(_))));
        fixture.state = State::restore(&fixture.state.snapshot()).unwrap();
        assert!(fixture.state.resource(Kind::ServiceAccount, &name("ci")).is_some());
        let delete = DeleteResource { kind: Kind::ServiceAccount, name: name("ci"), expected_revision: 0 };
        assert_eq!(Into::<crate::Command>::into(delete.clone()).feature_level(), 4);
        fixture.run(delete).unwrap();
    }

    #[test]
    fn obligations_need_level_5() {
        let policy = || {
            let mut resource = on_request("p", reviewed_by(&["dba"]), 0);
            if let Spec::Policy(policy) = &mut resource.spec {
                (policy.on_request, policy.obligations.read_only) = (None, true);
            }
            PutResources { resources: vec![resource] }
        };
        let mut fixture = Fixture::new();
        for level in 2..=4 {
            fixture.run(RaiseFeatureLevel { level }).unwrap();
        }
        assert!(matches!(fixture.run(policy()), Err(Refusal::FeatureLevel { needed: 5, .. })));
        let asks = |of: &str, condition: &str| {
            let text =
                format!("permit (principal, action == Action::\"sql:select\", resource) when {{ {condition} }};");
            let rule = postern_core::policy::cedar::Rule::parse(&text).unwrap();
            let mut resource = on_request(of, reviewed_by(&["dba"]), 0);
            resource.spec = Spec::Policy(postern_core::policy::Policy {
                cedar: Some(std::sync::Arc::new(rule)),
                ..postern_core::policy::Policy::new(postern_core::policy::Effect::Permit)
            });
            PutResources { resources: vec![resource] }
        };
        let newer = asks("newer", "context has columns && context.columns.contains(\"id\")");
        assert!(matches!(fixture.run(newer.clone()), Err(Refusal::FeatureLevel { needed: 5, .. })));
        fixture.run(asks("older", "context.readOnly")).unwrap();
        fixture.run(RaiseFeatureLevel { level: 5 }).unwrap();
        fixture.run(policy()).unwrap();
        fixture.run(newer).unwrap();
        fixture.state = State::restore(&fixture.state.snapshot()).unwrap();
        let kept = fixture.state.resource(Kind::Policy, &name("p")).unwrap();
        assert!(matches!(&kept.spec, Spec::Policy(policy) if policy.obligations.read_only));
    }

    fn puts(outcome: Outcome) -> Vec<(Change, u64)> {
        match outcome {
            Ok(Success::Put(puts)) => puts.into_iter().map(|put| (put.change, put.revision)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn creates_keeps_and_changes() {
        let mut fixture = Fixture::new();
        let first =
            puts(fixture.run(PutResources { resources: vec![secret("pw", 1, 0), target("db", Some("pw"), 0)] }));
        assert_eq!(first, [(Change::Created, 2), (Change::Created, 2)]);
        let changed = |kind, of| Effect::Changed(ObjectKey::Resource(kind, name(of)));
        assert_eq!(fixture.effects, [changed(Kind::Secret, "pw"), changed(Kind::Target, "db"), Effect::PolicyChanged]);
        let again = puts(fixture.run(PutResources { resources: vec![secret("pw", 1, 2), target("db", None, 2)] }));
        assert_eq!(again, [(Change::Unchanged, 2), (Change::Changed, 3)]);
        assert_eq!(fixture.state.policy_revision(), 3);
        let same = puts(fixture.run(PutResources { resources: vec![secret("pw", 1, 2)] }));
        assert_eq!(
            (same, fixture.effects.len(), fixture.state.policy_revision()),
            (vec![(Change::Unchanged, 2)], 0, 3)
        );
    }

    #[test]
    fn whatever_it_is_at() {
        let mut fixture = Fixture::new();
        for byte in [1, 2] {
            let written = puts(fixture.run(PutResources { resources: vec![secret("pw", byte, ANY_REVISION)] }));
            assert_eq!(written.len(), 1);
        }
        let same = puts(fixture.run(PutResources { resources: vec![secret("pw", 2, ANY_REVISION)] }));
        assert_eq!(same, [(Change::Unchanged, 3)]);
    }

    #[test]
    fn roles_are_no_gateways_matter_and_bind_what_there_is() {
        let mut fixture = Fixture::new();
        let before = fixture.state.policy_revision();
        let bind = |to: &str| PutResources { resources: vec![role_binding("b", to, ANY_REVISION)] };
        assert!(matches!(fixture.run(bind("own")), Err(Refusal::Invalid(_))));
        fixture.run(bind("auditor")).unwrap();
        fixture.run(PutResources { resources: vec![role("own", 0), role_binding("b", "own", ANY_REVISION)] }).unwrap();
        assert!(matches!(fixture.run(PutResources { resources: vec![role("admin", 0)] }), Err(Refusal::Invalid(_))));
        let delete = super::super::DeleteResource { kind: Kind::Role, name: name("own"), expected_revision: 0 };
        assert!(matches!(fixture.run(delete), Err(Refusal::InUse { .. })));
        assert_eq!(fixture.state.policy_revision(), before);
    }

    #[test]
    fn what_is_new_needs_members_that_know_it() {
        let mut ready = target("db", None, 0);
        let Spec::Target(spec) = &mut ready.spec else { panic!("a target") };
        spec.spare_sessions = 1;
        let level = |resources| PutResources { resources }.feature_level();
        assert_eq!((level(vec![target("db", None, 0)]), level(vec![secret("pw", 1, 0), ready])), (1, 4));
    }

    #[test]
    fn all_or_none() {
        let mut fixture = Fixture::new();
        let outcome = fixture.run(PutResources { resources: vec![secret("pw", 1, 0), target("db", Some("no"), 0)] });
        let Err(Refusal::Invalid(faults)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(faults[0].path, "resources[1].spec.credential.secret");
        assert_eq!(fixture.state.resources(Kind::Secret).count(), 0);
    }

    #[test]
    fn a_stale_write_is_refused() {
        let mut fixture = Fixture::new();
        fixture.run(PutResources { resources: vec![secret("pw", 1, 0)] }).unwrap();
        let exists = fixture.run(PutResources { resources: vec![secret("pw", 2, 0)] });
        assert!(matches!(exists, Err(Refusal::AlreadyExists { .. })));
        fixture.run(PutResources { resources: vec![secret("pw", 2, 2)] }).unwrap();
        let stale = fixture.run(PutResources { resources: vec![secret("pw", 3, 2)] });
        assert_eq!(stale, Err(Refusal::Stale { what: "Secret pw".into(), expected: 2, actual: 4 }));
    }

    #[test]
    fn issuers_do_not_share_url_and_audience_and_lose_keys_when_they_move() {
        let mut fixture = Fixture::new();
        let twice = PutResources { resources: vec![issuer("a", "https://x", 0), issuer("b", "https://x", 0)] };
        assert!(matches!(fixture.run(twice), Err(Refusal::Invalid(_))));
        assert!(matches!(
            fixture.run(PutResources { resources: vec![issuer("postern", "https://x", 0)] }),
            Err(Refusal::Invalid(_))
        ));
        fixture.run(PutResources { resources: vec![issuer("a", "https://x", 0)] }).unwrap();
        assert!(fixture.effects.contains(&Effect::IssuersChanged));
        let revision = fixture.state.index();
        let keys = super::super::SetIssuerKeys { issuer: name("a"), jwks: "{}".into(), url: "https://x".into() };
        fixture.run(keys).unwrap();
        let swap = PutResources { resources: vec![issuer("a", "https://y", revision), issuer("b", "https://x", 0)] };
        fixture.run(swap).unwrap();
        assert!(fixture.state.issuer_keys(&name("a")).is_none());
    }
}
