//! Keys and certificates: a node's own, the cluster's authority, and the signing of recordings.
//!
//! Node keys are Ed25519 and never leave the node: it sends a [`KeyRequest`] (PKCS#10, RFC 2986), and the [`Authority`] decides every
//! word of the certificate itself. The listener for database clients has ECDSA P-256, which old clients know too.

mod authority;
mod derived;
mod files;
mod join_token;
mod renewal;
mod rotating;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::{fmt, io};

use postern_core::Timestamp;
use postern_core::node::{NodeIdentity, NodeRole};
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

pub use authority::{Authority, Serial};
pub use derived::{DERIVED_KEY, derive_key};
pub use files::{create_private_dir, write_private};
pub use join_token::{JoinTokenError, JoinTokenText, secret_sha256};
pub use renewal::{keep_fresh, renew_at};
pub use rotating::{Compatible, Revocations, RotatingCredential};

const CERTIFICATE_FILE: &str = "node.crt";
const KEY_FILE: &str = "node.key";
const CA_FILE: &str = "ca.crt";

/// A key or certificate cannot be made, read or used. Never shows key material.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Some PEM or DER is not what it should be.
    #[error("{0} is not readable")]
    Unreadable(&'static str),
    /// The private key is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate names no node of a cluster.
    #[error("the certificate names no node: it needs exactly one NAME.ROLE.postern.internal")]
    NoIdentity,
    /// The certificate request is not signed by its own key, or asks for something unknown.
    #[error("the certificate request is refused: {0}")]
    Request(String),
    /// A name that may not stand in a certificate.
    #[error("the alternative name {0:?} is refused: {1}")]
    AltName(String, &'static str),
    /// Generating or signing failed.
    #[error("the certificate cannot be made: {0}")]
    Generate(String),
}

/// A node's certificate, its key, and the authority that it trusts.
#[derive(Clone)]
pub struct NodeCredential {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS#8), never logged (I5).
    pub key_pem: SecretString,
    /// The cluster's authority.
    pub ca_pem: String,
}

impl NodeCredential {
    /// Reads `node.crt`, `node.key` and `ca.crt` in `dir`.
    ///
    /// # Errors
    /// Names the file that is missing or unreadable; also when key and certificate do not belong together.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let credential = Self {
            certificate_pem: read(&dir.join(CERTIFICATE_FILE))?,
            key_pem: SecretString::from(read(&dir.join(KEY_FILE))?),
            ca_pem: read(&dir.join(CA_FILE))?,
        };
        credential.check()?;
        Ok(credential)
    }

    /// Whether `dir` holds a credential, readable or not.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(CERTIFICATE_FILE).exists()
    }

    /// Writes the three files into `dir` (0700), each 0600 and whole or not at all; the certificate comes last.
    ///
    /// # Errors
    /// Names the file that cannot be written; also when key and certificate do not belong together.
    pub fn save(&self, dir: &Path) -> Result<(), PkiError> {
        self.check()?;
        create_private_dir(dir)?;
        write_private(&dir.join(CA_FILE), self.ca_pem.as_bytes())?;
        write_private(&dir.join(KEY_FILE), self.key_pem.expose_secret().as_bytes())?;
        write_private(&dir.join(CERTIFICATE_FILE), self.certificate_pem.as_bytes())
    }

    /// Who the certificate says the node is.
    ///
    /// # Errors
    /// The certificate is unreadable or no node's.
    pub fn identity(&self) -> Result<NodeIdentity, PkiError> {
        let certificate = certificate(&self.certificate_pem)?;
        crate::tls::peer_identity(&[certificate]).ok_or(PkiError::NoIdentity)
    }

    /// When the certificate ends, so that it is renewed in time.
    ///
    /// # Errors
    /// The certificate is unreadable.
    pub fn expires_at(&self) -> Result<Timestamp, PkiError> {
        Ok(self.validity()?.1)
    }

    /// From when until when the certificate is good.
    ///
    /// # Errors
    /// The certificate is unreadable.
    pub fn validity(&self) -> Result<(Timestamp, Timestamp), PkiError> {
        let der = certificate(&self.certificate_pem)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|_| PkiError::Unreadable("the certificate"))?;
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
        };
        Ok((time(parsed.validity().not_before), time(parsed.validity().not_after)))
    }

    /// The certificate's serial number, as [`serial_of`] writes it.
    ///
    /// # Errors
    /// The certificate is unreadable.
    pub fn serial(&self) -> Result<String, PkiError> {
        serial_of(&certificate(&self.certificate_pem)?).ok_or(PkiError::Unreadable("the certificate"))
    }

    /// The certificate as DER; empty when the PEM is unreadable (`load` and `save` have checked it).
    #[must_use]
    pub fn certificate_der(&self) -> Vec<u8> {
        certificate(&self.certificate_pem).map(|der| der.to_vec()).unwrap_or_default()
    }

    /// The authority's certificate as DER; empty when the PEM is unreadable (`load` and `save` have checked it).
    #[must_use]
    pub fn ca_der(&self) -> Vec<u8> {
        certificate(&self.ca_pem).map(|der| der.to_vec()).unwrap_or_default()
    }

    /// For signing recordings by the node's key.
    ///
    /// # Errors
    /// Key or certificate is unreadable, or the key is not Ed25519.
    pub fn signer(&self) -> Result<SealSigner, PkiError> {
        let key = key_pair(&self.key_pem)?;
        if *key.algorithm() != rcgen::PKCS_ED25519 {
            return Err(PkiError::Unreadable("the node's Ed25519 key"));
        }
        let certificate: Arc<[u8]> = certificate(&self.certificate_pem)?.to_vec().into();
        Ok(SealSigner { key: Arc::new(key), certificate: Arc::new(RwLock::new(certificate)) })
    }

    fn check(&self) -> Result<(), PkiError> {
        certificate(&self.ca_pem).map_err(|_| PkiError::Unreadable("the authority's certificate"))?;
        let der = certificate(&self.certificate_pem)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|_| PkiError::Unreadable("the certificate"))?;
        let key = key_pair(&self.key_pem)?;
        if parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw() {
            Ok(())
        } else {
            Err(PkiError::KeyMismatch)
        }
    }
}

