//! Generated protobuf types, and with the `tonic` feature the gRPC clients and servers.
//!
//! Nothing is written by hand here. Domain types live in `postern-core`; they meet these in `core::wire` alone.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::restriction)]

/// What administrators declare, and identities, approvals and sessions as messages.
pub mod resource {
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/postern.resource.v1.rs"));
    }
}

/// The public API.
pub mod admin {
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/postern.admin.v1.rs"));
    }
}

/// What gateways ask of the control plane.
pub mod gateway {
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/postern.gateway.v1.rs"));
    }
}

/// What the Raft log and its snapshots hold.
pub mod state {
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/postern.state.v1.rs"));
    }
}

/// What gateways and agents say inside a tunnel.
pub mod tunnel {
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/postern.tunnel.v1.rs"));
    }
}

/// The encoded descriptor set of every file here, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
