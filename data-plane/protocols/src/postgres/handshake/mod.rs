//! The opening of a client's connection, without I/O: one type for each state, and a transition consumes it.
//!
//! [`AwaitStartup`] answers requests for encryption until the startup packet is there; [`AwaitPassword`] then takes the token, which
//! travels as the password (section "Start-up").

mod parameters;

use bytes::{Bytes, BytesMut};
use postern_core::Code;
use postern_core::action::Action;
use postern_core::secret::SecretBytes;
use zeroize::Zeroize as _;

use super::analyze;
use super::codec::startup::{self, Opening};
use super::codec::{self, CodecError, HEADER, Limits, Origin, frontend, write};
use super::errors::{ErrorFields, client_message};

/// Longest identifier that a server keeps whole (NAMEDATALEN - 1): a longer name would be cut there and mean another database.
const MAX_NAME: usize = 63;

/// The first byte of TLS.
const TLS_HANDSHAKE: u8 = 22;
/// The newest minor version of protocol 3 that is spoken here: since 3.2 keys of cancel requests are longer.
const NEWEST_MINOR: u16 = 2;

/// Where the connection stands with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Not yet; a client may go on without.
    Optional,
    /// Not yet; a client must ask for it.
    Required,
    /// The connection is inside TLS.
    Established,
}

/// Waits for the startup packet.
#[derive(Debug)]
pub struct AwaitStartup {
    tls: Tls,
    asked: u8,
}

/// What [`AwaitStartup`] comes to.
pub enum Opened {
    /// Read more from the client.
    NeedMore(AwaitStartup),
    /// Send this, then read on.
    Reply(AwaitStartup, Bytes),
    /// Send this, then speak TLS as the server; go on with what is inside.
    StartTls(AwaitStartup, Bytes),
    /// The client speaks TLS already: what is in the buffer belongs to it. Demand that it says which protocol is inside, by ALPN.
    DirectTls(AwaitStartup),
    /// The connection was only opened to cancel another one's operation: nothing is answered, close it.
    Cancel {
        /// As BackendKeyData said there.
        pid: u32,
        /// As BackendKeyData said there.
        secret: Bytes,
    },
    /// A session is asked for. Send the bytes: they ask for the token.
    Startup(Box<Startup>, AwaitPassword, Bytes),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The user: names the target.
    pub target: String,
    /// The database; as the target when the client names none.
    pub database: String,
    /// What the client calls itself; not to be trusted.
    pub application: String,
    /// Settings for the target's session, `application_name` among them, all of them harmless.
    pub settings: Vec<(String, String)>,
    /// The minor version of protocol 3 that is spoken.
    pub minor: u16,
    /// What else the server is to be told: for those alone to whom everything is granted.
    pub beyond: Beyond,
}

/// What a startup asks for beyond what anybody may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// As the startup packet has it: settings, `options` that are not understood here, `replication`.
    pub parameters: Vec<(String, String)>,
    /// What is told to whoever may not: of the first of them.
    pub refused: Option<HandshakeError>,
}

impl Beyond {
    /// The search path that it sets, if any.
    #[must_use]
    pub fn search_path(&self) -> Option<&str> {
        self.parameters.iter().rev().find(|(name, _)| name == "search_path").map(|(_, value)| value.as_str())
    }

    /// Whether it asks for physical replication, which is of no database.
    #[must_use]
    pub fn is_of_no_database(&self) -> bool {
        self.parameters.iter().any(|(name, value)| name == "replication" && value != "database")
    }

    /// What it asks for, as SET would be decided.
    ///
    /// # Errors
    /// When it asks for what no SET does, or in a way that is not followed here.
    pub fn actions(&self) -> Result<Vec<Action>, HandshakeError> {
        let mut actions = Vec::new();
        for (name, value) in &self.parameters {
            let refused = |_| match name.as_str() {
                "options" => HandshakeError::Options,
                "replication" => HandshakeError::Replication,
                "client_encoding" => HandshakeError::Encoding,
                _ => HandshakeError::Setting(parameters::shown(name)),
            };
            let action = analyze::startup_setting(name, value).map_err(refused)?;
            actions.extend(action.filter(|action| !actions.contains(action)));
        }
        Ok(actions)
    }

