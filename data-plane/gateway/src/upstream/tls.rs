//! TLS from the gateway to a target, end to end: an agent in between sees only ciphertext.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::secret::SecretBytes;
use postern_core::target::{TargetTls, TlsMode};
use postern_runtime::tls::{AnyServer, provider};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime};

use super::Destination;
use super::kept::Kept;

/// After so long the system's authorities are read again.
const SYSTEM_FOR: Duration = Duration::from_secs(600);

/// PostgreSQL's own in TLS (from 17 on), by which it is known where TLS comes first: other protocols have their bytes understood nowhere.
pub(super) const ALPN: &[u8] = b"postgresql";

/// TLS to the target cannot be configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamTlsError {
    /// The target's authorities are unreadable.
    #[error("the target's certificate authorities cannot be used: {0}")]
    Authority(String),
    /// Verification without anything to verify by.
    #[error("no certificate authority to verify the target by")]
    NoAuthority,
    /// The name to verify is none.
    #[error("the target's server name cannot be used: {0}")]
    Name(#[from] InvalidDnsNameError),
    /// What the gateway is to show of itself.
    #[error("the credential's certificate cannot be used: {0}")]
    Certificate(String),
    /// rustls refuses the parts.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// What was made of each target's settings last: authorities are not read and parsed for each login, and servers that hand out tickets are
/// resumed with. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Configs(Kept<Made>);

#[derive(Debug)]
struct Made {
    of: TargetTls,
    shown: Option<SecretBytes>,
    at: Instant,
    config: Arc<ClientConfig>,
}

impl Configs {
    /// Configuration and name for a handshake with the target, as its mode says; with the certificate and key in `shown`, PEM.
    ///
    /// # Errors
    /// When there is nothing to verify by, or names or certificates are not usable.
    pub(super) fn client(
        &self,
        to: &Destination,
        shown: Option<&SecretBytes>,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), UpstreamTlsError> {
        let tls = &to.target.tls;
        let name = tls.server_name.as_deref().unwrap_or_else(|| to.target.address.host());
        let name = ServerName::try_from(name.to_owned())?;
        if let Some(known) = self.0.of(&to.name)
            && known.of == *tls
            && known.shown.as_ref() == shown
            && (tls.ca_pem.is_some() || known.at.elapsed() < SYSTEM_FOR)
        {
            return Ok((Arc::clone(&known.config), name));
        }
        let config = Arc::new(config(tls, shown)?);
        let made = Made { of: tls.clone(), shown: shown.cloned(), at: Instant::now(), config: Arc::clone(&config) };
        self.0.keep(&to.name, &Arc::new(made));
        Ok((config, name))
    }
}

fn config(tls: &TargetTls, shown: Option<&SecretBytes>) -> Result<ClientConfig, UpstreamTlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match tls.mode {
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer))
        }
        TlsMode::VerifyCa => {
            let roots = Arc::new(roots(tls)?);
            let chain = WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| UpstreamTlsError::Authority(error.to_string()))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(ChainOnly(chain)))
        }
        TlsMode::VerifyFull => builder.with_root_certificates(roots(tls)?),
    };
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let (chain, key) = identity(pem).map_err(UpstreamTlsError::Certificate)?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    if tls.direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(config)
}

/// A certificate, with those that issued it, and its key.
fn identity(pem: &SecretBytes) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.expose()).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    if chain.is_empty() {
        return Err("there is no certificate beside the key".to_owned());
    }
    // Its error must not quote what it read.
    let key = PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|_| "there is no readable private key".to_owned())?;
    Ok((chain, key))
}

fn roots(tls: &TargetTls) -> Result<RootCertStore, UpstreamTlsError> {
    let mut roots = RootCertStore::empty();
    let unusable = |error: &dyn std::fmt::Display| UpstreamTlsError::Authority(error.to_string());
    match &tls.ca_pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| unusable(&error))?;
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
        }
        None => {
            // Debian's and most others' place of the system's authorities.
            let system = CertificateDer::pem_file_iter("/etc/ssl/certs/ca-certificates.crt");
            for certificate in system.map_err(|_| UpstreamTlsError::NoAuthority)?.flatten() {
                // One that this build cannot use verifies nothing; the others do.
                let _ = roots.add(certificate);
            }
        }
    }
    if roots.is_empty() { Err(UpstreamTlsError::NoAuthority) } else { Ok(roots) }
}

/// Verifies the chain and not the name, as `sslmode=verify-ca` does.
#[derive(Debug)]
struct ChainOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The verifier judges the name after all else.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {
                // Readable at least: a certificate without any name form is still refused by this.
                ParsedCertificate::try_from(certificate).map(|_| ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
