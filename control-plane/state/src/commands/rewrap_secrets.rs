use std::sync::Arc;

use postern_core::Name;
use postern_core::resource::{FieldFault, Kind, Resource, Spec};
use postern_core::secret::Sealed;
use postern_proto::state::v1 as pb;

use crate::outcome::{Effect, ObjectKey, Outcome, Refusal, Success};
use crate::recording_log::LogKey;
use crate::state::Context;

const SIGNING_KEY: &str = "cluster/signing-key/";
const RECORDING_KEY: &str = "cluster/recording-key/";
/// Items in one command.
const MAX_ITEMS: usize = 1_000;

/// Puts data keys that are wrapped by another key-encryption key in the place of old ones. Each item is a compare-and-set of its own: one
/// that was changed meanwhile is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewrapSecrets {
    /// What to put where.
    pub items: Vec<RewrapItem>,
}

/// One data key. The ciphertext under it stays.
#[derive(Clone, PartialEq, Eq)]
pub struct RewrapItem {
    /// Of what.
    pub of: SealedOf,
    /// What it must be now.
    pub expected_kek_id: String,
    /// What it must be now.
    pub expected_wrapped_key: Vec<u8>,
    /// What it becomes.
    pub kek_id: String,
    /// What it becomes.
    pub wrapped_key: Vec<u8>,
}

impl std::fmt::Debug for RewrapItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RewrapItem").field("of", &self.of).field("kek_id", &self.kek_id).finish_non_exhaustive()
    }
}

/// The sealed values of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SealedOf {
    /// A Secret.
    Secret(Name),
    /// The certificate authority's key.
    CaKey,
    /// The key that session tokens were signed with at first.
    SessionTokenKey,
    /// A later one, by its id.
    SigningKey(String),
    /// The key of the `hash` mask.
    MaskKey,
    /// The key that signs heads of the log of recordings.
    LogKey,
    /// A key of the keys of recordings, by its number.
    RecordingKey(u32),
}

impl std::fmt::Display for SealedOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret(name) => write!(f, "Secret/{name}"),
            Self::CaKey => f.write_str("cluster/ca-key"),
            Self::SessionTokenKey => f.write_str("cluster/session-token-key"),
            Self::SigningKey(kid) => write!(f, "{SIGNING_KEY}{kid}"),
            Self::MaskKey => f.write_str("cluster/mask-key"),
            Self::LogKey => f.write_str("cluster/log-key"),
            Self::RecordingKey(number) => write!(f, "{RECORDING_KEY}{number}"),
        }
    }
}

impl std::str::FromStr for SealedOf {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cluster/ca-key" => Ok(Self::CaKey),
            "cluster/session-token-key" => Ok(Self::SessionTokenKey),
            "cluster/mask-key" => Ok(Self::MaskKey),
            "cluster/log-key" => Ok(Self::LogKey),
            _ => {
                if let Some(kid) = text.strip_prefix(SIGNING_KEY).filter(|kid| !kid.is_empty()) {
                    return Ok(Self::SigningKey(kid.to_owned()));
                }
                if let Some(number) = text.strip_prefix(RECORDING_KEY).and_then(|number| number.parse().ok()) {
                    return Ok(Self::RecordingKey(number));
                }
                let name = text.strip_prefix("Secret/").and_then(|name| name.parse().ok());
                name.map(Self::Secret).ok_or("names nothing that is sealed")
            }
        }
    }
}

impl RewrapSecrets {
    pub(crate) fn to_proto(&self) -> pb::RewrapSecrets {
        let item = |item: &RewrapItem| pb::RewrapItem {
            of: item.of.to_string(),
            expected_kek_id: item.expected_kek_id.clone(),
            expected_wrapped_key: item.expected_wrapped_key.clone(),
            kek_id: item.kek_id.clone(),
            wrapped_key: item.wrapped_key.clone(),
        };
        pb::RewrapSecrets { items: self.items.iter().map(item).collect() }
    }

