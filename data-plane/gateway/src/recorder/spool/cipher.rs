//! What lies in the spool is sealed: AES-256-GCM (NIST SP 800-38D), a key for each segment, derived from the node's own and the segment's salt.
//!
//! A record's nonce is its place in the segment, and its segment's number is authenticated with it: none can be left out, repeated, moved, or
//! taken from elsewhere. What is cut off was perhaps on the disk: its places are never used again, as a [`Sealer`] ends with its first cut.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use postern_runtime::pki::{DERIVED_KEY, NodeCredential, PkiError, derive_key};
use zeroize::Zeroizing;

/// The first bytes of a sealed segment; the last of them is the format's version.
const MAGIC: &[u8; 8] = b"PSTNSPL\x02";
const SALT: usize = 16;
/// What sealing adds to a record.
pub(super) const TAG: usize = 16;
/// Bytes before the first record: the magic, the salt, and a tag that tells whether the key is right.
pub(in crate::recorder) const BEGIN: usize = MAGIC.len() + SALT + TAG;

/// Not sealed under this key, or not as it was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is damaged, or sealed under another key")]
pub(in crate::recorder) struct NotSealed;

/// What the keys of all segments are derived from. Renewals of the certificate keep it, another enrolment does not.
#[derive(Clone)]
pub(crate) struct SpoolKey(Zeroizing<[u8; DERIVED_KEY]>);

impl std::fmt::Debug for SpoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolKey").finish_non_exhaustive()
    }
}

/// The key of one segment.
#[derive(Debug)]
pub(in crate::recorder) struct SegmentKey(LessSafeKey);

/// Seals the records of a new segment, in order. Only for a key that was never used before.
#[derive(Debug)]
pub(super) struct Sealer(Opener);

/// Opens the records of a segment, in order.
#[derive(Debug)]
pub(in crate::recorder) struct Opener {
    key: LessSafeKey,
    number: u64,
    next: u64,
}

/// Nonces of the two kinds never meet.
#[derive(Clone, Copy)]
enum Kind {
    Record = 0,
    Begin = 1,
}

fn nonce(kind: Kind, place: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    if let Some((first, rest)) = nonce.split_first_mut() {
        *first = kind as u8;
        if let Some(last) = rest.last_chunk_mut() {
            *last = place.to_be_bytes();
        }
    }
    Nonce::assume_unique_for_key(nonce)
}

impl SpoolKey {
    pub(crate) fn of(credential: &NodeCredential) -> Result<Self, PkiError> {
        credential.derive_key(b"postern gateway spool v1").map(Self)
    }

    /// One of its own.
    #[cfg(test)]
    pub(in crate::recorder) fn of_tests(fill: u8) -> Self {
        Self(Zeroizing::new([fill; DERIVED_KEY]))
    }

    /// The first bytes of a new segment, and its key.
    pub(super) fn begin(&self) -> Result<([u8; BEGIN], SegmentKey), NotSealed> {
        let mut salt = [0; SALT];
        rand::fill(&mut salt).map_err(|_| NotSealed)?;
        let key = self.segment(&salt)?;
        let tag =
            key.seal_in_place_separate_tag(nonce(Kind::Begin, 0), Aad::from(MAGIC), &mut []).map_err(|_| NotSealed)?;
        let mut begin = [0; BEGIN];
        let bytes = MAGIC.iter().chain(&salt).chain(tag.as_ref());
        begin.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok((begin, SegmentKey(key)))
    }

    /// The key of the segment that begins with `bytes`.
    pub(in crate::recorder) fn open(&self, bytes: &[u8]) -> Result<SegmentKey, NotSealed> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(NotSealed)?;
        let (salt, rest) = rest.split_first_chunk::<SALT>().ok_or(NotSealed)?;
        let (tag, _) = rest.split_first_chunk::<TAG>().ok_or(NotSealed)?;
        let key = self.segment(salt)?;
        key.open_in_place(nonce(Kind::Begin, 0), Aad::from(MAGIC), &mut tag.to_vec()).map_err(|_| NotSealed)?;
        Ok(SegmentKey(key))
    }

    fn segment(&self, salt: &[u8; SALT]) -> Result<LessSafeKey, NotSealed> {
        let key = derive_key(&*self.0, salt, b"segment").map_err(|_| NotSealed)?;
        UnboundKey::new(&AES_256_GCM, key.as_slice()).map(LessSafeKey::new).map_err(|_| NotSealed)
    }
}

/// What is authenticated with a record: its segment, and its length as the disk tells it.
fn bound(number: u64, length: [u8; 4]) -> Aad<[u8; 12]> {
    let mut bound = [0; 12];
    let bytes = number.to_be_bytes().into_iter().chain(length);
    bound.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    Aad::from(bound)
}

impl Sealer {
    pub(super) fn new(key: SegmentKey, number: u64) -> Self {
        Self(Opener::new(key, number))
    }

    /// Seals `bytes` in place, as the next record, of that length on the disk; the tag is to follow them.
    pub(super) fn seal(&mut self, length: [u8; 4], bytes: &mut [u8]) -> Result<[u8; TAG], NotSealed> {
        let Opener { key, number, next } = &mut self.0;
        let nonce = nonce(Kind::Record, *next);
        // Before anything can fail: a place is used once.
        *next = next.checked_add(1).ok_or(NotSealed)?;
        let tag = key.seal_in_place_separate_tag(nonce, bound(*number, length), bytes).map_err(|_| NotSealed)?;
        tag.as_ref().try_into().map_err(|_| NotSealed)
    }
}

impl Opener {
    pub(in crate::recorder) fn new(key: SegmentKey, number: u64) -> Self {
        Self { key: key.0, number, next: 0 }
    }

    /// Opens the next record in place. After an error its bytes are of no use.
    pub(super) fn open<'a>(&mut self, length: [u8; 4], sealed: &'a mut [u8]) -> Result<&'a [u8], NotSealed> {
        let opened = self.key.open_in_place(nonce(Kind::Record, self.next), bound(self.number, length), sealed);
        let clear = opened.map_err(|_| NotSealed)?;
        self.next = self.next.saturating_add(1);
        Ok(clear)
    }

    /// Goes on behind a record that does not open.
    pub(super) const fn skip(&mut self) {
        self.next = self.next.saturating_add(1);
    }
}
