//! Verifiers that also ask whether a certificate was revoked.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::pki::{Revocations, serial_of};

fn unrevoked(revoked: &Revocations, certificate: &CertificateDer<'_>) -> Result<(), Error> {
    let serial = serial_of(certificate).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    if revoked.contains(&serial) { Err(Error::InvalidCertificate(CertificateError::Revoked)) } else { Ok(()) }
}

/// Signatures of the handshake are verified as `inner` does it.
macro_rules! signatures_as_inner {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls12_signature(message, cert, dss)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls13_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.inner.supported_verify_schemes()
        }
    };
}

/// Signatures of the handshake are verified by what the provider knows: whoever shows a certificate must hold its key.
macro_rules! signatures_by_the_provider {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let schemes = super::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, cert, dss, &schemes)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let schemes = super::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, dss, &schemes)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            super::provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Clients by the authority, and not revoked.
#[derive(Debug)]
pub(super) struct UnrevokedClient {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) revoked: Revocations,
}

impl ClientCertVerifier for UnrevokedClient {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        unrevoked(&self.revoked, end_entity)?;
        Ok(verified)
    }

    signatures_as_inner!();
}

/// Servers by the authority and name, and not revoked.
#[derive(Debug)]
pub(super) struct UnrevokedServer {
    pub(super) inner: Arc<WebPkiServerVerifier>,
    pub(super) revoked: Revocations,
}

impl ServerCertVerifier for UnrevokedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        unrevoked(&self.revoked, end_entity)?;
        Ok(verified)
    }

    signatures_as_inner!();
}

/// Takes any certificate of a client that holds its key, and clients without one: who somebody is their token says, and a certificate proves no more
/// than that the token is in the hands that it is bound to (RFC 8705, section 3).
#[derive(Debug)]
pub(super) struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    signatures_by_the_provider!();
}

/// Takes any certificate of whoever holds its key. For `sslmode=require`, which asks for no more, and for fetching an authority's
/// certificate before it is compared with a pin: nothing secret may be sent on the strength of it.
#[derive(Debug)]
pub struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_the_provider!();
}
