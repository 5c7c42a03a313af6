//! Issuers of JSON Web Tokens.

use super::{Algorithm, ClaimPath, GroupsClaim, Preset, RequiredClaim};

/// What is known of an OIDC issuer beside its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcIssuer {
    /// Accepted `aud` values; never empty.
    pub audiences: Vec<String>,
    /// Accepted signature algorithms; the token's own word is never taken. Never empty.
    pub algorithms: Vec<Algorithm>,
    /// Certificate authority of the issuer's HTTPS endpoint, when it is not a public one.
    pub ca_pem: Option<String>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// The claim that names the subject.
    pub subject: ClaimPath,
    /// The claims that name groups.
    pub groups: Vec<GroupsClaim>,
    /// What a token must say to be taken at all: every one of these.
    pub required: Vec<RequiredClaim>,
    /// Whose rules were filled in, and demanded.
    pub preset: Option<Preset>,
    /// How people log in there; none: they do not.
    pub login: Option<Login>,
}

/// How people log in at an OpenID provider, as a public client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// As the provider knows the command line; one of the issuer's audiences.
    pub client_id: String,
    /// What is asked for; `openid` is among them.
    pub scopes: Vec<String>,
}

impl Login {
    /// What is asked for where nothing is said: who it is, and a way to renew it without a browser.
    pub const SCOPES: [&'static str; 3] = ["openid", "profile", "offline_access"];
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum KeySource {
    /// From the `jwks_uri` of its discovery document (OpenID Connect Discovery 1.0, section 4).
    #[default]
    Discovery,
    /// From this URL.
    At(String),
    /// From the declaration itself: a JWKS, that changes when the declaration does.
    Inline(String),
}

impl OidcIssuer {
    /// For these audiences, with the defaults of all else.
    pub fn new<A: Into<String>>(audiences: impl IntoIterator<Item = A>) -> Self {
        Self {
            audiences: audiences.into_iter().map(Into::into).collect(),
            algorithms: Algorithm::DEFAULT.to_vec(),
            ca_pem: None,
            keys: KeySource::Discovery,
            subject: ClaimPath::of_name("sub"),
            groups: vec![GroupsClaim::list(ClaimPath::of_name("groups"))],
            required: Vec::new(),
            preset: None,
            login: None,
        }
    }

    /// The keys that are declared; `None` when they are fetched.
    #[must_use]
    pub fn jwks(&self) -> Option<&str> {
        match &self.keys {
            KeySource::Inline(jwks) => Some(jwks),
            KeySource::Discovery | KeySource::At(_) => None,
        }
    }

    /// Where to begin to fetch its keys, being of the issuer at `url`; `None` when they are declared.
    #[must_use]
    pub fn keys_at<'a>(&'a self, url: &'a str) -> Option<&'a str> {
        match &self.keys {
            KeySource::Discovery => Some(url),
            KeySource::At(at) => Some(at),
            KeySource::Inline(_) => None,
        }
    }

    /// Whether this says anything that could not be said before feature level 3.
    #[must_use]
    pub fn is_of_level_3(&self) -> bool {
        let Self { audiences: _, algorithms, ca_pem: _, keys, subject, groups, required, preset, login: _ } = self;
        let plain = match groups.as_slice() {
            [one] => one.is_plain(),
            _ => false,
        };
        *keys != KeySource::Discovery
            || subject.as_str() != "sub"
            || !plain
            || !required.is_empty()
            || preset.is_some()
            || algorithms.iter().any(|algorithm| !Algorithm::DEFAULT.contains(algorithm))
    }
}
