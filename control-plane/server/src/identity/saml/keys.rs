//! The service provider's own keys: to sign requests with, and to open what is encrypted to it.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, OaepAlgorithm, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Keys of one issuer, one after the other as they are rotated.
const MAX_KEYS: usize = 4;

/// Why a Secret is no key of a service provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServiceKeyError {
    #[error("it is not PEM of private keys (PKCS#8) and of their certificates")]
    Pem,
    #[error("it has no private key, or more than {MAX_KEYS}")]
    Count,
    #[error("a private key in it is no RSA key of 2048 to 8192 bits")]
    Rsa,
    #[error("it has not one certificate for each private key")]
    Certificate,
}

/// One key, with the certificate that the provider knows it by.
pub(crate) struct ServiceKey {
    pair: KeyPair,
    opens: OaepPrivateDecryptingKey,
    pub(super) certificate: Vec<u8>,
}

impl std::fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServiceKey")
    }
}

impl ServiceKey {
    /// From PEM: private keys and their certificates, each key's in the same order. The first signs, all of them open.
    pub(crate) fn read_all(pem: &[u8]) -> Result<Vec<Self>, ServiceKeyError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|_| ServiceKeyError::Pem)?;
        let keys: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(pem).collect();
        let keys = keys.map_err(|_| ServiceKeyError::Pem)?;
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(ServiceKeyError::Count);
        }
        if keys.len() != certificates.len() {
            return Err(ServiceKeyError::Certificate);
        }
        keys.iter().zip(certificates).map(|(key, certificate)| Self::new(key, &certificate)).collect()
    }

    fn new(key: &PrivateKeyDer<'_>, certificate: &[u8]) -> Result<Self, ServiceKeyError> {
        let PrivateKeyDer::Pkcs8(key) = key else { return Err(ServiceKeyError::Rsa) };
        let der = key.secret_pkcs8_der();
        let pair = KeyPair::from_pkcs8(der).map_err(|_| ServiceKeyError::Rsa)?;
        let opens = PrivateDecryptingKey::from_pkcs8(der).map_err(|_| ServiceKeyError::Rsa)?;
        let opens = OaepPrivateDecryptingKey::new(opens).map_err(|_| ServiceKeyError::Rsa)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| ServiceKeyError::Certificate)?;
        let public = aws_lc_rs::signature::KeyPair::public_key(&pair);
        if parsed.public_key().subject_public_key.data.as_ref() != public.as_ref() {
            return Err(ServiceKeyError::Certificate);
        }
        Ok(Self { pair, opens, certificate: certificate.to_vec() })
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).ok()?;
        Some(signature)
    }

    /// The key that is wrapped.
    pub(super) fn unwrap(&self, algorithm: &'static OaepAlgorithm, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut out = Zeroizing::new(vec![0; self.opens.min_output_size()]);
        let length = self.opens.decrypt(algorithm, wrapped, &mut out, None).ok()?.len();
        out.truncate(length);
        Some(out)
    }
}
