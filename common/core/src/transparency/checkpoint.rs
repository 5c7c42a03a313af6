//! Signed heads of the log: C2SP's signed-note, tlog-checkpoint and tlog-cosignature.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::MAX_LEAVES;
use crate::operation::Digest;
use crate::time::Timestamp;

/// Bytes of a signed checkpoint that are looked at.
const MAX_TEXT: usize = 64 << 10;
/// Signatures of one checkpoint.
const MAX_SIGNATURES: usize = 64;
const DASH: &str = "\u{2014} ";

/// The head of a log's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    /// The tree's root.
    pub root: Digest,
}

/// A head with its signatures, as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    head: Checkpoint,
    /// What is signed, to its last line feed: extension lines too.
    text: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature {
    name: String,
    id: [u8; 4],
    bytes: Vec<u8>,
}

/// Text that is no key or no checkpoint, or one that is not signed as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointFault {
    /// Not a verifier's key.
    #[error("this is no verifier's key: name+hash+key, of type Ed25519 or cosignature/v1")]
    Key,
    /// Not a signed note.
    #[error("this is no signed note")]
    Note,
    /// A note that is no checkpoint.
    #[error("this is no checkpoint: origin, size and root, a line each")]
    Checkpoint,
    /// Of another log.
    #[error("the checkpoint is of another log")]
    Origin,
    /// There is no signature by the key.
    #[error("the checkpoint is not signed by this key")]
    Unsigned,
    /// There is one, and it is wrong.
    #[error("the signature by this key is wrong")]
    Signature,
}

/// Who signs, by the algorithm's byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The log: Ed25519 over the note.
    Log = 1,
    /// A witness: Ed25519 over the note and its time (cosignature/v1).
    Witness = 4,
}

/// A public key that checkpoints are verified by. Its text form is that of signed-note: `name+hash+key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    role: Role,
    public: [u8; 32],
}

/// A private key that signs checkpoints.
pub struct NoteSigner {
    key: NoteKey,
    pair: Ed25519KeyPair,
}

impl Checkpoint {
    /// What is signed of it.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let decimal = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit());
        if !is_name(origin) || !decimal || (size.starts_with('0') && size != "0") || lines.any(str::is_empty) {
            return None;
        }
        let size = size.parse().ok().filter(|size| *size <= MAX_LEAVES)?;
        let root = Digest::from_slice(&STANDARD.decode(root).ok()?)?;
        Some(Self { origin: origin.to_owned(), size, root })
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '+')
}

impl SignedCheckpoint {
    /// The log's own head, signed by it.
    #[must_use]
    pub fn sign(head: Checkpoint, signer: &NoteSigner) -> Self {
        let text = head.text();
        let bytes = signer.pair.sign(text.as_bytes()).as_ref().to_vec();
        let signature = Signature { name: signer.key.name.clone(), id: signer.key.id(), bytes };
        Self { head, text, signatures: vec![signature] }
    }

    /// The head. Nothing is proved of it before [`Self::verify`].
    #[must_use]
    pub const fn head(&self) -> &Checkpoint {
        &self.head
    }

    /// Checks the log's signature.
    ///
    /// # Errors
    /// When it is of another log, or not signed by this key.
    pub fn verify(&self, key: &NoteKey) -> Result<&Checkpoint, CheckpointFault> {
        if key.role != Role::Log || self.head.origin != key.name {
            return Err(CheckpointFault::Origin);
        }
        let signature = self.by(key)?;
        key.check(self.text.as_bytes(), &signature.bytes)?;
        Ok(&self.head)
    }

    /// Checks a witness' signature; when it was made.
    ///
    /// # Errors
    /// When it is not signed by this witness.
    pub fn verify_witness(&self, key: &NoteKey) -> Result<Timestamp, CheckpointFault> {
        if key.role != Role::Witness {
            return Err(CheckpointFault::Key);
        }
        let signature = self.by(key)?;
        let (time, bytes) = signature.bytes.split_first_chunk::<8>().ok_or(CheckpointFault::Signature)?;
        let seconds = u64::from_be_bytes(*time);
        key.check(&cosigned(&self.text, seconds), bytes)?;
        Ok(Timestamp::from_millis(seconds.saturating_mul(1_000)))
    }

