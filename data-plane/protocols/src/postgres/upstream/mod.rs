//! The opening of the connection to a target, without I/O: TLS is negotiated, then the target's own credential is shown.

mod end_point;
mod scram;

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use md5::{Digest as _, Md5};
use postern_core::Code;
use postern_core::secret::SecretBytes;
use zeroize::Zeroizing;

use super::codec::backend::{self, TransactionStatus};
use super::codec::{self, CodecError, Frame, Limits, Origin, Reader, frontend, startup, write};

pub use end_point::end_point;
use scram::Binding;
pub use scram::{ScramError, ScramKeys};

/// Most frames and bytes that a server may send before it is ready (I11).
const MAX_FRAMES: u32 = 1_000;
const LIMITS: Limits = Limits { statement: 0, frame: 64 << 10 };
/// Of its notices so many bytes are kept; what comes after that is dropped.
const MAX_NOTICES: usize = 16 << 10;

/// SSLRequest. Send it first, unless the target's TLS mode is `disable`.
#[must_use]
pub fn ssl_request() -> Bytes {
    let mut out = BytesMut::with_capacity(8);
    out.put_u32(8);
    out.put_u32(startup::SSL_REQUEST);
    out.freeze()
}

/// A server's answer to [`ssl_request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslAnswer {
    /// Speak TLS now.
    Accepted,
    /// It speaks no TLS.
    Refused,
}

/// Takes the answer to [`ssl_request`] out of `buffer`; `None` while it is not there.
///
/// # Errors
/// When it is no answer, or when bytes in clear follow it: they could be another's, and be taken for the server's
/// (CVE-2021-23222).
pub fn ssl_answer(buffer: &mut BytesMut) -> Result<Option<SslAnswer>, LoginError> {
    match buffer[..] {
        [] => Ok(None),
        [b'S'] => {
            buffer.clear();
            Ok(Some(SslAnswer::Accepted))
        }
        [b'N'] => {
            buffer.clear();
            Ok(Some(SslAnswer::Refused))
        }
        _ => Err(LoginError::SslAnswer),
    }
}

/// What is needed to log in.
#[derive(Debug)]
pub struct Credentials<'a> {
    /// The target's account.
    pub user: &'a str,
    /// Its password; none where it proves itself otherwise.
    pub password: Option<&'a SecretBytes>,
    /// The database.
    pub database: &'a str,
    /// Settings for the startup packet; those of [`DEMANDED`] among them must be kept.
    pub settings: &'a [(String, String)],
    /// Whether the connection is inside TLS: without it no password is sent in clear.
    pub encrypted: bool,
    /// Fresh randomness, for SCRAM.
    pub nonce: [u8; 18],
    /// The hash of the certificate that the server has shown in TLS ([`end_point`]), to which SCRAM is bound then.
    pub end_point: Option<Vec<u8>>,
    /// What an earlier login came to: spares this one the hashing.
    pub scram: Option<Arc<ScramKeys>>,
}

/// A login in progress.
pub struct Login {
    user: String,
    password: Option<SecretBytes>,
    encrypted: bool,
    nonce: [u8; 18],
    end_point: Option<Vec<u8>>,
    scram: Option<Arc<ScramKeys>>,
    /// Which of [`DEMANDED`] were asked for.
    demanded: Vec<bool>,
    phase: Phase,
    frames: u32,
    ready: Ready,
}

enum Phase {
    /// Nothing was asked yet.
    Start,
    /// A password was sent.
    Sent,
    ScramFirst(scram::First),
    ScramFinal(Box<scram::Final>),
    ScramDone,
    /// AuthenticationOk was received.
    Accepted,
}

/// What a login comes to.
#[derive(Debug)]
pub enum LoginStep {
    /// Read more from the server.
    NeedMore,
    /// Send this. It may hold a password: send it, and keep no copy.
    Send(Bytes),
    /// The session is open.
    Ready(Box<Ready>),
}

