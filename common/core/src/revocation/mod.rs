//! Revocations: tokens that are good no more before their time.
//!
//! Each is a [`Mark`]: a digest of what it is of, and two times. A token is looked up by the digests of all that a revocation could be of and mean
//! it ([`Bearer`]), so that a gateway holds a million of them in little room and asks of each session some dozen times, whatever there are.

mod set;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

pub use set::{Damaged, MARK_BYTES, Revocations};
pub(crate) use set::{decode, encode};

use crate::SessionId;
use crate::name::Name;
use crate::principal::{Principal, PrincipalId};
use crate::time::Timestamp;
use crate::token::SESSION_TOKEN_ISSUER;

/// How much longer than the tokens that it is of the cluster remembers that they are revoked or used up, for clocks that differ and issuers' leeway.
pub const MARGIN: Duration = Duration::from_secs(600);

/// What a revocation is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revoked {
    /// One token, as what is shown: not what is made of it.
    Token(TokenName),
    /// A token and all that is made of it, however deep.
    Subtree(TokenName),
    /// All that one principal has, and what is handed to it.
    Principal(PrincipalId),
    /// All of one issuer.
    Issuer(Name),
    /// All that an issuer vouches for with this claim.
    Claim {
        /// The issuer.
        issuer: Name,
        /// The claim, as the issuer's object names it.
        claim: Arc<str>,
        /// One of its values.
        value: Arc<str>,
    },
    /// All that a key of the cluster's has signed, what is made of it, and what is made of that. By the key's id.
    SigningKey(Arc<str>),
    /// One session: nobody's token, but what it was opened for. Nobody can open it anew.
    Session(SessionId),
    /// All that there is.
    All,
}

/// A token, by its id and whose that is: two issuers may use the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenName {
    /// An Issuer resource, or [`SESSION_TOKEN_ISSUER`].
    pub issuer: Name,
    /// The `jti`; of a link, what it is called in chains.
    pub id: Arc<str>,
}

/// A revocation, with what people want to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Of what.
    pub of: Revoked,
    /// It means tokens that were issued no later than this, to the second; single tokens, and those of a signing key, it means whenever.
    pub issued_before: Timestamp,
    /// No token that it could mean lives any more after that: it is forgotten.
    pub until: Timestamp,
    /// Who did it; empty: the bearer of what was revoked.
    pub by: String,
    /// Why.
    pub because: String,
    /// When.
    pub at: Timestamp,
    /// The index of the log that it came with.
    pub revision: u64,
}

/// SHA-256 over what a revocation is of, the first half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevocationKey(pub [u8; 16]);

/// A revocation as it is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Of what.
    pub key: RevocationKey,
    /// Tokens issued no later than this second.
    pub issued_before: u32,
    /// Forgotten after this second.
    pub until: u32,
}

/// All by which a revocation could mean one token that was shown. A copy costs next to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bearer {
    keys: Arc<[RevocationKey]>,
    /// When the first proof was issued that it comes of.
    issued_at: Timestamp,
}

/// Seconds since the Unix epoch, as marks have them.
#[must_use]
pub fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.secs()).unwrap_or(u32::MAX)
}

impl TokenName {
    /// A session token's, or a link's.
    #[must_use]
    pub fn session(id: &str) -> Option<Self> {
        Some(Self { issuer: SESSION_TOKEN_ISSUER.parse().ok()?, id: id.into() })
    }
}

impl Revoked {
    /// By which it is looked up.
    #[must_use]
    pub fn key(&self) -> RevocationKey {
        match self {
            Self::Token(token) => digest("token", &[token.issuer.as_str(), &token.id]),
            Self::Subtree(token) => digest("subtree", &[token.issuer.as_str(), &token.id]),
            Self::Principal(id) => digest("principal", &[id.issuer.as_str(), &id.subject]),
            Self::Issuer(issuer) => digest("issuer", &[issuer.as_str()]),
            Self::Claim { issuer, claim, value } => digest("claim", &[issuer.as_str(), claim, value]),
            Self::SigningKey(kid) => digest("signing-key", &[kid]),
            Self::Session(id) => session_key(*id),
            Self::All => digest("all", &[]),
        }
    }

    /// Whether it is of one thing, of which there may be many, and is not to take the room of those that mean more.
    #[must_use]
    pub const fn is_single(&self) -> bool {
        self.is_of_token() || matches!(self, Self::Session(_))
    }

