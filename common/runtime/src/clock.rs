//! The only place that reads the clock and the system's randomness.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use postern_core::id::TokenId;
use postern_core::{AccessId, ApprovalId, DecisionId, OperationId, RequestId, ReviewId, SessionId, Timestamp};

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
    fill(&mut bytes);
    u128::from_be_bytes(bytes)
}

fn fill(bytes: &mut [u8]) {
    if aws_lc_rs::rand::fill(bytes).is_err() {
        // Ids that could be guessed or repeated are worse than a dead process; there is no way on.
        tracing::error!("the system's random generator failed");
        std::process::abort();
    }
}

/// Numbers for ids that one call of the generator makes.
const AT_ONCE: usize = 32;

thread_local! {
    /// Numbers that are not used yet: the generator's call costs more than the numbers.
    static NUMBERS: RefCell<(usize, [[u8; 16]; AT_ONCE])> = const { RefCell::new((AT_ONCE, [[0; 16]; AT_ONCE])) };
}

/// As [`random_u128`], for ids, of which each operation needs several.
fn number() -> u128 {
    NUMBERS.with_borrow_mut(|(used, numbers)| {
        if *used >= AT_ONCE {
            fill(numbers.as_flattened_mut());
            *used = 0;
        }
        let number = numbers.get_mut(*used).map(std::mem::take);
        *used = used.saturating_add(1);
        number.map_or_else(random_u128, u128::from_be_bytes)
    })
}

macro_rules! ids {
    ($($(#[$doc:meta])* $function:ident -> $id:ty;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $function() -> $id {
            <$id>::new(now(), number())
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
    /// A new item of review.
    review_id -> ReviewId;
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

    #[test]
    fn no_number_serves_twice() {
        let ids = || (0..3 * AT_ONCE + 1).map(|_| number()).collect::<Vec<_>>();
        let mut all = ids();
        all.extend(std::thread::spawn(ids).join().unwrap());
        let made = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), made);
        assert!(all.iter().all(|number| number >> 64 != 0), "none is one that was used up");
    }
}