    /// Adds a witness' signature, at a time in seconds since 1970. One of the same witness is replaced.
    pub fn cosign(&mut self, witness: &NoteSigner, seconds: u64) {
        let signed = witness.pair.sign(&cosigned(&self.text, seconds));
        let bytes = [&seconds.to_be_bytes()[..], signed.as_ref()].concat();
        let signature = Signature { name: witness.key.name.clone(), id: witness.key.id(), bytes };
        self.add(signature);
    }

    /// Takes the signatures of `key` that `lines` have.
    ///
    /// # Errors
    /// When there is none, or none that is right: all is as it was.
    pub fn add_witness(&mut self, key: &NoteKey, lines: &str) -> Result<(), CheckpointFault> {
        let mut other = Self { signatures: signatures(lines).ok_or(CheckpointFault::Note)?, ..self.clone() };
        other.verify_witness(key)?;
        let at = other.signatures.iter().position(|signature| signature.is_by(key)).ok_or(CheckpointFault::Unsigned)?;
        self.add(other.signatures.swap_remove(at));
        Ok(())
    }

    /// Takes those signatures of the same head that it lacks; whether there was any.
    pub fn absorb(&mut self, other: &Self) -> bool {
        if self.text != other.text {
            return false;
        }
        let before = self.signatures.len();
        for signature in &other.signatures {
            let known = self.signatures.iter().any(|own| (&own.name, own.id) == (&signature.name, signature.id));
            if !known && self.signatures.len() < MAX_SIGNATURES {
                self.signatures.push(signature.clone());
            }
        }
        self.signatures.len() > before
    }

    /// How many signatures it bears, whoever's they are.
    #[must_use]
    pub fn signature_count(&self) -> usize {
        self.signatures.len()
    }

    fn add(&mut self, new: Signature) {
        self.signatures.retain(|signature| (&signature.name, signature.id) != (&new.name, new.id));
        self.signatures.push(new);
    }

    fn by(&self, key: &NoteKey) -> Result<&Signature, CheckpointFault> {
        let mut all = self.signatures.iter().filter(|signature| signature.is_by(key));
        match (all.next(), all.next()) {
            (Some(signature), None) => Ok(signature),
            (None, _) => Err(CheckpointFault::Unsigned),
            // Which of them counts nobody could say.
            (Some(_), Some(_)) => Err(CheckpointFault::Signature),
        }
    }

    /// The lines of its signatures alone, as a witness answers.
    #[must_use]
    pub fn signature_lines(&self) -> String {
        self.signatures.iter().map(ToString::to_string).collect()
    }
}

impl Signature {
    fn is_by(&self, key: &NoteKey) -> bool {
        self.name == key.name && self.id == key.id()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id[..], &self.bytes].concat();
        writeln!(f, "{DASH}{} {}", self.name, STANDARD.encode(bytes))
    }
}

fn signatures(lines: &str) -> Option<Vec<Signature>> {
    let lines: Vec<&str> = lines.strip_suffix('\n')?.split('\n').collect();
    if lines.len() > MAX_SIGNATURES {
        return None;
    }
    let read = |line: &str| {
        let (name, bytes) = line.strip_prefix(DASH)?.split_once(' ')?;
        let bytes = STANDARD.decode(bytes).ok()?;
        let (id, bytes) = bytes.split_first_chunk::<4>()?;
        is_name(name).then(|| Signature { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
    };
    lines.into_iter().map(read).collect()
}

fn cosigned(text: &str, seconds: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {seconds}\n{text}").into_bytes()
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.text, self.signature_lines())
    }
}

impl FromStr for SignedCheckpoint {
    type Err = CheckpointFault;

