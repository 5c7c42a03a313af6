//! Refusals and failures as gRPC statuses.

use std::str::FromStr;

use postern_core::RequestId;
use postern_core::resource::FieldFault;
use postern_core::wire::WireError;
use postern_state::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::raft::{ProposeError, ReadError};
use crate::recordings::StoreError;

pub(super) fn refused(refusal: Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::NotFound { .. } => Status::not_found(text),
        Refusal::Stale { .. } => Status::aborted(text),
        Refusal::AlreadyExists { .. } => Status::already_exists(text),
        Refusal::SelfReview | Refusal::NotAReviewer | Refusal::Token(_) => Status::permission_denied(text),
        Refusal::Invalid(faults) => invalid(&faults),
        Refusal::Limit(_) => Status::resource_exhausted(text),
        Refusal::InUse { .. }
        | Refusal::ApprovalState(_)
        | Refusal::InvalidState(_)
        | Refusal::AlreadyReviewed
        | Refusal::FeatureLevel { .. }
        | Refusal::Mismatch => Status::failed_precondition(text),
    }
}

/// Every fault at once, by field, as `google.rpc.BadRequest`.
pub(super) fn invalid(faults: &[FieldFault]) -> Status {
    let violations: Vec<FieldViolation> =
        faults.iter().map(|fault| FieldViolation::new(fault.path.clone(), fault.message.clone())).collect();
    let text = match faults {
        [one] => one.to_string(),
        many => format!("{} fields are not valid", many.len()),
    };
    Status::with_error_details(Code::InvalidArgument, text, ErrorDetails::with_bad_request(violations))
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
        ProposeError::Overloaded => Status::resource_exhausted("too many writes wait: try again"),
        ProposeError::NotLeader { .. } | ProposeError::Stopped => Status::unavailable(error.to_string()),
        ProposeError::Unknown => {
            Status::unavailable("the outcome is unknown: try again with the same request id to learn it")
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(super) fn read(error: ReadError) -> Status {
    match error {
        ReadError::Overloaded => Status::resource_exhausted("too many reads wait: try again"),
        ReadError::NotLeader | ReadError::Stopped => Status::unavailable(error.to_string()),
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
}
