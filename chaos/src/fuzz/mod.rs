//! What must not fall over whatever it is given: bytes from peers, from disks and from files, and entries of the log.
//!
//! Each target takes any bytes, and panics where something is wrong. `fuzz/` at the root drives them by coverage; `chaos/tests/fuzz` replays what was
//! once found, and throws some bytes of its own at them.

mod answers;
mod bearers;
mod bytes;
mod entries;
mod evidence;
mod files;
mod messages;
mod policy;
mod saml;
mod seeds;
mod tokens;
mod tunnel;

pub use bytes::Bytes;
pub use seeds::seeds;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Entries of the log, applied one after the other: they are applied, refused or halt, on every node alike.
    Entries,
    /// A snapshot of the state: it is restored, or refused.
    Restore,
    /// What peers send to a member, whatever part it plays.
    Messages,
    /// Files of snapshots and of backups.
    Files,
    /// What a gateway is sent of policy.
    Policy,
    /// What gateways and agents say to each other.
    Tunnel,
    /// Tokens, and what is declared of their issuers.
    Tokens,
    /// Session tokens with their links, proofs of possession, assertions of service accounts.
    Bearers,
    /// What logins read of identity providers, and forms of OAuth.
    Answers,
    /// What a SAML identity provider answers, and its metadata.
    Saml,
    /// Signed heads, proofs and exports of the log of recordings.
    Evidence,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 11] = [
        Self::Entries,
        Self::Restore,
        Self::Messages,
        Self::Files,
        Self::Policy,
        Self::Tunnel,
        Self::Tokens,
        Self::Bearers,
        Self::Answers,
        Self::Saml,
        Self::Evidence,
    ];

    /// Also of its folders.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Restore => "restore",
            Self::Messages => "messages",
            Self::Files => "files",
            Self::Policy => "policy",
            Self::Tunnel => "tunnel",
            Self::Tokens => "tokens",
            Self::Bearers => "bearers",
            Self::Answers => "answers",
            Self::Saml => "saml",
            Self::Evidence => "evidence",
        }
    }

    /// Gives it `data`.
    ///
    /// # Panics
    /// Something is wrong.
    pub fn run(self, data: &[u8]) {
        match self {
            Self::Entries => entries::run(data),
            Self::Restore => entries::restore(data),
            Self::Messages => messages::run(data),
            Self::Files => files::run(data),
            Self::Policy => policy::run(data),
            Self::Tunnel => tunnel::run(data),
            Self::Tokens => tokens::run(data),
            Self::Bearers => bearers::run(data),
            Self::Answers => answers::run(data),
            Self::Saml => saml::run(data),
            Self::Evidence => evidence::run(data),
        }
    }
}
