//! The keys that session tokens are signed by, and their turns.
//!
//! A key is published before it signs (*next*), so that whoever verifies has it by then; it signs (*current*); it is accepted until the last token by it
//! has ended (*previous*), and its private part is gone. The turns come with logical time, as approvals lapse: they are the same on every member,
//! whoever leads.

use std::sync::Arc;
use std::time::Duration;

use postern_core::revocation::MARGIN;
use postern_core::secret::Sealed;
use postern_core::token::SESSION_TOKEN_MAX_TTL;
use postern_core::{Timestamp, Ttl};

use crate::commands::SealedOf;
use crate::outcome::{Effect, ObjectKey, Refusal};
use crate::state::{Cluster, Context, State};

/// Keys at a time, those that are only accepted too. Who verifies takes twice as many.
pub(crate) const MAX_KEYS: usize = 32;
/// The longest that a key may be published before it signs.
pub(crate) const MAX_PUBLISH: Duration = Duration::from_secs(7 * 86_400);
const MAX_KID: usize = 128;
const MAX_JWK: usize = 2_048;

/// How long a key is accepted after it has signed last.
#[must_use]
pub fn accepted_for() -> Duration {
    Ttl(SESSION_TOKEN_MAX_TTL).duration().saturating_add(MARGIN)
}

/// Where a signing key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStage {
    /// Published, and signs nothing yet.
    Next,
    /// Signs.
    Current,
    /// Signs no more, and is accepted for a while.
    Previous,
}

impl KeyStage {
    /// As people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Current => "current",
            Self::Previous => "previous",
        }
    }
}

/// A key pair that signs session tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// The id that tokens name it by.
    pub kid: String,
    /// The public key: a JSON Web Key (RFC 7517, section 4).
    pub jwk: String,
    /// The private key; none: it was destroyed.
    pub sealed: Option<Sealed>,
    /// Where it is.
    pub stage: KeyStage,
    /// Since when.
    pub since: Timestamp,
    /// When that ends; none: when it is rotated.
    pub until: Option<Timestamp>,
    /// It was made with the cluster.
    pub founding: bool,
}

impl SigningKey {
    /// What its private part is sealed as.
    #[must_use]
    pub fn sealed_of(&self) -> SealedOf {
        if self.founding { SealedOf::SessionTokenKey } else { SealedOf::SigningKey(self.kid.clone()) }
    }
}

/// A key that is to come into the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSigningKey {
    /// Its id.
    pub kid: String,
    /// The public key: a JSON Web Key.
    pub jwk: String,
    /// The private key, sealed as [`SealedOf::SigningKey`].
    pub sealed: Sealed,
}

impl NewSigningKey {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if self.kid.is_empty() || self.kid.len() > MAX_KID || !self.kid.bytes().all(plain) {
            return Err(Refusal::invalid("key.kid", format!("must have 1 to {MAX_KID} characters of base64url")));
        }
        let jwk = Some(&self.jwk).filter(|jwk| jwk.len() <= MAX_JWK);
        let jwk = jwk.and_then(|jwk| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(jwk).ok());
        let of_this = |jwk: &serde_json::Map<String, serde_json::Value>| {
            jwk.get("kid").and_then(serde_json::Value::as_str) == Some(&self.kid)
        };
        match jwk.filter(of_this) {
            // RFC 7518, section 6: the private part of all kinds of key but the symmetric.
            Some(jwk) if !jwk.contains_key("d") && !jwk.contains_key("k") => Ok(()),
            Some(_) => Err(Refusal::invalid("key.jwk", "holds a private key")),
            None => Err(Refusal::invalid("key.jwk", "must be a JSON Web Key of this kid")),
        }
    }

    fn into_key(self, stage: KeyStage, since: Timestamp, until: Option<Timestamp>) -> SigningKey {
        let Self { kid, jwk, sealed } = self;
        SigningKey { kid, jwk, sealed: Some(sealed), stage, since, until, founding: false }
    }
}

impl Cluster {
    /// Every signing key: next, current, then the previous ones. `founded` is when the cluster's first came to sign, which nothing says
    /// before the first rotation.
    #[must_use]
    pub fn all_signing_keys(&self, founded: Timestamp) -> Vec<SigningKey> {
        if !self.signing_keys.is_empty() {
            return self.signing_keys.clone();
        }
        let (kid, jwk) = only_key(&self.session_token_jwks);
        vec![SigningKey {
            kid,
            jwk,
            sealed: Some(self.session_token_key.clone()),
            stage: KeyStage::Current,
            since: founded,
            until: None,
            founding: true,
        }]
    }

