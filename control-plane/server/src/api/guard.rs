//! Stands in front of every service: who calls, whether they may, whether the request holds what this version does not know, and the
//! audit log. A service cannot be reached past it, and a method without an entry in [`super::permissions`] is not served.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state};
use http::{HeaderMap, Request, Response};
use postern_core::resource::FieldFault;
use postern_runtime::clock;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Status};
use tracing::debug;

use super::access::{Access, Caller};
use super::call::Call;
use super::permissions::{self, Audit, Needs, Rule};
use super::proof::{self, NONCE};
use super::schema::SCHEMA;
use super::{MAX_REQUEST, status};
use crate::serve::PeerInfo;

/// How long the one message of a request may take to come.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// The largest request of who has shown nothing yet.
const MAX_OPEN_REQUEST: usize = 256 << 10;
/// Flag and length before a gRPC message (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// Puts the guard in front of `routes`.
pub(super) fn guarded(routes: Routes, access: &Access) -> Routes {
    Routes::from(routes.into_axum_router().layer(from_fn_with_state(access.clone(), guard)))
}

async fn guard(State(access): State<Access>, request: Request<Body>, next: Next) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let call_id = clock::request_id().to_string();
    let Some(rule) = permissions::rule(&path) else {
        let status = Status::unimplemented(format!("{path} is not served here"));
        return status::enriched(&status, &call_id).into_http();
    };
    let peer = request.extensions().get::<PeerInfo>().cloned();
    let nonce = access.next_nonce(request.headers());
    let (call, answer) = match admitted(&access, rule, &path, request, peer.as_ref()).await {
        Ok((call, request)) => {
            let answer = next.run(request).await;
            (call, answer)
        }
        Err((call, status)) => (call, status.into_http()),
    };
    let status = refusal(answer.headers(), answer.extensions().get::<Status>());
    if let Some(status) = &status {
        debug!(call = call_id, caller = %call.caller(), method = path, code = ?status.code(), "refused: {}", status.message());
    }
    let answer = match &status {
        Some(status) => status::enriched(status, &call_id).into_http(),
        None => answer,
    };
    let mut answer = match recorded(&access, rule, &call, status.as_ref()).await {
        Ok(()) => answer,
        // Told to nobody what the log does not say that they were told.
        Err(unrecorded) => status::enriched(&unrecorded, &call_id).into_http(),
    };
    answer.headers_mut().extend(nonce.map(|nonce| (NONCE, nonce)));
    answer
}

/// The call and its request, if it may go on.
async fn admitted(
    access: &Access,
    rule: Rule,
    path: &str,
    request: Request<Body>,
    peer: Option<&PeerInfo>,
) -> Result<(Arc<Call>, Request<Body>), (Arc<Call>, Status)> {
    let (mut parts, body) = request.into_parts();
    let metadata = MetadataMap::from_headers(parts.headers.clone());
    let address = peer.map(|peer| peer.address.ip().to_string()).unwrap_or_default();
    let call = |caller: Caller| Arc::new(Call::new(caller, path, address.clone(), &access.node));
    let mut caller = match access.identify(&metadata, peer, (parts.method.as_str(), &proof::url(path))).await {
        Ok(caller) => caller,
        Err(refused) => return Err((call(Caller::unknown(peer)), refused.status)),
    };
    if Caller::needs_look_up(rule.needs)
        && let Err(status) = access.look_up(&mut caller).await
    {
        return Err((call(caller), status));
    }
    if let Err(status) = caller.check(rule.needs) {
        return Err((call(caller), status));
    }
    let call = call(caller);
    let body = match whole(rule, path, body).await {
        Ok(body) => body,
        Err(status) => return Err((call, status)),
    };
    parts.extensions.insert(Arc::clone(&call));
    Ok((call, Request::from_parts(parts, body)))
}

/// The request's message, looked through for fields that this version does not know: a client that sets one must not believe that it took
/// effect. Streams of requests, and services that are no administration, pass as they come.
async fn whole(rule: Rule, path: &str, body: Body) -> Result<Body, Status> {
    let Some(input) = SCHEMA.input(path).filter(|_| rule.audit != Audit::Never) else { return Ok(body) };
    let most = if rule.needs == Needs::Nothing { MAX_OPEN_REQUEST } else { MAX_REQUEST };
    let read = axum::body::to_bytes(body, most.saturating_add(PREFIX));
    let bytes = match tokio::time::timeout(BODY_LIMIT, read).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_too_long(&error) => {
            let text = format!("the request is larger than {most} bytes: split it");
            return Err(status::with_reason(Status::resource_exhausted(text), "REQUEST_TOO_LARGE"));
        }
        Ok(Err(_)) => return Err(Status::cancelled("the request was broken off")),
        Err(_) => return Err(Status::deadline_exceeded("the request did not come in time")),
    };
    if let Some(message) = message(&bytes)
        && let Some(field) = SCHEMA.unknown_field(input, message)
    {
        let fault = FieldFault::new(field, "is not known to this server: the client is newer, or wrong");
        return Err(status::invalid_because("UNKNOWN_FIELD", &[fault]));
    }
    Ok(Body::from(bytes))
}

/// The one message in a body; `None` when it is compressed or no whole message, which tonic then refuses.
fn message(body: &Bytes) -> Option<&[u8]> {
    let (prefix, message) = body.split_at_checked(PREFIX)?;
    (prefix.first() == Some(&0)).then_some(message)
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = inner.source();
    }
    false
}

/// The status of an answer that is a refusal from the first byte. (A stream that ends later with one was a call that was permitted.)
fn refusal(headers: &HeaderMap, status: Option<&Status>) -> Option<Status> {
    let code = headers.get("grpc-status")?;
    if Code::from_bytes(code.as_bytes()) == Code::Ok {
        return None;
    }
    Some(match status {
        Some(status) => status.clone(),
        None => Status::from_header_map(headers).unwrap_or_else(|| Status::unknown("")),
    })
}

/// Has the call in the audit log before it is answered.
async fn recorded(access: &Access, rule: Rule, call: &Call, status: Option<&Status>) -> Result<(), Status> {
    let wanted = match rule.audit {
        Audit::Calls => true,
        Audit::Refusals => status.is_some(),
        Audit::Never => false,
    };
    let Some(mut record) = call.unrecorded().filter(|_| wanted) else { return Ok(()) };
    let (code, reason) = status.map_or((Code::Ok, ""), |status| (status.code(), status.message()));
    record.code = status::code_name(code).to_owned();
    record.reason = reason.to_owned();
    let kept = access.audit.record(record).await;
    match (kept, status) {
        // That something failed tells nothing of what the caller may.
        (Err(_), Some(status)) if is_failure(status.code()) => Ok(()),
        (Err(unrecorded), _) => Err(unrecorded),
        (Ok(()), _) => Ok(()),
    }
}

/// As the guard records a method of which every call is recorded, of a call that came another way.
pub(super) async fn recorded_as_audited(access: &Access, call: &Call, status: Option<&Status>) -> Result<(), Status> {
    recorded(access, Rule { needs: Needs::Nothing, audit: Audit::Calls }, call, status).await
}

/// Whether a status tells of the cluster and not of the caller.
const fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::Unknown
            | Code::Internal
            | Code::DataLoss
    )
}
