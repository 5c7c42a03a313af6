//! Encrypted assertions (XML Encryption 1.1): RSA-OAEP for the key, AES-GCM for the assertion.
//!
//! AES-CBC and RSA PKCS#1 v1.5 are refused: both tell who may ask often what is inside (Jager and Somorovsky, 2011; Bleichenbacher, 1998).

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA512_MGF1SHA512, OaepAlgorithm};
use zeroize::Zeroizing;

use super::SamlError;
use super::keys::ServiceKey;
use super::signature::{DSIG, binary};
use super::xml::Element;

/// The namespace of XML encryption, and of what 1.1 adds.
const XENC: &str = "http://www.w3.org/2001/04/xmlenc#";
const XENC11: &str = "http://www.w3.org/2009/xmlenc11#";
/// Recipients that one assertion may be encrypted to.
const MAX_KEYS: usize = 4;
const NONCE: usize = 12;
const TAG: usize = 16;

/// What stands in an `EncryptedAssertion`: the bytes of an assertion, which say nothing of who made them.
pub(super) fn decrypt(encrypted: &Element, keys: &[ServiceKey]) -> Result<Zeroizing<Vec<u8>>, SamlError> {
    if keys.is_empty() {
        return Err(SamlError::NoDecryptionKey);
    }
    let data = one(encrypted, XENC, "EncryptedData")?;
    let cipher = match method(data)?.as_str() {
        "http://www.w3.org/2009/xmlenc11#aes128-gcm" => &aead::AES_128_GCM,
        "http://www.w3.org/2009/xmlenc11#aes192-gcm" => &aead::AES_192_GCM,
        "http://www.w3.org/2009/xmlenc11#aes256-gcm" => &aead::AES_256_GCM,
        _ => return Err(SamlError::Algorithm("encryption")),
    };
    // Within the data's KeyInfo, or beside the data (SAML 2.0 core, section 2.2.4).
    let inside = data.all(DSIG, "KeyInfo").flat_map(|info| info.all(XENC, "EncryptedKey"));
    let mut wrapped = Vec::new();
    for key in inside.chain(encrypted.all(XENC, "EncryptedKey")) {
        wrapped.push((key_algorithm(key)?, cipher_value(key)?));
    }
    if wrapped.is_empty() || wrapped.len() > MAX_KEYS {
        return Err(SamlError::Encryption);
    }
    let bytes = cipher_value(data)?;
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE>().ok_or(SamlError::Decrypt)?;
    if sealed.len() < TAG {
        return Err(SamlError::Decrypt);
    }
    for key in keys {
        for (algorithm, wrapped) in &wrapped {
            let Some(content) = key.unwrap(algorithm, wrapped) else { continue };
            let Ok(unbound) = UnboundKey::new(cipher, &content) else { continue };
            let mut opened = Zeroizing::new(sealed.to_vec());
            let opening = LessSafeKey::new(unbound);
            let length = match opening.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut opened) {
                Ok(plain) => plain.len(),
                Err(_) => continue,
            };
            opened.truncate(length);
            return Ok(opened);
        }
    }
    // One answer for a wrong key and for wrong bytes.
    Err(SamlError::Decrypt)
}

fn one<'a>(within: &'a Element, namespace: &'a str, local: &'a str) -> Result<&'a Element, SamlError> {
    within.at_most_one(namespace, local).ok().flatten().ok_or(SamlError::Encryption)
}

fn method(of: &Element) -> Result<String, SamlError> {
    Ok(one(of, XENC, "EncryptionMethod")?.attribute("Algorithm").unwrap_or_default().to_owned())
}

/// Where bytes would have to be fetched from elsewhere there are none.
fn cipher_value(of: &Element) -> Result<Vec<u8>, SamlError> {
    binary(one(one(of, XENC, "CipherData")?, XENC, "CipherValue")?)
}

/// XML Encryption 1.1, section 5.5.2: digest and mask generation go together here.
fn key_algorithm(key: &Element) -> Result<&'static OaepAlgorithm, SamlError> {
    let method = one(key, XENC, "EncryptionMethod")?;
    let of = |found: Result<Option<&Element>, ()>| -> Result<Option<String>, SamlError> {
        let found = found.map_err(|()| SamlError::Encryption)?;
        Ok(found.map(|it| it.attribute("Algorithm").unwrap_or_default().to_owned()))
    };
    if method.elements().any(|it| it.local == "OAEPparams" && it.text().is_none_or(|text| !text.trim().is_empty())) {
        return Err(SamlError::Algorithm("key encryption"));
    }
    let digest = of(method.at_most_one(DSIG, "DigestMethod"))?;
    let mask = of(method.at_most_one(XENC11, "MGF"))?;
    let refused = Err(SamlError::Algorithm("key encryption"));
    match (method.attribute("Algorithm").unwrap_or_default(), digest.as_deref(), mask.as_deref()) {
        // SHA-1 within OAEP needs no resistance to collisions; it is what nearly every provider does.
        (
            "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p",
            None | Some("http://www.w3.org/2000/09/xmldsig#sha1"),
            None,
        )
        | (
            "http://www.w3.org/2009/xmlenc11#rsa-oaep",
            None | Some("http://www.w3.org/2000/09/xmldsig#sha1"),
            None | Some("http://www.w3.org/2009/xmlenc11#mgf1sha1"),
        ) => Ok(&OAEP_SHA1_MGF1SHA1),
        (
            "http://www.w3.org/2009/xmlenc11#rsa-oaep",
            Some("http://www.w3.org/2001/04/xmlenc#sha256"),
            Some("http://www.w3.org/2009/xmlenc11#mgf1sha256"),
        ) => Ok(&OAEP_SHA256_MGF1SHA256),
        (
            "http://www.w3.org/2009/xmlenc11#rsa-oaep",
            Some("http://www.w3.org/2001/04/xmlenc#sha512"),
            Some("http://www.w3.org/2009/xmlenc11#mgf1sha512"),
        ) => Ok(&OAEP_SHA512_MGF1SHA512),
        _ => refused,
    }
}
