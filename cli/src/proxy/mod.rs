//! `postern proxy`: a listener on this machine for clients that cannot come by tokens themselves. Each of their connections has a fresh token, and
//! goes on to a gateway over TLS that is verified.
//!
//! Whoever connects here acts as the one who started it: other users of this machine must not. On loopback a client gives a password; a Unix
//! socket is this user's alone.
//!
//! Acceptor -> one task for each connection: [`local`] greets, a token is made, [`gateway`] logs in by it, and bytes are copied both ways until one
//! side ends, or the gateway ends the session with its token (I6).

mod gateway;
mod local;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_core::target::Address;
use postern_runtime::clock;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::args::ConnectionArgs;
use crate::client_args::ProxyArgs;
use crate::commands::when_exactly;
use crate::credentials;
use crate::failure::Failure;
use crate::output;
use crate::reach::Reach;

/// Connections at a time.
const MOST: usize = 256;
/// From connecting to the gateway's answer to the token.
const GREETING_LIMIT: Duration = Duration::from_secs(30);
/// Before a wrong password is answered.
const WRONG_PASSWORD: Duration = Duration::from_millis(500);
/// After a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// A connection of a client, whatever it came by.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

struct Proxy {
    reach: Reach,
    /// None: the socket's mode is enough.
    password: Option<SecretString>,
    places: Semaphore,
    /// Gateways of open connections, each with how many: a client's cancel goes to them.
    used: Mutex<BTreeMap<String, (Address, usize)>>,
}

pub(crate) async fn run(args: &ProxyArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    if !args.listen.is_loopback() {
        return Err(Failure::usage("--listen: a loopback address; whoever connects acts as you"));
    }
    let reach = Reach::find(&args.reach, connection).await?;
    // At once, rather than at the first connection.
    let first = reach.token().await?;
    let _ = reach.give_back(&first).await;
    let supervisor = Supervisor::new();
    let password = if args.socket.is_none() { Some(password(args)?) } else { None };
    let shown = password.clone().filter(|_| args.password_file.is_none());
    let proxy = Proxy { reach, password, places: Semaphore::new(MOST), used: Mutex::default() };
    let proxy = Arc::new(proxy);
    let target = proxy.reach.target.to_string();
    if let Some(folder) = &args.socket {
        let socket = Socket::bind(folder.join(format!(".s.PGSQL.{}", args.port)))?;
        output::line(format!("host={} port={} user={target}", folder.display(), args.port))?;
        accept(&proxy, &supervisor, async || Ok(socket.listener.accept().await?.0)).await;
    } else {
        let cannot = |error| Failure::failed(format!("cannot listen on {}:{}: {error}", args.listen, args.port));
        let listener = TcpListener::bind((args.listen, args.port)).await.map_err(cannot)?;
        let port = listener.local_addr().map_err(cannot)?.port();
        output::line(format!("host={} port={port} user={target} sslmode=disable", args.listen))?;
        if let Some(password) = shown {
            output::note(format!(
                "The password for local clients, which is not shown again: {}",
                password.expose_secret()
            ));
        }
        let next = async || {
            let (stream, _) = listener.accept().await?;
            let _ = stream.set_nodelay(true);
            Ok(stream)
        };
        accept(&proxy, &supervisor, next).await;
    }
    supervisor.drain(DRAIN_LIMIT).await;
    Ok(())
}

/// What local clients must give: new each time.
fn password(args: &ProxyArgs) -> Result<SecretString, Failure> {
    let password = SecretString::from(URL_SAFE_NO_PAD.encode(clock::random_u128().to_be_bytes()));
    if let Some(file) = &args.password_file {
        postern_runtime::pki::write_private(file, password.expose_secret().as_bytes())
            .map_err(|error| Failure::failed(error.to_string()))?;
    }
    Ok(password)
}