    pub(crate) fn from_proto(proto: pb::RewrapSecrets) -> Result<Self, Vec<FieldFault>> {
        let item = |item: pb::RewrapItem| -> Result<RewrapItem, Vec<FieldFault>> {
            Ok(RewrapItem {
                of: crate::entry::parse("items.of", &item.of)?,
                expected_kek_id: item.expected_kek_id,
                expected_wrapped_key: item.expected_wrapped_key,
                kek_id: item.kek_id,
                wrapped_key: item.wrapped_key,
            })
        };
        Ok(Self { items: proto.items.into_iter().map(item).collect::<Result<_, _>>()? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        if self.items.len() > MAX_ITEMS {
            return Err(Refusal::Limit(format!("{MAX_ITEMS} data keys in one change")));
        }
        let (mut changed, mut skipped) = (0_u32, 0_u32);
        for item in self.items {
            let count = if rewrap(cx, item) { &mut changed } else { &mut skipped };
            *count = count.saturating_add(1);
        }
        Ok(Success::Rewrapped { changed, skipped })
    }
}

fn rewrap(cx: &mut Context<'_>, item: RewrapItem) -> bool {
    let put = |sealed: &mut Sealed| {
        let expected = sealed.kek_id == item.expected_kek_id && sealed.wrapped_key == item.expected_wrapped_key;
        if expected {
            sealed.kek_id.clone_from(&item.kek_id);
            sealed.wrapped_key.clone_from(&item.wrapped_key);
        }
        expected
    };
    match &item.of {
        SealedOf::Secret(name) => {
            let Some(known) = cx.state.resource(Kind::Secret, name) else { return false };
            // What it holds is the same: its revision stays, and gateways need not be told.
            let mut resource = Resource::clone(known);
            let Spec::Secret(sealed) = &mut resource.spec else { return false };
            if !put(sealed) {
                return false;
            }
            cx.state.resources.insert(Arc::new(resource));
            Effect::Changed(ObjectKey::Resource(Kind::Secret, name.clone())).add_to(cx.effects);
        }
        SealedOf::LogKey => {
            let Some(key) = cx.state.recording_log.key.as_ref() else { return false };
            let mut key = LogKey::clone(key);
            if !put(&mut key.private) {
                return false;
            }
            cx.state.recording_log.key = Some(Arc::new(key));
        }
        SealedOf::CaKey
        | SealedOf::SessionTokenKey
        | SealedOf::SigningKey(_)
        | SealedOf::RecordingKey(_)
        | SealedOf::MaskKey => {
            let Some(cluster) = &cx.state.cluster else { return false };
            let mut cluster = crate::state::Cluster::clone(cluster);
            let sealed = match &item.of {
                SealedOf::CaKey => &mut cluster.ca_key,
                SealedOf::SessionTokenKey if cluster.signing_keys.is_empty() => &mut cluster.session_token_key,
                SealedOf::SessionTokenKey | SealedOf::SigningKey(_) => {
                    let mut keys = cluster.signing_keys.iter_mut();
                    let sealed = keys.find(|key| key.sealed_of() == item.of).and_then(|key| key.sealed.as_mut());
                    let Some(sealed) = sealed else { return false };
                    sealed
                }
                SealedOf::RecordingKey(number) => {
                    let mut keys = cluster.recording_keys.iter_mut();
                    let Some(key) = keys.find(|key| key.number == *number) else { return false };
                    &mut key.sealed
                }
                SealedOf::MaskKey | SealedOf::Secret(_) | SealedOf::LogKey => &mut cluster.mask_key,
            };
            if !put(sealed) {
                return false;
            }
            cx.state.cluster = Some(Arc::new(cluster));
            Effect::Changed(ObjectKey::Cluster).add_to(cx.effects);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::PutResources;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn only_what_is_as_expected() {
        let mut fixture = Fixture::new();
        fixture.run(PutResources { resources: vec![secret("pw", 1, 0)] }).unwrap();
        let item = |of: SealedOf, byte: u8| RewrapItem {
            of,
            expected_kek_id: "k".into(),
            expected_wrapped_key: vec![byte],
            kek_id: "k2".into(),
            wrapped_key: vec![9],
        };
        let items = vec![
            item(SealedOf::Secret(name("pw")), 1),
            item(SealedOf::Secret(name("none")), 1),
            item(SealedOf::CaKey, 1),
            item(SealedOf::MaskKey, 1),
        ];
        let (policy, revision) = (fixture.state.policy_revision(), 2);
        assert_eq!(
            fixture.run(RewrapSecrets { items: items.clone() }),
            Ok(Success::Rewrapped { changed: 2, skipped: 2 })
        );
        let known = fixture.state.resource(Kind::Secret, &name("pw")).unwrap();
        let Spec::Secret(sealed) = &known.spec else { panic!() };
        assert_eq!((sealed.kek_id.as_str(), sealed.wrapped_key.as_slice()), ("k2", &[9_u8][..]));
        assert_eq!((sealed.ciphertext.as_slice(), known.metadata.revision), (&[1_u8][..], revision));
        assert_eq!(fixture.state.cluster().unwrap().ca_key.kek_id, "k2");
        assert_eq!(fixture.state.cluster().unwrap().mask_key.kek_id, "k");
        assert_eq!(fixture.state.policy_revision(), policy);
        assert_eq!(fixture.run(RewrapSecrets { items }), Ok(Success::Rewrapped { changed: 0, skipped: 4 }));
    }

    #[test]
    fn names_round_trip() {
        for text in [
            "Secret/pw",
            "cluster/signing-key/a_b-C",
            "cluster/ca-key",
            "cluster/session-token-key",
            "cluster/mask-key",
            "cluster/recording-key/7",
        ] {
            assert_eq!(text.parse::<SealedOf>().unwrap().to_string(), text);
        }
        assert!("Secret/".parse::<SealedOf>().is_err() && "cluster/x".parse::<SealedOf>().is_err());
    }
}
