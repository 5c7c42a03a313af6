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
}

impl Circumstances {
    /// At `now`, by a policy of that age, from nowhere in particular.
    #[must_use]
    pub const fn new(now: Timestamp, fresh: Freshness) -> Self {
        Self { now, fresh, source: None, in_transaction: None }
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
}
