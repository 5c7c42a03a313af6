//! Refusals and failures as gRPC statuses, with details that programs can read (google.rpc.Status, error_details.proto).

use std::str::FromStr;
use std::time::Duration;

use postern_core::RequestId;
use postern_core::resource::FieldFault;
use postern_core::wire::WireError;
use postern_state::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::raft::{ProposeError, ReadError};
use crate::recordings::StoreError;

/// Of every `google.rpc.ErrorInfo` here.
pub(super) const DOMAIN: &str = "postern";
/// When to try again, where nothing says otherwise.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) fn refused(refusal: Refusal) -> Status {
    let text = refusal.to_string();
    let (code, reason) = match &refusal {
        Refusal::NotFound { .. } => (Code::NotFound, "NOT_FOUND"),
        Refusal::Stale { .. } => (Code::Aborted, "STALE_REVISION"),
        Refusal::AlreadyExists { .. } => (Code::AlreadyExists, "ALREADY_EXISTS"),
        Refusal::SelfReview => (Code::PermissionDenied, "SELF_REVIEW"),
        Refusal::NotAReviewer => (Code::PermissionDenied, "NOT_A_REVIEWER"),
        Refusal::Token(_) => (Code::PermissionDenied, "JOIN_TOKEN_REFUSED"),
        Refusal::Invalid(faults) => return invalid(faults),
        Refusal::Limit(_) => (Code::ResourceExhausted, "LIMIT_REACHED"),
        Refusal::InUse { .. } => (Code::FailedPrecondition, "IN_USE"),
        Refusal::ApprovalState(_) => (Code::FailedPrecondition, "APPROVAL_STATE"),
        Refusal::AccessState(_) => (Code::FailedPrecondition, "ACCESS_STATE"),
        Refusal::InvalidState(_) => (Code::FailedPrecondition, "INVALID_STATE"),
        Refusal::AlreadyReviewed => (Code::FailedPrecondition, "ALREADY_REVIEWED"),
        Refusal::Spent => (Code::Unauthenticated, "SPENT"),
        Refusal::FeatureLevel { .. } => (Code::FailedPrecondition, "FEATURE_LEVEL"),
        Refusal::Mismatch => (Code::FailedPrecondition, "OPERATION_MISMATCH"),
    };
    let mut details = info(reason);
    match &refusal {
        Refusal::NotFound { what } | Refusal::AlreadyExists { what } => resource(&mut details, what, &text),
        Refusal::Stale { what, expected, actual } => {
            resource(&mut details, what, &text);
            let metadata =
                [("expected", expected), ("actual", actual)].map(|(key, value)| (key.to_owned(), value.to_string()));
            details.set_error_info(reason, DOMAIN, metadata.into_iter().collect::<std::collections::HashMap<_, _>>());
        }
        Refusal::InUse { what, by } => {
            resource(&mut details, what, &text);
            details.add_precondition_failure_violation(reason, by.clone(), text.clone());
        }
        _ if code == Code::FailedPrecondition => {
            details.add_precondition_failure_violation(reason, String::new(), text.clone());
        }
        _ => {}
    }
    Status::with_error_details(code, text, details)
}

fn info(reason: &str) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, std::collections::HashMap::new());
    details
}

/// `Target db` as google.rpc.ResourceInfo.
fn resource(details: &mut ErrorDetails, what: &str, text: &str) {
    let (kind, name) = what.split_once(' ').unwrap_or(("", what));
    details.set_resource_info(kind, name, "", text);
}

/// `status` with a stable reason that programs can go by.
pub(super) fn with_reason(status: Status, reason: &str) -> Status {
    Status::with_error_details(status.code(), status.message(), info(reason))
}

/// There is none, or none that the caller may know of.
pub(super) fn not_found(kind: &str, name: impl std::fmt::Display) -> Status {
    let text = format!("no such {kind} {name}");
    let mut details = info("NOT_FOUND");
    details.set_resource_info(kind, name.to_string(), "", text.clone());
    Status::with_error_details(Code::NotFound, text, details)
}

/// Every fault at once, by field, as `google.rpc.BadRequest`.
pub(super) fn invalid(faults: &[FieldFault]) -> Status {
    invalid_because("INVALID_FIELDS", faults)
}

/// As [`invalid`], with a reason of its own.
pub(super) fn invalid_because(reason: &str, faults: &[FieldFault]) -> Status {
    let violations: Vec<FieldViolation> =
        faults.iter().map(|fault| FieldViolation::new(fault.path.clone(), fault.message.clone())).collect();
    let text = match faults {
        [one] => one.to_string(),
        many => format!("{} fields are not valid", many.len()),
    };
    let mut details = info(reason);
    details.set_bad_request(violations);
    Status::with_error_details(Code::InvalidArgument, text, details)
}

