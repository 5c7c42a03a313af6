use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519};

use super::super::{Event, OperationEvent, OperationOutcome, Value};
use super::*;
use crate::id::{DecisionId, OperationId};
use crate::policy::{DecisionRecord, Outcome};
use crate::principal::{Principal, PrincipalId};
use crate::target::Protocol;

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);

struct Cluster {
    ca_key: KeyPair,
    ca: CertificateParams,
    ca_der: Vec<u8>,
}

struct Signer {
    key: KeyPair,
    der: Vec<u8>,
}

fn cluster() -> Cluster {
    let ca_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_der = ca.self_signed(&ca_key).unwrap().der().to_vec();
    Cluster { ca_key, ca, ca_der }
}

impl Cluster {
    fn signer(&self, dns: &str) -> Signer {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::from_params(&self.ca, &self.ca_key);
        let der = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        Signer { key, der }
    }

    /// At once and in pieces, which must be the same.
    fn judge(&self, file: &[u8]) -> Report {
        let report = verify(file, Authority(&self.ca_der));
        let mut verifier = Verifier::new(Some(Authority(&self.ca_der)));
        file.chunks(97).for_each(|piece| verifier.push(piece));
        let other = verifier.finish();
        let of = |report: &Report| (report.faults.clone(), report.events, report.head, report.sealed, report.session);
        assert_eq!(of(&report), of(&other));
        report
    }
}

fn session() -> SessionId {
    SessionId::new(NOW, 9)
}

fn started() -> Event {
    Event::Started(Box::new(Started {
        session: session(),
        principal: Principal {
            id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "alice".into() },
            groups: ["a".into()].into(),
            token_id: None,
            expires_at: None,
            chain: vec![],
            claims: crate::KeptClaims::default(),
        },
        target: "shop".parse().unwrap(),
        protocol: Protocol::Postgres,
        database: "shop".into(),
        cluster: "c".into(),
        gateway: "g1".into(),
        client_address: "127.0.0.1:1".into(),
        application: String::new(),
        revision: 4,
    }))
}

fn body() -> Vec<Event> {
    let operation = OperationId::new(NOW, 1);
    vec![
        started(),
        Event::Operation(Box::new(OperationEvent {
            operation,
            text: Value::Text("select 1".into()),
            parameters: vec![Value::Null, Value::Binary { base64: "AA==".into() }, Value::Text("null".into())],
            actions: vec![],
            digest: Digest([7; 32]),
            decision: DecisionRecord {
                id: DecisionId::new(NOW, 2),
                outcome: Outcome::Permit,
                revision: 4,
                policies: vec!["p".parse().unwrap()],
                reason: String::new(),
                at: NOW,
                policy_age_ms: Some(5),
                grants: Vec::new(),
                estimated_rows: None,
                obliged: crate::policy::Obliged::default(),
            },
        })),
        Event::Rows { operation, rows: vec![vec![Value::Text("1".into()), Value::Null]] },
        Event::Completed(Box::new(super::super::Completed {
            operation,
            outcome: OperationOutcome::Done { tags: vec!["SELECT 1".into()] },
            rows: 1,
            bytes: 1,
            rows_omitted: 0,
            omitted_digest: None,
            rows_in: 0,
        })),
        Event::Ended { code: None, reason: "client closed".into(), interrupted: false, gap: None },
    ]
}

/// The frames of `events`, sealed by `signer`.
fn sealed(events: &[Event], signer: &Signer) -> Vec<Vec<u8>> {
    let mut chain = Chain::start(session());
    let mut out: Vec<Vec<u8>> = Vec::new();
    let mut push = |chain: &mut Chain, event: &Event| {
        let mut bytes = Vec::new();
        chain.append(NOW, event, &mut bytes).unwrap();
        out.push(bytes);
    };
    for event in events {
        push(&mut chain, event);
    }
    let base64 = base64::engine::general_purpose::STANDARD;
    let message = seal_message(session(), chain.next_seq(), chain.head());
    let pkcs8 = signer.key.serialize_der();
    let key = aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap();
    let seal = Event::Sealed {
        events: chain.next_seq(),
        head: chain.head(),
        signature: base64.encode(key.sign(&message).as_ref()),
        certificate: base64.encode(&signer.der),
    };
    push(&mut chain, &seal);
    out
}

fn file(frames: &[Vec<u8>]) -> Vec<u8> {
    [MAGIC.as_slice(), &frames.concat()].concat()
}

#[test]
fn an_untouched_recording_verifies() {
    let cluster = cluster();
    let frames = sealed(&body(), &cluster.signer("g1.gateway.postern.internal"));
    let report = cluster.judge(&file(&frames));
    assert!(report.is_good(), "{report}");
    assert_eq!((report.events, report.sealed, report.session), (6, true, Some(session())));
}

