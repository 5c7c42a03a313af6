//! XML signatures (XML Signature Syntax and Processing 1.1), as SAML 2.0 core, section 5.4, has them: enveloped, one reference, to the parent.
//!
//! Nothing is looked up by id: the reference must name the element that the signature stands in, and that very node is what is digested and
//! what the caller reads. So wrapping has nothing to point elsewhere. Keys come from the issuer's metadata alone; `KeyInfo` is not read.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{self, digest};
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::public_key::PublicKey;

use super::SamlError;
use super::c14n::{EXCLUSIVE, canonical};
use super::xml::Element;

/// The namespace of XML signatures.
pub(super) const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const RSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";
/// Prefixes on an InclusiveNamespaces list.
const MAX_PREFIXES: usize = 16;
const RSA_MIN_BITS: usize = 2_048;

/// A key that the issuer signs with.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct TrustedKey {
    kind: KeyKind,
    /// RFC 8017's RSAPublicKey, or the point of an elliptic curve.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyKind {
    Rsa,
    P256,
    P384,
    P521,
}

impl std::fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustedKey").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl TrustedKey {
    /// The key of a certificate. Nothing else in it counts: that it stands in the metadata is the trust.
    pub(super) fn from_certificate(der: &[u8]) -> Result<Self, &'static str> {
        let (_, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|_| "a certificate in it cannot be read")?;
        let key = certificate.public_key();
        let kind = match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if rsa.key_size() < RSA_MIN_BITS => {
                return Err("an RSA key in it is shorter than 2048 bits");
            }
            Ok(PublicKey::RSA(_)) => KeyKind::Rsa,
            Ok(PublicKey::EC(point)) => match point.key_size() {
                256 => KeyKind::P256,
                384 => KeyKind::P384,
                528 | 521 => KeyKind::P521,
                _ => return Err("a key in it is of an elliptic curve that is not accepted"),
            },
            _ => return Err("a key in it is neither RSA nor ECDSA"),
        };
        Ok(Self { kind, bytes: key.subject_public_key.data.to_vec() })
    }
}

/// Asymmetric and with SHA-2 alone (RFC 9231).
fn algorithm(uri: &str, key: KeyKind) -> Option<&'static dyn VerificationAlgorithm> {
    let (space, name) = uri.rsplit_once('#')?;
    Some(match (space, name, key) {
        ("http://www.w3.org/2001/04/xmldsig-more", name, key) => match (name, key) {
            ("rsa-sha256", KeyKind::Rsa) => &signature::RSA_PKCS1_2048_8192_SHA256,
            ("rsa-sha384", KeyKind::Rsa) => &signature::RSA_PKCS1_2048_8192_SHA384,
            ("rsa-sha512", KeyKind::Rsa) => &signature::RSA_PKCS1_2048_8192_SHA512,
            ("ecdsa-sha256", KeyKind::P256) => &signature::ECDSA_P256_SHA256_FIXED,
            ("ecdsa-sha384", KeyKind::P384) => &signature::ECDSA_P384_SHA384_FIXED,
            ("ecdsa-sha512", KeyKind::P521) => &signature::ECDSA_P521_SHA512_FIXED,
            _ => return None,
        },
        ("http://www.w3.org/2007/05/xmldsig-more", "sha256-rsa-MGF1", KeyKind::Rsa) => {
            &signature::RSA_PSS_2048_8192_SHA256
        }
        ("http://www.w3.org/2007/05/xmldsig-more", "sha384-rsa-MGF1", KeyKind::Rsa) => {
            &signature::RSA_PSS_2048_8192_SHA384
        }
        ("http://www.w3.org/2007/05/xmldsig-more", "sha512-rsa-MGF1", KeyKind::Rsa) => {
            &signature::RSA_PSS_2048_8192_SHA512
        }
        _ => return None,
    })
}

/// Whether the algorithm is one that is accepted with some key.
fn is_accepted(uri: &str) -> bool {
    [KeyKind::Rsa, KeyKind::P256, KeyKind::P384, KeyKind::P521].into_iter().any(|key| algorithm(uri, key).is_some())
}

fn digest_algorithm(uri: &str) -> Option<&'static digest::Algorithm> {
    match uri {
        "http://www.w3.org/2001/04/xmlenc#sha256" => Some(&digest::SHA256),
        "http://www.w3.org/2001/04/xmldsig-more#sha384" => Some(&digest::SHA384),
        "http://www.w3.org/2001/04/xmlenc#sha512" => Some(&digest::SHA512),
        _ => None,
    }
}

