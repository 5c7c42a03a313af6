//! The last signed list of gateways that are none any more, beside the kept policy, so that agents are told it at once after a restart.
//!
//! It lies there as it came: it is no secret, and signed by a node of the control plane, which is verified again when it is read. One that
//! was put back to an older one takes nothing back from agents, which add lists up.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use postern_core::Timestamp;
use postern_core::signed::Purpose;
use postern_proto::gateway::v1::Signed;
use postern_runtime::pki::write_private;
use prost::Message as _;

use super::KeepError;
use crate::policy_feed::assemble::Assembler;

/// Far more than a list of every certificate that a cluster may have.
const MAX: u64 = 16 << 20;

/// The list in `dir`, when there is one and a node that is one at `now` has signed it.
pub(super) fn read(dir: &Path, assembler: &Assembler, now: Timestamp) -> Option<Signed> {
    let told = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "the list of revoked gateways on the disk is not used: the control plane will tell it again");
    };
    let mut bytes = Vec::new();
    let file = File::open(path(dir)).and_then(|file| file.take(MAX).read_to_end(&mut bytes));
    match file {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            told(&error);
            return None;
        }
        Ok(_) => {}
    }
    let list = Signed::decode(bytes.as_slice()).inspect_err(|error| told(error)).ok()?;
    assembler.verified(Purpose::RevokedGateways, &list, now).inspect_err(|error| told(error)).ok()?;
    Some(list)
}

/// Keeps `list` in place of the former.
pub(super) fn write(dir: &Path, list: &Signed) -> Result<(), KeepError> {
    Ok(write_private(&path(dir), &list.encode_to_vec())?)
}

fn path(dir: &Path) -> PathBuf {
    dir.join("revoked-gateways")
}