impl fmt::Debug for NodeCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity().map(|identity| identity.to_string()).ok();
        f.debug_struct("NodeCredential").field("identity", &identity).finish_non_exhaustive()
    }
}

/// Signs recordings with a node's Ed25519 key (RFC 8032). Cheap to clone.
#[derive(Clone)]
pub struct SealSigner {
    key: Arc<KeyPair>,
    certificate: Arc<RwLock<Arc<[u8]>>>,
}

impl SealSigner {
    /// The signature of `message`, 64 bytes; empty when the key failed to sign, which no verifier accepts.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(message).unwrap_or_default()
    }

    /// The certificate of the key, for verifiers.
    #[must_use]
    pub fn certificate_der(&self) -> Arc<[u8]> {
        Arc::clone(&self.certificate.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows a renewed certificate of the same key from now on, in every clone.
    pub fn renewed(&self, certificate_der: &[u8]) {
        *self.certificate.write().unwrap_or_else(PoisonError::into_inner) = certificate_der.into();
    }
}

impl fmt::Debug for SealSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealSigner")
    }
}

/// A new node key and the request to certify it.
pub struct KeyRequest {
    /// PKCS#10 request. Says nothing but the public key: the authority decides the rest.
    pub csr_der: Vec<u8>,
    /// The private key (PKCS#8), to be kept by the node.
    pub key_pem: SecretString,
}

impl KeyRequest {
    /// A fresh Ed25519 key and its request.
    ///
    /// # Errors
    /// The system cannot generate keys.
    pub fn generate() -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(generate)?;
        Self::of(&key)
    }

    /// A fresh ECDSA P-256 key and its request: for certificates that programs without Ed25519 in TLS use or meet, such as gRPC's C core
    /// (Python, Ruby, PHP, C++) and browsers. Administrators have such keys, and the public API shows one to who needs it.
    ///
    /// # Errors
    /// The system cannot generate keys.
    pub fn generate_p256() -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(generate)?;
        Self::of(&key)
    }

    /// A fresh key of the kind that holders of `role` have, and its request.
    ///
    /// # Errors
    /// The system cannot generate keys.
    pub fn generate_for(role: NodeRole) -> Result<Self, PkiError> {
        if role == NodeRole::Admin { Self::generate_p256() } else { Self::generate() }
    }

    /// A request for a key that the node has already: renewal keeps the key, so that an interrupted one leaves a whole credential.
    ///
    /// # Errors
    /// The key is unreadable.
    pub fn renew(key_pem: &SecretString) -> Result<Self, PkiError> {
        Self::of(&key_pair(key_pem)?)
    }

    /// Whether the key is of the kind that holders of `role` have.
    #[must_use]
    pub fn suits(&self, role: NodeRole) -> bool {
        let kind = if role == NodeRole::Admin { &rcgen::PKCS_ECDSA_P256_SHA256 } else { &rcgen::PKCS_ED25519 };
        key_pair(&self.key_pem).is_ok_and(|key| key.is_compatible(kind))
    }

    fn of(key: &KeyPair) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let csr = params.serialize_request(key).map_err(generate)?;
        Ok(Self { csr_der: csr.der().to_vec(), key_pem: SecretString::from(key.serialize_pem()) })
    }
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRequest")
    }
}

