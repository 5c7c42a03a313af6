//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), the client's side.

use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_core::secret::SecretBytes;
use zeroize::Zeroizing;

/// As SASL names it.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";
/// The same, bound to the TLS connection that it goes through.
pub(super) const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// What the proof says of the connection that it is for (`gs2-cbind-flag`, RFC 5802, section 7): nobody in between can then use it elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// Nothing: it has none.
    None,
    /// It could be bound, and the server says that it cannot: a server that can knows then that somebody took its offer away.
    NotOffered,
    /// To the server's certificate, by its hash (`tls-server-end-point`, RFC 5929, section 4).
    EndPoint(Vec<u8>),
}

impl Binding {
    const fn header(&self) -> &'static str {
        match self {
            Self::None => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    /// `c=` of client-final-message.
    fn data(&self) -> String {
        let mut data = self.header().as_bytes().to_vec();
        if let Self::EndPoint(hash) = self {
            data.extend_from_slice(hash);
        }
        STANDARD.encode(data)
    }

    pub(super) const fn mechanism(&self) -> &'static str {
        match self {
            Self::None | Self::NotOffered => MECHANISM,
            Self::EndPoint(_) => MECHANISM_PLUS,
        }
    }
}

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
    binding: Binding,
}

/// Has sent client-final-message.
pub(super) struct Final {
    keys: Arc<ScramKeys>,
    message: String,
}

/// What a password comes to under a server's salt and rounds (`ClientKey` and `ServerKey` of RFC 5802, section 3): thousands of hashes that need not be
/// done for each login. As secret as the password, which it holds.
pub struct ScramKeys {
    password: SecretBytes,
    salt: Vec<u8>,
    rounds: NonZeroU32,
    client: Zeroizing<Vec<u8>>,
    server: Zeroizing<Vec<u8>>,
}

impl ScramKeys {
    fn derive(password: &SecretBytes, salt: Vec<u8>, rounds: NonZeroU32) -> Self {
        let mut salted = Zeroizing::new([0_u8; digest::SHA256_OUTPUT_LEN]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, &prepared(password.expose()), salted.as_mut());
        let salted = hmac::Key::new(hmac::HMAC_SHA256, salted.as_ref());
        let key = |name: &[u8]| Zeroizing::new(hmac::sign(&salted, name).as_ref().to_vec());
        let (client, server) = (key(b"Client Key"), key(b"Server Key"));
        Self { password: password.clone(), salt, rounds, client, server }
    }

    /// Of that password, under that salt and as many rounds: else they prove nothing.
    fn are_of(&self, password: &SecretBytes, salt: &[u8], rounds: NonZeroU32) -> bool {
        self.password.expose() == password.expose() && self.salt == salt && self.rounds == rounds
    }
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScramKeys").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

impl First {
    /// Begins: with the client-first-message to send. PostgreSQL takes the user from the startup packet and wants it empty here.
    pub(super) fn new(user: &str, nonce: &[u8; 18], binding: Binding) -> (Self, String) {
        Self::with_nonce(user, STANDARD.encode(nonce), binding)
    }

    pub(super) fn with_nonce(user: &str, nonce: String, binding: Binding) -> (Self, String) {
        let bare = format!("n={user},r={nonce}");
        let message = format!("{}{bare}", binding.header());
        (Self { bare, nonce, binding }, message)
    }

    /// Answers server-first-message with client-final-message; by `known`, if those keys are the right ones.
    pub(super) fn challenge(
        self,
        challenge: &[u8],
        password: &SecretBytes,
        known: Option<&Arc<ScramKeys>>,
    ) -> Result<(Final, String), ScramError> {
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
        let keys = match known.filter(|keys| keys.are_of(password, &salt, rounds)) {
            Some(keys) => Arc::clone(keys),
            None => Arc::new(ScramKeys::derive(password, salt, rounds)),
        };
        let stored_key = digest::digest(&digest::SHA256, &keys.client);
        let without_proof = format!("c={},r={nonce}", self.binding.data());
        let message = format!("{},{challenge},{without_proof}", self.bare);
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, stored_key.as_ref()), message.as_bytes());
        let proof: Vec<u8> = keys.client.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let answer = format!("{without_proof},p={}", STANDARD.encode(proof));
        Ok((Final { keys, message }, answer))
    }
}

