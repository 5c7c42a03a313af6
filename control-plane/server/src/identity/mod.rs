//! Identity providers' keys, and session tokens.

mod exchange;
mod fetch;
mod issuer_keys;
pub(crate) mod saml;

pub(crate) use exchange::{ExchangeError, Wanted, exchange};
pub(crate) use issuer_keys::{Demanded, IssuerKeysLoop, KeyDemand};
