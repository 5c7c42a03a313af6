//! Issuers of JSON Web Tokens.

use super::Algorithm;

/// What is known of an OIDC issuer beside its URL, where discovery starts (OpenID Connect Discovery 1.0, section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcIssuer {
    /// Accepted `aud` values; never empty.
    pub audiences: Vec<String>,
    /// Accepted signature algorithms; the token's own word is never taken. Never empty.
    pub algorithms: Vec<Algorithm>,
    /// Certificate authority of the issuer's HTTPS endpoint, when it is not a public one.
    pub ca_pem: Option<String>,
    /// The claim that lists the groups; dots descend.
    pub groups_claim: String,
}

impl OidcIssuer {
    /// For these audiences, with the defaults of all else.
    pub fn new<A: Into<String>>(audiences: impl IntoIterator<Item = A>) -> Self {
        Self {
            audiences: audiences.into_iter().map(Into::into).collect(),
            algorithms: Algorithm::ALL.to_vec(),
            ca_pem: None,
            groups_claim: "groups".to_owned(),
        }
    }
}
