use postern_core::operation::Digest;
use postern_core::principal::PrincipalId;
use postern_core::session::{Ending, SessionEnd};
use postern_core::{KeptClaims, Principal};

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_000_000);

fn session(gateway: &str, started_secs: u64, end: Option<Ending>) -> Session {
    let (at, reason) = (NOW, String::new());
    Session {
        id: SessionId::new(NOW, 1),
        principal: Principal {
            id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "alice".into() },
            groups: [].into(),
            token_id: None,
            expires_at: None,
            chain: vec![],
            claims: KeptClaims::default(),
        },
        target: "shop".parse().unwrap(),
        gateway: gateway.to_owned(),
        client_address: String::new(),
        database: String::new(),
        started_at: Timestamp::from_secs(started_secs),
        end: end.map(|ending| SessionEnd { ending, at, reason, events: 7, head: Digest([7; 32]) }),
        revision: 1,
    }
}

/// Gateway `g1` reports, and was started at 500 s; `g2` is gone, `g3` is missing, but not for long.
fn look(reports_since: u64) -> Look {
    let reporter = Reporter { started_at: Timestamp::from_secs(500), since: Timestamp::from_secs(reports_since) };
    Look { present: [("g1".to_owned(), reporter)].into(), gone: vec!["g2".to_owned()], now: NOW, after: None }
}

#[test]
fn only_sessions_that_their_gateway_cannot_be_serving_are_suspects() {
    let settled = look(1_000_000 - RECOVERY.as_secs());
    let fresh = look(1_000_000 - RECOVERY.as_secs() + 1);
    for (gateway, started, end, expected) in [
        ("g1", 600, None, None),
        ("g1", 500, None, None),
        // Of its former life: it says how it ended, or has lost it.
        ("g1", 499, None, Some(Case::Suspect)),
        ("g2", 499, None, Some(Case::Suspect)),
        ("g3", 499, None, None),
        ("g2", 499, Some(Ending::Orderly), None),
        ("g2", 499, Some(Ending::Interrupted), None),
        ("g2", 499, Some(Ending::Orphaned), Some(Case::Orphan(7))),
        ("g3", 499, Some(Ending::Orphaned), Some(Case::Orphan(7))),
        ("g1", 499, Some(Ending::Orphaned), Some(Case::Orphan(7))),
        ("g1", 500, Some(Ending::Orphaned), Some(Case::Back)),
    ] {
        let session = session(gateway, started, end);
        assert_eq!(settled.case(&session), expected, "{gateway} {started} {end:?}");
        let former = (gateway, started, end) == ("g1", 499, None);
        assert_eq!(fresh.case(&session), if former { None } else { expected });
    }
}

#[test]
fn a_gateway_that_comes_back_is_missing_anew() {
    let mut memory = Memory::default();
    let start = Instant::now();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert!(memory.missing(names(&["g1", "g2"]).into_iter(), start).is_empty());
    assert_eq!(memory.missing(names(&["g1"]).into_iter(), start + GONE), ["g1"]);
    assert_eq!(memory.missing(names(&["g1", "g2"]).into_iter(), start + GONE), ["g1"]);
    assert_eq!(memory.missing(names(&["g1", "g2"]).into_iter(), start + GONE * 2), ["g1", "g2"]);
}

#[test]
fn what_still_comes_keeps_a_session_open() {
    let mut memory = Memory::default();
    let (id, start) = (SessionId::new(NOW, 1), Instant::now());
    let at = |events, certain| Furthest { events, head: Digest([1; 32]), sealed: false, certain };
    assert!(!memory.is_still(id, &at(3, true), start));
    assert!(!memory.is_still(id, &at(4, true), start + STILL));
    assert!(!memory.is_still(id, &at(4, false), start + STILL * 2 - Duration::from_millis(1)));
    assert!(memory.is_still(id, &at(4, true), start + STILL * 2));
    // A member that does not answer may have more.
    assert!(!memory.is_still(id, &at(4, false), start + STILL * 2 - Duration::from_millis(1)));
    assert!(memory.is_still(id, &at(4, false), start + STILL + STILL_UNCERTAIN));
}
