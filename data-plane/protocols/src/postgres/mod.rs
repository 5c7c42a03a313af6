//! PostgreSQL: frontend/backend protocol 3.
//!
//! A client connection walks [`handshake`], the one to the target [`upstream`]; then [`session`] turns the bytes of both into steps.
//! Sections cited are of the chapter "Frontend/Backend Protocol" of PostgreSQL's documentation.

pub mod analyze;
pub mod catalog;
pub mod codec;
pub mod errors;
pub mod handshake;
pub mod mask;
pub mod session;
pub mod upstream;
