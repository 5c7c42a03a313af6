//! The side of the local client: what PostgreSQL's protocol has before a session (PostgreSQL documentation, 54.2.1, "Start-up", and 54.7).

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Stream;
use crate::failure::Failure;
use crate::output::printable;

/// As servers have it.
const MAX_STARTUP: usize = 10_000;
const MAX_PASSWORD: usize = 1_024;
/// Requests for encryption before the startup message: TLS and GSS, once each.
const MAX_REQUESTS: usize = 4;
const GREETING_LIMIT: Duration = Duration::from_secs(15);

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Version 3, whatever the minor one.
const MAJOR: u32 = 3;

/// What a client began with.
pub(super) enum Greeted {
    Session(Startup),
    /// The whole message, to be passed on.
    Cancel(Vec<u8>),
    /// It went away.
    Nothing,
}

/// A startup message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Startup {
    pub(super) version: u32,
    /// Names and values, as they came.
    pub(super) parameters: Vec<(String, String)>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the password is wrong: it is the one that `postern proxy` showed when it began")]
    Password,
    #[error("this is not PostgreSQL's protocol, version 3")]
    Protocol,
    #[error("{0}")]
    NoSession(String),
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
}

impl Refused {
    #[allow(clippy::needless_pass_by_value)] // for map_err
    pub(super) fn no_session(failure: Failure) -> Self {
        Self::NoSession(failure.to_string())
    }
}

/// Reads what the client begins with, and has it give the password.
pub(super) async fn greet(client: &mut Box<dyn Stream>, password: Option<&SecretString>) -> Result<Greeted, Refused> {
    let greeted = async {
        for _ in 0..MAX_REQUESTS {
            let Some(message) = message(client, MAX_STARTUP).await? else { return Ok(Greeted::Nothing) };
            match code(&message)? {
                // Nothing leaves this machine here.
                SSL_REQUEST | GSS_REQUEST => client.write_all(b"N").await?,
                CANCEL_REQUEST => return Ok(Greeted::Cancel(message)),
                _ => {
                    let startup = Startup::read(&message)?;
                    if let Some(password) = password {
                        check(client, password).await?;
                    }
                    return Ok(Greeted::Session(startup));
                }
            }
        }
        Err(Refused::Protocol)
    };
    tokio::time::timeout(GREETING_LIMIT, greeted).await.unwrap_or(Ok(Greeted::Nothing))
}

/// A message without a type: its length first, which counts itself. `None`: the client went away before it.
async fn message(client: &mut Box<dyn Stream>, limit: usize) -> Result<Option<Vec<u8>>, Refused> {
    let mut length = [0; 4];
    match client.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let whole = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    // Checked before anything is allocated.
    let rest = whole.checked_sub(4).filter(|rest| (4..=limit).contains(rest)).ok_or(Refused::Protocol)?;
    let mut message = length.to_vec();
    message.resize(rest.saturating_add(4), 0);
    client.read_exact(message.get_mut(4..).unwrap_or_default()).await?;
    Ok(Some(message))
}

fn code(message: &[u8]) -> Result<u32, Refused> {
    let bytes = message.get(4..8).and_then(|bytes| bytes.try_into().ok()).ok_or(Refused::Protocol)?;
    Ok(u32::from_be_bytes(bytes))
}

async fn check(client: &mut Box<dyn Stream>, password: &SecretString) -> Result<(), Refused> {
    // AuthenticationCleartextPassword: it stays on this machine.
    client.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]).await?;
    let kind = client.read_u8().await?;
    if kind != b'p' {
        return Err(Refused::Protocol);
    }
    let length = usize::try_from(client.read_u32().await?).unwrap_or(usize::MAX);
    let rest = length.checked_sub(4).filter(|rest| (1..=MAX_PASSWORD).contains(rest)).ok_or(Refused::Protocol)?;
    let mut given = zeroize::Zeroizing::new(vec![0; rest]);
    client.read_exact(&mut given).await?;
    let given = given.strip_suffix(&[0]).ok_or(Refused::Protocol)?;
    if verify_slices_are_equal(given, password.expose_secret().as_bytes()).is_err() {
        tokio::time::sleep(super::WRONG_PASSWORD).await;
        return Err(Refused::Password);
    }
    Ok(())
}

