//! The control plane: Raft driver and log, gRPC services, identity, certificates, recording ingest.

pub mod keys;
pub mod raft;
