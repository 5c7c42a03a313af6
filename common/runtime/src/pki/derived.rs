//! Keys for what a node seals on its own disk: derived from its private key, so that there is no further one to keep or to lose.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use super::{NodeCredential, PkiError, private_key};

/// Bytes of a derived key.
pub const DERIVED_KEY: usize = 32;

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        DERIVED_KEY
    }
}

/// HKDF with SHA-256 (RFC 5869) over `secret`: another key for each `purpose` and `salt`.
///
/// # Errors
/// Never in practice.
pub fn derive_key(secret: &[u8], salt: &[u8], purpose: &[u8]) -> Result<Zeroizing<[u8; DERIVED_KEY]>, PkiError> {
    let mut key = Zeroizing::new([0; DERIVED_KEY]);
    let extracted = Salt::new(HKDF_SHA256, salt).extract(secret);
    let filled = extracted.expand(&[purpose], Length).and_then(|expanded| expanded.fill(key.as_mut_slice()));
    filled.map_err(|_| PkiError::Generate("a key cannot be derived".to_owned()))?;
    Ok(key)
}

impl NodeCredential {
    /// A key for `purpose` that only the holder of the node's private key can derive. The same after the certificate was renewed, which keeps the
    /// private key; another one after the node was enrolled anew.
    ///
    /// # Errors
    /// The private key is unreadable.
    pub fn derive_key(&self, purpose: &[u8]) -> Result<Zeroizing<[u8; DERIVED_KEY]>, PkiError> {
        let key = private_key(&self.key_pem)?;
        derive_key(key.secret_der(), b"postern node key", purpose)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postern_core::node::{NodeIdentity, NodeRole};

    use super::super::{Authority, KeyRequest};
    use super::*;
    use crate::clock;

    #[test]
    fn one_for_each_purpose_and_node_and_none_for_a_renewal() {
        let authority = Authority::create("c").unwrap();
        let certified = |request: KeyRequest| {
            let identity = NodeIdentity { role: NodeRole::Gateway, name: "one".parse().unwrap(), pool: None };
            let hour = Duration::from_secs(3600);
            let certificate_pem = authority.issue(&identity, &request.csr_der, &[], clock::now(), hour).unwrap();
            NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
        };
        let one = certified(KeyRequest::generate().unwrap());
        let renewed = certified(KeyRequest::renew(&one.key_pem).unwrap());
        let other = certified(KeyRequest::generate().unwrap());
        let key = one.derive_key(b"a").unwrap();
        assert_eq!(*key, *renewed.derive_key(b"a").unwrap());
        assert_ne!(*key, *one.derive_key(b"b").unwrap());
        assert_ne!(*key, *other.derive_key(b"a").unwrap());
        assert_ne!(*derive_key(&*key, b"1", b"p").unwrap(), *derive_key(&*key, b"2", b"p").unwrap());
    }
}
