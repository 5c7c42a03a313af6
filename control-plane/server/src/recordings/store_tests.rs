use postern_core::principal::PrincipalId;
use postern_core::recording::{Chain, Event, MAGIC, Started};
use postern_core::session::Ending;
use postern_core::target::Protocol;
use postern_core::{Name, Principal};

use super::*;

const AT: Timestamp = Timestamp::from_millis(1_795_255_200_000);

pub(in crate::recordings) fn session() -> SessionId {
    SessionId::new(AT, 7)
}

fn started() -> Event {
    let principal = Principal {
        id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "alice".into() },
        groups: Default::default(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    };
    Event::Started(Box::new(Started {
        session: session(),
        principal,
        target: "db".parse().unwrap(),
        protocol: Protocol::Postgres,
        database: "shop".into(),
        cluster: "c".into(),
        gateway: "g1".into(),
        client_address: "127.0.0.1:1".into(),
        application: String::new(),
        revision: 1,
    }))
}

/// Frames of a whole session, and the place where each begins.
pub(in crate::recordings) fn whole() -> Vec<Vec<u8>> {
    let mut chain = Chain::start(session());
    let mut all = Vec::new();
    let mut add = |chain: &mut Chain, event: Event| {
        let mut out = Vec::new();
        chain.append(AT, &event, &mut out).unwrap();
        all.push(out);
    };
    add(&mut chain, started());
    add(&mut chain, Event::CancelRequested { client_address: "x".into() });
    add(&mut chain, Event::Ended { code: None, reason: "closed".into(), interrupted: true, gap: None });
    let (events, head) = (chain.next_seq(), chain.head());
    add(&mut chain, Event::Sealed { events, head, signature: String::new(), certificate: String::new() });
    all
}

pub(super) fn send(store: &mut Store, gateway: &str, first_seq: u64, frames: &[Vec<u8>]) -> Stored {
    let gateway: Name = gateway.parse().unwrap();
    let append = Append { gateway, session: session(), first_seq, frames: frames.concat() };
    store.append(&append).unwrap().0
}

#[test]
fn takes_each_event_once_and_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), RecordingKeys::testing(&[])).unwrap();
    let all = whole();
    assert_eq!(send(&mut store, "g1", 0, &all[..2]).next_seq, 2);
    // A gap, then a repetition that goes on.
    assert_eq!(send(&mut store, "g1", 3, &all[3..]).next_seq, 2);
    assert_eq!(send(&mut store, "g1", 0, &all[..3]).next_seq, 3);
    let stored = send(&mut store, "g1", 3, &all[3..]);
    let end = stored.session.unwrap().end.clone().unwrap();
    assert_eq!((stored.next_seq, end.events, end.ending, &*end.reason), (4, 4, Ending::Interrupted, "closed"));
    let Located { file, length, next_seq, .. } = store.locate(session()).unwrap().unwrap();
    assert_eq!(next_seq, 4);
    let expected = [MAGIC.to_vec(), all.concat()].concat();
    assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
    assert_eq!(length, expected.len() as u64);
    let path = path(dir.path(), session());
    assert!(path.ends_with(format!("2026-11/{}.rec", session())), "{path:?}");
    assert_eq!(std::fs::read(&path).unwrap(), expected);
    // Sealed is the end.
    let stored = send(&mut store, "g1", 4, &all[..1]);
    assert!(stored.refused.is_some());
}

#[test]
fn goes_on_after_a_restart_at_any_byte() {
    let all = whole();
    let bytes = [MAGIC.to_vec(), all.concat()].concat();
    for cut in 0..=bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path(), session());
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &bytes[..cut]).unwrap();
        let mut store = Store::open(dir.path(), RecordingKeys::testing(&[])).unwrap();
        let stored = send(&mut store, "g1", 0, &all);
        assert_eq!((stored.next_seq, stored.refused), (4, None), "cut at {cut}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "cut at {cut}");
    }
}

#[test]
fn refuses_what_does_not_continue_the_recording() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), RecordingKeys::testing(&[])).unwrap();
    let all = whole();
    assert!(send(&mut store, "g2", 0, &all).refused.unwrap().contains("another gateway"));
    assert!(send(&mut store, "g1", 0, &all[1..]).refused.is_some());
    let mut changed = all.clone();
    changed[1][6] ^= 1;
    assert!(send(&mut store, "g1", 0, &changed).refused.unwrap().contains("hash mismatch"));
    let mut cut = all[0].clone();
    cut.pop();
    assert!(send(&mut store, "g1", 0, &[cut]).refused.is_some());
    // Nothing of all that was kept.
    assert!(store.locate(session()).unwrap().is_none());
    assert_eq!(send(&mut store, "g1", 0, &all[..1]).next_seq, 1);
    assert!(send(&mut store, "g2", 1, &all[1..]).refused.is_some());
}

#[test]
fn damage_in_the_middle_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let all = whole();
    let mut bytes = [MAGIC.to_vec(), all.concat()].concat();
    bytes[MAGIC.len() + 10] ^= 1;
    let file = path(dir.path(), session());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    let mut store = Store::open(dir.path(), RecordingKeys::testing(&[])).unwrap();
    assert!(send(&mut store, "g1", 0, &all).refused.unwrap().contains("damaged"));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[test]
fn months_of_any_time() {
    assert_eq!(month(Timestamp::from_millis(0)), "1970-01");
    assert_eq!(month(AT), "2026-11");
    assert!(!month(Timestamp::from_millis((1 << 48) - 1)).contains('/'));
}
