//! Answers and errors in JSON (RFC 6749, sections 5.1 and 5.2).

use std::borrow::Cow;

use axum::body::Body;
use http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use postern_core::InvalidScope;
use postern_core::issuer::Algorithm;
use postern_runtime::jwt::{ED25519_ALONE, PROOF_ALGORITHMS};
use serde_json::Value;
use tonic::{Code, Status};

use super::super::pages::with;
use crate::api::{At, Refused};

/// Why there is no token.
#[derive(Debug)]
pub(super) struct Problem {
    /// RFC 6749, section 5.2; RFC 8693, section 2.2.2.
    pub(super) error: &'static str,
    http: StatusCode,
    /// What is told of it; the audit log says the same.
    status: Status,
    /// How the client is asked to prove who it is (RFC 9110, section 11.6.1).
    asks: Option<Cow<'static, str>>,
}

impl Problem {
    pub(super) fn request(text: impl Into<String>) -> Self {
        Self::bad("invalid_request", text)
    }

    pub(super) fn target(text: impl Into<String>) -> Self {
        Self::bad("invalid_target", text)
    }

    #[allow(clippy::needless_pass_by_value)] // for map_err
    pub(super) fn scope(fault: InvalidScope) -> Self {
        Self::bad("invalid_scope", fault.to_string())
    }

    pub(super) fn grant_type() -> Self {
        Self::bad("unsupported_grant_type", "that grant_type is not given here")
    }

    /// Who the client is was not proven: one answer for one that is unknown and for one whose proof is wrong.
    pub(super) fn client(asks: Option<&'static str>) -> Self {
        let status = Status::unauthenticated("the client is not who it says");
        Self { error: "invalid_client", http: StatusCode::UNAUTHORIZED, status, asks: asks.map(Cow::Borrowed) }
    }

    /// Of who shows a JWT as a grant: a bad one is `invalid_grant` (RFC 7523, section 3.1), whosever.
    pub(super) fn of_grant(refused: Refused) -> Self {
        let bad = refused.status.code() == Code::Unauthenticated && matches!(refused.at, At::Request | At::Client);
        let problem = Self::from(refused);
        if bad { Self { error: "invalid_grant", http: StatusCode::BAD_REQUEST, ..problem } } else { problem }
    }

    /// Of who shows a token to ask by: what is wrong with it, or with its proof, stands in the challenge (RFC 6750, section 3; RFC 9449, section 7.1).
    pub(super) fn of_asker(refused: Refused, by_proof: bool) -> Self {
        let problem = Self::from(refused);
        let error = match problem.error {
            "invalid_client" => "invalid_token",
            error @ ("invalid_dpop_proof" | "use_dpop_nonce") => error,
            _ => return problem,
        };
        let asks = match by_proof {
            true => format!("DPoP error=\"{error}\", algs=\"{}\"", named(&PROOF_ALGORITHMS).join(" ")),
            false => format!("Bearer realm=\"postern\", error=\"{error}\""),
        };
        Self { error, http: StatusCode::UNAUTHORIZED, asks: Some(asks.into()), ..problem }
    }

    fn bad(error: &'static str, text: impl Into<String>) -> Self {
        Self { error, http: StatusCode::BAD_REQUEST, status: Status::invalid_argument(text.into()), asks: None }
    }

    /// For the audit log.
    pub(super) const fn status(&self) -> &Status {
        &self.status
    }

    pub(super) fn answer(&self) -> Response<Body> {
        let body = serde_json::json!({"error": self.error, "error_description": plain(self.status.message())});
        let mut answer = json(self.http, &body);
        if let Some(asks) = self.asks.as_deref().and_then(|asks| HeaderValue::from_str(asks).ok()) {
            answer.headers_mut().insert(WWW_AUTHENTICATE, asks);
        }
        if self.http == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        Refused::from(status).into()
    }
}

impl From<Refused> for Problem {
    fn from(Refused { at, status }: Refused) -> Self {
        let (error, http) = match (status.code(), at) {
            (
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled,
                _,
            ) => ("temporarily_unavailable", StatusCode::SERVICE_UNAVAILABLE),
            (Code::Internal | Code::Unknown | Code::DataLoss, _) => ("server_error", StatusCode::INTERNAL_SERVER_ERROR),
            (_, At::Request) => ("invalid_request", StatusCode::BAD_REQUEST),
            (_, At::Client) => ("invalid_client", StatusCode::UNAUTHORIZED),
            (_, At::Forbidden) => ("insufficient_scope", StatusCode::FORBIDDEN),
            (_, At::Kind) => ("unsupported_token_type", StatusCode::BAD_REQUEST),
            (_, At::Target) => ("invalid_target", StatusCode::BAD_REQUEST),
            (_, At::Scope) => ("invalid_scope", StatusCode::BAD_REQUEST),
            (_, At::Proof) => ("invalid_dpop_proof", StatusCode::BAD_REQUEST),
            (_, At::Nonce) => ("use_dpop_nonce", StatusCode::BAD_REQUEST),
        };
        Self { error, http, status, asks: None }
    }
}

/// As metadata and challenges name them.
pub(super) fn named(algorithms: &[Algorithm]) -> Vec<&'static str> {
    algorithms.iter().map(|algorithm| algorithm.as_str()).chain([ED25519_ALONE]).collect()
}

pub(super) fn json(status: StatusCode, body: &Value) -> Response<Body> {
    with(status, "application/json", body.to_string())
}

/// What anybody may keep for a while.
pub(super) fn public(body: &Value, keep: &'static str) -> Response<Body> {
    let mut answer = json(StatusCode::OK, body);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(keep));
    answer
}

/// What may stand in a description: RFC 6749, appendix A.8.
fn plain(text: &str) -> String {
    let fit = |c: char| if matches!(c, ' '..='!' | '#'..='[' | ']'..='~') { c } else { '\'' };
    text.chars().map(fit).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_cluster_are_not_the_clients() {
        let error = |status: Status| {
            let problem = Problem::from(status);
            (problem.error, problem.answer().status().as_u16())
        };
        assert_eq!(error(Status::unauthenticated("token-invalid")), ("invalid_request", 400));
        assert_eq!(error(Status::unavailable("x")), ("temporarily_unavailable", 503));
        assert_eq!(error(Status::internal("x")), ("server_error", 500));
        let of_grant = |at, status| Problem::of_grant(Refused { at, status });
        assert_eq!(of_grant(At::Client, Status::unauthenticated("x")).error, "invalid_grant");
        assert_eq!(of_grant(At::Scope, Status::permission_denied("x")).error, "invalid_scope");
        assert_eq!(of_grant(At::Nonce, Status::unauthenticated("x")).error, "use_dpop_nonce");
        let answer = Problem::client(Some("Basic realm=\"postern\"")).answer();
        assert_eq!((answer.status().as_u16(), answer.headers().contains_key(WWW_AUTHENTICATE)), (401, true));
        assert_eq!(plain("a\"b\\c\n\u{e9}"), "a'b'c''");
    }
}