    /// Whether it is of one token, and what is made of it.
    #[must_use]
    pub const fn is_of_token(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Subtree(_))
    }

    /// Whether it means what it is of whenever that was issued: a stolen key signs any date.
    #[must_use]
    pub const fn is_timeless(&self) -> bool {
        self.is_single() || matches!(self, Self::SigningKey(_))
    }
}

impl Revocation {
    /// As it is looked up.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let issued_before = if self.of.is_timeless() { u32::MAX } else { seconds(self.issued_before) };
        // To the end of that second.
        Mark { key: self.of.key(), issued_before, until: seconds(self.until).saturating_add(1) }
    }
}

impl Bearer {
    /// Of a token that was shown. `origin`: what stands for the token of another issuer that it was made of; with it, or with `session`, it is a session
    /// token. `issued_at`: when the first proof of all was issued.
    #[must_use]
    pub fn new(principal: &Principal, session: bool, origin: Option<RevocationKey>, issued_at: Timestamp) -> Self {
        let id = &principal.id;
        let whose = if session { SESSION_TOKEN_ISSUER } else { id.issuer.as_str() };
        let mut keys = Vec::new();
        if let Some(shown) = &principal.token_id {
            keys.push(digest("token", &[whose, shown]));
        }
        keys.extend(principal.tokens().map(|token| digest("subtree", &[whose, token])));
        keys.extend(origin);
        keys.push(Revoked::Principal(id.clone()).key());
        let actors = principal.chain.iter().filter_map(|link| link.actor.as_ref());
        let vouched = actors.filter_map(|actor| Some((actor.issuer.as_ref()?, &actor.name)));
        for (issuer, subject) in vouched {
            keys.push(digest("principal", &[issuer.as_str(), subject]));
            keys.push(digest("issuer", &[issuer.as_str()]));
        }
        keys.push(digest("issuer", &[id.issuer.as_str()]));
        for (claim, values) in principal.claims.iter() {
            keys.extend(values.iter().map(|value| digest("claim", &[id.issuer.as_str(), claim, value])));
        }
        keys.push(Revoked::All.key());
        Self { keys: keys.into(), issued_at }
    }

    /// The same of a token that the cluster's signing keys stand for: its own, and those of what it was made of.
    #[must_use]
    pub fn signed_by(self, signers: &[RevocationKey]) -> Self {
        Self { keys: self.keys.iter().chain(signers).copied().collect(), ..self }
    }

    /// What a revocation can be of, and mean it.
    #[must_use]
    pub fn keys(&self) -> &[RevocationKey] {
        &self.keys
    }

    /// Whether `mark`, which is by one of its keys, means it.
    #[must_use]
    pub fn is_meant_by(&self, mark: &Mark) -> bool {
        seconds(self.issued_at) <= mark.issued_before
    }
}

/// By which the end of one session is looked up.
#[must_use]
pub fn session_key(id: SessionId) -> RevocationKey {
    digest("session", &[&id.to_string()])
}

/// Each part with its length, so that no two lists of parts are one text.
fn digest(tag: &str, parts: &[&str]) -> RevocationKey {
    let mut context = Context::new(&SHA256);
    for part in std::iter::once(&tag).chain(parts) {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut key = [0; 16];
    for (byte, from) in key.iter_mut().zip(context.finish().as_ref()) {
        *byte = *from;
    }
    RevocationKey(key)
}

/// In tokens: base64url.
impl Serialize for RevocationKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for RevocationKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("not 16 bytes in base64url"))
    }
}

