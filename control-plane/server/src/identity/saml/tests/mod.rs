//! A provider that may cheat, and what is made of it.

mod accepts;
mod encryption;
mod rules;
mod wrapping;

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_core::issuer::{ClaimPath, Issuer, IssuerKind, SamlIssuer};
use postern_core::{Name, Timestamp};

use super::c14n::{EXCLUSIVE, canonical};
use super::request::RequestIds;
use super::xml::{Bounds, Element, parse};
use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const ENTITY: &str = "https://idp.example.test/metadata";
const OURS: &str = "https://postern.example.test/saml/corp/metadata";
const ACS: &str = "https://postern.example.test/saml/corp/acs";
const CHALLENGE: Challenge = [5; 32];

/// A key of RSA, with its certificate; made once, for that takes a moment.
struct Keys {
    pair: KeyPair,
    pkcs8: Vec<u8>,
    certificate: Vec<u8>,
}

fn keys() -> Keys {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8 = pair.as_der().unwrap().as_ref().to_vec();
    let key = rcgen::KeyPair::try_from(pkcs8.as_slice()).unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    Keys { pair, pkcs8, certificate: certificate.der().to_vec() }
}

static IDP: LazyLock<Keys> = LazyLock::new(keys);
static STRANGER: LazyLock<Keys> = LazyLock::new(keys);
static OWN: LazyLock<Keys> = LazyLock::new(keys);

impl Keys {
    fn pem(&self) -> String {
        let block = |label: &str, der: &[u8]| {
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
        };
        block("PRIVATE KEY", &self.pkcs8) + &block("CERTIFICATE", &self.certificate)
    }
}

fn metadata() -> String {
    metadata_with(&[&IDP], "")
}

fn metadata_with(keys: &[&Keys], attributes: &str) -> String {
    let descriptor = |key: &&Keys| {
        let certificate = STANDARD.encode(&key.certificate);
        format!(
            "<KeyDescriptor use=\"signing\"><d:KeyInfo xmlns:d=\"http://www.w3.org/2000/09/xmldsig#\"><d:X509Data><d:X509Certificate>\n{certificate}\n</d:X509Certificate></d:X509Data></d:KeyInfo></KeyDescriptor>"
        )
    };
    let descriptors: String = keys.iter().map(descriptor).collect();
    format!(
        "<!-- of a test --><EntityDescriptor xmlns=\"urn:oasis:names:tc:SAML:2.0:metadata\" entityID=\"{ENTITY}\" {attributes}><IDPSSODescriptor protocolSupportEnumeration=\"urn:oasis:names:tc:SAML:2.0:protocol\">{descriptors}<SingleSignOnService Binding=\"urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect\" Location=\"https://idp.example.test/sso\"/></IDPSSODescriptor></EntityDescriptor>"
    )
}

/// The signature of the element with `id` in `xml`, as text that goes into it.
fn signature(xml: &str, id: &str, by: &Keys) -> String {
    let root = parse(xml.as_bytes(), Bounds { comments: true, ..Bounds::MESSAGE }).unwrap();
    let mut found: Option<&Element> = None;
    root.walk(&mut |element| {
        if element.attribute("ID") == Some(id) {
            found = Some(element);
        }
    });
    let digest = STANDARD.encode(digest(&SHA256, canonical(found.unwrap(), None, &Default::default()).as_bytes()));
    let info = format!(
        "<ds:SignedInfo xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"><ds:CanonicalizationMethod Algorithm=\"{EXCLUSIVE}\"></ds:CanonicalizationMethod><ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256\"></ds:SignatureMethod><ds:Reference URI=\"#{id}\"><ds:Transforms><ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"></ds:Transform><ds:Transform Algorithm=\"{EXCLUSIVE}\"></ds:Transform></ds:Transforms><ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"></ds:DigestMethod><ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    );
    signed(&info, by)
}

/// A `SignedInfo` in canonical form, with its signature around it.
fn signed(info: &str, by: &Keys) -> String {
    let mut value = vec![0; by.pair.public_modulus_len()];
    by.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), info.as_bytes(), &mut value).unwrap();
    let (value, certificate) = (STANDARD.encode(value), STANDARD.encode(&by.certificate));
    format!(
        "<ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\">{info}<ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data><ds:X509Certificate>{certificate}</ds:X509Certificate></ds:X509Data></ds:KeyInfo></ds:Signature>"
    )
}

/// What a provider says; each field as it stands in the message, so that a test can say anything.
#[derive(Clone)]
struct Said {
    request: Option<String>,
    response_request: Option<String>,
    destination: String,
    recipient: String,
    audience: String,
    issuer: String,
    status: String,
    not_before: Timestamp,
    not_after: Timestamp,
    session_end: Timestamp,
    login: Timestamp,
    method: String,
    name: String,
    attributes: String,
    extra_condition: String,
    assertion_id: String,
}

fn requests() -> RequestIds {
    RequestIds::new(&[7; 32])
}

