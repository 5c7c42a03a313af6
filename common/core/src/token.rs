//! Claims of Postern's own session tokens (a JWT, RFC 7519).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::principal::{Link, Principal};
use crate::revocation::RevocationKey;
use crate::scope::Scope;
use crate::time::Timestamp;

/// The `iss` of a session token, and the reserved issuer name of the cluster's own identities.
pub const SESSION_TOKEN_ISSUER: &str = "postern";
/// The `aud` of a session token.
pub const SESSION_TOKEN_AUDIENCE: &str = "postern:session";
/// The `typ` header of a session token (RFC 8725, section 3.11): no other JWT of ours passes for one.
pub const SESSION_TOKEN_TYPE: &str = "postern-session+jwt";
/// The `typ` of a session token that says more than which targets it is for. Versions that would pass over what it says do not know the type, and
/// refuse it.
pub const SCOPED_TOKEN_TYPE: &str = "postern-scoped+jwt";
/// The `typ` of a link: a narrower child, signed by the holder of its parent's delegation key.
pub const LINK_TYPE: &str = "postern-link+jwt";
/// Stands between a token and the links that follow it. It is in no part of a JWT (RFC 7515, section 7.1).
pub const LINK_SEPARATOR: char = '~';
/// The most that a token is handed on: children of children, however they were made.
pub const MAX_DEPTH: u8 = 5;
/// The longest name that a parent gives whom it hands a token to, in bytes.
pub const MAX_ACTOR: usize = 128;
/// The longest life of a session token, in seconds.
pub const SESSION_TOKEN_MAX_TTL: u32 = 43_200;
/// The life of a session token when none is asked for, in seconds.
pub const SESSION_TOKEN_DEFAULT_TTL: u32 = 900;

/// What a session token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionClaims {
    /// [`SESSION_TOKEN_ISSUER`]; or the URL by which the control plane is known to others that verify its tokens (RFC 8414, section 2).
    pub iss: String,
    /// [`SESSION_TOKEN_AUDIENCE`].
    pub aud: String,
    /// `issuer/subject` of the principal, for readers.
    pub sub: String,
    /// Seconds since the Unix epoch.
    pub exp: u64,
    /// Seconds since the Unix epoch.
    pub nbf: u64,
    /// Seconds since the Unix epoch.
    pub iat: u64,
    /// Unique, for revocation.
    pub jti: String,
    /// The cluster that signed it: no other accepts it.
    pub cluster: String,
    /// The identity behind it.
    pub principal: Principal,
    /// Targets that it is good for; empty: all that policy permits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Name>,
    /// The token that this one was made from, if that was a session token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// How often it was handed on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u8,
    /// Who acts, and who acted before (RFC 8693, section 4.1). For others to read: what counts is the principal's chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// Who may hand it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dlg: Option<Delegation>,
    /// Of what its bearer must prove possession.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// When the first proof was issued that it comes of, in seconds since the Unix epoch; none: it is as old as itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
    /// What stands for that proof, where it has an id of its own: whoever revokes it means this, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<RevocationKey>,
    /// What stands for the cluster's keys that have signed what it was made of, other than its own: who revokes one of them means this, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signers: Vec<RevocationKey>,
}

impl SessionClaims {
    /// Of a token of `cluster`'s that is good from `now` to `end` and not narrowed.
    #[must_use]
    pub fn new(cluster: &str, id: &str, principal: Principal, (now, end): (Timestamp, Timestamp)) -> Self {
        Self {
            iss: SESSION_TOKEN_ISSUER.to_owned(),
            aud: SESSION_TOKEN_AUDIENCE.to_owned(),
            sub: principal.id.to_string(),
            exp: end.secs(),
            nbf: now.secs(),
            iat: now.secs(),
            jti: id.to_owned(),
            cluster: cluster.to_owned(),
            principal,
            targets: Vec::new(),
            parent: None,
            root: None,
            depth: 0,
            act: None,
            dlg: None,
            cnf: None,
            began: None,
            origin: None,
            signers: Vec::new(),
        }
    }
}

impl SessionClaims {
    /// Whether `iss` is one that a cluster's tokens have. Whose it is the signature and `cluster` say.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.iss == SESSION_TOKEN_ISSUER || self.iss.starts_with("https://")
    }

    /// The `typ` that a token with these claims has.
    #[must_use]
    pub const fn typ(&self) -> &'static str {
        if self.principal.chain.is_empty() && self.dlg.is_none() && self.cnf.is_none() {
            SESSION_TOKEN_TYPE
        } else {
            SCOPED_TOKEN_TYPE
        }
    }
}

/// `act` (RFC 8693, section 4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// The actor.
    pub sub: String,
    /// Who acted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Act>>,
}

impl Act {
    /// Of a principal's chain; the last actor is the outermost.
    #[must_use]
    pub fn of(chain: &[Link]) -> Option<Self> {
        let actors = chain.iter().filter_map(|link| link.actor.as_ref());
        actors.fold(None, |before, actor| Some(Self { sub: actor.to_string(), act: before.map(Box::new) }))
    }
}

/// By `dlg` a token names a key: who has it may sign links that narrow the token, without asking anybody.
///
/// A token with such a key is shown to nobody by itself: the last of a chain has none. So who was handed a link cannot cut it off, and show what
/// it was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// An Ed25519 public key (RFC 8037, section 2), base64url.
    pub x: String,
    /// How many links may follow.
    pub depth: u8,
}

impl Delegation {
    /// By an Ed25519 public key (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn new(key: &[u8], depth: u8) -> Self {
        Self { x: URL_SAFE_NO_PAD.encode(key), depth }
    }
}

/// `cnf` (RFC 7800, section 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Confirmation {
    /// SHA-256 of the certificate that the client has to show in TLS (RFC 8705, section 3.1), base64url.
    #[serde(rename = "x5t#S256")]
    Certificate(String),
    /// Thumbprint of the key that signs a proof for each request (RFC 9449, section 6.1), base64url.
    #[serde(rename = "jkt")]
    Key(String),
}

impl Confirmation {
    /// By the SHA-256 of a certificate in DER.
    #[must_use]
    pub fn certificate(sha256: &[u8]) -> Self {
        Self::Certificate(URL_SAFE_NO_PAD.encode(sha256))
    }

    /// By the SHA-256 thumbprint of a key (RFC 7638).
    #[must_use]
    pub fn key(thumbprint: &[u8]) -> Self {
        Self::Key(URL_SAFE_NO_PAD.encode(thumbprint))
    }
}

/// What a link says: a child of the token before it, signed by the delegation key that this one names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
// A restriction that this version does not know must not be passed over.
#[serde(deny_unknown_fields)]
pub struct LinkClaims {
    /// SHA-256 of all before it, as it is written, without the separator; base64url. It is a child of that and of nothing else.
    pub par: String,
    /// Seconds since the Unix epoch.
    pub exp: u64,
    /// Seconds since the Unix epoch.
    pub iat: u64,
    /// Seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Who is handed it, in the parent's words; none: the parent itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is good for.
    #[serde(default)]
    pub scope: Scope,
    /// Who may hand it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dlg: Option<Delegation>,
    /// Of what its bearer must prove possession.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's way
const fn is_zero(depth: &u8) -> bool {
    *depth == 0
}
