//! The log of who called the public API, for what, and what came of it.

use crate::principal::Principal;
use crate::time::Timestamp;

/// One call, or many that were alike. Records are numbered without gaps and chained by their hashes, so that one that is missing or was
/// changed shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// From 1 on, without gaps; 0 until it is part of the log.
    pub sequence: u64,
    /// Logical time at which it became part of the log.
    pub at: Timestamp,
    /// The caller by token.
    pub principal: Option<Principal>,
    /// The caller by certificate, as `NAME.ROLE`; empty: none.
    pub certificate: String,
    /// Where the call came from.
    pub client_address: String,
    /// The node that took it.
    pub node: String,
    /// `/postern.admin.v1.ResourceService/Apply`
    pub method: String,
    /// What it was about: `Target/db`.
    pub objects: Vec<String>,
    /// `OK`, or the name of a gRPC status code.
    pub code: String,
    /// Why it was refused.
    pub reason: String,
    /// As the caller gave it.
    pub request_id: String,
    /// Nothing was to be changed.
    pub dry_run: bool,
    /// How many calls it stands for.
    pub count: u32,
    /// SHA-256 over the previous record's hash and this record's protobuf form without it.
    pub hash: [u8; 32],
}

impl AuditRecord {
    /// The most objects that one record names.
    pub const MAX_OBJECTS: usize = 32;
}
