//! Client protocols without I/O: codecs, session state machines, analysis, masking, errors; and the tunnel's frames.

pub mod postgres;
pub mod sql;