fn request() -> String {
    requests().make(&name("corp"), &CHALLENGE, [1; 16], NOW)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn later(secs: u64) -> Timestamp {
    Timestamp::from_secs(NOW.secs() + secs)
}

fn earlier(secs: u64) -> Timestamp {
    Timestamp::from_secs(NOW.secs() - secs)
}

impl Said {
    fn right() -> Self {
        Self {
            request: Some(request()),
            response_request: Some(request()),
            destination: format!(" Destination=\"{ACS}\""),
            recipient: ACS.into(),
            audience: OURS.into(),
            issuer: ENTITY.into(),
            status: "Success".into(),
            not_before: earlier(60),
            not_after: later(300),
            session_end: later(3_600),
            login: earlier(5),
            method: "urn:oasis:names:tc:SAML:2.0:cm:bearer".into(),
            name: "<saml:NameID>alice@example.test</saml:NameID>".into(),
            attributes: "<saml:Attribute Name=\"groups\"><saml:AttributeValue xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"xs:string\">dev</saml:AttributeValue><saml:AttributeValue>ops &amp; more</saml:AttributeValue></saml:Attribute>".into(),
            extra_condition: String::new(),
            assertion_id: "a1".into(),
        }
    }

    /// The assertion, with `SIG-A` where its signature goes.
    fn assertion(&self) -> String {
        let Self {
            recipient,
            audience,
            issuer,
            not_before,
            not_after,
            session_end,
            login,
            method,
            name,
            attributes,
            extra_condition,
            assertion_id,
            ..
        } = self;
        let answers = self.request.as_ref().map(|id| format!(" InResponseTo=\"{id}\"")).unwrap_or_default();
        format!(
            "<saml:Assertion xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\" xmlns:xs=\"http://www.w3.org/2001/XMLSchema\" ID=\"{assertion_id}\" Version=\"2.0\" IssueInstant=\"{login}\"><saml:Issuer>{issuer}</saml:Issuer>SIG-A<saml:Subject>{name}<saml:SubjectConfirmation Method=\"{method}\"><saml:SubjectConfirmationData{answers} NotOnOrAfter=\"{not_after}\" Recipient=\"{recipient}\"/></saml:SubjectConfirmation></saml:Subject><saml:Conditions NotBefore=\"{not_before}\" NotOnOrAfter=\"{not_after}\"><saml:AudienceRestriction><saml:Audience>{audience}</saml:Audience></saml:AudienceRestriction>{extra_condition}</saml:Conditions><saml:AuthnStatement AuthnInstant=\"{login}\" SessionNotOnOrAfter=\"{session_end}\"><saml:AuthnContext><saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef></saml:AuthnContext></saml:AuthnStatement><saml:AttributeStatement>{attributes}</saml:AttributeStatement></saml:Assertion>"
        )
    }

    /// A response around `assertion`, with `SIG-R` where its signature goes.
    fn around(&self, assertion: &str) -> String {
        let Self { destination, issuer, status, login, .. } = self;
        let answers = self.response_request.as_ref().map(|id| format!(" InResponseTo=\"{id}\"")).unwrap_or_default();
        format!(
            "<samlp:Response xmlns:samlp=\"urn:oasis:names:tc:SAML:2.0:protocol\" ID=\"r1\" Version=\"2.0\" IssueInstant=\"{login}\"{destination}{answers}><saml:Issuer xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\">{issuer}</saml:Issuer>SIG-R<samlp:Status><samlp:StatusCode Value=\"urn:oasis:names:tc:SAML:2.0:status:{status}\"/></samlp:Status>{assertion}</samlp:Response>"
        )
    }

    /// With the assertion signed.
    fn signed_assertion(&self) -> String {
        put_signature(&self.assertion(), "SIG-A", &self.assertion_id, &IDP)
    }

    /// A response whose assertion is signed.
    fn response(&self) -> String {
        self.around(&self.signed_assertion()).replace("SIG-R", "")
    }

    /// A response that is signed, and its assertion is not.
    fn signed_response(&self) -> String {
        put_signature(&self.around(&self.assertion().replace("SIG-A", "")), "SIG-R", "r1", &IDP)
    }
}

/// `xml` with the signature of the element `id` where `mark` stands.
fn put_signature(xml: &str, mark: &str, id: &str, by: &Keys) -> String {
    xml.replace(mark, &signature(&xml.replace(mark, "").replace("SIG-A", "").replace("SIG-R", ""), id, by))
}

fn issuer(change: impl FnOnce(&mut SamlIssuer)) -> Issuer {
    let mut saml = SamlIssuer::new(metadata(), OURS);
    change(&mut saml);
    Issuer {
        url: ENTITY.into(),
        groups_prefix: "corp:".into(),
        leeway: std::time::Duration::from_secs(30),
        max_age: None,
        max_token_ttl: None,
        token_ttl: None,
        keep: Vec::new(),
        kind: IssuerKind::Saml(saml),
    }
}

fn with<T>(issuer: &Issuer, keys: &[ServiceKey], then: impl FnOnce(&ServiceProvider<'_>) -> T) -> T {
    let saml = issuer.saml().unwrap();
    let metadata = IdpMetadata::read(&saml.metadata).unwrap();
    let (name, requests) = (name("corp"), requests());
    then(&ServiceProvider { name: &name, issuer, saml, metadata: &metadata, keys, recipient: ACS, requests: &requests })
}

fn accept(xml: &str) -> Result<Accepted, SamlError> {
    accept_by(&issuer(|_| ()), xml)
}

fn accept_by(issuer: &Issuer, xml: &str) -> Result<Accepted, SamlError> {
    with(issuer, &[], |provider| provider.response(xml.as_bytes(), NOW))
}

fn refusal(said: &Said) -> SamlError {
    let error = accept(&said.response()).unwrap_err();
    // Whichever of the two is signed.
    assert_eq!(accept(&said.signed_response()).unwrap_err(), error);
    error
}
