//! Sealing of what is kept: AES-256-GCM (NIST SP 800-38D) under keys that are derived from the node's own.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use postern_runtime::pki::{DERIVED_KEY, NodeCredential, PkiError, derive_key};
use zeroize::Zeroizing;

/// What the tag adds to a record.
pub(super) const TAG: usize = 16;

/// Names a file, and makes its key another than that of any other.
pub(super) type FileId = [u8; 16];

/// Not sealed under this key, or not as it was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is damaged, or sealed under another key")]
pub(in crate::policy_feed) struct NotSealed;

/// What all keys are derived from.
pub(super) struct Root(Zeroizing<[u8; DERIVED_KEY]>);

/// Seals or opens the records of one file, in order: each has the nonce of its place, so none can be left out, repeated or moved.
pub(super) struct Sealer {
    key: LessSafeKey,
    next: u64,
}

impl Root {
    pub(super) fn of(credential: &NodeCredential) -> Result<Self, PkiError> {
        credential.derive_key(b"postern gateway kept policy v1").map(Self)
    }

    /// For the file `id`, which is never written twice.
    pub(super) fn sealer(&self, id: &FileId, what: &[u8]) -> Result<Sealer, NotSealed> {
        let key = derive_key(&*self.0, id, what).map_err(|_| NotSealed)?;
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| NotSealed)?;
        Ok(Sealer { key: LessSafeKey::new(key), next: 0 })
    }
}

impl Sealer {
    /// Records sealed or opened so far.
    pub(super) const fn records(&self) -> u64 {
        self.next
    }

    /// Seals in place. Reserve [`TAG`] bytes, so that nothing clear is left behind in memory.
    pub(super) fn seal(&mut self, bytes: &mut Vec<u8>) -> Result<(), NotSealed> {
        let nonce = self.nonce();
        self.key.seal_in_place_append_tag(nonce, Aad::empty(), bytes).map_err(|_| NotSealed)?;
        self.next = self.next.saturating_add(1);
        Ok(())
    }

    /// Opens in place.
    pub(super) fn open<'a>(&mut self, sealed: &'a mut [u8]) -> Result<&'a [u8], NotSealed> {
        let nonce = self.nonce();
        let clear = self.key.open_in_place(nonce, Aad::empty(), sealed).map_err(|_| NotSealed)?;
        self.next = self.next.saturating_add(1);
        Ok(clear)
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        if let Some(place) = nonce.last_chunk_mut() {
            *place = self.next.to_be_bytes();
        }
        Nonce::assume_unique_for_key(nonce)
    }
}
