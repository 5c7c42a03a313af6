//! TLS configurations, all by one provider (aws-lc-rs) and with no process-wide default behind them.
//!
//! Node to node is TLS 1.3 with certificates of the cluster's authority on both sides; database clients may come with TLS 1.2.

mod verify;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use postern_core::node::NodeIdentity;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use secrecy::SecretString;
use x509_parser::extensions::GeneralName;

use crate::pki::{Compatible, NodeCredential, PkiError, Revocations, RotatingCredential, certificates, private_key};
use verify::{AnyClient, UnrevokedClient, UnrevokedServer};

pub use verify::AnyServer;

const ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const FROM_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A key or certificate is not usable.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// rustls refuses the parts.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The authority cannot be trusted as one.
    #[error("the certificate authority is not usable: {0}")]
    Authority(String),
    /// Not fit for QUIC.
    #[error("the TLS configuration is not fit for QUIC: {0}")]
    Quic(String),
}

/// The one provider of cryptography.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// Makes the provider the process's default, for libraries that ask for it. May be called any number of times.
pub fn install_provider() {
    // An error only says that one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Accepts only peers with a certificate of the node's own authority.
///
/// # Errors
/// The credential is not usable.
pub fn server_mtls(credential: &NodeCredential, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&credential.ca_pem)?, provider());
    server(credential, verifier.build().map_err(authority)?, alpn)
}

/// Accepts peers without a certificate too; one that is offered is verified against the node's own authority.
///
/// # Errors
/// The credential is not usable.
pub fn server_optional_client(credential: &NodeCredential, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&credential.ca_pem)?, provider());
    server(credential, verifier.allow_unauthenticated().build().map_err(authority)?, alpn)
}

