//! The text of a join token: one line that lets its holder in once, and tells the holder whom to trust.
//!
//! `postern-join-1.CLUSTER.PIN.ID.SECRET`: the cluster's id; the SHA-256 of its authority's certificate (DER); the token's public id; 32
//! random bytes. PIN and SECRET are base64url without padding (RFC 4648, section 5). The cluster keeps the SHA-256 of the secret alone.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::fingerprint;
use crate::clock;

const PREFIX: &str = "postern-join-1";
const KEY: usize = 32;
/// Longer is no token.
const MAX_TEXT: usize = 512;

/// A join token in its holder's hands.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinTokenText {
    /// The cluster that it is of.
    pub cluster_id: String,
    /// SHA-256 of the cluster's authority (its certificate's DER form).
    pub ca_sha256: [u8; KEY],
    /// Names the token.
    pub id: String,
    secret: Zeroizing<[u8; KEY]>,
}

/// Not the text of a join token. Says nothing of the text: it may be a secret of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// Of a later version.
    #[error("the join token is of a version that this program does not know")]
    Version,
    /// Something else.
    #[error("this is no join token: one line that begins with {PREFIX}.")]
    Form,
    /// The authority cannot be read.
    #[error("the cluster's authority is not readable")]
    Authority,
}

impl JoinTokenText {
    /// A new token for the cluster with this authority.
    ///
    /// # Errors
    /// The authority's certificate is unreadable.
    pub fn generate(cluster_id: &str, ca_pem: &str) -> Result<Self, JoinTokenError> {
        let mut secret = Zeroizing::new([0; KEY]);
        for half in secret.chunks_exact_mut(16) {
            half.copy_from_slice(&clock::random_u128().to_be_bytes());
        }
        Ok(Self {
            cluster_id: cluster_id.to_owned(),
            ca_sha256: fingerprint(ca_pem).map_err(|_| JoinTokenError::Authority)?,
            id: format!("{:016x}", clock::random_u128() >> 64),
            secret,
        })
    }

    /// What its holder shows.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        self.secret.as_slice()
    }

    /// What the cluster keeps of the secret.
    #[must_use]
    pub fn secret_sha256(&self) -> [u8; KEY] {
        secret_sha256(self.secret())
    }

    /// The line to hand over. Secret.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let (pin, secret) =
            (URL_SAFE_NO_PAD.encode(self.ca_sha256), Zeroizing::new(URL_SAFE_NO_PAD.encode(*self.secret)));
        Zeroizing::new(format!("{PREFIX}.{}.{pin}.{}.{}", self.cluster_id, self.id, *secret))
    }

    /// Whether `ca_pem` is the authority of the token's cluster.
    #[must_use]
    pub fn pins(&self, ca_pem: &str) -> bool {
        fingerprint(ca_pem).is_ok_and(|found| found == self.ca_sha256)
    }
}

/// What a cluster keeps of a token's secret.
#[must_use]
pub fn secret_sha256(secret: &[u8]) -> [u8; KEY] {
    digest(&SHA256, secret).as_ref().try_into().unwrap_or_default()
}

impl FromStr for JoinTokenText {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        if text.len() > MAX_TEXT {
            return Err(JoinTokenError::Form);
        }
        let mut parts = text.split('.');
        match parts.next() {
            Some(PREFIX) => {}
            Some(other) if other.starts_with("postern-join-") => return Err(JoinTokenError::Version),
            _ => return Err(JoinTokenError::Form),
        }
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(JoinTokenError::Form);
        let (cluster_id, pin, id, secret) = (part()?, part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(JoinTokenError::Form);
        }
        let key = |text: &str| -> Result<[u8; KEY], JoinTokenError> {
            let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| JoinTokenError::Form)?);
            bytes.as_slice().try_into().map_err(|_| JoinTokenError::Form)
        };
        Ok(Self {
            cluster_id: cluster_id.to_owned(),
            ca_sha256: key(pin)?,
            id: id.to_owned(),
            secret: Zeroizing::new(key(secret)?),
        })
    }
}

/// Without the secret (I5).
impl fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokenText")
            .field("cluster_id", &self.cluster_id)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Authority;

    #[test]
    fn text_round_trips_and_hides_its_secret() {
        let authority = Authority::create("c1").unwrap();
        let token = JoinTokenText::generate("c1", authority.ca_pem()).unwrap();
        let text = token.to_text();
        let read: JoinTokenText = format!("{}\n", *text).parse().unwrap();
        assert_eq!(read, token);
        assert!(read.pins(authority.ca_pem()));
        assert!(!read.pins(Authority::create("c1").unwrap().ca_pem()));
        let secret = text.rsplit_once('.').unwrap().1;
        assert!(!format!("{read:?}").contains(secret));
        assert_ne!(JoinTokenText::generate("c1", authority.ca_pem()).unwrap(), token);
    }

    #[test]
    fn other_text_is_refused() {
        let authority = Authority::create("c1").unwrap();
        let text = JoinTokenText::generate("c1", authority.ca_pem()).unwrap().to_text();
        for bad in ["", "x", &text[1..], &text[..text.len() - 2], &format!("{}.x", *text), &text.replace('.', "..")] {
            assert_eq!(bad.parse::<JoinTokenText>(), Err(JoinTokenError::Form), "{bad}");
        }
        assert_eq!("postern-join-2.a.b.c.d".parse::<JoinTokenText>(), Err(JoinTokenError::Version));
    }
}