    /// Whether names mean what the database's catalog and the search path say, whatever else it sets.
    #[must_use]
    pub fn keeps_names(&self) -> bool {
        self.parameters.iter().all(|(name, _)| !matches!(name.as_str(), "role" | "session_authorization" | "options"))
    }
}

/// Waits for the token.
#[derive(Debug)]
pub struct AwaitPassword(());

/// What [`AwaitPassword`] comes to.
pub enum PasswordStep {
    /// Read more from the client.
    NeedMore(AwaitPassword),
    /// The password as sent: a token, perhaps.
    Password(SecretBytes),
}

/// The connection cannot be opened. Tell the client [`HandshakeError::fields`] and close.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The bytes are not of the protocol.
    #[error("startup: {0}")]
    Codec(#[from] CodecError),
    /// Bytes followed a request for encryption in clear: they may be another's (CVE-2021-23214).
    #[error("startup: bytes followed the request for encryption")]
    BytesBeforeTls,
    /// Encryption was asked for again and again.
    #[error("startup: encryption was asked for more than once")]
    AskedTwice,
    /// A message that has no place here.
    #[error("startup: expected a password, got message '{}'", .0.escape_ascii())]
    Unexpected(u8),
    /// Another major version.
    #[error("startup: protocol version {0}.{1} is not supported")]
    Version(u16, u16),
    /// In clear, where TLS is required.
    #[error("startup: TLS is required")]
    TlsRequired,
    /// No user, and so no target.
    #[error("startup: no user was named")]
    NoUser,
    /// A name or value that cannot be passed on exactly.
    #[error("startup: {0} is too long or no UTF-8")]
    Name(&'static str),
    /// A setting that may not be given at startup.
    #[error("startup: setting {0:?} may not be given")]
    Setting(String),
    /// Options in a form that is not understood.
    #[error("startup: options are not understood")]
    Options,
    /// Replication.
    #[error("startup: replication is not supported")]
    Replication,
    /// A client encoding in which a statement could not be read as the server reads it.
    #[error("startup: only client_encoding UTF8 is supported")]
    Encoding,
}

impl HandshakeError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Codec(_) | Self::BytesBeforeTls | Self::AskedTwice | Self::Unexpected(_) | Self::NoUser => {
                Code::ProtocolViolation
            }
            Self::TlsRequired => Code::TlsRequired,
            Self::Name(_) => Code::TooLarge,
            Self::Setting(_) => Code::Denied,
            Self::Version(..) | Self::Options | Self::Replication | Self::Encoding => Code::Unsupported,
        }
    }

    /// Whether what came first cannot be a packet of this protocol, by its length: PostgreSQL answers nothing then.
    /// Drivers that end what they have just begun send Terminate there, and take an answer for a failure.
    #[must_use]
    pub const fn is_of_no_client(&self) -> bool {
        matches!(self, Self::Codec(CodecError::BadLength { tag: startup::NO_TAG }))
    }

    /// What the client is told.
    #[must_use]
    pub fn fields(&self) -> ErrorFields {
        let code = self.code();
        match self {
            Self::Codec(_) => ErrorFields::fatal(code, "invalid startup packet"),
            Self::TlsRequired => {
                ErrorFields::fatal(code, client_message(code)).with_hint("connect with sslmode=require or stronger")
            }
            Self::NoUser => ErrorFields::fatal(code, "no user name: it names the target"),
            Self::Setting(name) => {
                ErrorFields::fatal(code, format!("setting \"{name}\" may not be given at startup through Postern"))
            }
            other => ErrorFields::fatal(code, other.to_string().trim_start_matches("startup: ")),
        }
    }
}

