//! Client protocols without I/O: codecs, session state machines, analysis, masking, errors; and the tunnel's frames.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod detect;
pub mod postgres;
pub mod registry;
pub mod sql;
pub mod tunnel;
