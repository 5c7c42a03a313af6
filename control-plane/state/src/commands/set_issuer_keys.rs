use postern_core::Name;
use postern_core::resource::{FieldFault, Kind, Spec};
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::state::{Context, IssuerKeys, Limits};

/// Keeps the keys that were fetched from an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetIssuerKeys {
    /// The issuer.
    pub issuer: Name,
    /// Its JSON Web Key Set.
    pub jwks: String,
    /// The URL that they were fetched by, the issuer's or that of its keys: when it has changed since, they are not kept.
    pub url: String,
}

impl SetIssuerKeys {
    pub(crate) fn to_proto(&self) -> pb::SetIssuerKeys {
        pb::SetIssuerKeys { issuer: self.issuer.to_string(), jwks: self.jwks.clone(), url: self.url.clone() }
    }

    pub(crate) fn from_proto(proto: pb::SetIssuerKeys) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { issuer: parse("issuer", &proto.issuer)?, jwks: proto.jwks, url: proto.url })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let known = cx.state.resource(Kind::Issuer, &self.issuer);
        let Some(Spec::Issuer(issuer)) = known.map(|known| &known.spec) else {
            return Err(Refusal::not_found(format!("Issuer {}", self.issuer)));
        };
        let place = issuer.oidc().and_then(|oidc| oidc.keys_at(&issuer.url));
        if place != Some(&*self.url) {
            return Err(Refusal::InvalidState(format!("Issuer {} has its keys elsewhere now", self.issuer)));
        }
        if self.jwks.len() > Limits::STANDARD.jwks_bytes {
            return Err(Refusal::Limit(format!("{} bytes of keys", Limits::STANDARD.jwks_bytes)));
        }
        if cx.state.issuer_keys(&self.issuer).is_some_and(|known| known.jwks == self.jwks) {
            return Ok(Success::Done);
        }
        let revision = cx.state.index;
        Effect::Changed(ObjectKey::IssuerKeys(self.issuer.clone())).add_to(cx.effects);
        cx.state.issuer_keys.insert(self.issuer, IssuerKeys { jwks: self.jwks, revision });
        cx.policy_changed();
        Ok(Success::Done)
    }
}

#[cfg(test)]
mod tests {
    use postern_core::issuer::{Issuer, IssuerKind, KeySource};
    use postern_core::resource::ANY_REVISION;

    use super::super::testing::*;
    use super::super::{PutResources, RaiseFeatureLevel};
    use super::*;

    #[test]
    fn keeps_keys_of_known_issuers_and_changes_only_what_changed() {
        let mut fixture = Fixture::new();
        let keys = |jwks: &str, url: &str| SetIssuerKeys { issuer: name("a"), jwks: jwks.into(), url: url.into() };
        assert!(matches!(fixture.run(keys("{}", "https://x")), Err(Refusal::NotFound { .. })));
        fixture.run(PutResources { resources: vec![issuer("a", "https://x", 0)] }).unwrap();
        assert!(matches!(fixture.run(keys("{}", "https://old")), Err(Refusal::InvalidState(_))));
        fixture.run(keys("{}", "https://x")).unwrap();
        let revision = fixture.state.policy_revision();
        fixture.run(keys("{}", "https://x")).unwrap();
        assert_eq!(fixture.state.policy_revision(), revision);
        // From where they were said to be, and from nowhere else.
        let at = |keys: KeySource| {
            let mut moved = issuer("a", "https://x", ANY_REVISION);
            if let Spec::Issuer(Issuer { kind: IssuerKind::Oidc(oidc), .. }) = &mut moved.spec {
                oidc.keys = keys;
            }
            PutResources { resources: vec![moved] }
        };
        let there = at(KeySource::At("https://keys".into()));
        assert_eq!((there.feature_level(), at(KeySource::Discovery).feature_level()), (3, 1));
        fixture.run(RaiseFeatureLevel { level: 2 }).unwrap();
        fixture.run(RaiseFeatureLevel { level: 3 }).unwrap();
        fixture.run(there).unwrap();
        assert!(fixture.state.issuer_keys(&name("a")).is_none());
        assert!(matches!(fixture.run(keys("{}", "https://x")), Err(Refusal::InvalidState(_))));
        fixture.run(keys("{}", "https://keys")).unwrap();
        fixture.run(at(KeySource::Inline(r#"{"keys": []}"#.into()))).unwrap();
        assert!(matches!(fixture.run(keys("{}", "https://keys")), Err(Refusal::InvalidState(_))));
        fixture.run(at(KeySource::Discovery)).unwrap();
        let huge = "x".repeat(Limits::STANDARD.jwks_bytes + 1);
        assert!(matches!(fixture.run(keys(&huge, "https://x")), Err(Refusal::Limit(_))));
    }
}
