//! An identity provider's metadata (Metadata for SAML 2.0): where it lets people log in, and by which keys it signs.

use postern_core::Timestamp;

use super::signature::{DSIG, TrustedKey, decode};
use super::time::instant;
use super::xml::{Bounds, Element, XmlError, parse};

pub(super) const METADATA: &str = "urn:oasis:names:tc:SAML:2.0:metadata";
pub(super) const PROTOCOL: &str = "urn:oasis:names:tc:SAML:2.0:protocol";
pub(super) const REDIRECT: &str = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect";
pub(super) const POST: &str = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST";
const MAX_KEYS: usize = 16;
const MAX_URL: usize = 2_048;

/// What is wrong with metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("is not metadata: {0}")]
    Xml(#[from] XmlError),
    #[error("must be one EntityDescriptor: of several, take the identity provider's")]
    Root,
    #[error("names no entityID")]
    EntityId,
    #[error("must have one IDPSSODescriptor of SAML 2.0")]
    Role,
    #[error("has no SingleSignOnService with the redirect or the POST binding")]
    NoService,
    #[error("has a SingleSignOnService that is not at https:// (http:// only on loopback)")]
    Service,
    #[error("has no certificate to sign with, or more than {MAX_KEYS}")]
    NoKey,
    #[error("{0}")]
    Key(&'static str),
    #[error("has a time that cannot be read: validUntil")]
    Time,
}

/// What is known of an identity provider.
#[derive(Clone, Debug)]
pub(crate) struct IdpMetadata {
    pub(crate) entity_id: String,
    /// Where a request goes by redirect.
    pub(super) redirect: Option<String>,
    /// Where a request is posted to.
    pub(super) post: Option<String>,
    pub(super) keys: Vec<TrustedKey>,
    /// It refuses requests that are not signed.
    pub(crate) wants_signed_requests: bool,
    /// It is not to be used from then on.
    pub(super) valid_until: Option<Timestamp>,
}

impl IdpMetadata {
    /// Reads metadata. A signature on it is not looked at: an administrator declares it.
    pub(crate) fn read(xml: &str) -> Result<Self, MetadataError> {
        let root = parse(xml.as_bytes(), Bounds::METADATA)?;
        if !root.is(METADATA, "EntityDescriptor") {
            return Err(MetadataError::Root);
        }
        let entity_id = root.attribute("entityID").filter(|id| !id.is_empty()).ok_or(MetadataError::EntityId)?;
        let speaks = |role: &&Element| {
            role.attribute("protocolSupportEnumeration")
                .is_some_and(|all| all.split_ascii_whitespace().any(|it| it == PROTOCOL))
        };
        let mut roles = root.all(METADATA, "IDPSSODescriptor").filter(speaks);
        let (Some(role), None) = (roles.next(), roles.next()) else { return Err(MetadataError::Role) };
        let service = |binding: &str| -> Result<Option<String>, MetadataError> {
            let mut all =
                role.all(METADATA, "SingleSignOnService").filter(|it| it.attribute("Binding") == Some(binding));
            let Some(url) = all.next().map(|it| it.attribute("Location").unwrap_or_default()) else { return Ok(None) };
            if is_url(url) { Ok(Some(url.to_owned())) } else { Err(MetadataError::Service) }
        };
        let (redirect, post) = (service(REDIRECT)?, service(POST)?);
        if redirect.is_none() && post.is_none() {
            return Err(MetadataError::NoService);
        }
        let ends = [root.attribute("validUntil"), role.attribute("validUntil")].into_iter().flatten();
        let ends: Option<Vec<Timestamp>> = ends.map(instant).collect();
        Ok(Self {
            entity_id: entity_id.to_owned(),
            redirect,
            post,
            keys: keys(role)?,
            wants_signed_requests: matches!(role.attribute("WantAuthnRequestsSigned"), Some("true" | "1")),
            valid_until: ends.ok_or(MetadataError::Time)?.into_iter().min(),
        })
    }
}

fn keys(role: &Element) -> Result<Vec<TrustedKey>, MetadataError> {
    let mut keys = Vec::new();
    for descriptor in role.all(METADATA, "KeyDescriptor") {
        if !matches!(descriptor.attribute("use"), None | Some("signing")) {
            continue;
        }
        let data = descriptor.all(DSIG, "KeyInfo").flat_map(|info| info.all(DSIG, "X509Data"));
        for certificate in data.flat_map(|data| data.all(DSIG, "X509Certificate")) {
            let der = certificate.text().and_then(|text| decode(&text));
            let der = der.ok_or(MetadataError::Key("has a certificate that is not base64"))?;
            let key = TrustedKey::from_certificate(&der).map_err(MetadataError::Key)?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    if keys.is_empty() || keys.len() > MAX_KEYS { Err(MetadataError::NoKey) } else { Ok(keys) }
}

/// A URL that a browser may be sent to.
fn is_url(url: &str) -> bool {
    let local = ["http://127.0.0.1", "http://[::1]", "http://localhost"];
    let loopback = || {
        local
            .iter()
            .any(|base| url.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])))
    };
    let plain =
        url.len() <= MAX_URL && url.chars().all(|c| c.is_ascii_graphic()) && !url.contains(['"', '<', '>', '#']);
    plain && (url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty()) || loopback())
}
