//! The only place that reads the clock and the system's randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use postern_core::id::TokenId;
use postern_core::{AccessId, ApprovalId, DecisionId, OperationId, RequestId, SessionId, Timestamp};

/// The system's time now.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// 128 bits of the cryptographic random generator.
#[must_use]
pub fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        // Ids that could be guessed or repeated are worse than a dead process; there is no way on.
        tracing::error!("the system's random generator failed");
        std::process::abort();
    }
    u128::from_be_bytes(bytes)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $function:ident -> $id:ty;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $function() -> $id {
            <$id>::new(now(), random_u128())
        }
    )*};
}

ids! {
    /// A new session's id.
    session_id -> SessionId;
    /// A new operation's id.
    operation_id -> OperationId;
    /// A new decision's id.
    decision_id -> DecisionId;
    /// A new approval's id.
    approval_id -> ApprovalId;
    /// A new request for access.
    access_id -> AccessId;
    /// A new write's id.
    request_id -> RequestId;
    /// A new session token's id.
    token_id -> TokenId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_bear_their_time() {
        let before = now();
        let (one, two) = (session_id(), session_id());
        assert_ne!(one, two);
        assert!(one.made_at() >= before && one.made_at() <= now());
    }
}
