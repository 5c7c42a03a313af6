//! What must hold for every log.

use postern_core::approval::ReviewVerdict;
use postern_core::node::NodeRole;
use postern_core::operation::Digest;
use postern_core::session::SessionEnd;
use postern_core::time::Ttl;
use postern_core::{ApprovalId, SessionId, Timestamp};
use proptest::prelude::*;
use prost::Message as _;

use crate::commands::testing::*;
use crate::commands::*;
use crate::entry::{Command, Entry};
use crate::outcome::{Halt, Success};
use crate::state::State;

fn command() -> impl Strategy<Value = Command> {
    let small = 0_u128..6;
    let people = prop::sample::select(vec!["alice", "rita", "rob"]);
    let names = prop::sample::select(vec!["a", "b"]);
    prop_oneof![
        1 => Just(InitCluster(cluster()).into()),
        3 => (names.clone(), 0_u8..3, 0_u64..12).prop_map(|(of, byte, revision)| {
            PutResources { resources: vec![secret(of, byte, revision), target(of, Some(of), revision)] }.into()
        }),
        2 => (names.clone(), names.clone(), 0_u64..12).prop_map(|(of, url, revision)| {
            PutResources { resources: vec![issuer(of, &format!("https://{url}"), revision)] }.into()
        }),
        1 => (names.clone(), prop::sample::select(postern_core::resource::Kind::ALL.to_vec())).prop_map(|(of, kind)| {
            DeleteResource { kind, name: name(of), expected_revision: 0 }.into()
        }),
        1 => (names.clone(), names, "[a-z]{0,4}").prop_map(|(of, url, jwks)| {
            SetIssuerKeys { issuer: name(of), jwks, url: format!("https://{url}") }.into()
        }),
        3 => (small.clone(), 0_u32..4, 0_u32..100).prop_map(|(n, count, expires)| {
            let mut approval = approval(n);
            approval.requirement.count = count;
            RequestApproval { approval, expires: Ttl(expires) }.into()
        }),
        4 => (small.clone(), people, any::<bool>()).prop_map(|(n, who, approve)| {
            let verdict = if approve { ReviewVerdict::Approve } else { ReviewVerdict::Deny };
            let id = ApprovalId::from_bytes(n.to_be_bytes());
            ReviewApproval { id, reviewer: principal(who, &["dba"]), verdict, comment: String::new() }.into()
        }),
        3 => (small.clone(), small.clone()).prop_map(|(n, session)| {
            let (id, session) = (ApprovalId::from_bytes(n.to_be_bytes()), SessionId::from_bytes(session.to_be_bytes()));
            ConsumeApproval { id, session, digest: Digest([7; 32]) }.into()
        }),
        1 => small.clone().prop_map(|n| {
            WithdrawApproval { id: ApprovalId::from_bytes(n.to_be_bytes()), because: "x".into() }.into()
        }),
        2 => (small.clone(), small.clone(), 0_u32..100_000).prop_map(|(n, session, within)| {
            let mut asked = open_review(n);
            asked.item.session = SessionId::from_bytes(session.to_be_bytes());
            asked.within = Ttl(within);
            asked.into()
        }),
        1 => (small.clone(), prop::sample::select(vec!["alice", "rita"])).prop_map(|(n, who)| {
            let (id, finding) = (open_review(n).item.id, postern_core::review::Finding::Ok);
            CloseReview { id, reviewer: principal(who, &["dba"]), finding, comment: String::new() }.into()
        }),
        1 => Just(ExpireApprovals.into()),
        2 => small.clone().prop_map(|n| OpenSession { session: session(n) }.into()),
        4 => member_command(),
        1 => (small.clone(), 0_u64..9).prop_map(|(n, events)| {
            CloseSession { id: SessionId::from_bytes(n.to_be_bytes()), events, head: Digest([1; 32]) }.into()
        }),
        1 => small.clone().prop_map(|n| ReopenSession { id: SessionId::from_bytes(n.to_be_bytes()) }.into()),
        2 => (small, any::<bool>(), 0_u64..9).prop_map(|(n, interrupted, events)| {
            let end = SessionEnd { ending: postern_core::session::Ending::sealed(interrupted), at: Timestamp::from_millis(9), reason: "r".into(), events, head: Digest([1; 32]) };
            SealSession { id: SessionId::from_bytes(n.to_be_bytes()), end }.into()
        }),
    ]
}

