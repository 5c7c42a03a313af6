//! Identity providers' keys, and session tokens.

mod exchange;
mod fetch;
mod introspect;
mod issuer_keys;
pub(crate) mod saml;
mod signers;

pub(crate) use exchange::{ExchangeError, Minted, Wanted, exchange};
pub(crate) use introspect::{Introspected, revoked_by_bearer};
pub(crate) use issuer_keys::{Demanded, IssuerKeysLoop, KeyDemand};
pub(crate) use signers::Signers;