impl Startup {
    fn read(message: &[u8]) -> Result<Self, Refused> {
        let version = code(message)?;
        if version >> 16 != MAJOR {
            return Err(Refused::Protocol);
        }
        let rest = message.get(8..).and_then(|rest| rest.strip_suffix(&[0])).ok_or(Refused::Protocol)?;
        let mut texts = Vec::new();
        for text in rest.split_inclusive(|byte| *byte == 0) {
            let text = text.strip_suffix(&[0]).ok_or(Refused::Protocol)?;
            texts.push(std::str::from_utf8(text).map_err(|_| Refused::Protocol)?.to_owned());
        }
        let mut parameters = Vec::new();
        let mut texts = texts.into_iter();
        while let Some(name) = texts.next() {
            parameters.push((name, texts.next().ok_or(Refused::Protocol)?));
        }
        Ok(Self { version, parameters })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The same to a gateway: with `user`, and `database` where the client names none of its own.
    pub(super) fn to(&self, user: &str, database: Option<&str>) -> Vec<u8> {
        // Without a database the client means the one of its user's name: that user is nobody there.
        let named = self.get("database").filter(|named| Some(*named) != self.get("user"));
        let database = named.or(database).unwrap_or(user);
        let mut body = self.version.to_be_bytes().to_vec();
        let others = self.parameters.iter().filter(|(name, _)| name != "user" && name != "database");
        let others = others.map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in [("user", user), ("database", database)].into_iter().chain(others) {
            for text in [name, value] {
                body.extend_from_slice(text.as_bytes());
                body.push(0);
            }
        }
        body.push(0);
        let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
        [&length.to_be_bytes()[..], &body].concat()
    }
}

/// An ErrorResponse that ends the connection.
pub(super) fn error(refused: &Refused) -> Vec<u8> {
    let code = match refused {
        Refused::Password => "28P01",
        Refused::Protocol => "08P01",
        Refused::NoSession(_) | Refused::Io(_) => "08004",
    };
    let mut body = Vec::new();
    let message = printable(&refused.to_string()).replace('\0', "");
    for (field, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', &*message)] {
        body.push(field);
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
    [&[b'E'][..], &length.to_be_bytes(), &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(version: u32, texts: &[u8]) -> Vec<u8> {
        let mut message = u32::try_from(texts.len() + 8).unwrap().to_be_bytes().to_vec();
        message.extend(version.to_be_bytes());
        message.extend(texts);
        message
    }

    async fn greeted(sent: &[u8], password: Option<&str>) -> (Result<Greeted, Refused>, Vec<u8>) {
        let (mine, theirs) = tokio::io::duplex(64 << 10);
        let mut client: Box<dyn Stream> = Box::new(theirs);
        let password = password.map(|text| SecretString::from(text.to_owned()));
        let (mut read, mut write) = tokio::io::split(mine);
        write.write_all(sent).await.unwrap();
        write.shutdown().await.unwrap();
        let greeted = greet(&mut client, password.as_ref()).await;
        drop(client);
        let mut answered = Vec::new();
        let _ = read.read_to_end(&mut answered).await;
        (greeted, answered)
    }

    #[tokio::test]
    async fn a_client_is_greeted_as_a_server_would() {
        let begin = startup(196_608, b"user\0me\0application_name\0x\0\0");
        let ssl = [8_u32.to_be_bytes(), SSL_REQUEST.to_be_bytes()].concat();
        let (session, answered) = greeted(&[&ssl[..], &begin].concat(), None).await;
        let Ok(Greeted::Session(startup)) = session else { panic!() };
        assert_eq!((answered, startup.get("application_name")), (b"N".to_vec(), Some("x")));
        let to = startup.to("shop", Some("db"));
        assert_eq!(&to[8..], b"user\0shop\0database\0db\0application_name\0x\0\0");
        assert_eq!(usize::try_from(u32::from_be_bytes(to[..4].try_into().unwrap())).unwrap(), to.len());

        let cancel = [&16_u32.to_be_bytes()[..], &CANCEL_REQUEST.to_be_bytes(), &[1; 8]].concat();
        assert!(matches!(greeted(&cancel, Some("p")).await.0, Ok(Greeted::Cancel(message)) if message == cancel));
        assert!(matches!(greeted(b"", None).await.0, Ok(Greeted::Nothing)));
    }

    #[tokio::test]
    async fn nobody_comes_in_without_the_password() {
        let begin = startup(196_608, b"user\0me\0\0");
        let with = |password: &[u8]| {
            let length = u32::try_from(password.len() + 5).unwrap().to_be_bytes();
            [&begin[..], b"p", &length, password, b"\0"].concat()
        };
        assert!(matches!(greeted(&with(b"right"), Some("right")).await.0, Ok(Greeted::Session(_))));
        for wrong in [&b"wrong"[..], b"", b"right ", b"righ"] {
            assert!(matches!(greeted(&with(wrong), Some("right")).await.0, Err(Refused::Password)));
        }
        assert!(greeted(&begin, Some("right")).await.0.is_err());
        assert!(matches!(greeted(&[&begin[..], b"Q\0\0\0\x05\0"].concat(), Some("x")).await.0, Err(Refused::Protocol)));
    }

    #[tokio::test]
    async fn what_is_not_the_protocol_is_refused_and_nothing_is_allocated_for_it() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0, 0, 0, 7, 0, 3, 0],
            &[255; 32],
            &startup(131_072, b"\0"),
            &startup(196_608, b"user\0me"),
            &startup(196_608, b"user\0\0"),
            &startup(196_608, b"user\0\xff\0\0"),
            &startup(196_608, b""),
        ] {
            assert!(!matches!(greeted(bytes, None).await.0, Ok(Greeted::Session(_) | Greeted::Cancel(_))), "{bytes:?}");
        }
        let ssl = [8_u32.to_be_bytes(), SSL_REQUEST.to_be_bytes()].concat();
        assert!(matches!(greeted(&ssl.repeat(9), None).await.0, Err(Refused::Protocol)));
    }
}
