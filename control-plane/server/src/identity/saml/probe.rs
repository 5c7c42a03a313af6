//! The verification of responses, for whoever tries to break it: the fuzz targets.

use std::time::Duration;

use postern_core::issuer::{DEFAULT_LEEWAY, Issuer, IssuerKind, SamlIssuer};
use postern_core::{Name, Principal, Timestamp};

use super::c14n::canonical;
use super::xml::{Bounds, parse};
use super::{IdpMetadata, RequestIds, ServiceProvider};

/// One issuer's verification, with unsolicited responses let in.
pub struct SamlProbe {
    name: Name,
    issuer: Issuer,
    metadata: IdpMetadata,
    requests: RequestIds,
    recipient: String,
}

impl SamlProbe {
    /// For the provider of `metadata`, as the service provider `entity_id` that is answered at `recipient`. `None`: the metadata is not usable.
    #[must_use]
    pub fn new(name: Name, metadata: &str, entity_id: &str, recipient: &str) -> Option<Self> {
        let read = IdpMetadata::read(metadata).ok()?;
        let mut saml = SamlIssuer::new(metadata, entity_id);
        saml.allow_unsolicited = true;
        let issuer = Issuer {
            url: read.entity_id.clone(),
            groups_prefix: String::new(),
            leeway: DEFAULT_LEEWAY,
            max_age: Some(Duration::from_secs(3_600)),
            max_token_ttl: None,
            token_ttl: None,
            keep: Vec::new(),
            kind: IssuerKind::Saml(saml),
        };
        let (requests, recipient) = (RequestIds::new(&[0; 32]), recipient.to_owned());
        Some(Self { name, issuer, metadata: read, requests, recipient })
    }

    /// The principal that `response` proves at `now`.
    #[must_use]
    pub fn judge(&self, response: &[u8], now: Timestamp) -> Option<Principal> {
        let provider = ServiceProvider {
            name: &self.name,
            issuer: &self.issuer,
            saml: self.issuer.saml()?,
            metadata: &self.metadata,
            keys: &[],
            recipient: &self.recipient,
            requests: &self.requests,
        };
        Some(provider.response(response, now).ok()?.principal)
    }

    /// The canonical form of a document, when it is one that is read.
    #[must_use]
    pub fn canonical(document: &[u8]) -> Option<String> {
        let root = parse(document, Bounds::METADATA).ok()?;
        Some(canonical(&root, None, &Default::default()))
    }

    /// Whether a document is metadata of a provider.
    #[must_use]
    pub fn is_metadata(document: &str) -> bool {
        IdpMetadata::read(document).is_ok()
    }
}
