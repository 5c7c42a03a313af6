//! What a gateway makes of the policy that it is sent, once it is signed, and of signatures.

#![allow(clippy::expect_used)] // a target panics where something is wrong

use postern_core::Timestamp;
use postern_core::recording::Authority;
use postern_core::signed::{self, Purpose};
use postern_core::snapshot::Snapshot;
use postern_core::wire::snapshot::{credentials_from_proto, delta_from_proto, delta_to_proto, from_proto, to_proto};
use postern_proto::gateway::v1 as pb;
use prost::Message as _;

use super::Bytes;

pub(super) fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    if bytes.byte() == 255 {
        let (authority, certificate, signature) = (bytes.some(), bytes.some(), bytes.some());
        let at = Timestamp::from_millis(bytes.around(1_800_000_000_000));
        let verified = signed::verify(Purpose::Delta, bytes.rest(), signature, certificate, Authority(authority), at);
        assert!(verified.is_err(), "nobody has signed this");
        return;
    }
    let mut held = pb::Snapshot::decode(bytes.some()).ok().and_then(|whole| from_proto(whole).ok());
    if let Some(held) = &held {
        same(held);
    }
    while !bytes.is_empty() {
        let delta = pb::Delta::decode(bytes.some()).ok().and_then(|delta| delta_from_proto(delta).ok());
        if let (Some(now), Some(mut delta)) = (&held, delta) {
            let again = delta_from_proto(delta_to_proto(&delta)).expect("what was read can be written and read");
            assert_eq!(again.revision, delta.revision);
            // Else hardly any would follow.
            delta.incarnation.clone_from(&now.incarnation);
            delta.from_revision = now.revision;
            if let Ok(next) = now.apply(delta) {
                same(&next);
                held = Some(next);
            }
        }
        let credentials = pb::Credentials::decode(bytes.some()).ok();
        let credentials = credentials.and_then(|credentials| credentials_from_proto(credentials).ok());
        if let (Some(now), Some(credentials)) = (&held, credentials) {
            held = Some(now.clone().with_credentials(credentials));
        }
    }
}

fn same(snapshot: &Snapshot) {
    let again = from_proto(to_proto(snapshot)).expect("what was read can be written and read");
    assert_eq!(to_proto(&again), to_proto(snapshot));
}