/// An open session.
#[derive(Clone, Default)]
pub struct Ready {
    /// What the server remarked after the login, whole messages as they came: on settings at startup, or by a trigger on logins.
    pub notices: BytesMut,
    /// Settings that the server reported, in order, each once.
    pub parameters: Vec<(String, String)>,
    /// For a cancel request.
    pub pid: u32,
    /// For a cancel request: a secret.
    pub secret: Bytes,
    /// As a rule idle.
    pub status: TransactionStatus,
    /// For the next login, when this one went by SCRAM.
    pub scram: Option<Arc<ScramKeys>>,
}

/// The target cannot be logged in to. Display is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The target's bytes are not of the protocol.
    #[error("target: {0}")]
    Codec(#[from] CodecError),
    /// Its answer to the request for TLS is none.
    #[error("target: impossible answer to the request for TLS")]
    SslAnswer,
    /// It asks for a password in clear outside TLS.
    #[error("target: it asks for a password in clear, and the connection has no TLS")]
    Cleartext,
    /// It asks for a password, and there is none.
    #[error(
        "target: it asks for a password, and the credential is a certificate: its pg_hba.conf has to have the method cert, or the credential a line of a password"
    )]
    NoPassword,
    /// It asks for a way to authenticate that Postern does not know.
    #[error("target: it asks for authentication method {0}, which is not supported")]
    Method(u32),
    /// It offers no SASL mechanism that Postern knows.
    #[error("target: it offers no SCRAM-SHA-256")]
    Mechanism,
    /// SCRAM failed.
    #[error("target: {0}")]
    Scram(#[from] ScramError),
    /// It said that Postern is authenticated before it proved itself.
    #[error("target: it broke off SCRAM")]
    Unproven,
    /// A message that has no place here.
    #[error("target: unexpected message '{}' during login", .0.escape_ascii())]
    Unexpected(u8),
    /// More than Postern reads before a session is open.
    #[error("target: it sends too much during login")]
    TooMuch,
    /// Statements could not be read as it reads them.
    #[error("target: it does not keep {0}")]
    Setting(&'static str),
    /// It refused.
    #[error("target: it refused the login: {sqlstate} {message}")]
    Refused {
        /// Its code.
        sqlstate: String,
        /// Its message.
        message: String,
        /// The whole of it, as it came.
        raw: Bytes,
    },
}

impl LoginError {
    /// What the server said, for those to whom everything is granted: unless it is about the account, which is not theirs.
    #[must_use]
    pub fn told(&self) -> Option<&Bytes> {
        match self {
            Self::Refused { sqlstate, raw, .. } if !sqlstate.starts_with("28") => Some(raw),
            _ => None,
        }
    }

    /// Whether the target refused this account or its password (invalid_authorization_specification, invalid_password): another may do.
    #[must_use]
    pub fn refuses_account(&self) -> bool {
        matches!(self, Self::Refused { sqlstate, .. } if sqlstate == "28000" || sqlstate == "28P01")
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            // Class 53: insufficient resources; 57P0x: starting, shutting down.
            Self::Refused { sqlstate, .. } if sqlstate.starts_with("53") || sqlstate.starts_with("57") => {
                Code::TargetUnavailable
            }
            // invalid_catalog_name: no such database.
            Self::Refused { sqlstate, .. } if sqlstate == "3D000" => Code::UnknownTarget,
            _ => Code::TargetRefused,
        }
    }
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready").field("parameters", &self.parameters).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Settings under which statements are classified: as UTF-8, with standard strings. A server that is asked for them must keep them.
pub const DEMANDED: [(&str, &str); 2] = [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")];

/// `settings`, and those that are demanded.
#[must_use]
pub fn with_demanded(settings: &[(String, String)]) -> Vec<(String, String)> {
    let demanded = DEMANDED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    settings.iter().cloned().chain(demanded).collect()
}

impl Login {
    /// Begins a login; send the bytes (StartupMessage, protocol 3.0).
    #[must_use]
    pub fn new(credentials: &Credentials<'_>) -> (Self, Bytes) {
        let mut body = BytesMut::new();
        body.put_u32(startup::VERSION_3);
        let named = [("user", credentials.user), ("database", credentials.database)];
        let settings = credentials.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in named.into_iter().chain(settings) {
            write::text(&mut body, name.as_bytes());
            write::text(&mut body, value.as_bytes());
        }
        body.put_u8(0);
        let mut out = BytesMut::with_capacity(body.len().saturating_add(4));
        out.put_u32(u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX));
        out.put_slice(&body);
        let login = Self {
            user: credentials.user.to_owned(),
            password: credentials.password.cloned(),
            encrypted: credentials.encrypted,
            nonce: credentials.nonce,
            end_point: credentials.end_point.clone(),
            scram: credentials.scram.clone(),
            demanded: DEMANDED.iter().map(|demanded| is_among(demanded, credentials.settings)).collect(),
            phase: Phase::Start,
            frames: 0,
            ready: Ready::default(),
        };
        (login, out.freeze())
    }

    /// Takes what `buffer` holds. SCRAM costs thousands of hashes here, a few milliseconds, unless keys of an earlier login serve.
    ///
    /// # Errors
    /// When the session cannot be opened.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<LoginStep, LoginError> {
        while let Some(frame) = codec::next_frame(buffer, Origin::Backend, &LIMITS)? {
            self.frames = self.frames.saturating_add(1);
            if self.frames > MAX_FRAMES {
                return Err(LoginError::TooMuch);
            }
            match (frame.tag(), &self.phase) {
                (backend::AUTHENTICATION, _) => {
                    if let Some(answer) = self.authentication(&frame)? {
                        return Ok(LoginStep::Send(answer));
                    }
                }
                (backend::ERROR, _) => return Err(refused(&frame)?),
                (backend::NOTICE, Phase::Accepted) => self.notice(&frame),
                (backend::NOTICE | backend::NEGOTIATE_VERSION, _) => {}
                (backend::PARAMETER_STATUS, Phase::Accepted) => self.parameter(&frame)?,
                (backend::BACKEND_KEY_DATA, Phase::Accepted) => {
                    (self.ready.pid, self.ready.secret) = backend::backend_key(&frame)?;
                }
                (backend::READY_FOR_QUERY, Phase::Accepted) => {
                    self.ready.status = backend::ready_for_query(&frame)?;
                    let asked = DEMANDED.iter().zip(&self.demanded).filter(|(_, asked)| **asked);
                    let lost = asked.map(|(demanded, _)| demanded).find(|one| !is_among(one, &self.ready.parameters));
                    if let Some((name, _)) = lost {
                        return Err(LoginError::Setting(name));
                    }
                    return Ok(LoginStep::Ready(Box::new(std::mem::take(&mut self.ready))));
                }
                (tag, _) => return Err(LoginError::Unexpected(tag)),
            }
        }
        Ok(LoginStep::NeedMore)
    }

    fn notice(&mut self, frame: &Frame) {
        let kept = &mut self.ready.notices;
        if kept.len().saturating_add(frame.raw().len()) <= MAX_NOTICES {
            kept.extend_from_slice(frame.raw());
        }
    }

    fn parameter(&mut self, frame: &Frame) -> Result<(), LoginError> {
        let (name, value) = backend::parameter_status(frame)?;
        let fault = || CodecError::Malformed { tag: backend::PARAMETER_STATUS, what: "no UTF-8" };
        let name = String::from_utf8(name.to_vec()).map_err(|_| fault())?;
        let value = String::from_utf8(value.to_vec()).map_err(|_| fault())?;
        match self.ready.parameters.iter_mut().find(|(known, _)| *known == name) {
            Some((_, slot)) => *slot = value,
            None => self.ready.parameters.push((name, value)),
        }
        Ok(())
    }

    fn password(&self) -> Result<&SecretBytes, LoginError> {
        self.password.as_ref().ok_or(LoginError::NoPassword)
    }

    /// Section "Start-up", the Authentication messages.
    fn authentication(&mut self, frame: &Frame) -> Result<Option<Bytes>, LoginError> {
        let mut body = Reader::new(frame.tag(), frame.body());
        let method = body.uint32()?;
        let phase = std::mem::replace(&mut self.phase, Phase::Sent);
        match (method, phase) {
            (0, Phase::Start | Phase::Sent | Phase::ScramDone) => {
                self.phase = Phase::Accepted;
                Ok(None)
            }
            (0, _) => Err(LoginError::Unproven),
            (3, Phase::Start) if self.encrypted => Ok(Some(password_message(self.password()?.expose()))),
            (3, Phase::Start) => Err(LoginError::Cleartext),
            (5, Phase::Start) => {
                let salt = body.bytes(4)?;
                let answer = md5_answer(self.user.as_bytes(), self.password()?.expose(), &salt);
                Ok(Some(password_message(answer.as_bytes())))
            }
            (10, Phase::Start) => {
                self.password()?;
                let (mut plain, mut plus) = (false, false);
                while body.remaining() > 1 {
                    let offered = body.text()?;
                    plain |= offered.as_ref() == scram::MECHANISM.as_bytes();
                    plus |= offered.as_ref() == scram::MECHANISM_PLUS.as_bytes();
                }
                let binding = match self.end_point.take() {
                    Some(hash) if plus => Binding::EndPoint(hash),
                    Some(_) if plain => Binding::NotOffered,
                    None if plain => Binding::None,
                    Some(_) | None => return Err(LoginError::Mechanism),
                };
                let mechanism = binding.mechanism();
                let (first, message) = scram::First::new("", &self.nonce, binding);
                self.phase = Phase::ScramFirst(first);
                let mut out = BytesMut::new();
                write::frame(&mut out, frontend::PASSWORD, |out| {
                    write::text(out, mechanism.as_bytes());
                    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
                    out.put_slice(message.as_bytes());
                });
                Ok(Some(out.freeze()))
            }
            (11, Phase::ScramFirst(first)) => {
                let (last, message) = first.challenge(&body.rest(), self.password()?, self.scram.as_ref())?;
                self.phase = Phase::ScramFinal(Box::new(last));
                let mut out = BytesMut::new();
                write::frame(&mut out, frontend::PASSWORD, |out| out.put_slice(message.as_bytes()));
                Ok(Some(out.freeze()))
            }
            (12, Phase::ScramFinal(last)) => {
                self.ready.scram = Some(last.verify(&body.rest())?);
                self.phase = Phase::ScramDone;
                Ok(None)
            }
            (11 | 12, _) => Err(LoginError::Unexpected(backend::AUTHENTICATION)),
            (method, _) => Err(LoginError::Method(method)),
        }
    }
}

fn is_among((name, value): &(&str, &str), settings: &[(String, String)]) -> bool {
    settings.iter().any(|(n, v)| n == name && v == value)
}

fn refused(frame: &Frame) -> Result<LoginError, LoginError> {
    let fields = backend::message_fields(frame)?;
    let (sqlstate, message) = (backend::field(&fields, b'C').to_owned(), backend::field(&fields, b'M').to_owned());
    // Its own copy: as a part of what was read it would hold all of that.
    Ok(LoginError::Refused { sqlstate, message, raw: Bytes::copy_from_slice(frame.raw()) })
}

fn password_message(password: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    write::frame(&mut out, frontend::PASSWORD, |out| write::text(out, password));
    out.freeze()
}

/// `md5` and the hex of md5(hex(md5(password user)) salt) (section "Start-up", AuthenticationMD5Password).
fn md5_answer(user: &[u8], password: &[u8], salt: &[u8]) -> Zeroizing<String> {
    let inner = Zeroizing::new(hex(&Md5::new().chain_update(password).chain_update(user).finalize()));
    let outer = hex(&Md5::new().chain_update(inner.as_bytes()).chain_update(salt).finalize());
    Zeroizing::new(format!("md5{outer}"))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(32), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests;