/// What lets nodes in and out, wraps anew, and is audited.
fn member_command() -> impl Strategy<Value = Command> {
    let roles = prop::sample::select(vec![NodeRole::Control, NodeRole::Gateway, NodeRole::Admin]);
    let names = prop::sample::select(vec!["a", "b", "c"]);
    let serials = prop::sample::select(vec!["1a", "1b", "1c", "1d"]);
    let rewrap = |of: SealedOf, byte: u8| RewrapItem {
        of,
        expected_kek_id: "k".into(),
        expected_wrapped_key: vec![byte],
        kek_id: "k2".into(),
        wrapped_key: vec![byte],
    };
    prop_oneof![
        2 => (names.clone(), roles.clone(), 0_u32..3, any::<bool>()).prop_map(|(id, role, uses_left, bound)| {
            let mut token = join_token(id, role);
            token.uses_left = uses_left;
            token.expires_at = Timestamp::from_millis(80_000_000);
            token.name = bound.then(|| name("a"));
            CreateJoinToken { token }.into()
        }),
        1 => names.clone().prop_map(|id| DeleteJoinToken { id: id.into() }.into()),
        3 => (names.clone(), roles.clone(), serials.clone(), names.clone()).prop_map(|(id, role, serial, of)| {
            let node = (role == NodeRole::Control).then(|| control_node(0, of));
            let certificate = certificate(serial, role, of);
            RedeemJoinToken { id: id.into(), secret_sha256: Digest([7; 32]), certificate, node }.into()
        }),
        2 => (1_u64..4, names.clone()).prop_map(|(id, of)| UpdateNode { node: control_node(id, of) }.into()),
        1 => (1_u64..4).prop_map(|id| RemoveNode { id, by: "x".into() }.into()),
        1 => (serials.clone(), roles.clone(), names.clone()).prop_map(|(serial, role, of)| {
            RecordCertificate { certificate: certificate(serial, role, of) }.into()
        }),
        1 => (serials, roles, names.clone()).prop_map(|(serial, role, of)| {
            let (serials, node) = (vec![serial.to_owned()], Some((role, name(of))));
            RevokeCertificates { serials, node, by: "x".into(), because: "y".into() }.into()
        }),
        1 => (0_u32..7).prop_map(|level| RaiseFeatureLevel { level }.into()),
        1 => (names, 0_u8..3).prop_map(move |(of, byte)| {
            let items = vec![rewrap(SealedOf::Secret(name(of)), byte), rewrap(SealedOf::CaKey, byte)];
            RewrapSecrets { items }.into()
        }),
        1 => Just(RecordAudit { records: vec![audit("a"), audit("b")] }.into()),
    ]
}

fn log() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let entry = (0_u64..90_000_000, prop::option::of(0_u128..8), command()).prop_map(|(at, request, command)| {
        let request_id = request.map(request_id);
        let audit = request_id.is_some().then(|| audit("call"));
        Entry { proposed_at: Timestamp::from_millis(at), request_id, command, audit }.encode()
    });
    let first = Entry {
        proposed_at: Timestamp::from_millis(1),
        request_id: None,
        command: InitCluster(cluster()).into(),
        audit: None,
    };
    prop::collection::vec(entry, 0..60).prop_map(move |mut rest| {
        rest.insert(0, first.encode());
        rest
    })
}

