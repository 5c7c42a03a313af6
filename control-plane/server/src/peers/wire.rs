//! Statuses with reasons, and outcomes of writes as they go between members.

use postern_proto::peer::v1 as pb;
use postern_state::Outcome;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::raft::ProposeError;

/// The versions of the protocol that this node speaks.
pub(super) const PROTOCOL: std::ops::RangeInclusive<u32> = 1..=1;

/// The domain of our reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "postern";

/// Why a caller is not let in. The text form is part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    WrongCluster,
    NodeRemoved,
    WrongIdentity,
    CertificateRevoked,
    ProtocolMismatch,
    /// The called node is not who the caller meant.
    WrongReceiver,
}

impl Reason {
    const ALL: [Self; 6] = [
        Self::WrongCluster,
        Self::NodeRemoved,
        Self::WrongIdentity,
        Self::CertificateRevoked,
        Self::ProtocolMismatch,
        Self::WrongReceiver,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::WrongCluster => "WRONG_CLUSTER",
            Self::NodeRemoved => "NODE_REMOVED",
            Self::WrongIdentity => "WRONG_IDENTITY",
            Self::CertificateRevoked => "CERTIFICATE_REVOKED",
            Self::ProtocolMismatch => "PROTOCOL_MISMATCH",
            Self::WrongReceiver => "WRONG_RECEIVER",
        }
    }

    const fn code(self) -> Code {
        match self {
            Self::WrongCluster | Self::ProtocolMismatch | Self::WrongReceiver => Code::FailedPrecondition,
            Self::NodeRemoved | Self::WrongIdentity | Self::CertificateRevoked => Code::PermissionDenied,
        }
    }

    /// The status that tells of it.
    pub(super) fn status(self, text: impl Into<String>) -> Status {
        let details = ErrorDetails::with_error_info(self.as_str(), DOMAIN, std::collections::HashMap::new());
        Status::with_error_details(self.code(), text, details)
    }

    /// The reason that a peer's status gives, if it is one of these.
    pub(super) fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        Self::ALL
            .into_iter()
            .find(|reason| info.domain == DOMAIN && reason.as_str() == info.reason && reason.code() == status.code())
    }
}

/// A peer's text for a log or a message: no longer than an id, nothing but what can be printed.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// What came of a write, for the caller.
pub(super) fn answer(result: Result<Outcome, ProposeError>) -> Result<pb::ProposeResponse, Status> {
    let result = match result {
        Ok(outcome) => {
            // Outcomes are plain data.
            let json = serde_json::to_vec(&outcome).map_err(|_| Status::internal("the outcome cannot be encoded"))?;
            pb::propose_response::Result::Outcome(json.into())
        }
        Err(error) => {
            let (reason, leader) = match error {
                ProposeError::NotLeader { leader } => (pb::NotProposedReason::NotLeader, leader.unwrap_or(0)),
                ProposeError::Overloaded => (pb::NotProposedReason::Overloaded, 0),
                ProposeError::TooLarge { .. } => (pb::NotProposedReason::TooLarge, 0),
                ProposeError::Stopped => (pb::NotProposedReason::Stopped, 0),
                ProposeError::Unknown => (pb::NotProposedReason::Unknown, 0),
            };
            pb::propose_response::Result::NotProposed(pb::NotProposed { reason: reason.into(), leader })
        }
    };
    Ok(pb::ProposeResponse { result: Some(result) })
}

/// What the leader's answer says; what cannot be read may have come to pass.
pub(super) fn answered(response: pb::ProposeResponse) -> Result<Outcome, ProposeError> {
    match response.result {
        Some(pb::propose_response::Result::Outcome(json)) => {
            serde_json::from_slice(&json).map_err(|_| ProposeError::Unknown)
        }
        Some(pb::propose_response::Result::NotProposed(refusal)) => Err(match refusal.reason() {
            pb::NotProposedReason::NotLeader => {
                ProposeError::NotLeader { leader: Some(refusal.leader).filter(|leader| *leader != 0) }
            }
            pb::NotProposedReason::Overloaded => ProposeError::Overloaded,
            pb::NotProposedReason::Stopped => ProposeError::Stopped,
            pb::NotProposedReason::TooLarge => ProposeError::TooLarge { limit: crate::raft::ENTRY_BYTES },
            pb::NotProposedReason::Unknown | pb::NotProposedReason::Unspecified => ProposeError::Unknown,
        }),
        None => Err(ProposeError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use postern_state::{Refusal, Success};

    use super::*;

    #[test]
    fn reasons_pass_as_error_info() {
        for reason in Reason::ALL {
            assert_eq!(Reason::of(&reason.status("text")), Some(reason));
        }
        assert_eq!(Reason::of(&Status::permission_denied("NODE_REMOVED")), None);
    }

    #[test]
    fn outcomes_and_refusals_pass() {
        let outcomes: [Result<Outcome, ProposeError>; 6] = [
            Ok(Ok(Success::Deleted { revision: u64::MAX })),
            Ok(Err(Refusal::Stale { what: "target \"x\"".into(), expected: 3, actual: 4 })),
            Err(ProposeError::NotLeader { leader: Some(3) }),
            Err(ProposeError::NotLeader { leader: None }),
            Err(ProposeError::Overloaded),
            Err(ProposeError::Unknown),
        ];
        for outcome in outcomes {
            assert_eq!(answered(answer(outcome.clone()).unwrap()), outcome);
        }
        let newer = pb::NotProposed { reason: 77, leader: 0 };
        let newer = pb::ProposeResponse { result: Some(pb::propose_response::Result::NotProposed(newer)) };
        assert_eq!(answered(newer), Err(ProposeError::Unknown));
        assert_eq!(answered(pb::ProposeResponse { result: None }), Err(ProposeError::Unknown));
    }
}
