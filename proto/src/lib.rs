//! Generated protobuf types, and with the `tonic` feature the gRPC clients and servers.
//!
//! By hand here is only `Debug` of what carries secrets. Domain types live in `postern-core`; they meet these in `core::wire` alone.

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

/// What members of the control plane say to each other.
pub mod peer {
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/postern.peer.v1.rs"));
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

/// `Debug` that names the type and nothing in it (I5).
macro_rules! opaque_debug {
    ($($message:ty),* $(,)?) => {$(
        impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($message), "([secret])"))
            }
        }
    )*};
}

opaque_debug!(
    gateway::v1::Credential,
    gateway::v1::Credentials,
    resource::v1::SecretSpec,
    resource::v1::secret_spec::Source,
    admin::v1::ExchangeTokenRequest,
    admin::v1::ExchangeTokenResponse,
    admin::v1::RedeemTokenRequest,
    admin::v1::RevokeRequest,
    admin::v1::CreateJoinTokenResponse,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let secret =
            resource::v1::SecretSpec { source: Some(resource::v1::secret_spec::Source::Value("hunter2".into())) };
        let resource =
            resource::v1::Resource { metadata: None, spec: Some(resource::v1::resource::Spec::Secret(secret)) };
        let credential =
            gateway::v1::Credential { target: "t".into(), username: "u".into(), password: b"hunter2".to_vec() };
        let credentials = gateway::v1::Credentials {
            credentials: vec![credential.clone()],
            mask_key: b"hunter2".to_vec(),
            ..Default::default()
        };
        let answer = gateway::v1::WatchResponse { credentials: Some(credentials), ..Default::default() };
        let exchange = admin::v1::ExchangeTokenRequest { subject_token: "hunter2".into(), ..Default::default() };
        let shown = format!("{resource:?} {credential:?} {answer:?} {exchange:?}");
        // Bytes would be shown as a list of numbers.
        assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
    }
}
