use std::collections::BTreeMap;

use postern_core::delta::Delta;
use postern_core::masking::{MaskFunction, MaskingRule};
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::policy::Pattern;
use postern_core::resource::{Metadata, Resource, Spec};
use postern_core::signed::message;
use postern_core::target::TargetSelector;
use postern_core::wire::snapshot::{delta_to_proto, to_proto};
use postern_runtime::clock;
use postern_runtime::pki::{self, KeyRequest, NodeCredential, SealSigner};

use super::*;

struct Rig {
    authority: pki::Authority,
    signer: SealSigner,
    assembler: Assembler,
    now: Timestamp,
}

fn signer(authority: &pki::Authority, role: NodeRole) -> SealSigner {
    let identity = NodeIdentity { role, name: "one".parse().unwrap(), pool: None };
    let request = KeyRequest::generate().unwrap();
    let lifetime = Duration::from_secs(3600);
    let certificate_pem = authority.issue(&identity, &request.csr_der, &[], clock::now(), lifetime).unwrap();
    let ca_pem = authority.ca_pem().to_owned();
    NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem }.signer().unwrap()
}

fn rule(name: &str) -> Resource {
    let at = Timestamp::default();
    let spec = Spec::MaskingRule(MaskingRule {
        targets: TargetSelector { names: vec!["*".into()], ..Default::default() },
        columns: vec![Pattern::parse("public.people.email").unwrap()],
        mask: MaskFunction::Null,
        exempt_groups: vec![],
        ..Default::default()
    });
    let metadata =
        Metadata { name: name.parse().unwrap(), labels: BTreeMap::new(), revision: 0, created_at: at, updated_at: at };
    Resource { metadata, spec }
}

fn snapshot(revision: u64, incarnation: &str) -> Snapshot {
    let mut snapshot = Snapshot { revision, ..Snapshot::empty("c", incarnation) };
    snapshot.put(rule("a")).unwrap();
    snapshot
}

fn delta(from: u64, to: u64) -> Delta {
    let upserts = vec![rule(&format!("r{to}"))];
    Delta { incarnation: "i1".into(), from_revision: from, revision: to, upserts, ..Delta::default() }
}

fn signed(signer: &SealSigner, purpose: Purpose, payload: Vec<u8>) -> pb::Signed {
    pb::Signed {
        signature: signer.sign(&message(purpose, &payload)).into(),
        certificate: signer.certificate_der().to_vec().into(),
        payload: payload.into(),
    }
}

fn credentials(whole: bool, passwords: &[(&str, &str)]) -> pb::Credentials {
    let credential = |(target, password): &(&str, &str)| pb::Credential {
        target: (*target).to_owned(),
        username: "u".to_owned(),
        password: password.as_bytes().to_vec(),
    };
    let mask_key = if whole { vec![7; 32] } else { Vec::new() };
    pb::Credentials { whole, credentials: passwords.iter().map(credential).collect(), removed: vec![], mask_key }
}

fn answer(policy: Answer, credentials: Option<pb::Credentials>) -> WatchResponse {
    WatchResponse { policy: Some(policy), credentials, ..Default::default() }
}

impl Rig {
    /// Holding revision 10 of incarnation i1.
    fn new() -> Self {
        let authority = pki::Authority::create("c").unwrap();
        let signer = signer(&authority, NodeRole::Control);
        let der = NodeCredential {
            certificate_pem: String::new(),
            key_pem: String::new().into(),
            ca_pem: authority.ca_pem().to_owned(),
        }
        .ca_der();
        let mut rig = Self { assembler: Assembler::new(der), authority, signer, now: clock::now() };
        assert_eq!(rig.assembler.known(), (0, String::new()));
        rig.whole(&snapshot(10, "i1")).unwrap();
        rig
    }

    fn take(&mut self, answer: WatchResponse) -> Result<Option<Arc<Current>>, AssembleError> {
        self.assembler.take(answer, self.now)
    }

