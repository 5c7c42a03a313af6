//! Issuers of SAML 2.0 assertions.

use crate::name::Name;

/// The most bytes of an identity provider's metadata.
pub const MAX_METADATA: usize = 128 << 10;

/// What is known of a SAML issuer beside its URL, which is the provider's entity id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamlIssuer {
    /// The provider's metadata, one `EntityDescriptor`: where it lets people log in, and the keys that it signs by.
    pub metadata: String,
    /// The entity id of this cluster as the provider knows it: the one accepted audience.
    pub entity_id: String,
    /// The attribute that names the subject; `None`: the assertion's NameID does.
    pub subject_attribute: Option<String>,
    /// The attribute that lists the groups.
    pub groups_attribute: String,
    /// Takes in assertions that answer no request of this cluster.
    pub allow_unsolicited: bool,
    /// Refuses assertions that are not encrypted.
    pub require_encrypted: bool,
    /// The Secret with the keys and certificates by which requests are signed and assertions opened, as PEM.
    pub key: Option<Name>,
}

impl SamlIssuer {
    /// With the defaults of all that is not said.
    pub fn new(metadata: impl Into<String>, entity_id: impl Into<String>) -> Self {
        Self {
            metadata: metadata.into(),
            entity_id: entity_id.into(),
            subject_attribute: None,
            groups_attribute: "groups".to_owned(),
            allow_unsolicited: false,
            require_encrypted: false,
            key: None,
        }
    }
}