#[test]
fn every_flipped_byte_is_found() {
    let cluster = cluster();
    let whole = file(&sealed(&body(), &cluster.signer("g1.gateway.postern.internal")));
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x01;
        assert!(!cluster.judge(&bad).is_good(), "flip at {at} was not found");
    }
}

#[test]
fn every_truncation_and_any_missing_moved_or_doubled_event_is_found() {
    let cluster = cluster();
    let frames = sealed(&body(), &cluster.signer("g1.gateway.postern.internal"));
    let whole = file(&frames);
    for end in 0..whole.len() {
        assert!(!cluster.judge(&whole[..end]).is_good(), "cut at {end} was not found");
    }
    for at in 0..frames.len() {
        let mut missing = frames.clone();
        missing.remove(at);
        assert!(!cluster.judge(&file(&missing)).is_good(), "event {at} missing was not found");
        let mut doubled = frames.clone();
        doubled.insert(at, frames[at].clone());
        assert!(!cluster.judge(&file(&doubled)).is_good(), "event {at} doubled was not found");
        let mut moved = frames.clone();
        let other = (at + 1) % frames.len();
        moved.swap(at, other);
        assert!(!cluster.judge(&file(&moved)).is_good(), "events {at} and {other} swapped was not found");
    }
    let report = cluster.judge(&file(&frames[..frames.len() - 1]));
    assert_eq!(report.faults, [Fault::Unsealed]);
}

#[test]
fn every_fault_is_listed_not_the_first_alone() {
    let cluster = cluster();
    let frames = sealed(&body(), &cluster.signer("g1.gateway.postern.internal"));
    let mut bad = frames.clone();
    bad[1][10] ^= 1;
    bad[3][10] ^= 1;
    let report = cluster.judge(&file(&bad));
    let places: Vec<_> =
        report.faults.iter().map(|fault| matches!(fault, Fault::Chain(ChainFault::Hash { .. }))).collect();
    assert_eq!(places, [true, true], "{report}");
}

#[test]
fn only_the_gateway_that_recorded_may_seal() {
    let ours = cluster();
    for (cluster, dns) in [
        (&ours, "g2.gateway.postern.internal"),
        (&ours, "g1.control.postern.internal"),
        (&cluster(), "g1.gateway.postern.internal"),
    ] {
        let frames = sealed(&body(), &cluster.signer(dns));
        let report = ours.judge(&file(&frames));
        assert!(matches!(report.faults.as_slice(), [Fault::Seal(_)]), "{dns}: {report}");
    }
}

/// What is shown while it is read is shown of a seal only when that is good.
#[test]
fn a_bad_seal_is_told_in_place_of_the_event() {
    let (ours, other) = (cluster(), cluster());
    let good = file(&sealed(&body(), &ours.signer("g1.gateway.postern.internal")));
    let bad = file(&sealed(&body(), &other.signer("g1.gateway.postern.internal")));
    for (file, authority, entries, faults, sealed) in [
        (&good, Some(Authority(&ours.ca_der)), 6, 0, true),
        (&bad, Some(Authority(&ours.ca_der)), 5, 1, false),
        // Without an authority there is nothing that a seal could count by.
        (&bad, None, 6, 0, false),
    ] {
        let (mut verifier, mut took, mut told) = (Verifier::new(authority), 0, 0);
        let read = verifier.read(file, |entry| -> Result<(), ()> {
            *if entry.is_ok() { &mut took } else { &mut told } += 1;
            Ok(())
        });
        assert_eq!((read, took, told, verifier.report().sealed), (Ok(()), entries, faults, sealed));
    }
}

#[test]
fn who_reads_may_stop_at_the_first_fault() {
    let ours = cluster();
    let mut frames = sealed(&body(), &ours.signer("g1.gateway.postern.internal"));
    frames[2][10] ^= 1;
    let (mut verifier, mut took) = (Verifier::new(Some(Authority(&ours.ca_der))), 0);
    let read = verifier.read(&file(&frames), |entry| entry.map(|_| took += 1).map_err(Clone::clone));
    assert_eq!((took, read), (2, Err(Fault::Chain(ChainFault::Hash { seq: 2 }))));
}

#[test]
fn another_first_event_is_no_recording() {
    let cluster = cluster();
    let signer = cluster.signer("g1.gateway.postern.internal");
    let report = cluster.judge(&file(&sealed(&body()[1..], &signer)));
    assert_eq!(report.faults, [Fault::NoStart]);
    assert_eq!(cluster.judge(MAGIC).faults, [Fault::NoStart]);
    assert_eq!(cluster.judge(b"").faults, [Fault::Magic]);
}

#[test]
fn values_keep_apart() {
    for value in
        [Value::Null, Value::Text("null".into()), Value::Text(String::new()), Value::from_wire(Some(&[0xff]), false)]
    {
        let json = serde_json::to_string(&value).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value, "{json}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let file = [MAGIC.as_slice(), &bytes].concat();
        assert!(!verify(&file, Authority(b"no certificate")).is_good());
    }
}