/// Entries stand at every second index, as in a log with entries of Raft's own.
fn apply_all(state: &mut State, log: &[Vec<u8>], from: usize) -> Vec<crate::outcome::Applied> {
    let numbered = log.iter().zip(0_u64..).skip(from);
    numbered.map(|(entry, n)| state.apply(n * 2 + 1, entry).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_same_log_gives_the_same_state_and_outcomes(log in log()) {
        let (mut one, mut two) = (State::default(), State::default());
        prop_assert_eq!(apply_all(&mut one, &log, 0), apply_all(&mut two, &log, 0));
        prop_assert_eq!(one.hash(), two.hash());
    }

    #[test]
    fn a_snapshot_and_the_tail_are_the_whole_log(log in log(), cut in any::<prop::sample::Index>()) {
        let mut whole = State::default();
        let outcomes = apply_all(&mut whole, &log, 0);
        let cut = cut.index(log.len());
        let mut head = State::default();
        apply_all(&mut head, &log[..cut], 0);
        let mut resumed = State::restore(&head.snapshot()).unwrap();
        prop_assert_eq!(resumed.hash(), head.hash());
        prop_assert_eq!(&apply_all(&mut resumed, &log, cut)[..], &outcomes[cut..]);
        prop_assert_eq!(resumed.hash(), whole.hash());
        prop_assert_eq!(resumed.finished, whole.finished);
        prop_assert_eq!(resumed.finished_bytes, whole.finished_bytes);
        prop_assert_eq!(resumed.deadlines, whole.deadlines);
    }

    /// I7: whatever the order of reviews, retries, consumes and time, an approval is taken at most once.
    #[test]
    fn an_approval_is_consumed_at_most_once(log in log()) {
        let mut state = State::default();
        let mut taken = std::collections::BTreeSet::new();
        for (entry, n) in log.iter().zip(1_u64..) {
            let before: Vec<_> = state.approvals().map(|approval| (approval.id, approval.state)).collect();
            state.apply(n, entry).unwrap();
            for (id, was) in before {
                let now = state.approval(id).unwrap().state;
                prop_assert!(!was.is_final() || was == now);
                if was != now && now == postern_core::approval::ApprovalState::Consumed {
                    prop_assert!(taken.insert(id));
                    prop_assert_eq!(was, postern_core::approval::ApprovalState::Approved);
                }
            }
        }
    }

    /// Whatever members come and go: an id is given once, and no use of a token is taken twice.
    #[test]
    fn ids_and_uses_are_given_once(log in log()) {
        let mut state = State::default();
        let mut ids = std::collections::BTreeSet::new();
        for (entry, n) in log.iter().zip(1_u64..) {
            let before: std::collections::BTreeMap<_, _> =
                state.join_tokens().map(|token| (token.id.clone(), token.uses_left)).collect();
            let replies = state.requests.iter().count();
            let applied = state.apply(n, entry).unwrap();
            let fresh = state.requests.iter().count() > replies || !matches!(applied.outcome, Ok(Success::Redeemed { .. }));
            if let (Ok(Success::Redeemed { node_id: Some(id) }), true) = (&applied.outcome, fresh) {
                prop_assert!(ids.insert(*id), "id {} was given twice", id);
            }
            if let (Ok(Success::Redeemed { .. }), true) = (&applied.outcome, fresh) {
                let after: u32 = state.join_tokens().map(|token| token.uses_left).sum();
                prop_assert_eq!(before.values().sum::<u32>(), after + 1);
            }
        }
    }

    /// Every record but those of before the window is there, in one chain.
    #[test]
    fn the_audit_log_is_one_chain(log in log()) {
        let mut state = State::default();
        apply_all(&mut state, &log, 0);
        let mut previous = [0; 32];
        for (record, n) in state.audit().zip(1_u64..) {
            prop_assert_eq!(record.sequence, n);
            prop_assert_eq!(crate::audit_hash(&previous, record), record.hash);
            previous = record.hash;
        }
        prop_assert_eq!(state.audit_head().1, previous);
    }

    #[test]
    fn any_bytes_halt_or_apply(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut fixture = Fixture::new();
        let before = fixture.state.hash();
        if fixture.state.apply(2, &bytes).is_err() {
            prop_assert_eq!(fixture.state.hash(), before);
        }
    }

    /// Flips bytes of entries that are almost right: what still decodes is applied or refused, never a panic.
    #[test]
    fn damaged_entries_never_panic(log in log(), places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let mut state = State::default();
        let mut places = places.into_iter();
        for (mut entry, n) in log.into_iter().zip(1_u64..) {
            if n > 1 && let Some((place, byte)) = places.next() {
                let place = place.index(entry.len());
                entry[place] = byte;
            }
            let _ = state.apply(n, &entry);
        }
        prop_assert_eq!(State::restore(&state.snapshot()).unwrap().hash(), state.hash());
    }
}

#[test]
fn what_is_newer_halts() {
    let mut fixture = Fixture::new();
    let entry = |version, command| postern_proto::state::v1::Entry { version, command, ..Default::default() };
    let expire = postern_proto::state::v1::entry::Command::ExpireApprovals(Default::default());
    let version = crate::FEATURE_LEVEL + 1;
    let newer = entry(version, Some(expire.clone())).encode_to_vec();
    assert_eq!(fixture.state.apply(2, &newer), Err(Halt::UnknownVersion { index: 2, version, known: version - 1 }));
    let unknown = entry(1, None).encode_to_vec();
    assert_eq!(fixture.state.apply(2, &unknown), Err(Halt::UnknownCommand { index: 2 }));
    let known = entry(1, Some(expire)).encode_to_vec();
    assert!(matches!(fixture.state.apply(1, &known), Err(Halt::OutOfOrder { .. })));
    assert!(fixture.state.apply(2, &known).is_ok());
}
