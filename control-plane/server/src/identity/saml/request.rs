//! Requests to an identity provider, and what it is told of this service provider.
//!
//! A request's id is its own record: a message authentication code under a key of the cluster binds it to its issuer, its time and the
//! challenge of whoever asked. So any member can take in the answer to a request that another member made, and nothing is kept for a login
//! that was begun and left. That an id is answered once is kept by the replicated state (`AcceptAssertion`).

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use postern_core::{Name, Timestamp};

use super::SamlError;
use super::c14n::canonical;
use super::keys::ServiceKey;
use super::metadata::{METADATA, POST, PROTOCOL};
use super::response::ASSERTION;
use super::signature::{DSIG, REDIRECT_ALGORITHM};
use super::xml::{Bounds, parse};

/// How long somebody may take to log in at the provider.
pub(crate) const LOGIN_TIME: Duration = Duration::from_secs(600);

const NONCE: usize = 16;
const TIME: usize = 8;
const MAC: usize = 16;

/// SHA-256 of a verifier that only the client knows that began the login (as RFC 7636, `S256`).
pub(crate) type Challenge = [u8; 32];

/// Makes ids of requests, and knows its own again.
pub(crate) struct RequestIds {
    key: hmac::Key,
}

/// A request of this cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OwnRequest {
    pub(crate) challenge: Challenge,
}

impl RequestIds {
    /// With a key of the cluster that is for nothing else.
    pub(crate) fn new(key: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// An id for a request to `issuer`: an `xs:ID`.
    pub(crate) fn make(&self, issuer: &Name, challenge: &Challenge, nonce: [u8; NONCE], now: Timestamp) -> String {
        let mut bytes = Vec::with_capacity(NONCE + TIME + challenge.len() + MAC);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&now.millis().to_be_bytes());
        bytes.extend_from_slice(challenge);
        let mac = self.mac(issuer, &bytes);
        bytes.extend_from_slice(&mac);
        format!("_{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What `id` says, when it is of a request to `issuer` that may still be answered.
    pub(super) fn known(&self, issuer: &Name, id: &str, now: Timestamp) -> Result<OwnRequest, SamlError> {
        let bytes = id.strip_prefix('_').and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let bytes = bytes.ok_or(SamlError::UnknownRequest)?;
        let (said, mac) = bytes.split_last_chunk::<MAC>().ok_or(SamlError::UnknownRequest)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.mac(issuer, said), mac)
            .map_err(|_| SamlError::UnknownRequest)?;
        let (_, rest) = said.split_first_chunk::<NONCE>().ok_or(SamlError::UnknownRequest)?;
        let (time, challenge) = rest.split_first_chunk::<TIME>().ok_or(SamlError::UnknownRequest)?;
        let challenge = challenge.try_into().map_err(|_| SamlError::UnknownRequest)?;
        if now > Timestamp::from_millis(u64::from_be_bytes(*time)).plus(LOGIN_TIME) {
            return Err(SamlError::RequestOver);
        }
        Ok(OwnRequest { challenge })
    }

    fn mac(&self, issuer: &Name, bytes: &[u8]) -> [u8; MAC] {
        let mut context = hmac::Context::with_key(&self.key);
        // The name has no such byte in it, and what follows has one length.
        context.update(issuer.as_str().as_bytes());
        context.update(&[0]);
        context.update(bytes);
        let mut mac = [0; MAC];
        for (to, from) in mac.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        mac
    }
}

/// What a request says.
pub(crate) struct AuthnRequest<'a> {
    pub(crate) id: &'a str,
    pub(crate) at: Timestamp,
    /// Where it goes.
    pub(crate) destination: &'a str,
    /// Where the answer goes.
    pub(crate) acs: &'a str,
    pub(crate) entity_id: &'a str,
}

