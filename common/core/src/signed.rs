//! What is signed by a node of the control plane: whoever holds the cluster's authority can verify it, wherever it was kept.

use rustls_pki_types::CertificateDer;

use crate::certified::{CertificateFault, certified};
use crate::node::{NodeIdentity, NodeRole};
use crate::recording::Authority;
use crate::time::Timestamp;

/// What is signed: a signature over one says nothing of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A whole policy.
    Snapshot,
    /// The change from one revision to the next.
    Delta,
    /// Gateways' certificates that are good no more, for agents.
    RevokedGateways,
}

/// Why a signature is not good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// The authority's own certificate cannot be used.
    #[error("the authority's certificate cannot be used: {0}")]
    Authority(String),
    /// The certificate is not of this cluster, or not good at the time.
    #[error("the signer's certificate is not good: {0}")]
    Certificate(String),
    /// It is of the cluster, but not of the control plane.
    #[error("the signer is no node of the control plane")]
    Role,
    /// The signature is not over these bytes by that key.
    #[error("the signature does not match")]
    Signature,
}

impl Purpose {
    const fn context(self) -> &'static [u8] {
        match self {
            Self::Snapshot => b"postern policy snapshot v1\0",
            Self::Delta => b"postern policy delta v1\0",
            Self::RevokedGateways => b"postern revoked gateways v1\0",
        }
    }
}

/// What is signed of `payload` (proto/postern/gateway/v1, `Signed`).
#[must_use]
pub fn message(purpose: Purpose, payload: &[u8]) -> Vec<u8> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, payload);
    [purpose.context(), digest.as_ref()].concat()
}

/// Verifies `signature` over `payload` by the key of `certificate` (DER), which must be a control-plane node's at the time `at`. Gives the node.
///
/// # Errors
/// It is not good.
pub fn verify(
    purpose: Purpose,
    payload: &[u8],
    signature: &[u8],
    certificate: &[u8],
    authority: Authority<'_>,
    at: Timestamp,
) -> Result<NodeIdentity, SignatureFault> {
    let certificate = CertificateDer::from(certificate);
    let signer =
        certified(&certificate, authority, webpki::KeyUsage::server_auth(), at).map_err(|fault| match fault {
            CertificateFault::Authority(error) => SignatureFault::Authority(error.to_string()),
            CertificateFault::Unreadable(error) | CertificateFault::NotCertified(error) => {
                SignatureFault::Certificate(error.to_string())
            }
        })?;
    let node = signer.valid_dns_names().find_map(NodeIdentity::from_dns_name);
    let node = node.filter(|node| node.role == NodeRole::Control).ok_or(SignatureFault::Role)?;
    signer
        .verify_signature(webpki::aws_lc_rs::ED25519, &message(purpose, payload), signature)
        .map_err(|_| SignatureFault::Signature)?;
    Ok(node)
}

#[cfg(test)]
#[path = "signed_tests.rs"]
mod tests;
