//! The cluster's certificate authority.

use std::net::IpAddr;
use std::time::Duration;
use std::{fmt, str::FromStr as _};

use aws_lc_rs::hmac;
use postern_core::Timestamp;
use postern_core::node::{CONTROL_PLANE_NAME, GATEWAYS_NAME, NodeIdentity, NodeRole};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::CertificateSigningRequestDer;
use secrecy::SecretString;

use super::{PkiError, certificate, generate, key_pair};

/// Certificates are good from this long ago on, for peers whose clocks are behind.
pub(super) const SKEW_SECS: u64 = 300;
/// The authority's own life: longer than any cluster keeps its hardware.
const CA_LIFETIME_SECS: u64 = 20 * 366 * 86_400;
/// The year 9000, far from where date arithmetic ends.
const LAST_SECS: u64 = 221_845_392_000;
/// The domain of node names: nobody gets a name in it but by role.
const RESERVED: &str = "postern.internal";
const MAX_ALT_NAMES: usize = 32;
const MAX_CSR: usize = 4096;

/// Signs the certificates of a cluster's nodes. Its key is ECDSA P-256.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Authority {
    /// A new authority for the cluster, good for twenty years from now.
    ///
    /// # Errors
    /// The system cannot generate keys.
    pub fn create(cluster_id: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(generate)?;
        let now = crate::clock::now().secs();
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("Postern CA {cluster_id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date(now.saturating_sub(SKEW_SECS));
        params.not_after = date(now.saturating_add(CA_LIFETIME_SECS));
        params.serial_number = Some(serial());
        let ca_pem = params.self_signed(&key).map_err(generate)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), ca_pem })
    }

    /// From what [`Self::ca_pem`] and [`Self::key_pem`] gave.
    ///
    /// # Errors
    /// Either is unreadable, or they do not belong together.
    pub fn from_pem(ca_pem: &str, key_pem: &SecretString) -> Result<Self, PkiError> {
        let key = key_pair(key_pem)?;
        let der = certificate(ca_pem).map_err(|_| PkiError::Unreadable("the authority's certificate"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|_| PkiError::Unreadable("the authority's certificate"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(PkiError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(generate)?;
        Ok(Self { issuer, ca_pem: ca_pem.to_owned() })
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Its private key, for keeping it sealed.
    #[must_use]
    pub fn key_pem(&self) -> SecretString {
        SecretString::from(self.issuer.key().serialize_pem())
    }

    /// Certifies the public key of a PKCS#10 request as `identity`'s. Of the request only the key counts: its subject, names and usages
    /// are ignored. Control-plane nodes and gateways get the name of their kind too, and may act as servers; agents and
    /// administrators are clients only.
    ///
    /// # Errors
    /// The request is not signed by its own key, or that is neither Ed25519 nor, for those who may have it, ECDSA P-256; or an alternative name is unfit or lies under `postern.internal`.
    pub fn issue(
        &self,
        identity: &NodeIdentity,
        csr_der: &[u8],
        extra_alt_names: &[String],
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        let random = Serial::random();
        self.issue_as(random, identity, csr_der, extra_alt_names, now, lifetime)
    }

    /// The same under a serial number that is known before.
    ///
    /// # Errors
    /// See there.
    pub fn issue_as(
        &self,
        serial: Serial,
        identity: &NodeIdentity,
        csr_der: &[u8],
        extra_alt_names: &[String],
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        let refuse = |why: &str| PkiError::Request(why.to_owned());
        if csr_der.len() > MAX_CSR {
            return Err(refuse("it is too large"));
        }
        // Checks the request's signature: proof that the asker holds the key.
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
            .map_err(|error| PkiError::Request(error.to_string()))?;
        // What signs recordings and snapshots is Ed25519; clients' programs may not know it.
        let algorithm = request.public_key.algorithm();
        let p256 = matches!(identity.role, NodeRole::Admin | NodeRole::Control);
        if *algorithm != rcgen::PKCS_ED25519 && !(p256 && *algorithm == rcgen::PKCS_ECDSA_P256_SHA256) {
            return Err(refuse("its key is not Ed25519"));
        }
        if extra_alt_names.len() > MAX_ALT_NAMES {
            return Err(refuse("too many alternative names"));
        }

        let mut names = vec![identity.dns_name()];
        let mut usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        match identity.role {
            NodeRole::Control => names.push(CONTROL_PLANE_NAME.to_owned()),
            NodeRole::Gateway => names.push(GATEWAYS_NAME.to_owned()),
            NodeRole::Agent | NodeRole::Admin => {}
        }
        if matches!(identity.role, NodeRole::Control | NodeRole::Gateway) {
            usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let mut params = CertificateParams::new(names).map_err(generate)?;
        for name in extra_alt_names {
            let name = alt_name(name)?;
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
        params.distinguished_name = common_name(identity.name.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial.number());
        params.not_before = date(now.secs().saturating_sub(SKEW_SECS));
        params.not_after = date(now.plus(lifetime).secs());
        Ok(params.signed_by(&request.public_key, &self.issuer).map_err(generate)?.pem())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// An IP address or a plain DNS name (RFC 1123, section 2.1) that is no node's.
fn alt_name(text: &str) -> Result<SanType, PkiError> {
    let refuse = |why| Err(PkiError::AltName(text.chars().take(80).collect(), why));
    if let Ok(address) = IpAddr::from_str(text) {
        return Ok(SanType::IpAddress(address));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    // No wildcards, trailing dots or non-ASCII forms: nothing that a verifier might read as another name.
    if text.len() > 253 || !text.split('.').all(label) {
        return refuse("it is neither an IP address nor a DNS name");
    }
    let lower = text.to_ascii_lowercase();
    if is_reserved(&lower) {
        return refuse("names under postern.internal are given by role only");
    }
    match lower.try_into() {
        Ok(name) => Ok(SanType::DnsName(name)),
        Err(_) => refuse("it is neither an IP address nor a DNS name"),
    }
}

pub(super) fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    // At most 64 characters (RFC 5280, appendix A: ub-common-name).
    subject.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    subject
}

/// Whether a name, in lower case, is given by role alone.
pub(super) fn is_reserved(name: &str) -> bool {
    name == RESERVED || name.strip_suffix(RESERVED).is_some_and(|rest| rest.ends_with('.'))
}

/// A random serial number, positive and within 20 octets (RFC 5280, section 4.1.2.2).
pub(super) fn serial() -> SerialNumber {
    Serial::random().number()
}

/// A certificate's serial number: positive (RFC 5280, section 4.1.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial(u128);

impl Serial {
    fn of(bits: u128) -> Self {
        Self((bits >> 1) | 1)
    }

    fn random() -> Self {
        Self::of(crate::clock::random_u128())
    }

    /// Of the certificate that the holder of the join token `id` with `secret` gets for the key of `csr_der`: the same whenever it asks, and
    /// for nobody else to know.
    ///
    /// # Errors
    /// The request is unreadable, or not signed by its own key.
    pub fn of_joiner(id: &str, secret: &[u8], csr_der: &[u8]) -> Result<Self, PkiError> {
        if csr_der.len() > MAX_CSR {
            return Err(PkiError::Request("it is too large".to_owned()));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
            .map_err(|error| PkiError::Request(error.to_string()))?;
        let mut message = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
        for part in [b"postern joiner's serial v1", id.as_bytes(), request.public_key.der_bytes()] {
            message.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            message.update(part);
        }
        let tag = message.sign();
        let bits = tag.as_ref().first_chunk().map_or(0, |first| u128::from_be_bytes(*first));
        Ok(Self::of(bits))
    }

    fn number(self) -> SerialNumber {
        SerialNumber::from_slice(&self.0.to_be_bytes())
    }
}

/// As [`super::serial_of`] writes it.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::serial_text(&self.0.to_be_bytes()))
    }
}

/// The date of a count of seconds since the Unix epoch.
pub(super) fn date(secs: u64) -> time::OffsetDateTime {
    rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(secs.min(LAST_SECS))
}
