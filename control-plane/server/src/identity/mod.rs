//! Identity providers' keys, and session tokens.

mod exchange;
mod fetch;
mod introspect;
mod issuer_keys;
pub(crate) mod saml;

pub(crate) use exchange::{ExchangeError, Minted, Wanted, exchange};
pub(crate) use introspect::{Introspected, MARGIN, revoked_by_bearer};
pub(crate) use issuer_keys::{Demanded, IssuerKeysLoop, KeyDemand};