/// Whether `element` is signed, by one of `keys`.
///
/// # Errors
/// A signature stands in it that is not that: it is never passed over.
pub(super) fn verify(element: &Element, keys: &[TrustedKey]) -> Result<bool, SamlError> {
    let shape = |_: ()| SamlError::SignatureShape;
    let Some(signature) = element.at_most_one(DSIG, "Signature").map_err(shape)? else { return Ok(false) };
    let mut parts = signature.elements();
    let mut next = |local: &str| parts.next().filter(|part| part.is(DSIG, local)).ok_or(SamlError::SignatureShape);
    let (signed_info, value) = (next("SignedInfo")?, next("SignatureValue")?);
    // Key material of the sender's choice is not even looked at; objects have no business here.
    if parts.any(|part| !part.is(DSIG, "KeyInfo")) {
        return Err(SamlError::SignatureShape);
    }
    let mut parts = signed_info.elements();
    let mut next = |local: &str| parts.next().filter(|part| part.is(DSIG, local)).ok_or(SamlError::SignatureShape);
    let (method, by, reference) = (next("CanonicalizationMethod")?, next("SignatureMethod")?, next("Reference")?);
    if parts.next().is_some() || by.elements().next().is_some() {
        return Err(SamlError::SignatureShape);
    }
    let inclusive = exclusive(method)?;
    let uri = by.attribute("Algorithm").unwrap_or_default();
    if !is_accepted(uri) {
        return Err(SamlError::Algorithm("signature"));
    }
    check_reference(element, signature, reference)?;
    let signed = canonical(signed_info, None, &inclusive);
    let value = binary(value)?;
    let verified = keys.iter().any(|key| {
        algorithm(uri, key.kind).is_some_and(|algorithm| {
            UnparsedPublicKey::new(algorithm, &key.bytes).verify(signed.as_bytes(), &value).is_ok()
        })
    });
    if verified { Ok(true) } else { Err(SamlError::Signature) }
}

/// The one reference is to `element`, and its digest is right.
fn check_reference(element: &Element, signature: &Element, reference: &Element) -> Result<(), SamlError> {
    let id = element.attribute("ID").filter(|id| !id.is_empty()).ok_or(SamlError::SignatureShape)?;
    if reference.attribute("URI").and_then(|uri| uri.strip_prefix('#')) != Some(id) {
        return Err(SamlError::Reference);
    }
    let mut parts = reference.elements();
    let mut next = |local: &str| parts.next().filter(|part| part.is(DSIG, local)).ok_or(SamlError::SignatureShape);
    let (transforms, method, value) = (next("Transforms")?, next("DigestMethod")?, next("DigestValue")?);
    if parts.next().is_some() {
        return Err(SamlError::SignatureShape);
    }
    // SAML 2.0 core, section 5.4.4: these two and no others; in this order they leave nothing else out of the digest.
    let transforms: Vec<&Element> = transforms.elements().collect();
    let [enveloped, canonicalization] = transforms.as_slice() else { return Err(SamlError::Transform) };
    if !enveloped.is(DSIG, "Transform")
        || enveloped.attribute("Algorithm") != Some(ENVELOPED)
        || enveloped.elements().next().is_some()
        || !canonicalization.is(DSIG, "Transform")
    {
        return Err(SamlError::Transform);
    }
    let inclusive = exclusive(canonicalization)?;
    let by = digest_algorithm(method.attribute("Algorithm").unwrap_or_default());
    let by = by.ok_or(SamlError::Algorithm("digest"))?;
    let found = digest(by, canonical(element, Some(signature), &inclusive).as_bytes());
    if found.as_ref() == binary(value)?.as_slice() { Ok(()) } else { Err(SamlError::Signature) }
}

/// The prefixes of an exclusive canonicalization; any other is refused.
fn exclusive(method: &Element) -> Result<BTreeSet<String>, SamlError> {
    if method.attribute("Algorithm") != Some(EXCLUSIVE) {
        return Err(SamlError::Algorithm("canonicalization"));
    }
    let mut prefixes = BTreeSet::new();
    for (place, list) in method.elements().enumerate() {
        if place > 0 || !list.is(EXCLUSIVE, "InclusiveNamespaces") {
            return Err(SamlError::Transform);
        }
        for prefix in list.attribute("PrefixList").unwrap_or_default().split_ascii_whitespace() {
            prefixes.insert(if prefix == "#default" { String::new() } else { prefix.to_owned() });
        }
    }
    if prefixes.len() > MAX_PREFIXES { Err(SamlError::Transform) } else { Ok(prefixes) }
}

/// The bytes that an element holds in base64.
pub(super) fn binary(element: &Element) -> Result<Vec<u8>, SamlError> {
    let text = element.text().ok_or(SamlError::Base64)?;
    decode(&text).ok_or(SamlError::Base64)
}

/// Base64 as XML writes it: with white space wherever somebody liked it.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok()
}

/// The query of a message by the redirect binding, signed (SAML 2.0 bindings, section 3.4.4.1): `query` and what follows it.
pub(super) const REDIRECT_ALGORITHM: &str = RSA_SHA256;
