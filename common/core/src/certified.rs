//! Whether the cluster's authority certifies somebody: for what is verified long after it was signed, by whoever holds the authority's certificate.

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::recording::Authority;
use crate::time::Timestamp;

/// Why a certificate is not good.
pub(crate) enum CertificateFault {
    /// The authority's own cannot be used.
    Authority(webpki::Error),
    /// It is none.
    Unreadable(webpki::Error),
    /// Not the authority's, or not for this use at this time.
    NotCertified(webpki::Error),
}

/// The holder of `certificate`, when the authority certifies it for `usage` at the time `at`.
pub(crate) fn certified<'a>(
    certificate: &'a CertificateDer<'a>,
    Authority(ca): Authority<'_>,
    usage: webpki::KeyUsage,
    at: Timestamp,
) -> Result<webpki::EndEntityCert<'a>, CertificateFault> {
    let ca = CertificateDer::from(ca);
    let anchor = webpki::anchor_from_trusted_cert(&ca).map_err(CertificateFault::Authority)?;
    let holder = webpki::EndEntityCert::try_from(certificate).map_err(CertificateFault::Unreadable)?;
    let when = UnixTime::since_unix_epoch(std::time::Duration::from_millis(at.millis()));
    holder
        .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &[], when, usage, None, None)
        .map_err(CertificateFault::NotCertified)?;
    Ok(holder)
}
