//! A Vault of the tests' own: no HashiCorp Vault can be installed from the registries that the tests may use, so this one speaks as much
//! of its HTTP API as Postern uses, with its status codes and words, written after its API documentation.
//!
//! It is faithful in what Postern depends on: tokens with policies, a life and renewal (given, AppRole, JWT, Kubernetes); transit with key
//! versions and associated data, truly encrypted; key-value version 2 with versions and deletion; database roles that are made in, and
//! dropped from, a real PostgreSQL, with leases that end by themselves, with their token, or by revocation; sealing, standby and rate
//! limits. It keeps everything in memory. It is no Vault: no storage, no seal keys, no namespaces but one, no audit.

mod auth;
mod database;
mod kv;
mod state;
mod transit;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;

pub use auth::Rule;
pub use database::DatabaseRole;
use state::State;

/// The server. Dropping it ends it; what it leased in a PostgreSQL stays there.
#[derive(Debug)]
pub struct Vault {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What Vault answers.
struct Answer {
    status: StatusCode,
    body: Value,
}

/// What it was asked.
struct Asked<'a> {
    method: &'a Method,
    path: &'a str,
    query: &'a str,
    body: Value,
    token: &'a str,
}

impl Answer {
    fn errors(status: u16, errors: &[&str]) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, body: json!({"errors": errors}) }
    }

    fn denied() -> Self {
        Self::errors(403, &["1 error occurred:\n\t* permission denied\n\n"])
    }

    fn data(data: Value) -> Self {
        Self::whole(json!({"data": data}))
    }

    /// `parts` in the frame that every answer has.
    fn whole(parts: Value) -> Self {
        let mut body = json!({
            "request_id": "00000000-0000-0000-0000-000000000000", "lease_id": "", "renewable": false, "lease_duration": 0,
            "data": null, "wrap_info": null, "warnings": null, "auth": null,
        });
        if let (Some(body), Value::Object(parts)) = (body.as_object_mut(), parts) {
            body.extend(parts);
        }
        Self { status: StatusCode::OK, body }
    }
}

impl Vault {
    /// Starts unsealed and empty, with `transit`, `secret` and `database` mounted, and the root token [`Self::root_token`].
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> Result<Self> {
        let state = Arc::new(Mutex::new(State::new()?));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut this = Self { address: listener.local_addr()?, state, stop: None, thread: None };
        this.serve(listener)?;
        Ok(this)
    }

    /// Cuts every connection and takes no more: an outage. What it holds stays.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }

    /// Comes back at the same address after [`Self::stop`].
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn resume(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            match std::net::TcpListener::bind(self.address) {
                Ok(listener) => return self.serve(listener),
                Err(error) if began.elapsed() > Duration::from_secs(10) => return Err(error.into()),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    fn serve(&mut self, listener: std::net::TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let state = Arc::clone(&self.state);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        self.stop = Some(stop);
        self.thread = Some(std::thread::spawn(move || {
            let served = async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let app = Router::new().fallback(handle).with_state(Arc::clone(&state));
                let expire = async {
                    loop {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        lock(&state).expire();
                    }
                };
                tokio::select! {
                    served = axum::serve(listener, app) => served,
                    () = expire => Ok(()),
                    _ = stopped => Ok(()),
                }
            };
            if let Err(error) = runtime.block_on(served) {
                tracing_free_note(&error);
            }
            // Open connections end with the runtime.
            runtime.shutdown_timeout(Duration::from_secs(1));
        }));
        Ok(())
    }

    /// `http://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A token that may do everything.
    #[must_use]
    pub const fn root_token(&self) -> &'static str {
        auth::ROOT
    }

    /// Seals it: every call is answered with 503 until [`Self::unseal`].
    pub fn seal(&self) {
        self.state().sealed = true;
    }

    /// Unseals it.
    pub fn unseal(&self) {
        self.state().sealed = false;
    }

    /// Answers as a standby that forwards nothing does, or as the active node again.
    pub fn set_standby(&self, standby: bool) {
        self.state().standby = standby;
    }

    /// Answers everything with 429, or not.
    pub fn set_rate_limited(&self, limited: bool) {
        self.state().rate_limited = limited;
    }

    /// Demands this namespace in every call.
    pub fn set_namespace(&self, namespace: &str) {
        self.state().namespace = Some(namespace.to_owned());
    }

    /// How many calls went to paths that contain `part`.
    #[must_use]
    pub fn calls(&self, part: &str) -> usize {
        self.state().calls.iter().filter(|path| path.contains(part)).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The test that waits for an answer will tell.
fn tracing_free_note(error: &std::io::Error) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "the tests' Vault ended: {error}");
}

async fn handle(
    Extract(state): Extract<Arc<Mutex<State>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(path) = uri.path().strip_prefix("/v1/") else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let body = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&body) };
    let mut state = lock(&state);
    state.calls.push(path.to_owned());
    let answer = match body {
        Err(_) => Answer::errors(400, &["error parsing JSON"]),
        Ok(body) => {
            let asked = Asked {
                method: &method,
                path,
                query: uri.query().unwrap_or_default(),
                body,
                token: header("x-vault-token"),
            };
            state.answer(&asked, header("x-vault-namespace"))
        }
    };
    drop(state);
    if answer.status == StatusCode::TEMPORARY_REDIRECT {
        let location = format!("http://127.0.0.1:1{}", uri.path());
        return (answer.status, [("Location", location)]).into_response();
    }
    if answer.status == StatusCode::NO_CONTENT {
        return answer.status.into_response();
    }
    (answer.status, [("Content-Type", "application/json")], answer.body.to_string()).into_response()
}

fn random(bytes: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut out).ok().context("no randomness")?;
    Ok(out)
}

fn random_text(letters: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let bytes = random(letters).unwrap_or_default();
    bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len())).map(|b| char::from(*b)).collect()
}