/// For dialling nodes of the own cluster, with the own certificate. The name to check is the caller's, by role.
///
/// # Errors
/// The credential is not usable.
pub fn client_mtls(credential: &NodeCredential, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(ONLY_13)?
        .with_root_certificates(roots(&credential.ca_pem)?)
        .with_client_auth_cert(certificates(&credential.certificate_pem)?, private_key(&credential.key_pem)?)?;
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

/// As [`server_mtls`], by a credential that changes; certificates among `revoked` are refused.
///
/// # Errors
/// The credential is not usable.
pub fn server_mtls_rotating(
    credential: &RotatingCredential,
    revoked: Revocations,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let roots = roots(&credential.current().ca_pem)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(authority)?;
    server_rotating(Arc::new(credential.clone()), verifier, revoked, alpn)
}

/// As [`server_optional_client`], by credentials that change; certificates among `revoked` are refused.
///
/// # Errors
/// The credential is not usable.
pub fn server_optional_client_rotating(
    credential: &Compatible,
    revoked: Revocations,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let roots = roots(&credential.own.current().ca_pem)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
    server_rotating(Arc::new(credential.clone()), verifier.build().map_err(authority)?, revoked, alpn)
}

/// For browsers: no certificate is asked of them.
///
/// # Errors
/// The credential is not usable.
pub fn server_rotating_no_client(credential: &Compatible, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(FROM_12)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(credential.clone()));
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

/// For the listener of tunnels: peers with a certificate of the node's own authority that is not among `revoked`, and peers without one,
/// which may do no more than ask to be let in. Whoever accepts looks who it is.
///
/// # Errors
/// The credential is not usable.
pub fn server_tunnels(
    credential: &RotatingCredential,
    revoked: Revocations,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let roots = roots(&credential.current().ca_pem)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
    server_rotating(Arc::new(credential.clone()), verifier.build().map_err(authority)?, revoked, alpn)
}

/// As [`client_mtls`], by a credential that changes; servers with a certificate among `revoked` are refused.
///
/// # Errors
/// The credential is not usable.
pub fn client_mtls_rotating(
    credential: &RotatingCredential,
    revoked: Revocations,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let roots = roots(&credential.current().ca_pem)?;
    let inner = WebPkiServerVerifier::builder_with_provider(roots, provider()).build().map_err(authority)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(ONLY_13)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(UnrevokedServer { inner, revoked }))
        .with_client_cert_resolver(Arc::new(credential.clone()));
    // A resumed session would show the former certificate, and nobody would look at the server's.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

/// Trusts whoever answers: only for fetching an authority's certificate that is then compared with a pinned digest. Nothing secret may
/// be sent over it.
///
/// # Errors
/// rustls refuses the parts.
pub fn client_unverified(alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(ONLY_13)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

/// For dialling a server whose certificate comes from one of the given authorities, without a certificate of one's own.
///
/// # Errors
/// The authorities are not usable.
pub fn client_with_ca(ca_pem: &str, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(FROM_12)?
        .with_root_certificates(roots(ca_pem)?)
        .with_no_client_auth();
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

/// Trusts the authorities that browsers do.
///
/// # Errors
/// The provider does not fit.
pub fn client_with_public_authorities(alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(FROM_12)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

/// For database clients, which prove themselves by a token and not by a certificate.
///
/// # Errors
/// The certificate chain or key is not usable.
pub fn listener(certificate_pem: &str, key_pem: &SecretString, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(FROM_12)?
        .with_no_client_auth()
        .with_single_cert(certificates(certificate_pem)?, private_key(key_pem)?)?;
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

/// As [`listener`], for clients of a gateway: it takes whatever certificate a client shows of which it holds the key, which says nothing of who that is;
/// and who asks for `name` (RFC 6066, section 3) is shown the node's own certificate, which its cluster's authority vouches for.
///
/// # Errors
/// The certificate chain or key is not usable.
pub fn listener_for_clients(
    certificate_pem: &str,
    key_pem: &SecretString,
    (name, own): (&'static str, RotatingCredential),
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let (chain, key) = (certificates(certificate_pem)?, private_key(key_pem)?);
    let other = Arc::new(CertifiedKey::from_der(chain, key, &provider())?);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(FROM_12)?
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_cert_resolver(Arc::new(ByName { name, own, other }));
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

/// SHA-256 of the certificate that the other end has shown, in DER (RFC 8705, section 3.1).
#[must_use]
pub fn shown_certificate(connection: &rustls::CommonState) -> Option<[u8; 32]> {
    let certificate = connection.peer_certificates()?.first()?;
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate).as_ref().try_into().ok()
}

/// One certificate for who knows the cluster, another for all else.
#[derive(Debug)]
struct ByName {
    name: &'static str,
    own: RotatingCredential,
    other: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.server_name() == Some(self.name) { self.own.resolve(hello) } else { Some(Arc::clone(&self.other)) }
    }
}

/// The node that a peer's chain names: its first certificate must bear exactly one node name. Only for chains that TLS has verified.
#[must_use]
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Option<NodeIdentity> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(certificates.first()?).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let names = certificate.subject_alternative_name().ok()??;
    let mut nodes = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => NodeIdentity::from_dns_name(name),
        _ => None,
    });
    let identity = nodes.next()?;
    nodes.next().is_none().then_some(identity)
}

/// The DNS names and addresses of a certificate; empty when it is unreadable.
pub(crate) fn alt_names(certificate_der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate_der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

fn server_rotating(
    credential: Arc<dyn ResolvesServerCert>,
    inner: Arc<dyn ClientCertVerifier>,
    revoked: Revocations,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(ONLY_13)?
        .with_client_cert_verifier(Arc::new(UnrevokedClient { inner, revoked }))
        .with_cert_resolver(credential);
    // A resumed session is not verified again: a revoked certificate would live on in it.
    config.send_tls13_tickets = 0;
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

fn server(
    credential: &NodeCredential,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(ONLY_13)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&credential.certificate_pem)?, private_key(&credential.key_pem)?)?;
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_pem)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn authority(error: rustls::server::VerifierBuilderError) -> TlsError {
    TlsError::Authority(error.to_string())
}