/// A socket that goes with us.
struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// In a folder that is this user's alone: between its making and its mode nobody else gets at it.
    fn bind(path: PathBuf) -> Result<Self, Failure> {
        let folder = path.parent().unwrap_or(&path);
        credentials::private_folder(folder)?;
        let cannot = |error| Failure::failed(format!("cannot listen on {}: {error}", path.display()));
        if path.exists() {
            // Of one that was killed. One that still answers keeps it.
            if std::os::unix::net::UnixStream::connect(&path).is_ok() {
                return Err(Failure::failed(format!("somebody listens on {} already", path.display())));
            }
            std::fs::remove_file(&path).map_err(cannot)?;
        }
        let listener = UnixListener::bind(&path).map_err(cannot)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(cannot)?;
        Ok(Self { path, listener })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves whoever `next` gives, until this process is told to stop.
async fn accept<S: Stream + 'static>(
    proxy: &Arc<Proxy>,
    supervisor: &Supervisor,
    next: impl AsyncFn() -> std::io::Result<S>,
) {
    let stopped = supervisor.until_shutdown();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            accepted = next() => match accepted {
                Ok(stream) => serve(proxy, Box::new(stream), supervisor),
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            },
        }
    }
}

fn serve(proxy: &Arc<Proxy>, client: Box<dyn Stream>, supervisor: &Supervisor) {
    let (proxy, stop) = (Arc::clone(proxy), supervisor.shutdown_token());
    supervisor.spawn("proxied-connection", OnEnd::EndSession, async move {
        // Beyond that a client waits for its greeting no longer than its own patience.
        let Ok(_place) = proxy.places.try_acquire() else { return };
        proxy.connection(client, stop).await;
    });
}

impl Proxy {
    async fn connection(&self, mut client: Box<dyn Stream>, stop: CancellationToken) {
        let opened = tokio::time::timeout(GREETING_LIMIT, self.open(&mut client)).await;
        let (mut gateway, address, until) = match opened {
            Ok(Ok(Some(opened))) => opened,
            Ok(Ok(None)) => return,
            Ok(Err(refused)) => {
                output::note(format!("a connection was refused: {refused}"));
                let _ = client.write_all(&local::error(&refused)).await;
                return;
            }
            Err(_) => return,
        };
        self.count(&address, true);
        let copied = tokio::select! {
            () = stop.cancelled() => None,
            copied = tokio::io::copy_bidirectional(&mut client, &mut gateway.stream) => Some(copied),
        };
        self.count(&address, false);
        if copied.is_some() && clock::now() >= until {
            output::note(format!(
                "a connection ended with its token at {}: the client may connect again",
                when_exactly(until)
            ));
        }
        if let Err(failure) = self.reach.give_back(&gateway.token).await {
            output::note(format!("a token could not be revoked, and is good until {}: {failure}", when_exactly(until)));
        }
    }

    /// `None`: it wanted something else than a session, and has had it.
    async fn open(
        &self,
        client: &mut Box<dyn Stream>,
    ) -> Result<Option<(gateway::Session, Address, postern_core::Timestamp)>, local::Refused> {
        let startup = match local::greet(client, self.password.as_ref()).await? {
            local::Greeted::Session(startup) => startup,
            local::Greeted::Cancel(request) => {
                self.cancel(&request).await;
                return Ok(None);
            }
            local::Greeted::Nothing => return Ok(None),
        };
        let token = self.reach.token().await.map_err(local::Refused::no_session)?;
        let until = token.expires_at;
        let mut why = Failure::failed("there is no gateway");
        for address in &self.reach.gateways {
            match gateway::connect(&self.reach, address).await {
                Ok(stream) => {
                    let session = gateway::log_in(stream, client, &self.reach, &startup, token).await?;
                    return Ok(session.map(|session| (session, address.clone(), until)));
                }
                Err(failure) => why = failure,
            }
        }
        Err(local::Refused::no_session(why))
    }

    fn count(&self, address: &Address, up: bool) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let key = address.to_string();
        let (_, count) = used.entry(key.clone()).or_insert_with(|| (address.clone(), 0));
        *count = if up { count.saturating_add(1) } else { count.saturating_sub(1) };
        if *count == 0 {
            used.remove(&key);
        }
    }

    /// Whose key it is only its gateway knows.
    async fn cancel(&self, request: &[u8]) {
        let used: Vec<Address> = {
            let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.values().map(|(address, _)| address.clone()).collect()
        };
        for address in used {
            if let Ok(mut stream) = gateway::connect(&self.reach, &address).await {
                let _ = stream.write_all(request).await;
                let _ = stream.shutdown().await;
            }
        }
    }
}