    /// The id of the key that signs now; none: the one that the cluster was made with.
    #[must_use]
    pub fn current_kid(&self) -> Option<&str> {
        self.signing_keys.iter().find(|key| key.stage == KeyStage::Current).map(|key| key.kid.as_str())
    }

    /// With other keys, and what is published of them.
    fn with_keys(&self, mut keys: Vec<SigningKey>) -> Self {
        keys.sort_by(|one, other| rank(one).cmp(&rank(other)).then_with(|| one.kid.cmp(&other.kid)));
        let jwks: Vec<&str> = keys.iter().map(|key| key.jwk.as_str()).filter(|jwk| !jwk.is_empty()).collect();
        let session_token_jwks = format!(r#"{{"keys":[{}]}}"#, jwks.join(","));
        // It lies with its key now, as long as that needs it.
        let session_token_key = Sealed::default();
        Self { session_token_jwks, session_token_key, signing_keys: keys, ..self.clone() }
    }
}

/// The newest of the previous first.
const fn rank(key: &SigningKey) -> (u8, u64) {
    match key.stage {
        KeyStage::Next => (0, 0),
        KeyStage::Current => (1, 0),
        KeyStage::Previous => (2, u64::MAX - key.since.millis()),
    }
}

/// The id and the text of the key in a set of one, as every cluster is founded with.
fn only_key(jwks: &str) -> (String, String) {
    let jwk = jwks.strip_prefix(r#"{"keys":["#).and_then(|rest| rest.strip_suffix("]}")).unwrap_or_default();
    let known = serde_json::from_str::<serde_json::Value>(jwk).ok();
    let kid = known.as_ref().and_then(|jwk| jwk.get("kid")).and_then(serde_json::Value::as_str);
    (kid.unwrap_or_default().to_owned(), jwk.to_owned())
}

impl State {
    /// Every signing key: next, current, then the previous ones.
    #[must_use]
    pub fn signing_keys(&self) -> Vec<SigningKey> {
        self.cluster.as_ref().map(|cluster| cluster.all_signing_keys(self.founded())).unwrap_or_default()
    }

    /// When the first of those that are members came in.
    #[must_use]
    pub fn founded(&self) -> Timestamp {
        self.members.nodes.values().map(|node| node.joined_at).min().unwrap_or_default()
    }

    /// When a key's turn comes.
    pub(crate) fn next_key_turn(&self) -> Option<Timestamp> {
        self.cluster.as_ref()?.signing_keys.iter().filter_map(|key| key.until).min()
    }

    /// Has the keys take the turns whose time has come.
    pub(crate) fn turn_keys(&mut self, effects: &mut Vec<Effect>) {
        if self.next_key_turn().is_some_and(|turn| turn <= self.now) {
            let keys = self.signing_keys();
            let mut cx = Context { state: self, effects };
            put_keys(&mut cx, keys);
        }
    }
}

/// Puts `keys` in force, after the turns whose time has come.
pub(crate) fn put_keys(cx: &mut Context<'_>, mut keys: Vec<SigningKey>) {
    let Some(cluster) = &cx.state.cluster else { return };
    let now = cx.state.now;
    let over = |key: &SigningKey| key.until.is_some_and(|until| until <= now);
    if keys.iter().any(|key| key.stage == KeyStage::Next && over(key)) {
        for key in &mut keys {
            match key.stage {
                KeyStage::Current => {
                    (key.stage, key.since) = (KeyStage::Previous, now);
                    (key.until, key.sealed) = (Some(now.plus(accepted_for())), None);
                }
                KeyStage::Next => (key.stage, key.since, key.until) = (KeyStage::Current, now, None),
                KeyStage::Previous => {}
            }
        }
    }
    keys.retain(|key| key.stage != KeyStage::Previous || !over(key));
    let newer = cluster.with_keys(keys);
    let published = newer.session_token_jwks != cluster.session_token_jwks;
    cx.state.cluster = Some(Arc::new(newer));
    Effect::Changed(ObjectKey::Cluster).add_to(cx.effects);
    if published {
        cx.policy_changed();
    }
}

/// The new key as it comes in.
pub(crate) fn staged(key: NewSigningKey, now: Timestamp, until: Timestamp) -> SigningKey {
    key.into_key(KeyStage::Next, now, Some(until))
}

/// The new key in the place of one that is gone.
pub(crate) fn seated(key: NewSigningKey, now: Timestamp) -> SigningKey {
    key.into_key(KeyStage::Current, now, None)
}
