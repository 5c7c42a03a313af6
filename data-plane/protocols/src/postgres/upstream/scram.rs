//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the client's side, without channel binding.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// As SASL names it.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";

/// RFC 7677, section 4: at least 4096 rounds, or a hostile server could guess the password from the proof.
const FEWEST_ROUNDS: u32 = 4_096;
/// More would only keep the gateway busy.
const MOST_ROUNDS: u32 = 1_000_000;

/// SCRAM failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message is not of the form.
    #[error("a SCRAM message is malformed")]
    Malformed,
    /// Its nonce does not begin with ours.
    #[error("SCRAM: the server's nonce does not extend ours")]
    Nonce,
    /// Too few rounds to be safe, or too many to be meant.
    #[error("SCRAM: {0} rounds are not acceptable")]
    Rounds(u32),
    /// The server does not know the password: it is another one, or the password is wrong.
    #[error("SCRAM: the server did not prove that it knows the password")]
    Signature,
    /// The server says that it failed.
    #[error("SCRAM: the server reports a failure")]
    Failed,
}

/// Has sent client-first-message.
pub(super) struct First {
    bare: String,
    nonce: String,
}

/// Has sent client-final-message.
pub(super) struct Final {
    server_key: hmac::Key,
    message: String,
}

impl First {
    /// Begins: with the client-first-message to send. PostgreSQL takes the user from the startup packet and wants it empty here.
    pub(super) fn new(user: &str, nonce: &[u8; 18]) -> (Self, String) {
        Self::with_nonce(user, STANDARD.encode(nonce))
    }

    pub(super) fn with_nonce(user: &str, nonce: String) -> (Self, String) {
        let bare = format!("n={user},r={nonce}");
        // gs2-header: no channel binding.
        let message = format!("n,,{bare}");
        (Self { bare, nonce }, message)
    }

    /// Answers server-first-message with client-final-message.
    pub(super) fn challenge(self, challenge: &[u8], password: &[u8]) -> Result<(Final, String), ScramError> {
        let challenge = std::str::from_utf8(challenge).map_err(|_| ScramError::Malformed)?;
        let mut parts = challenge.splitn(4, ',');
        let mut part = |name: &str| parts.next().and_then(|part| part.strip_prefix(name)).ok_or(ScramError::Malformed);
        let (nonce, salt, rounds) = (part("r=")?, part("s=")?, part("i=")?);
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Nonce);
        }
        let salt = STANDARD.decode(salt).map_err(|_| ScramError::Malformed)?;
        let rounds: u32 = rounds.parse().map_err(|_| ScramError::Malformed)?;
        let rounds = match NonZeroU32::new(rounds) {
            Some(enough) if (FEWEST_ROUNDS..=MOST_ROUNDS).contains(&rounds) => enough,
            _ => return Err(ScramError::Rounds(rounds)),
        };
        let mut salted = Zeroizing::new([0_u8; digest::SHA256_OUTPUT_LEN]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, &prepared(password), salted.as_mut());
        let salted = hmac::Key::new(hmac::HMAC_SHA256, salted.as_ref());
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let server_key = hmac::sign(&salted, b"Server Key");
        // "biws" is the gs2-header in base64.
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{challenge},{without_proof}", self.bare);
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, stored_key.as_ref()), message.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let answer = format!("{without_proof},p={}", STANDARD.encode(proof));
        Ok((Final { server_key: hmac::Key::new(hmac::HMAC_SHA256, server_key.as_ref()), message }, answer))
    }
}

impl Final {
    /// Checks server-final-message: only a server that knows the password can write it.
    pub(super) fn verify(self, last: &[u8]) -> Result<(), ScramError> {
        let last = std::str::from_utf8(last).map_err(|_| ScramError::Malformed)?;
        if last.starts_with("e=") {
            return Err(ScramError::Failed);
        }
        let signature = last.split(',').next().and_then(|part| part.strip_prefix("v=")).ok_or(ScramError::Malformed)?;
        let signature = STANDARD.decode(signature).map_err(|_| ScramError::Malformed)?;
        hmac::verify(&self.server_key, self.message.as_bytes(), &signature).map_err(|_| ScramError::Signature)
    }
}

/// SASLprep (RFC 4013); what it cannot prepare is used as it is, as PostgreSQL does.
fn prepared(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    Zeroizing::new(text.map_or_else(|| password.to_vec(), |text| text.into_owned().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    #[test]
    fn speaks_as_the_rfc_shows() {
        let (first, message) = First::with_nonce("user", "rOprNGfwEbeRWgbNEkqO".into());
        assert_eq!(message, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, answer) = first.challenge(challenge, b"pencil").unwrap();
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        last.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
    }

    #[test]
    fn refuses_servers_that_cheat() {
        let first = || First::with_nonce("", "abc".into()).0;
        let challenge = |text: &str| first().challenge(text.as_bytes(), b"pencil").map(|_| ());
        assert_eq!(challenge("r=abc,s=W22ZaA==,i=4096"), Err(ScramError::Nonce));
        assert_eq!(challenge("r=xabc1,s=W22ZaA==,i=4096"), Err(ScramError::Nonce));
        assert_eq!(challenge("r=abc1,s=W22ZaA==,i=1"), Err(ScramError::Rounds(1)));
        assert_eq!(challenge("r=abc1,s=W22ZaA==,i=4000000000"), Err(ScramError::Rounds(4_000_000_000)));
        assert_eq!(challenge("r=abc1,s=!,i=4096"), Err(ScramError::Malformed));
        assert_eq!(challenge("m=ext,r=abc1,s=W22ZaA==,i=4096"), Err(ScramError::Malformed));
        assert_eq!(challenge(""), Err(ScramError::Malformed));
        let (last, _) = first().challenge(b"r=abc1,s=W22ZaA==,i=4096", b"pencil").unwrap();
        assert_eq!(last.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Err(ScramError::Signature));
        let (last, _) = first().challenge(b"r=abc1,s=W22ZaA==,i=4096", b"pencil").unwrap();
        assert_eq!(last.verify(b"e=other-error"), Err(ScramError::Failed));
    }
}
