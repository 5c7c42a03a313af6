//! What every role needs to run: configuration, supervision, TLS, tokens, telemetry, back-off.
//!
//! The only crate that reads the clock and randomness ([`clock`]) and the only one that spawns ([`supervisor`]).

pub mod backoff;
pub mod clock;
pub mod config;
pub mod enrol;
pub mod failures;
pub mod http;
pub mod jwt;
pub mod net;
pub mod ops;
pub mod pki;
pub mod supervisor;
pub mod telemetry;
pub mod tls;
pub mod tunnel;
pub mod vault;
pub mod workers;