impl AwaitStartup {
    /// For a connection that was just accepted.
    #[must_use]
    pub const fn new(tls: Tls) -> Self {
        Self { tls, asked: 0 }
    }

    /// Takes the next packet out of `buffer`.
    ///
    /// # Errors
    /// When the connection cannot be opened.
    pub fn next(mut self, buffer: &mut BytesMut) -> Result<Opened, HandshakeError> {
        // Section "SSL Session Encryption": a record of a handshake (RFC 8446, section 5.1), which no length of a packet begins with.
        if self.tls != Tls::Established && self.asked == 0 && buffer.first() == Some(&TLS_HANDSHAKE) {
            self.tls = Tls::Established;
            return Ok(Opened::DirectTls(self));
        }
        let Some(opening) = startup::next_opening(buffer)? else {
            return Ok(Opened::NeedMore(self));
        };
        match opening {
            Opening::Cancel { pid, secret } => Ok(Opened::Cancel { pid, secret }),
            Opening::Ssl if self.tls == Tls::Established => Err(HandshakeError::AskedTwice),
            Opening::Ssl => {
                if !buffer.is_empty() {
                    return Err(HandshakeError::BytesBeforeTls);
                }
                self.tls = Tls::Established;
                Ok(Opened::StartTls(self, Bytes::from_static(b"S")))
            }
            Opening::GssEnc => {
                if !buffer.is_empty() {
                    return Err(HandshakeError::BytesBeforeTls);
                }
                self.asked = self.asked.saturating_add(1);
                if self.asked > 1 {
                    return Err(HandshakeError::AskedTwice);
                }
                Ok(Opened::Reply(self, Bytes::from_static(b"N")))
            }
            Opening::Startup { version, parameters } => self.startup(version, parameters),
        }
    }

    fn startup(self, version: (u16, u16), given: Vec<(Bytes, Bytes)>) -> Result<Opened, HandshakeError> {
        if version.0 != 3 {
            return Err(HandshakeError::Version(version.0, version.1));
        }
        if self.tls == Tls::Required {
            return Err(HandshakeError::TlsRequired);
        }
        let (mut startup, unknown) = parameters::read(given)?;
        startup.minor = version.1.min(NEWEST_MINOR);
        let mut reply = BytesMut::new();
        // Section "Start-up": answered when a newer minor version or an unknown protocol option is asked for.
        if version.1 > NEWEST_MINOR || !unknown.is_empty() {
            write::negotiate_version(&mut reply, startup.minor.into(), &unknown);
        }
        write::authentication_cleartext(&mut reply);
        Ok(Opened::Startup(Box::new(startup), AwaitPassword(()), reply.freeze()))
    }
}

impl AwaitPassword {
    /// Takes the password out of `buffer` and wipes it there.
    ///
    /// # Errors
    /// When another message comes, or none that is well formed.
    pub fn next(self, buffer: &mut BytesMut) -> Result<PasswordStep, HandshakeError> {
        if let Some(&tag) = buffer.first()
            && tag != frontend::PASSWORD
        {
            return Err(HandshakeError::Unexpected(tag));
        }
        let Some((tag, whole)) = codec::peek(buffer, Origin::Frontend, &Limits::default())? else {
            return Ok(PasswordStep::NeedMore(self));
        };
        if buffer.len() < whole {
            return Ok(PasswordStep::NeedMore(self));
        }
        let mut frame = buffer.split_to(whole);
        let body = frame.get(HEADER..).unwrap_or_default();
        let password = match body.split_last() {
            Some((0, password)) if !password.contains(&0) => Ok(SecretBytes::new(password.to_vec())),
            _ => Err(CodecError::Malformed { tag, what: "a string has no end" }.into()),
        };
        frame.zeroize();
        password.map(PasswordStep::Password)
    }
}

#[cfg(test)]
mod tests;
