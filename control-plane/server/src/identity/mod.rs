//! Identity providers' keys, and session tokens.

mod exchange;
mod issuer_keys;

pub(crate) use exchange::{ExchangeError, exchange};
pub(crate) use issuer_keys::IssuerKeysLoop;
