//! SAML 2.0: what an identity provider asserts, verified, as a principal.
//!
//! One strict reader ([`xml`]) gives one tree; the signature is verified over a node of that tree ([`signature`]), and that node is what the rules
//! are applied to ([`response`]). Nothing here has a socket, a clock or a memory: whoever calls spends what may be presented once.

mod c14n;
mod decrypt;
mod keys;
mod layout;
mod metadata;
mod probe;
mod request;
mod response;
mod service;
mod signature;
mod time;
mod xml;

#[cfg(test)]
mod tests;

use postern_core::Code;

use keys::{ServiceKey, ServiceKeyError};
use metadata::{IdpMetadata, MetadataError};
pub use probe::SamlProbe;
pub(crate) use request::{Challenge, escaped};
pub(crate) use service::{LoginError, Outbound, SamlLogins};
pub(crate) use signature::decode;

use request::{AuthnRequest, RequestIds, service_metadata};
use response::{Accepted, ServiceProvider};
use xml::XmlError;

/// Why an answer of an identity provider is not believed. Nothing of the answer is in the text, so that it may be logged and shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SamlError {
    #[error("it cannot be read: {0}")]
    Xml(#[from] XmlError),
    #[error("it is no SAML 2.0 response")]
    NotAResponse,
    #[error("it has not the shape of its kind: {0}")]
    Shape(&'static str),
    #[error("an assertion or a signature stands where it has no business")]
    Wrapping,
    #[error("two of its elements have one id")]
    DuplicateId,
    #[error("it must hold exactly one assertion")]
    OneAssertion,
    #[error("its signature has not the shape that SAML gives it")]
    SignatureShape,
    #[error("its signature is of another element than the one that it stands in")]
    Reference,
    #[error("its signature transforms what it signs in a way that is not accepted")]
    Transform,
    #[error("its {0} algorithm is not accepted")]
    Algorithm(&'static str),
    #[error("what should be base64 is not")]
    Base64,
    #[error("its signature is wrong")]
    Signature,
    #[error("neither the response nor the assertion is signed")]
    Unsigned,
    #[error("its encryption has not the shape that SAML gives it")]
    Encryption,
    #[error("it is encrypted, and the issuer has no key here to open it by")]
    NoDecryptionKey,
    #[error("it cannot be decrypted")]
    Decrypt,
    #[error("its assertion is not encrypted, as the issuer's rules want it")]
    NotEncrypted,
    #[error("the identity provider answers: {0}")]
    Status(&'static str),
    #[error("it is of another issuer")]
    Issuer,
    #[error("it is for another destination")]
    Destination,
    #[error("it is for another recipient")]
    Recipient,
    #[error("it is for another audience")]
    Audience,
    #[error("it has a condition that is not known")]
    Condition,
    #[error("it is not for whoever bears it")]
    NotBearer,
    #[error("a time in it is missing or cannot be read: {0}")]
    Time(&'static str),
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("its time is over")]
    Expired,
    #[error("the login was too long ago")]
    TooOld,
    #[error("it would be valid for longer than a day")]
    TooLong,
    #[error("it tells of no login")]
    NoAuthnStatement,
    #[error("it names different requests that it answers")]
    InResponseTo,
    #[error("it answers no request of this cluster")]
    Unsolicited,
    #[error("it answers a request that is not this cluster's")]
    UnknownRequest,
    #[error("the login took too long: begin again")]
    RequestOver,
    #[error("it answers a login in a browser")]
    Unexpected,
    #[error("its subject is not accepted: {0}")]
    Subject(&'static str),
    #[error("its groups are not accepted")]
    Groups,
    #[error("an attribute that is to be kept is not text, or too long")]
    Kept,
    #[error("the issuer's metadata is over")]
    MetadataOver,
    #[error("a request cannot be signed")]
    Sign,
}

impl SamlError {
    /// The code that a client is told.
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Expired | Self::TooOld | Self::RequestOver => Code::TokenExpired,
            Self::NotYetValid => Code::TokenNotYetValid,
            _ => Code::TokenInvalid,
        }
    }
}