impl AuthnRequest<'_> {
    fn xml(&self, signature: &str) -> String {
        let Self { id, at, destination, acs, entity_id } = self;
        let (destination, acs, entity_id) = (escaped(destination), escaped(acs), escaped(entity_id));
        format!(
            "<samlp:AuthnRequest xmlns:samlp=\"{PROTOCOL}\" ID=\"{id}\" Version=\"2.0\" IssueInstant=\"{at}\" Destination=\"{destination}\" \
             ProtocolBinding=\"{POST}\" AssertionConsumerServiceURL=\"{acs}\"><saml:Issuer xmlns:saml=\"{ASSERTION}\">{entity_id}</saml:Issuer>\
             {signature}<samlp:NameIDPolicy AllowCreate=\"true\"></samlp:NameIDPolicy></samlp:AuthnRequest>"
        )
    }

    /// The URL that a browser is sent to (SAML 2.0 bindings, section 3.4), signed when there is a key.
    pub(crate) fn redirect(&self, key: Option<&ServiceKey>) -> Result<String, SamlError> {
        let mut query = format!("SAMLRequest={}", percent(&STANDARD.encode(deflated(self.xml("").as_bytes()))));
        if let Some(key) = key {
            query.push_str(&format!("&SigAlg={}", percent(REDIRECT_ALGORITHM)));
            let signature = key.sign(query.as_bytes()).ok_or(SamlError::Sign)?;
            query.push_str(&format!("&Signature={}", percent(&STANDARD.encode(signature))));
        }
        let separator = if self.destination.contains('?') { '&' } else { '?' };
        Ok(format!("{}{separator}{query}", self.destination))
    }

    /// What a form posts as `SAMLRequest` (SAML 2.0 bindings, section 3.5), signed when there is a key.
    pub(crate) fn post(&self, key: Option<&ServiceKey>) -> Result<String, SamlError> {
        let Some(key) = key else { return Ok(STANDARD.encode(self.xml(""))) };
        let canon = |xml: &str| {
            parse(xml.as_bytes(), Bounds::MESSAGE).map(|element| canonical(&element, None, &Default::default()))
        };
        let digest = STANDARD.encode(digest(&SHA256, canon(&self.xml(""))?.as_bytes()));
        let signed_info = format!(
            "<ds:SignedInfo xmlns:ds=\"{DSIG}\"><ds:CanonicalizationMethod Algorithm=\"{exclusive}\"></ds:CanonicalizationMethod>\
             <ds:SignatureMethod Algorithm=\"{REDIRECT_ALGORITHM}\"></ds:SignatureMethod><ds:Reference URI=\"#{id}\"><ds:Transforms>\
             <ds:Transform Algorithm=\"{DSIG}enveloped-signature\"></ds:Transform><ds:Transform Algorithm=\"{exclusive}\"></ds:Transform>\
             </ds:Transforms><ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"></ds:DigestMethod>\
             <ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>",
            exclusive = super::c14n::EXCLUSIVE,
            id = self.id,
        );
        let value = key.sign(canon(&signed_info)?.as_bytes()).ok_or(SamlError::Sign)?;
        let signature = format!(
            "<ds:Signature xmlns:ds=\"{DSIG}\">{signed_info}<ds:SignatureValue>{}</ds:SignatureValue></ds:Signature>",
            STANDARD.encode(value)
        );
        Ok(STANDARD.encode(self.xml(&signature)))
    }
}

/// This service provider's own metadata.
pub(crate) fn service_metadata(entity_id: &str, acs: &str, keys: &[ServiceKey]) -> String {
    let key = |of: &ServiceKey, used_for: &str, methods: &str| {
        format!(
            "<md:KeyDescriptor use=\"{used_for}\"><ds:KeyInfo xmlns:ds=\"{DSIG}\"><ds:X509Data><ds:X509Certificate>{}</ds:X509Certificate></ds:X509Data></ds:KeyInfo>{methods}</md:KeyDescriptor>",
            STANDARD.encode(&of.certificate)
        )
    };
    let methods = "<md:EncryptionMethod Algorithm=\"http://www.w3.org/2009/xmlenc11#aes256-gcm\"/>\
                   <md:EncryptionMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p\"/>";
    let mut descriptors = String::new();
    for of in keys {
        descriptors.push_str(&key(of, "signing", ""));
    }
    // Encrypted to the newest alone: older keys open what is on its way.
    if let Some(newest) = keys.first() {
        descriptors.push_str(&key(newest, "encryption", methods));
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<md:EntityDescriptor xmlns:md=\"{METADATA}\" entityID=\"{}\"><md:SPSSODescriptor \
         AuthnRequestsSigned=\"{}\" WantAssertionsSigned=\"true\" protocolSupportEnumeration=\"{PROTOCOL}\">{descriptors}\
         <md:AssertionConsumerService Binding=\"{POST}\" Location=\"{}\" index=\"0\" isDefault=\"true\"/></md:SPSSODescriptor></md:EntityDescriptor>\n",
        escaped(entity_id),
        !keys.is_empty(),
        escaped(acs),
    )
}

/// For attributes and text of XML and HTML alike.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// RFC 3986, section 2.1: all but unreserved characters.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// DEFLATE (RFC 1951) in stored blocks, section 3.2.4: a request is short, and nothing is won by making it shorter.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let mut blocks = bytes.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_to_its_issuer_its_cluster_and_its_time_alone() {
        let ids = RequestIds::new(&[7; 32]);
        let (corp, other): (Name, Name) = ("corp".parse().unwrap(), "other".parse().unwrap());
        let now = Timestamp::from_secs(1_800_000_000);
        let id = ids.make(&corp, &[9; 32], [1; NONCE], now);
        assert!(id.len() < 100 && id.starts_with('_'), "{id}");
        assert_eq!(ids.known(&corp, &id, now.plus(LOGIN_TIME)), Ok(OwnRequest { challenge: [9; 32] }));
        let late = now.plus(LOGIN_TIME + Duration::from_millis(1));
        assert_eq!(ids.known(&corp, &id, late), Err(SamlError::RequestOver));
        assert_eq!(ids.known(&other, &id, now), Err(SamlError::UnknownRequest));
        assert_eq!(RequestIds::new(&[8; 32]).known(&corp, &id, now), Err(SamlError::UnknownRequest));
        for at in 0..id.len() {
            let mut bytes = id.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).unwrap();
            assert_eq!(ids.known(&corp, &forged, now), Err(SamlError::UnknownRequest), "{at}");
        }
        for bad in ["", "_", "x", "_AAAA", "_%"] {
            assert_eq!(ids.known(&corp, bad, now), Err(SamlError::UnknownRequest));
        }
    }

    #[test]
    fn stored_blocks_say_their_length() {
        assert_eq!(deflated(b"abc"), [1, 3, 0, 0xfc, 0xff, b'a', b'b', b'c']);
        let long = deflated(&[b'x'; 70_000]);
        assert_eq!((long[0], long.len()), (0, 70_010));
        assert_eq!(percent("a+/=&"), "a%2B%2F%3D%26");
    }
}
