//! What the control plane refuses, in words for people.

use prost::Message as _;
use tonic::{Code, Status};

use super::connect::root_cause;
use crate::failure::Failure;
use crate::output::printable;

/// `google.rpc.Status` as gRPC carries it beside a refusal; only what is read here.
#[derive(Clone, PartialEq, prost::Message)]
struct RichStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

/// A field that the control plane does not accept.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct FieldViolation {
    /// `resources[2].spec.address`
    #[prost(string, tag = "1")]
    pub(crate) field: String,
    #[prost(string, tag = "2")]
    pub(crate) description: String,
}

/// The fields that a refusal complains of.
pub(crate) fn violations(status: &Status) -> Vec<FieldViolation> {
    let Ok(rich) = RichStatus::decode(status.details()) else { return Vec::new() };
    let bad = rich.details.iter().filter(|any| any.type_url.ends_with("/google.rpc.BadRequest"));
    bad.filter_map(|any| BadRequest::decode(any.value.as_slice()).ok()).flat_map(|bad| bad.field_violations).collect()
}

/// The failure that a refusal is. Takes the status over: to be used as `map_err(refused)`.
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn refused(status: Status) -> Failure {
    let message = printable(status.message());
    let fields = violations(&status);
    if !fields.is_empty() {
        let shown = |field: &FieldViolation| format!("{}: {}", printable(&field.field), printable(&field.description));
        return Failure::Many(fields.iter().map(shown).collect());
    }
    let text = match status.code() {
        Code::Unauthenticated => format!("not authenticated: {}", in_words(&message)),
        Code::PermissionDenied => format!("not permitted: {message}"),
        Code::NotFound => format!("not found: {message}"),
        Code::Aborted => format!("stale: {message}; get it again, and apply your change to that"),
        Code::Unavailable if message.is_empty() || std::error::Error::source(&status).is_some() => {
            format!("the control plane cannot be reached: {}", root_cause(&status))
        }
        Code::Unavailable => format!("the control plane is not available now: {message}"),
        Code::ResourceExhausted => format!("the control plane is overloaded: {message}; try again"),
        Code::DeadlineExceeded | Code::Cancelled => format!("no answer in time: {message}"),
        Code::Unimplemented => format!("the control plane does not know this request: {message}"),
        Code::Internal | Code::Unknown | Code::DataLoss => format!("the control plane failed: {message}"),
        _ => message,
    };
    Failure::Failed(text)
}

/// The control plane tells a token's fault by its stable code alone.
fn in_words(message: &str) -> String {
    let words = match message {
        "token-missing" => "no token was shown, or none that is well formed",
        "token-invalid" => "the token is not accepted here",
        "token-expired" => "the token has expired",
        "token-not-yet-valid" => "the token is not yet valid",
        other => return other.to_owned(),
    };
    format!("{words} ({message})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_violations_are_found() {
        let bad = BadRequest {
            field_violations: vec![FieldViolation { field: "resources[0].spec".into(), description: "no".into() }],
        };
        let any = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.BadRequest".into(),
            value: bad.encode_to_vec(),
        };
        let rich = RichStatus { details: vec![any] }.encode_to_vec();
        let status = Status::with_details(Code::InvalidArgument, "bad", rich.into());
        assert_eq!(violations(&status), bad.field_violations);
        assert_eq!(refused(status).to_string(), "resources[0].spec: no");
        assert_eq!(violations(&Status::aborted("x")), vec![]);
        let expired = refused(Status::unauthenticated("token-expired")).to_string();
        assert_eq!(expired, "not authenticated: the token has expired (token-expired)");
    }
}
