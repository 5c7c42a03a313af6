//! Trusted identity providers.

mod algorithm;
mod oidc;

use std::time::Duration;

pub use algorithm::Algorithm;
pub use oidc::OidcIssuer;

/// The leeway of an issuer that says none.
pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);

/// A trusted identity provider, and how what it says becomes a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What it calls itself in what it signs, compared byte for byte: the `iss` of a token, the entity id of a provider of assertions.
    pub url: String,
    /// Put before each group's name.
    pub groups_prefix: String,
    /// Clock leeway.
    pub leeway: Duration,
    /// Refuses what was issued longer ago than this.
    pub max_age: Option<Duration>,
    /// By which protocol it speaks, and what that needs to be known.
    pub kind: IssuerKind,
}

/// The protocols of identity providers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerKind {
    /// OpenID Connect, and whatever else signs JSON Web Tokens.
    Oidc(OidcIssuer),
}

impl Issuer {
    /// An issuer of tokens, with the defaults of all that is not said.
    pub fn new_oidc<A: Into<String>>(url: impl Into<String>, audiences: impl IntoIterator<Item = A>) -> Self {
        Self {
            url: url.into(),
            groups_prefix: String::new(),
            leeway: DEFAULT_LEEWAY,
            max_age: None,
            kind: IssuerKind::Oidc(OidcIssuer::new(audiences)),
        }
    }

    /// What there is to know of an issuer of tokens; `None` for another kind.
    #[must_use]
    pub const fn oidc(&self) -> Option<&OidcIssuer> {
        match &self.kind {
            IssuerKind::Oidc(oidc) => Some(oidc),
        }
    }

    /// Whom what it signs may be meant for. With the URL these tell issuers of one provider apart.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        match &self.kind {
            IssuerKind::Oidc(oidc) => &oidc.audiences,
        }
    }
}