    fn whole(&mut self, snapshot: &Snapshot) -> Result<Option<Arc<Current>>, AssembleError> {
        let signed = signed(&self.signer, Purpose::Snapshot, to_proto(snapshot).encode_to_vec());
        self.take(answer(Answer::Whole(signed), Some(credentials(true, &[("a", "1")]))))
    }

    fn delta(&mut self, delta: &Delta) -> Result<Option<Arc<Current>>, AssembleError> {
        let signed = signed(&self.signer, Purpose::Delta, delta_to_proto(delta).encode_to_vec());
        self.take(answer(Answer::Delta(signed), None))
    }
}

#[test]
fn deltas_in_order_each_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.assembler.known(), (10, "i1".to_owned()));
    for (from, to) in [(10, 12), (12, 13)] {
        let current = rig.delta(&delta(from, to)).unwrap().unwrap();
        assert_eq!(current.snapshot.revision, to);
        // Credentials stay where nothing is said of them.
        assert_eq!((current.snapshot.credentials.len(), current.snapshot.mask_key.expose().len()), (1, 32));
    }
    assert_eq!(rig.assembler.current.as_ref().unwrap().snapshot.masking.len(), 3);
    // Skipped, repeated, of the past.
    for (from, to) in [(14, 15), (12, 13), (10, 12)] {
        assert!(matches!(rig.delta(&delta(from, to)), Err(AssembleError::Delta(DeltaError::Gap { ours: 13, .. }))));
    }
    assert_eq!(rig.assembler.revision(), 13);
    // The next stream begins with the whole.
    rig.assembler.ask_anew();
    assert_eq!(rig.assembler.known().0, 0);
    rig.whole(&snapshot(15, "i1")).unwrap();
    assert_eq!(rig.assembler.known().0, 15);
}

#[test]
fn nothing_unsigned_is_taken() {
    let mut rig = Rig::new();
    let payload = delta_to_proto(&delta(10, 11)).encode_to_vec();
    // By a gateway of the same cluster, by a stranger, over other bytes, for another purpose.
    let gateway = signer(&rig.authority, NodeRole::Gateway);
    let stranger = signer(&pki::Authority::create("c").unwrap(), NodeRole::Control);
    let good = signed(&rig.signer, Purpose::Delta, payload.clone());
    let mut bent = payload.clone();
    *bent.last_mut().unwrap() ^= 1;
    let forged = [
        signed(&gateway, Purpose::Delta, payload.clone()),
        signed(&stranger, Purpose::Delta, payload.clone()),
        signed(&rig.signer, Purpose::Snapshot, payload.clone()),
        pb::Signed { payload: bent.into(), ..good.clone() },
        pb::Signed { signature: Vec::new().into(), ..good.clone() },
        pb::Signed { certificate: Vec::new().into(), ..good.clone() },
    ];
    for forged in forged {
        let refused = rig.take(answer(Answer::Delta(forged), None)).unwrap_err();
        assert!(matches!(refused, AssembleError::Signature(_)), "{refused}");
    }
    let whole = signed(&gateway, Purpose::Snapshot, to_proto(&snapshot(20, "i1")).encode_to_vec());
    let refused = rig.take(answer(Answer::Whole(whole), Some(credentials(true, &[])))).unwrap_err();
    assert!(matches!(refused, AssembleError::Signature(SignatureFault::Role)), "{refused}");
    assert_eq!(rig.assembler.revision(), 10);
    rig.take(answer(Answer::Delta(good), None)).unwrap();
    assert_eq!(rig.assembler.revision(), 11);
}

#[test]
fn a_signer_that_was_revoked_is_refused() {
    let mut rig = Rig::new();
    let serial = serial_of(&rig.signer.certificate_der()).unwrap();
    rig.delta(&Delta { revoked: vec![serial], ..delta(10, 11) }).unwrap();
    assert!(matches!(rig.delta(&delta(11, 12)), Err(AssembleError::Revoked)));
    rig.signer = signer(&rig.authority, NodeRole::Control);
    rig.delta(&delta(11, 12)).unwrap();
}

