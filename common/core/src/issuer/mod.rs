//! Trusted identity providers.

mod algorithm;
mod claims;
mod oidc;
mod preset;
#[cfg(test)]
mod preset_tests;
mod saml;

use std::time::Duration;

use crate::time::Ttl;

pub use algorithm::Algorithm;
pub use claims::{ClaimPath, ClaimPattern, GroupsClaim, GroupsForm, InvalidClaimPath, RequiredClaim};
pub use oidc::{KeySource, Login, OidcIssuer};
pub use preset::Preset;
pub use saml::{MAX_METADATA, SamlIssuer};

/// How a SPIFFE trust domain is written as an issuer (SPIFFE-ID, section 2).
const SPIFFE: &str = "spiffe://";

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
    /// The longest that a session token of its principals may be good, and a token of its own at gateways.
    pub max_token_ttl: Option<Ttl>,
    /// How long their session tokens are good when nobody says how long.
    pub token_ttl: Option<Ttl>,
    /// Claims (attributes of assertions) that principals keep, beside those that are always kept and those that are required.
    pub keep: Vec<ClaimPath>,
    /// By which protocol it speaks, and what that needs to be known.
    pub kind: IssuerKind,
}

/// The protocols of identity providers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerKind {
    /// OpenID Connect, and whatever else signs JSON Web Tokens.
    Oidc(OidcIssuer),
    /// SAML 2.0.
    Saml(SamlIssuer),
}

impl Issuer {
    /// An issuer of tokens, with the defaults of all that is not said.
    pub fn new_oidc<A: Into<String>>(url: impl Into<String>, audiences: impl IntoIterator<Item = A>) -> Self {
        Self {
            url: url.into(),
            groups_prefix: String::new(),
            leeway: DEFAULT_LEEWAY,
            max_age: None,
            max_token_ttl: None,
            token_ttl: None,
            keep: Vec::new(),
            kind: IssuerKind::Oidc(OidcIssuer::new(audiences)),
        }
    }

    /// What there is to know of an issuer of tokens; `None` for another kind.
    #[must_use]
    pub const fn oidc(&self) -> Option<&OidcIssuer> {
        match &self.kind {
            IssuerKind::Oidc(oidc) => Some(oidc),
            IssuerKind::Saml(_) => None,
        }
    }

    /// The same, to be changed.
    pub const fn oidc_mut(&mut self) -> Option<&mut OidcIssuer> {
        match &mut self.kind {
            IssuerKind::Oidc(oidc) => Some(oidc),
            IssuerKind::Saml(_) => None,
        }
    }

    /// What there is to know of an issuer of assertions; `None` for another kind.
    #[must_use]
    pub const fn saml(&self) -> Option<&SamlIssuer> {
        match &self.kind {
            IssuerKind::Saml(saml) => Some(saml),
            IssuerKind::Oidc(_) => None,
        }
    }

    /// The trust domain, when it stands for one: its tokens say whose they are by their subject, and need no `iss` (JWT-SVID, section 3).
    #[must_use]
    pub fn is_trust_domain(&self) -> bool {
        self.url.starts_with(SPIFFE)
    }

    /// The trust domain of a SPIFFE ID, as an issuer's URL.
    #[must_use]
    pub fn trust_domain_of(subject: &str) -> Option<&str> {
        let domain = subject.strip_prefix(SPIFFE)?.split('/').next()?;
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let valid = !domain.is_empty() && domain.bytes().all(is_name);
        subject.get(..SPIFFE.len().saturating_add(domain.len())).filter(|_| valid)
    }

    /// Whom what it signs may be meant for. With the URL these tell issuers of one provider apart.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        match &self.kind {
            IssuerKind::Oidc(oidc) => &oidc.audiences,
            IssuerKind::Saml(saml) => std::slice::from_ref(&saml.entity_id),
        }
    }
}
