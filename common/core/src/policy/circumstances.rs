//! What a decision depends on beside who does what.

use std::net::IpAddr;

use super::Freshness;
use crate::time::Timestamp;

/// When, from where and in what state an operation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// By the gateway's clock.
    pub now: Timestamp,
    /// How old the policy is.
    pub fresh: Freshness,
    /// Where the client comes from; none: not known, and what asks for it does not apply.
    pub source: Option<IpAddr>,
    /// Whether a transaction block is open already; none: not known, and what asks for it does not apply.
    pub in_transaction: Option<bool>,
    /// How many rows the target expects it to return, or to write where that is more; none: not known, or nobody asks for it, and what asks for it does
    /// not apply.
    pub estimated_rows: Option<u64>,
}

impl Circumstances {
    /// At `now`, by a policy of that age, from nowhere in particular.
    #[must_use]
    pub const fn new(now: Timestamp, fresh: Freshness) -> Self {
        Self { now, fresh, source: None, in_transaction: None, estimated_rows: None }
    }

    /// From `source`.
    #[must_use]
    pub const fn from(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// In an open transaction block, or not.
    #[must_use]
    pub const fn in_transaction(mut self, is_open: Option<bool>) -> Self {
        self.in_transaction = is_open;
        self
    }

    /// As the target expects it.
    #[must_use]
    pub const fn estimated(mut self, rows: Option<u64>) -> Self {
        self.estimated_rows = rows;
        self
    }
}
