//! A client that speaks PostgreSQL's protocol byte by byte, and may cheat: what stock clients never send.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use postern_runtime::tls::AnyServer;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// Version 3.0 of the protocol (PostgreSQL, "Message Formats", `StartupMessage`).
pub const PROTOCOL_3: u32 = 196_608;
/// Asks for TLS (`SSLRequest`).
pub const SSL_REQUEST: u32 = 80_877_103;
/// Asks to cancel (`CancelRequest`).
pub const CANCEL_REQUEST: u32 = 80_877_102;

/// A raw connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

/// One message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: char,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, tls: None })
    }

    /// Connects and speaks TLS, with whoever it is: nobody has to answer for longer than `patience`, now and later.
    ///
    /// # Errors
    /// When nobody listens, or speaks TLS.
    pub fn connect_tls(address: &str, patience: Duration) -> Result<Self> {
        let address = address.to_socket_addrs()?.next().context("an address")?;
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let mut this = Self { stream, tls: None };
        this.send(&framed(&SSL_REQUEST.to_be_bytes())?)?;
        let mut answer = [0];
        this.read_exact(&mut answer)?;
        ensure!(answer == *b"S", "it speaks no TLS");
        this.secure(&[])?;
        Ok(this)
    }

    /// Speaks TLS from the first byte on, and says by ALPN what is inside.
    ///
    /// # Errors
    /// When TLS cannot be configured.
    pub fn secure(&mut self, alpn: &[&[u8]]) -> Result<()> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        self.tls = Some(Box::new(ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?));
        Ok(())
    }

    fn read_exact(&mut self, into: &mut [u8]) -> std::io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read_exact(into),
            None => self.stream.read_exact(into),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).write_all(bytes)?,
            None => self.stream.write_all(bytes)?,
        }
        Ok(())
    }

    /// Sends a message of the given type.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn message(&mut self, kind: char, body: &[u8]) -> Result<()> {
        self.send(&message(kind, body)?)
    }

    /// Sends a `StartupMessage`.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn startup(&mut self, user: &str, database: &str) -> Result<()> {
        self.startup_as(PROTOCOL_3, user, database)
    }

    /// The same, of that version of the protocol.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn startup_as(&mut self, version: u32, user: &str, database: &str) -> Result<()> {
        let mut body = version.to_be_bytes().to_vec();
        for text in ["user", user, "database", database] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        self.send(&framed(&body)?)
    }

    /// Starts up and presents `token`; returns once the server is ready for a query.
    ///
    /// # Errors
    /// When it is refused: the error's fields are in the message.
    pub fn login(&mut self, user: &str, database: &str, token: &str) -> Result<()> {
        self.startup(user, database)?;
        self.present(token).map(drop)
    }

    /// After a startup: presents `token`; returns what came until the server was ready for a query.
    ///
    /// # Errors
    /// As [`Wire::login`].
    pub fn present(&mut self, token: &str) -> Result<Vec<Message>> {
        let mut hello = Vec::new();
        loop {
            let message = self.read()?;
            match message.kind {
                'R' if message.body == 3_u32.to_be_bytes() => {
                    let mut password = token.as_bytes().to_vec();
                    password.push(0);
                    self.message('p', &password)?;
                }
                'Z' => return Ok(hello),
                'E' => bail!("refused: {:?}", message.fields()),
                _ => hello.push(message),
            }
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// When the connection ends, or nothing comes in a minute.
    pub fn read(&mut self) -> Result<Message> {
        let mut head = [0; 5];
        self.read_exact(&mut head).context("the connection ended")?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length))?.checked_sub(4).context("a length counts itself")?;
        ensure!(length < 64 << 20, "a message of {length} bytes");
        let mut body = vec![0; length];
        self.read_exact(&mut body)?;
        Ok(Message { kind: char::from(kind), body })
    }

    /// The messages up to and with `ReadyForQuery`.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn until_ready(&mut self) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            let message = self.read()?;
            let last = message.kind == 'Z';
            messages.push(message);
            if last {
                return Ok(messages);
            }
        }
    }

    /// A simple query, and its answer.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Message>> {
        self.message('Q', format!("{sql}\0").as_bytes())?;
        self.until_ready()
    }

    /// Whether the server closes the connection, whatever it says before.
    ///
    /// # Errors
    /// When it does neither speak nor close in a minute.
    pub fn closes(&mut self) -> Result<bool> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The stream itself.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Message {
    /// The fields of an `ErrorResponse` or `NoticeResponse`.
    #[must_use]
    pub fn fields(&self) -> Vec<(char, String)> {
        let parts = self.body.split(|byte| *byte == 0);
        parts
            .filter_map(|part| {
                let (kind, text) = part.split_first()?;
                Some((char::from(*kind), super::process::text(text)))
            })
            .collect()
    }

    /// One field of an `ErrorResponse`: 'C' is the SQLSTATE, 'M' the message.
    #[must_use]
    pub fn field(&self, kind: char) -> Option<String> {
        self.fields().into_iter().find(|(name, _)| *name == kind).map(|(_, text)| text)
    }

    /// The values of a `DataRow`; `None` for NULL.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn values(&self) -> Result<Vec<Option<Vec<u8>>>> {
        let (count, mut rest) = self.body.split_first_chunk::<2>().context("a count of columns")?;
        let mut values = Vec::new();
        for _ in 0..u16::from_be_bytes(*count) {
            let (length, after) = rest.split_first_chunk::<4>().context("a length")?;
            match usize::try_from(i32::from_be_bytes(*length)) {
                Err(_) => {
                    values.push(None);
                    rest = after;
                }
                Ok(length) => {
                    let (value, after) = after.split_at_checked(length).context("a value")?;
                    values.push(Some(value.to_vec()));
                    rest = after;
                }
            }
        }
        Ok(values)
    }
}

/// A typed message.
///
/// # Errors
/// When it is too long for the protocol.
pub fn message(kind: char, body: &[u8]) -> Result<Vec<u8>> {
    let mut out = vec![u8::try_from(kind)?];
    out.extend(framed(body)?);
    Ok(out)
}

/// A message without a type, as before the startup.
///
/// # Errors
/// When it is too long for the protocol.
pub fn framed(body: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(body.len())?.checked_add(4).context("too long")?;
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(body);
    Ok(out)
}

/// `Parse` of `sql` under `name`.
///
/// # Errors
/// When it is too long for the protocol.
pub fn parse(name: &str, sql: &str) -> Result<Vec<u8>> {
    message('P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// `Bind` of statement `name` to the unnamed portal, with text parameters, for results in format `format` (0 text, 1 binary).
///
/// # Errors
/// When it is too long for the protocol.
pub fn bind(name: &str, parameters: &[&str], format: u16) -> Result<Vec<u8>> {
    let mut body = [b"\0", name.as_bytes(), b"\0\0\0"].concat();
    body.extend(u16::try_from(parameters.len())?.to_be_bytes());
    for parameter in parameters {
        body.extend(u32::try_from(parameter.len())?.to_be_bytes());
        body.extend(parameter.as_bytes());
    }
    body.extend(1_u16.to_be_bytes());
    body.extend(format.to_be_bytes());
    message('B', &body)
}

/// `Describe` of the unnamed portal and `Execute` of it.
///
/// # Errors
/// Never in practice.
pub fn execute() -> Result<Vec<u8>> {
    Ok([message('D', b"P\0")?, message('E', b"\0\0\0\0\0")?].concat())
}

/// `Sync`.
///
/// # Errors
/// Never in practice.
pub fn sync() -> Result<Vec<u8>> {
    message('S', b"")
}
