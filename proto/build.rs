//! Compiles the .proto files with protox: no protoc, nothing fetched.

use std::path::PathBuf;
use std::{env, error::Error, fs};

use prost::Message as _;

const FILES: &[&str] = &[
    "postern/resource/v1/access.proto",
    "postern/resource/v1/resource.proto",
    "postern/resource/v1/identity.proto",
    "postern/resource/v1/job.proto",
    "postern/resource/v1/cluster.proto",
    "postern/resource/v1/fleet.proto",
    "postern/resource/v1/review.proto",
    "postern/resource/v1/revocation.proto",
    "postern/admin/v1/access.proto",
    "postern/admin/v1/admin.proto",
    "postern/admin/v1/audit.proto",
    "postern/admin/v1/log.proto",
    "postern/admin/v1/client.proto",
    "postern/admin/v1/cluster.proto",
    "postern/admin/v1/fleet.proto",
    "postern/admin/v1/job.proto",
    "postern/admin/v1/review.proto",
    "postern/admin/v1/revocation.proto",
    "postern/admin/v1/secrets.proto",
    "postern/peer/v1/member.proto",
    "postern/peer/v1/peer.proto",
    "postern/peer/v1/recording.proto",
    "postern/gateway/v1/fleet.proto",
    "postern/gateway/v1/gateway.proto",
    "postern/gateway/v1/kept.proto",
    "postern/state/v1/state.proto",
    "postern/tunnel/v1/relay.proto",
    "postern/tunnel/v1/tunnel.proto",
];

/// Messages that carry secrets or tokens: their `Debug` is written by hand in lib.rs (I5).
const SECRET_BEARING: &[&str] = &[
    "postern.gateway.v1.Credential",
    "postern.gateway.v1.Credentials",
    "postern.resource.v1.SecretSpec",
    "postern.resource.v1.SecretSpec.source",
    "postern.admin.v1.ExchangeTokenRequest",
    "postern.admin.v1.ExchangeTokenResponse",
    "postern.admin.v1.RedeemTokenRequest",
    "postern.admin.v1.RevokeRequest",
    "postern.admin.v1.CreateJoinTokenResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Kept for gRPC reflection.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let services = env::var_os("CARGO_FEATURE_TONIC").is_some();
    tonic_prost_build::configure()
        .build_server(services)
        .build_client(services)
        .btree_map(".")
        // Entries and snapshots are large: they are not copied on their way.
        .bytes(".postern.peer.v1.Batch")
        .bytes(".postern.peer.v1.SnapshotHeader")
        .bytes(".postern.peer.v1.SnapshotChunk")
        .bytes(".postern.peer.v1.ProposeRequest")
        .bytes(".postern.peer.v1.ProposeResponse")
        // A policy is shared between streams rather than copied into each.
        .bytes(".postern.gateway.v1.Signed")
        .skip_debug(SECRET_BEARING)
        .compile_fds(descriptors)?;
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