impl fmt::Debug for RevocationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// As the command line names it: `subtree tok_1`, `claim ci repository=acme/app`.
impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = |f: &mut fmt::Formatter<'_>, what: &str, token: &TokenName| {
            if token.issuer.as_str() == SESSION_TOKEN_ISSUER {
                write!(f, "{what} {}", token.id)
            } else {
                write!(f, "{what} {} of {}", token.id, token.issuer)
            }
        };
        match self {
            Self::Token(name) => token(f, "token", name),
            Self::Subtree(name) => token(f, "subtree", name),
            Self::Principal(id) => write!(f, "principal {id}"),
            Self::Issuer(issuer) => write!(f, "issuer {issuer}"),
            Self::Claim { issuer, claim, value } => write!(f, "claim {issuer} {claim}={value}"),
            Self::SigningKey(kid) => write!(f, "signing-key {kid}"),
            Self::Session(id) => write!(f, "session {id}"),
            Self::All => f.write_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::KeptClaims;
    use crate::principal::{Actor, Link};
    use crate::scope::Scope;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn id(issuer: &str, subject: &str) -> PrincipalId {
        PrincipalId { issuer: name(issuer), subject: subject.into() }
    }

    fn principal(tokens: &[&str]) -> Principal {
        let link = |token: &&str| Link { token: (*token).into(), actor: None, scope: Scope::default() };
        let mut claims = KeptClaims::default();
        assert!(claims.keep("amr", vec!["pwd".into(), "otp".into()]));
        Principal {
            id: id("ci", "robot"),
            groups: BTreeSet::new(),
            token_id: tokens.last().map(|&last| last.into()),
            expires_at: None,
            chain: if tokens.len() > 1 { tokens.iter().map(link).collect() } else { Vec::new() },
            claims,
        }
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn meant(of: Revoked, before: u64, bearer: &Bearer) -> bool {
        let revocation = Revocation {
            of,
            issued_before: at(before),
            until: at(10_000),
            by: String::new(),
            because: String::new(),
            at: at(before),
            revision: 1,
        };
        let mut all = Revocations::default();
        all.insert(revocation.mark());
        all.mean(bearer)
    }

    fn session(id: &str) -> TokenName {
        TokenName::session(id).unwrap()
    }

    #[test]
    fn each_kind_means_what_it_says() {
        let mut child = principal(&["a", "b", "c"]);
        child.chain[2].actor = Some(Actor { issuer: Some(name("people")), name: "eve".into() });
        let origin = Revoked::Subtree(TokenName { issuer: name("ci"), id: "oidc".into() }).key();
        let bearer = Bearer::new(&child, true, Some(origin), at(100));
        let claim =
            |claim: &str, value: &str| Revoked::Claim { issuer: name("ci"), claim: claim.into(), value: value.into() };
        for (of, means) in [
            (Revoked::Token(session("c")), true),
            // As what was shown, and no other.
            (Revoked::Token(session("a")), false),
            (Revoked::Subtree(session("a")), true),
            (Revoked::Subtree(session("b")), true),
            (Revoked::Subtree(session("c")), true),
            (Revoked::Subtree(session("d")), false),
            (Revoked::Subtree(TokenName { issuer: name("ci"), id: "oidc".into() }), true),
            // Another issuer's token of the same name.
            (Revoked::Subtree(TokenName { issuer: name("ci"), id: "a".into() }), false),
            (Revoked::Principal(id("ci", "robot")), true),
            (Revoked::Principal(id("people", "eve")), true),
            (Revoked::Principal(id("people", "robot")), false),
            (Revoked::Issuer(name("ci")), true),
            (Revoked::Issuer(name("other")), false),
            (claim("amr", "otp"), true),
            (claim("amr", "sms"), false),
            (claim("acr", "otp"), false),
            (Revoked::All, true),
        ] {
            assert_eq!(meant(of.clone(), 100, &bearer), means, "{of}");
            // A single token whenever it was issued; of the others only those that are old enough.
            assert_eq!(meant(of.clone(), 99, &bearer), means && of.is_of_token(), "{of}");
        }
        // A key's, whenever the token says that it was issued.
        let key = |kid: &str| Revoked::SigningKey(kid.into());
        let signed = bearer.clone().signed_by(&[key("k1").key(), key("k2").key()]);
        assert!(meant(key("k1"), 1, &signed) && meant(key("k2"), 1, &signed) && meant(Revoked::All, 100, &signed));
        // A session's is nobody's token.
        let one = crate::SessionId::new(at(1), 1);
        assert!(!meant(Revoked::Session(one), 1_000, &bearer));
        assert!(!meant(key("k3"), 1_000, &signed) && !meant(key("k1"), 1_000, &bearer));
        let own = Bearer::new(&principal(&["a"]), false, None, at(1));
        assert!(meant(Revoked::Subtree(TokenName { issuer: name("ci"), id: "a".into() }), 1, &own));
        assert!(!meant(Revoked::Subtree(session("a")), 1, &own));
    }

    #[test]
    fn parts_do_not_run_into_one_another() {
        let claim = |claim: &str, value: &str| {
            Revoked::Claim { issuer: name("ci"), claim: claim.into(), value: value.into() }.key()
        };
        assert_ne!(claim("a", "bc"), claim("ab", "c"));
        assert_ne!(Revoked::Token(session("x")).key(), Revoked::Subtree(session("x")).key());
    }
}