pub(super) fn invalid_field(field: &str, why: impl std::fmt::Display) -> Status {
    invalid(&[FieldFault::new(field, why.to_string())])
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(super) fn wire(error: WireError) -> Status {
    invalid_field(&error.field, error.why)
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(super) fn propose(error: ProposeError) -> Status {
    match error {
        ProposeError::Overloaded => {
            with_reason(Status::resource_exhausted("too many writes wait: try again"), "OVERLOADED")
        }
        ProposeError::TooLarge { .. } => with_reason(Status::invalid_argument(error.to_string()), "TOO_LARGE"),
        ProposeError::Unknown => with_reason(
            Status::unavailable("the outcome is unknown: try again with the same request id to learn it"),
            "OUTCOME_UNKNOWN",
        ),
        ProposeError::NotLeader { .. } | ProposeError::Stopped => {
            with_reason(Status::unavailable(error.to_string()), "NO_LEADER")
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(super) fn read(error: ReadError) -> Status {
    match error {
        ReadError::Overloaded => {
            with_reason(Status::resource_exhausted("too many reads wait: try again"), "OVERLOADED")
        }
        ReadError::NotLeader | ReadError::Unavailable | ReadError::Stopped => {
            with_reason(Status::unavailable(error.to_string()), "NO_LEADER")
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(super) fn store(error: StoreError) -> Status {
    // The disk's fault was logged where it happened.
    Status::unavailable(error.to_string())
}

pub(super) fn parse<T: FromStr>(field: &str, text: &str) -> Result<T, Status>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| invalid_field(field, error))
}

/// A request id as clients write it: our own form, a UUID (RFC 9562) or a ULID; empty: none.
pub(super) fn request_id(text: &str) -> Result<Option<RequestId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(id) = text.parse() {
        return Ok(Some(id));
    }
    if let Ok(id) = format!("req_{}", text.to_ascii_lowercase()).parse() {
        return Ok(Some(id));
    }
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    if text.len() <= 36
        && plain.len() == 32
        && plain.bytes().all(|byte| byte.is_ascii_hexdigit())
        && let Ok(bits) = u128::from_str_radix(&plain, 16)
    {
        return Ok(Some(RequestId::from_bytes(bits.to_be_bytes())));
    }
    Err(invalid_field("request_id", "must be a UUID or a ULID"))
}

/// What every refusal carries whatever service it came of: a reason, when to try again, and the call's id.
pub(super) fn enriched(status: &Status, call_id: &str) -> Status {
    let mut details = status.get_error_details();
    if details.error_info().is_none() {
        details.set_error_info(code_name(status.code()), DOMAIN, std::collections::HashMap::new());
    }
    // A bound of the state is still there a second later.
    let passing = details.error_info().is_none_or(|info| info.reason != "LIMIT_REACHED");
    if passing && matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) && details.retry_info().is_none()
    {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    details.set_request_info(call_id, "");
    Status::with_error_details_and_metadata(status.code(), status.message(), details, status.metadata().clone())
}

/// As google.rpc.Code names it.
pub(super) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_in_every_form() {
        assert_eq!(request_id("").unwrap(), None);
        let uuid = request_id("0192f3c4-5b6a-7000-8000-0123456789ab").unwrap().unwrap();
        assert_eq!(uuid.to_bytes()[..4], [0x01, 0x92, 0xf3, 0xc4]);
        assert_eq!(request_id(&uuid.to_string()).unwrap(), Some(uuid));
        assert!(request_id("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap().is_some());
        for bad in ["x", "0192f3c4-5b6a-7000-8000-0123456789a", "zz92f3c45b6a700080000123456789ab"] {
            assert_eq!(request_id(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn details_are_for_programs() {
        let stale = refused(Refusal::Stale { what: "Target db".into(), expected: 3, actual: 7 });
        let details = stale.get_error_details();
        let (info, resource) = (details.error_info().unwrap(), details.resource_info().unwrap());
        assert_eq!((info.reason.as_str(), info.metadata["actual"].as_str()), ("STALE_REVISION", "7"));
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("Target", "db"));
        let used = refused(Refusal::InUse { what: "Secret pw".into(), by: "Target db".into() });
        assert_eq!(used.get_error_details().precondition_failure().unwrap().violations[0].subject, "Target db");
        let busy = enriched(&propose(ProposeError::Overloaded), "req_1");
        let details = busy.get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(RETRY_AFTER));
        assert_eq!(details.request_info().unwrap().request_id, "req_1");
        let plain = enriched(&Status::internal("x"), "req_2");
        assert_eq!(plain.get_error_details().error_info().unwrap().reason, "INTERNAL");
    }

    #[test]
    fn the_audit_log_and_the_answer_tell_the_same_code() {
        for refusal in [
            Refusal::NotFound { what: "x".into() },
            Refusal::Stale { what: "x".into(), expected: 1, actual: 2 },
            Refusal::AlreadyExists { what: "x".into() },
            Refusal::SelfReview,
            Refusal::NotAReviewer,
            Refusal::Invalid(Vec::new()),
            Refusal::Limit("x".into()),
            Refusal::InUse { what: "x".into(), by: "y".into() },
            Refusal::AlreadyReviewed,
            Refusal::Mismatch,
        ] {
            assert_eq!(code_name(refused(refusal.clone()).code()), refusal.code(), "{refusal:?}");
        }
    }
}