#[test]
fn nothing_older_is_taken_and_no_past_life() {
    let mut rig = Rig::new();
    assert!(matches!(rig.whole(&snapshot(9, "i1")), Err(AssembleError::Older { ours: 10, theirs: 9 })));
    let other = Delta { incarnation: "i2".into(), ..delta(10, 11) };
    assert!(matches!(rig.delta(&other), Err(AssembleError::Delta(DeltaError::Incarnation { .. }))));
    // A restored cluster may be at an earlier revision; the former life does not come back.
    assert_eq!(rig.whole(&snapshot(5, "i2")).unwrap().unwrap().snapshot.revision, 5);
    assert!(matches!(rig.whole(&snapshot(11, "i1")), Err(AssembleError::Past(_))));
    assert!(matches!(rig.delta(&delta(5, 6)), Err(AssembleError::Delta(DeltaError::Incarnation { .. }))));
    assert_eq!(rig.assembler.known(), (5, "i2".to_owned()));
}

#[test]
fn a_policy_in_parts_is_used_only_whole() {
    let mut rig = Rig::new();
    let full = signed(&rig.signer, Purpose::Snapshot, to_proto(&snapshot(11, "i1")).encode_to_vec());
    let (head, tail) = full.payload.split_at(full.payload.len() / 2);
    let last = pb::Signed { payload: tail.to_vec().into(), ..full.clone() };
    let end = |credentials| answer(Answer::Whole(last.clone()), credentials);
    assert!(rig.take(answer(Answer::Part(head.to_vec()), None)).unwrap().is_none());
    // The stream ends in between: the parts are forgotten, and its end alone is not signed.
    rig.assembler.known();
    assert!(matches!(rig.take(end(Some(credentials(true, &[])))), Err(AssembleError::Signature(_))));
    rig.take(answer(Answer::Part(head.to_vec()), None)).unwrap();
    assert!(matches!(rig.take(end(None)), Err(AssembleError::NoCredentials)));
    rig.take(answer(Answer::Part(head.to_vec()), None)).unwrap();
    assert_eq!(rig.take(end(Some(credentials(true, &[])))).unwrap().unwrap().snapshot.revision, 11);
}

#[test]
fn credentials_come_with_a_change_or_alone() {
    let mut rig = Rig::new();
    let signed = signed(&rig.signer, Purpose::Delta, delta_to_proto(&delta(10, 11)).encode_to_vec());
    let change = answer(Answer::Delta(signed), Some(credentials(false, &[("b", "2")])));
    assert_eq!(rig.take(change).unwrap().unwrap().snapshot.credentials.len(), 2);
    let alone = WatchResponse { credentials: Some(credentials(true, &[("c", "3")])), ..Default::default() };
    let current = rig.take(alone.clone()).unwrap().unwrap();
    assert_eq!((current.snapshot.credentials.len(), current.snapshot.revision), (1, 11));
    // Before any policy they belong to nothing.
    let mut fresh = Assembler::new(Vec::new());
    assert!(matches!(fresh.take(alone, rig.now), Err(AssembleError::NothingToChange)));
}

#[test]
fn freshness_is_counted_from_when_the_node_knew_it() {
    let asked = Instant::now();
    let mut anchor = Anchor::new(asked);
    // Known two seconds before the first answer was sent.
    assert_eq!(anchor.local(8_000, 10_000), asked.checked_sub(Duration::from_secs(2)));
    // An answer that lay in a buffer for a minute is no newer than it is.
    let long_ago = asked.checked_sub(Duration::from_secs(60)).unwrap();
    let mut anchor = Anchor::new(long_ago);
    anchor.local(10_000, 10_000).unwrap();
    assert_eq!(anchor.local(13_000, 13_000), long_ago.checked_add(Duration::from_secs(3)));
    // And none is of the future.
    assert!(anchor.local(900_000, 900_000).unwrap() <= Instant::now());
}
