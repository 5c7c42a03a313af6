//! Secret values: never in clear at rest, never printed (I5).

use std::fmt;

use zeroize::Zeroizing;

/// A secret in clear, in memory. Wiped when dropped; `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

/// A secret as it rests: AES-256-GCM under a data key that is itself wrapped by the cluster's key-encryption key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Names the key-encryption key.
    pub kek_id: String,
    /// The data key, wrapped.
    pub wrapped_key: Vec<u8>,
    /// Nonce of `ciphertext`.
    pub nonce: Vec<u8>,
    /// The secret under the data key, with its tag.
    pub ciphertext: Vec<u8>,
}

impl SecretBytes {
    /// Takes the bytes over; the caller keeps no copy.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself. Every call is a place to look at in review.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("kek_id", &self.kek_id).finish_non_exhaustive()
    }
}
