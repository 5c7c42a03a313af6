use postern_core::cluster::JoinToken;
use postern_core::node::NodeRole;
use postern_core::operation::Digest;

use super::*;
use crate::commands::testing::*;
use crate::commands::*;

/// Something of every kind, and more of some than go together.
fn full() -> State {
    let mut fixture = Fixture::new();
    for n in 0..150 {
        let of = format!("s{n}");
        fixture.run_as(Some(request_id(n)), PutResources { resources: vec![secret(&of, 1, 0)] }).unwrap();
        fixture.run(OpenSession { session: session(n) }).unwrap();
    }
    fixture.run(PutResources { resources: vec![issuer("corp", "https://corp", 0)] }).unwrap();
    let keys = SetIssuerKeys { issuer: name("corp"), jwks: "{}".into(), url: "https://corp".into() };
    fixture.run(keys).unwrap();
    fixture.ask(2);
    fixture.run(UpdateNode { node: control_node(1, "c1") }).unwrap();
    let token = JoinToken { uses_left: 2, ..join_token("m", NodeRole::Control) };
    fixture.run(CreateJoinToken { token }).unwrap();
    let node = Some(control_node(0, "c2"));
    let of_it = certificate("c2", NodeRole::Control, "c2");
    fixture.run(RedeemJoinToken { id: "m".into(), secret_sha256: Digest([7; 32]), certificate: of_it, node }).unwrap();
    fixture.run(RemoveNode { id: 2, by: "x".into() }).unwrap();
    fixture.run(CreateJoinToken { token: join_token("t", NodeRole::Gateway) }).unwrap();
    for n in 0..150 {
        let certificate = certificate(&format!("{n:x}"), NodeRole::Gateway, "g1");
        fixture.run(RecordCertificate { certificate }).unwrap();
    }
    fixture.run(RecordAudit { records: vec![audit("a"), audit("b")] }).unwrap();
    fixture.state
}

#[test]
fn the_parts_are_the_message() {
    let state = full();
    let bytes = state.snapshot();
    let whole = pb::StateSnapshot::decode(&*bytes).unwrap();
    assert_eq!((whole.resources.len(), whole.certificates.len(), whole.outcomes.len()), (151, 151, 150));
    // What one message of all of it is: nodes of this version and of the one before, which encoded it so, agree on the hash.
    assert_eq!(whole.encode_to_vec(), bytes);
    let mut longest = 0;
    state.write_snapshot(|piece| longest = longest.max(piece.len()));
    assert!(longest < bytes.len() / 4, "{longest} of {}", bytes.len());
}

#[test]
fn restored_is_as_it_was() {
    let state = full();
    let restored = State::restore(&state.snapshot()).unwrap();
    assert_eq!(restored.hash(), state.hash());
    assert_eq!((restored.ended, restored.deadlines), (state.ended, state.deadlines));
    assert_eq!(restored.issuer_keys, state.issuer_keys);
}

#[test]
fn fields_in_any_order_and_unknown_ones_are_read() {
    let state = full();
    let mut proto = pb::StateSnapshot::decode(&*state.snapshot()).unwrap();
    let certificates = std::mem::take(&mut proto.certificates);
    let mut bytes = pb::StateSnapshot { certificates, ..Default::default() }.encode_to_vec();
    // Field 99: a number, a text, and numbers of 8 and of 4 bytes.
    bytes.extend([0x98, 0x06, 0x07, 0x9a, 0x06, 0x01, b'x']);
    bytes.extend([0x99, 0x06, 1, 2, 3, 4, 5, 6, 7, 8, 0x9d, 0x06, 1, 2, 3, 4]);
    bytes.extend(proto.encode_to_vec());
    assert_eq!(State::restore(&bytes).unwrap().hash(), state.hash());
}

#[test]
fn what_is_cut_off_is_refused() {
    let bytes = full().snapshot();
    let cuts = (1..bytes.len()).filter(|cut| cut % 97 == 0 || bytes.len() - cut < 40);
    for cut in cuts {
        let restored = State::restore(&bytes[..cut]);
        // Between two fields a message may end.
        assert!(restored.is_err() || pb::StateSnapshot::decode(&bytes[..cut]).is_ok(), "cut at {cut}");
    }
    let newer = pb::StateSnapshot { version: 2, ..Default::default() }.encode_to_vec();
    assert_eq!(State::restore(&newer).unwrap_err(), RestoreError::UnknownVersion(2));
    assert!(matches!(State::restore(&[0x0b, 0x0c]), Err(RestoreError::Undecodable(_))));
}

/// A state of `count` sessions and certificates: how long its copy, its snapshot and its return take. Run it with `--release --nocapture`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods)] // a measurement
fn how_long_a_large_state_takes() {
    let count = 100_000;
    let mut fixture = Fixture::new();
    for n in 0..count {
        fixture.run_as(Some(request_id(n)), OpenSession { session: session(n) }).unwrap();
        let certificate = certificate(&format!("{n:032x}"), NodeRole::Gateway, "g1");
        let _ = fixture.run(RecordCertificate { certificate });
    }
    let timed = |what: &str, started: std::time::Instant| println!("{what}: {:?}", started.elapsed());
    let started = std::time::Instant::now();
    let copy = fixture.state.clone();
    timed("copy", started);
    let started = std::time::Instant::now();
    let bytes = copy.snapshot();
    timed(&format!("snapshot of {} bytes", bytes.len()), started);
    let started = std::time::Instant::now();
    fixture.run(OpenSession { session: session(count) }).unwrap_err();
    fixture.run(RecordAudit { records: vec![audit("a")] }).unwrap();
    timed("two entries while it is shared", started);
    let started = std::time::Instant::now();
    let restored = State::restore(&bytes).unwrap();
    timed("restore", started);
    assert_eq!(restored.hash(), copy.hash());
}
