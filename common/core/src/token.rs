//! Claims of Postern's own session tokens (a JWT, RFC 7519).

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::principal::Principal;

/// The `iss` of a session token, and the reserved issuer name of the cluster's own identities.
pub const SESSION_TOKEN_ISSUER: &str = "postern";
/// The `aud` of a session token.
pub const SESSION_TOKEN_AUDIENCE: &str = "postern:session";
/// The `typ` header of a session token (RFC 8725, section 3.11): no other JWT of ours passes for one.
pub const SESSION_TOKEN_TYPE: &str = "postern-session+jwt";
/// The longest life of a session token, in seconds.
pub const SESSION_TOKEN_MAX_TTL: u32 = 43_200;
/// The life of a session token when none is asked for, in seconds.
pub const SESSION_TOKEN_DEFAULT_TTL: u32 = 900;

/// What a session token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionClaims {
    /// [`SESSION_TOKEN_ISSUER`].
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
}
