//! What each protocol is to a gateway that listens for it: one entry for each.

use postern_core::target::Protocol;

/// A protocol that Postern speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub protocol: Protocol,
    /// For people.
    pub name: &'static str,
    /// Where its targets listen when nothing else is said.
    pub default_port: u16,
    /// Application-layer protocol names that its TLS clients may offer (RFC 7301).
    pub alpn: &'static [&'static [u8]],
}

// ALPN: section "SSL Session Encryption", and IANA's registry of ALPN protocol ids.
const POSTGRES: Entry =
    Entry { protocol: Protocol::Postgres, name: "PostgreSQL", default_port: 5432, alpn: &[b"postgresql"] };

/// What `protocol` is.
#[must_use]
pub const fn entry(protocol: Protocol) -> &'static Entry {
    match protocol {
        Protocol::Postgres => &POSTGRES,
    }
}
