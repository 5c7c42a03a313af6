//! One look at an issuer's keys: by its discovery document (OpenID Connect Discovery 1.0, section 4), or where it was said that they are.
//!
//! What a discovery document says leads this node to another address. It must not lead it anywhere that an outsider does not reach: see
//! [`leads_well`].

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use postern_core::Name;
use postern_core::issuer::{Issuer, KeySource, OidcIssuer};
use postern_runtime::http::{Fetched, HttpClient, HttpError};
use postern_runtime::jwt::{IssuerVerifier, KeyError};

/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_DOCUMENT: usize = 256 << 10;

/// Why an issuer's keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{what}: {source}")]
    Http { what: &'static str, source: HttpError },
    #[error("the discovery document is of issuer {0:?}")]
    OtherIssuer(String),
    #[error("the discovery document names no jwks_uri")]
    NoKeys,
    #[error("the discovery document's jwks_uri {0:?} is neither https nor of the issuer's own address")]
    Elsewhere(String),
    #[error("its keys are not usable: {0}")]
    Keys(#[from] KeyError),
    #[error("no keys within {0:?}")]
    Timeout(Duration),
    #[error("its keys are declared, or it has none")]
    NotFetched,
}

/// An issuer's keys.
#[derive(Debug)]
pub(super) struct FetchedKeys {
    pub(super) jwks: String,
    /// Where it began, for [`postern_state::commands::SetIssuerKeys`].
    pub(super) url: String,
    /// How long the issuer says that they hold.
    pub(super) keep: Option<Duration>,
}

pub(super) async fn fetch(name: &Name, issuer: &Issuer) -> Result<FetchedKeys, FetchError> {
    let oidc = issuer.oidc().ok_or(FetchError::NotFetched)?;
    let url = oidc.keys_at(&issuer.url).ok_or(FetchError::NotFetched)?.to_owned();
    let keys = tokio::time::timeout(TIMEOUT, keys(issuer, oidc)).await.map_err(|_| FetchError::Timeout(TIMEOUT))??;
    let jwks = keys.document.to_string();
    // Keys that cannot be used never replace keys that can.
    IssuerVerifier::new(name, issuer, &jwks)?;
    Ok(FetchedKeys { jwks, url, keep: keys.keep })
}

async fn keys(issuer: &Issuer, oidc: &OidcIssuer) -> Result<Fetched, FetchError> {
    let http = |what: &'static str| move |source: HttpError| FetchError::Http { what, source };
    let client = HttpClient::new(oidc.ca_pem.as_deref()).map_err(http("its certificate authority"))?;
    let at = match &oidc.keys {
        KeySource::At(url) => url.clone(),
        KeySource::Inline(_) => return Err(FetchError::NotFetched),
        KeySource::Discovery => {
            let url = format!("{}/.well-known/openid-configuration", issuer.url.trim_end_matches('/'));
            let found = client.get_json(&url, MAX_DOCUMENT, TIMEOUT).await.map_err(http("discovery"))?.document;
            let text = |member: &str| found.get(member).and_then(serde_json::Value::as_str);
            // OpenID Connect Discovery 1.0, section 4.3: identical, or it is somebody else's document.
            let of = text("issuer").unwrap_or_default();
            if of != issuer.url {
                return Err(FetchError::OtherIssuer(shown(of)));
            }
            let at = text("jwks_uri").ok_or(FetchError::NoKeys)?;
            if !leads_well(&issuer.url, at) {
                return Err(FetchError::Elsewhere(shown(at)));
            }
            at.to_owned()
        }
    };
    client.get_json(&at, MAX_DOCUMENT, TIMEOUT).await.map_err(http("keys"))
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Whether an issuer may send this node to `keys`: where it is itself, or to a name over https, whose certificate then shows that who answers
/// there goes by it. Never to another address by number, nor in clear: that would be this machine, or one behind it.
fn leads_well(issuer: &str, keys: &str) -> bool {
    let (Ok(issuer), Ok(keys)) = (issuer.parse::<Uri>(), keys.parse::<Uri>()) else { return false };
    let (Some(own), Some(host)) = (issuer.host(), keys.host()) else { return false };
    if issuer.scheme() == keys.scheme() && own == host && issuer.port_u16() == keys.port_u16() {
        return true;
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let by_number = bare.parse::<IpAddr>().is_ok() || bare.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let local = bare == "localhost" || bare.ends_with(".localhost");
    keys.scheme_str() == Some("https") && !by_number && !local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_leads_to_names_over_https_or_back_to_the_issuer() {
        let public = "https://accounts.google.com";
        for (issuer, keys) in [
            (public, "https://www.googleapis.com/oauth2/v3/certs"),
            (public, "https://accounts.google.com/keys"),
            ("http://127.0.0.1:8080/realm", "http://127.0.0.1:8080/keys"),
            ("https://10.0.0.7:8443", "https://10.0.0.7:8443/keys"),
            ("https://10.0.0.7:8443", "https://id.acme.example/keys"),
        ] {
            assert!(leads_well(issuer, keys), "{issuer} {keys}");
        }
        for (issuer, keys) in [
            (public, "http://accounts.google.com/keys"),
            (public, "http://127.0.0.1:6443/keys"),
            (public, "http://169.254.169.254/latest/meta-data"),
            (public, "https://169.254.169.254/latest/meta-data"),
            (public, "https://10.0.0.1/keys"),
            (public, "https://[::1]/keys"),
            (public, "https://[fd00::1]/keys"),
            (public, "https://2130706433/keys"),
            (public, "https://localhost/keys"),
            (public, "https://x.localhost/keys"),
            (public, "file:///etc/passwd"),
            (public, "ftp://www.googleapis.com/keys"),
            (public, "gopher://www.googleapis.com/keys"),
            (public, "/keys"),
            (public, ""),
            ("http://127.0.0.1:8080/realm", "http://127.0.0.1:8081/keys"),
            ("http://127.0.0.1:8080", "http://localhost:8080/keys"),
        ] {
            assert!(!leads_well(issuer, keys), "{issuer} {keys}");
        }
    }
}