    fn from_str(note: &str) -> Result<Self, Self::Err> {
        let control = |letter: char| letter.is_control() && letter != '\n';
        if note.len() > MAX_TEXT || note.contains(control) {
            return Err(CheckpointFault::Note);
        }
        let end = note.rfind("\n\n").ok_or(CheckpointFault::Note)?.saturating_add(1);
        let (text, rest) = note.split_at_checked(end).ok_or(CheckpointFault::Note)?;
        let lines = rest.strip_prefix('\n').ok_or(CheckpointFault::Note)?;
        let signatures = signatures(lines).ok_or(CheckpointFault::Note)?;
        let head = Checkpoint::parse(text).ok_or(CheckpointFault::Checkpoint)?;
        Ok(Self { head, text: text.to_owned(), signatures })
    }
}

impl NoteKey {
    /// The key of a log with this origin.
    ///
    /// # Errors
    /// When the origin is no name of a key.
    pub fn of_log(origin: &str, public: [u8; 32]) -> Result<Self, CheckpointFault> {
        Self::new(origin, Role::Log, public)
    }

    /// The key of a witness.
    ///
    /// # Errors
    /// When the name is no name of a key.
    pub fn of_witness(name: &str, public: [u8; 32]) -> Result<Self, CheckpointFault> {
        Self::new(name, Role::Witness, public)
    }

    fn new(name: &str, role: Role, public: [u8; 32]) -> Result<Self, CheckpointFault> {
        if !is_name(name) {
            return Err(CheckpointFault::Key);
        }
        Ok(Self { name: name.to_owned(), role, public })
    }

    /// Its name: for a log, the log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a witness', not a log's.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        self.role == Role::Witness
    }

    fn id(&self) -> [u8; 4] {
        let parts = [self.name.as_bytes(), b"\n", &[self.role as u8], &self.public];
        let hash = digest(&SHA256, &parts.concat());
        hash.as_ref().first_chunk().copied().unwrap_or_default()
    }

    fn check(&self, message: &[u8], signature: &[u8]) -> Result<(), CheckpointFault> {
        let public = UnparsedPublicKey::new(&ED25519, self.public);
        public.verify(message, signature).map_err(|_| CheckpointFault::Signature)
    }
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+", self.name)?;
        self.id().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "+{}", STANDARD.encode([&[self.role as u8][..], &self.public].concat()))
    }
}

impl FromStr for NoteKey {
    type Err = CheckpointFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = CheckpointFault::Key;
        let mut parts = text.splitn(3, '+');
        let (name, hash, key) = (parts.next().ok_or(fault)?, parts.next().ok_or(fault)?, parts.next().ok_or(fault)?);
        let key = STANDARD.decode(key).map_err(|_| fault)?;
        let (role, public) = key.split_first().ok_or(fault)?;
        let role = match role {
            1 => Role::Log,
            4 => Role::Witness,
            _ => return Err(fault),
        };
        let key = Self::new(name, role, public.try_into().map_err(|_| fault)?)?;
        let id: String = key.id().iter().map(|byte| format!("{byte:02x}")).collect();
        if id == hash { Ok(key) } else { Err(fault) }
    }
}

impl NoteSigner {
    /// The log's, from its private key in PKCS #8.
    ///
    /// # Errors
    /// When the key is none, or the origin is no name of a key.
    pub fn of_log(origin: &str, pkcs8: &[u8]) -> Result<Self, CheckpointFault> {
        Self::new(origin, Role::Log, pkcs8)
    }

    /// A witness', from its private key in PKCS #8.
    ///
    /// # Errors
    /// When the key is none, or the name is no name of a key.
    pub fn of_witness(name: &str, pkcs8: &[u8]) -> Result<Self, CheckpointFault> {
        Self::new(name, Role::Witness, pkcs8)
    }

    fn new(name: &str, role: Role, pkcs8: &[u8]) -> Result<Self, CheckpointFault> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| CheckpointFault::Key)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| CheckpointFault::Key)?;
        Ok(Self { key: NoteKey::new(name, role, public)?, pair })
    }

    /// The public key.
    #[must_use]
    pub const fn key(&self) -> &NoteKey {
        &self.key
    }

    /// The public key's bytes.
    #[must_use]
    pub const fn public(&self) -> [u8; 32] {
        self.key.public
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