impl Final {
    /// Checks server-final-message: only a server that knows the password can write it.
    ///
    /// Returns keys that the next login may use.
    pub(super) fn verify(self, last: &[u8]) -> Result<Arc<ScramKeys>, ScramError> {
        let last = std::str::from_utf8(last).map_err(|_| ScramError::Malformed)?;
        if last.starts_with("e=") {
            return Err(ScramError::Failed);
        }
        let signature = last.split(',').next().and_then(|part| part.strip_prefix("v=")).ok_or(ScramError::Malformed)?;
        let signature = STANDARD.decode(signature).map_err(|_| ScramError::Malformed)?;
        let server_key = hmac::Key::new(hmac::HMAC_SHA256, &self.keys.server);
        hmac::verify(&server_key, self.message.as_bytes(), &signature).map_err(|_| ScramError::Signature)?;
        Ok(self.keys)
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

    fn pencil() -> SecretBytes {
        SecretBytes::new(b"pencil".to_vec())
    }

    /// RFC 7677, section 3.
    #[test]
    fn speaks_as_the_rfc_shows() {
        let (first, message) = First::with_nonce("user", "rOprNGfwEbeRWgbNEkqO".into(), Binding::None);
        assert_eq!(message, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, answer) = first.challenge(challenge, &pencil(), None).unwrap();
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        last.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
    }

    #[test]
    fn binds_to_the_connection() {
        for (binding, begins, bound) in [
            (Binding::None, "n,,n=,r=abc", "c=biws,r=abc1,p="),
            (Binding::NotOffered, "y,,n=,r=abc", "c=eSws,r=abc1,p="),
            (
                Binding::EndPoint(vec![1, 2, 3]),
                "p=tls-server-end-point,,n=,r=abc",
                "c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAQID,r=abc1,p=",
            ),
        ] {
            let (first, message) = First::with_nonce("", "abc".into(), binding);
            assert_eq!(message, begins);
            let (_, answer) = first.challenge(b"r=abc1,s=W22ZaA==,i=4096", &pencil(), None).unwrap();
            assert!(answer.starts_with(bound), "{answer}");
        }
    }

    #[test]
    fn refuses_servers_that_cheat() {
        let first = || First::with_nonce("", "abc".into(), Binding::None).0;
        let challenge = |text: &str| first().challenge(text.as_bytes(), &pencil(), None).map(|_| ());
        assert_eq!(challenge("r=abc,s=W22ZaA==,i=4096"), Err(ScramError::Nonce));
        assert_eq!(challenge("r=xabc1,s=W22ZaA==,i=4096"), Err(ScramError::Nonce));
        assert_eq!(challenge("r=abc1,s=W22ZaA==,i=1"), Err(ScramError::Rounds(1)));
        assert_eq!(challenge("r=abc1,s=W22ZaA==,i=4000000000"), Err(ScramError::Rounds(4_000_000_000)));
        assert_eq!(challenge("r=abc1,s=!,i=4096"), Err(ScramError::Malformed));
        assert_eq!(challenge("m=ext,r=abc1,s=W22ZaA==,i=4096"), Err(ScramError::Malformed));
        assert_eq!(challenge(""), Err(ScramError::Malformed));
        let (last, _) = first().challenge(b"r=abc1,s=W22ZaA==,i=4096", &pencil(), None).unwrap();
        assert_eq!(last.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").err(), Some(ScramError::Signature));
        let (last, _) = first().challenge(b"r=abc1,s=W22ZaA==,i=4096", &pencil(), None).unwrap();
        assert_eq!(last.verify(b"e=other-error").err(), Some(ScramError::Failed));
    }

    #[test]
    fn keys_serve_again_where_they_are_of_the_same() {
        let challenge = |challenge: &[u8], password: &SecretBytes, known: Option<&Arc<ScramKeys>>| {
            First::with_nonce("user", "rOprNGfwEbeRWgbNEkqO".into(), Binding::None)
                .0
                .challenge(challenge, password, known)
                .unwrap()
        };
        let asked = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, first_answer) = challenge(asked, &pencil(), None);
        let known = last.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        let (last, answer) = challenge(asked, &pencil(), Some(&known));
        assert!(answer == first_answer && Arc::ptr_eq(&last.keys, &known));
        let other_salt = b"r=rOprNGfwEbeRWgbNEkqO%x,s=W22ZaA==,i=4096";
        let more_rounds = b"r=rOprNGfwEbeRWgbNEkqO%x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4097";
        let other = SecretBytes::new(b"pen".to_vec());
        for (asked, password) in [(&other_salt[..], &pencil()), (more_rounds, &pencil()), (asked, &other)] {
            assert!(!Arc::ptr_eq(&challenge(asked, password, Some(&known)).0.keys, &known));
        }
        assert!(!format!("{known:?}").contains("pencil"));
    }
}