/// A self-signed ECDSA P-256 certificate for the clients' listener in development: `(certificate, key)` as PEM, good for ten years.
///
/// # Errors
/// A name is neither a DNS name nor an IP address.
pub fn self_signed_listener(names: &[String]) -> Result<(String, SecretString), PkiError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(generate)?;
    let mut params = CertificateParams::new(names.to_vec()).map_err(generate)?;
    let now = crate::clock::now();
    params.not_before = authority::date(now.secs().saturating_sub(authority::SKEW_SECS));
    params.not_after = authority::date(now.secs().saturating_add(10 * 366 * 86_400));
    params.distinguished_name = authority::common_name("postern listener");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.serial_number = Some(authority::serial());
    let certificate = params.self_signed(&key).map_err(generate)?;
    Ok((certificate.pem(), SecretString::from(key.serialize_pem())))
}

/// A certificate's serial number in lower-case hexadecimal, two digits a byte, without leading zero bytes.
#[must_use]
pub fn serial_of(certificate_der: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate_der).ok()?;
    Some(serial_text(parsed.raw_serial()))
}

/// A serial number's bytes as [`serial_of`] writes them.
#[must_use]
pub fn serial_text(bytes: &[u8]) -> String {
    bytes.iter().skip_while(|byte| **byte == 0).map(|byte| format!("{byte:02x}")).collect()
}

/// The serial number of the first certificate of some PEM text, as [`serial_of`] writes it.
///
/// # Errors
/// It is unreadable.
pub fn serial_of_pem(pem: &str) -> Result<String, PkiError> {
    serial_of(&certificate(pem)?).ok_or(PkiError::Unreadable("the certificate"))
}

/// SHA-256 of the first certificate of some PEM text (its DER form), by which it is pinned.
///
/// # Errors
/// It is unreadable.
pub fn fingerprint(pem: &str) -> Result<[u8; 32], PkiError> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate(pem)?);
    digest.as_ref().try_into().map_err(|_| PkiError::Unreadable("the certificate"))
}

/// A certificate's DNS names and addresses that are not given by role: what [`Authority::issue`] was asked for.
#[must_use]
pub fn extra_alt_names(certificate_der: &[u8]) -> Vec<String> {
    crate::tls::alt_names(certificate_der).into_iter().filter(|name| !authority::is_reserved(name)).collect()
}

/// The first certificate of some PEM text.
pub(crate) fn certificate(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| PkiError::Unreadable("the certificate"))
}

/// Every certificate of some PEM text; at least one.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(PkiError::Unreadable("the certificate")),
    }
}

/// The private key of some PEM text.
pub(crate) fn private_key(pem: &SecretString) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes()).map_err(|_| PkiError::Unreadable("the private key"))
}

fn key_pair(pem: &SecretString) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(pem.expose_secret()).map_err(|_| PkiError::Unreadable("the private key"))
}

pub(crate) fn read(path: &Path) -> Result<String, PkiError> {
    let fault = |source| PkiError::File { path: path.display().to_string(), source };
    // Wiped on a failure; on success the text moves on without a copy.
    let mut bytes = Zeroizing::new(std::fs::read(path).map_err(fault)?);
    String::from_utf8(std::mem::take(&mut *bytes))
        .map_err(|_| fault(io::Error::new(io::ErrorKind::InvalidData, "not text")))
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn generate(error: rcgen::Error) -> PkiError {
    PkiError::Generate(error.to_string())
}

#[cfg(test)]
mod tests;
