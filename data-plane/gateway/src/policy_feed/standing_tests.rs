use postern_core::Timestamp;
use postern_core::issuer::Issuer;
use postern_core::masking::MaskFunction;
use postern_core::policy::{ActionPattern, Conditions, Effect, Pattern, PrincipalSelector, Staleness};
use postern_core::revocation::Revoked;
use postern_core::snapshot::{Labeled, Table};
use postern_core::target::{
    CredentialKind, CredentialRef, CredentialSource, Protocol, Route, Target, TargetSelector, TargetTls, TlsMode,
};
use postern_runtime::jwt::Verifier;

use super::*;

type Change = fn(&mut Snapshot);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn principal(subject: &str) -> Principal {
    Principal {
        id: PrincipalId { issuer: name("ci"), subject: subject.into() },
        groups: ["readers".into()].into(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    }
}

fn bearer(subject: &str) -> Bearer {
    Bearer::new(&principal(subject), false, None, Timestamp::from_secs(100))
}

fn policy(principals: PrincipalSelector) -> Policy {
    Policy {
        effect: Effect::Permit,
        principals,
        targets: TargetSelector { names: vec!["*".into()], ..Default::default() },
        actions: vec![ActionPattern::Any],
        resources: Vec::new(),
        when: Conditions::default(),
        approval: None,
        waits: false,
        staleness: Staleness::default(),
        limits: Allowance::default(),
        on_request: None,
        cedar: None,
        obligations: postern_core::policy::Obligations::default(),
        reason: None,
    }
}

fn of_subject(subject: &str) -> Policy {
    policy(PrincipalSelector { subjects: vec![principal(subject).id], ..Default::default() })
}

fn issuer(url: &str) -> (Issuer, Option<String>) {
    (Issuer::new_oidc(url, ["postern"]), None)
}

fn target() -> Labeled<Target> {
    let value = Target {
        protocol: Protocol::Postgres,
        address: "db:5432".parse().unwrap(),
        tls: TargetTls { mode: TlsMode::Disable, ca_pem: None, server_name: None, direct: false },
        credential: CredentialRef {
            username: "app".into(),
            kind: CredentialKind::Password,
            source: CredentialSource::None,
        },
        route: Route::Direct,
        databases: Vec::new(),
        disabled: false,
        limits: Allowance::default(),
        spare_sessions: 0,
    };
    Labeled { labels: BTreeMap::new(), value }
}

fn first() -> Snapshot {
    let readers = policy(PrincipalSelector { groups: vec!["readers".into()], ..Default::default() });
    Snapshot {
        revision: 1,
        issuers: Table::from([(name("ci"), issuer("https://one.example"))]),
        targets: Table::from([(name("db"), target()), (name("other"), target())]),
        policies: Table::from([(name("readers"), readers)]),
        ..Snapshot::empty("c", "i")
    }
}

/// Standings, and the policy that they show.
struct Rig {
    standings: Standings,
    snapshot: Snapshot,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self { standings: Standings::default(), snapshot: first() };
        rig.change(|_| {});
        rig
    }

    fn change(&mut self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.snapshot.clone();
        snapshot.revision += 1;
        change(&mut snapshot);
        self.snapshot = snapshot.clone();
        let verifier = Arc::new(Verifier::from_snapshot(&snapshot));
        self.standings.update(&Arc::new(Current { snapshot: Arc::new(snapshot), verifier }));
    }

    fn seat(&self, subject: &str, on: &str) -> Seat {
        self.standings
            .join(session(), (&principal(subject), &bearer(subject)), (&name(on), &"shop".into()), &self.snapshot)
            .unwrap()
    }
}

/// Another with each call.
fn session() -> SessionId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    SessionId::new(Timestamp::from_secs(1), NEXT.fetch_add(1, Ordering::Relaxed).into())
}

/// What a change was to a session: whether it was told, and whether it may stay.
fn told(seat: &mut Seat) -> Result<bool, Gone> {
    match seat.take()? {
        Some(standing) => standing.slice.clone().map(|_| true),
        None => Ok(false),
    }
}

#[test]
fn whom_it_does_not_concern_is_not_told() {
    let mut rig = Rig::new();
    let (mut ada, mut bob, mut elsewhere) = (rig.seat("ada", "db"), rig.seat("bob", "db"), rig.seat("ada", "other"));
    let another = rig.seat("ada", "db");
    assert_eq!(rig.standings.len(), 3, "those who are alike share one");
    let mut check = |change: &dyn Fn(&mut Snapshot), expect: [bool; 3]| {
        rig.change(change);
        let found = [&mut ada, &mut bob, &mut elsewhere].map(|seat| told(seat).unwrap());
        assert_eq!(found, expect, "revision {}", rig.snapshot.revision);
        assert_eq!(another.revision(), rig.snapshot.revision);
    };
    check(&|_| {}, [false; 3]);
    check(&|now| now.policies.insert(name("eve"), of_subject("eve")), [false; 3]);
    check(&|now| now.policies.insert(name("hers"), of_subject("ada")), [true, false, true]);
    check(&|now| now.policies.remove(&name("hers")), [true, false, true]);
    check(&|now| now.targets.get_mut(&name("other")).unwrap().value.limits.sessions = 3, [false, false, true]);
    check(&|now| drop(now.credentials.insert(name("db"), SecretBytes::new(vec![1]))), [true, true, false]);
    check(&|now| drop(now.credentials.insert(name("db"), SecretBytes::new(vec![1]))), [false; 3]);
    let rule = |exempt: &str| MaskingRule {
        targets: TargetSelector { names: vec!["db".into()], ..Default::default() },
        columns: vec![Pattern::parse("public.people.email").unwrap()],
        mask: MaskFunction::Null,
        exempt_groups: vec![exempt.into()],
        ..Default::default()
    };
    check(&|now| now.masking.insert(name("emails"), rule("readers")), [false; 3]);
    check(&|now| now.masking.insert(name("emails"), rule("owners")), [true, true, false]);
    check(&|now| now.mask_key = SecretBytes::new(vec![9]), [true; 3]);
    let mut labeled = target();
    labeled.labels.insert("env".into(), "prod".into());
    check(&|now| now.targets.insert(name("db"), labeled.clone()), [true, true, false]);
    assert!(!ada.now().masks.is_empty() && elsewhere.now().masks.is_empty());
}

/// Sessions are told late, at times: what ended them once must not be overtaken by what comes after.
#[test]
fn what_has_ended_stays_so() {
    let mut rig = Rig::new();
    let changes: [(Change, Change); 3] = [
        (
            |now| now.targets.get_mut(&name("db")).unwrap().value.disabled = true,
            |now| now.targets.get_mut(&name("db")).unwrap().value.disabled = false,
        ),
        (|now| now.issuers.insert(name("ci"), issuer("https://two.example")), |_| {}),
        (|now| now.policies.remove(&name("readers")), |now| now.policies = first().policies),
    ];
    for (place, (ends, after)) in changes.into_iter().enumerate() {
        let mut seat = rig.seat("ada", "db");
        let under = rig.snapshot.clone();
        rig.change(ends);
        rig.change(after);
        assert!(told(&mut seat).is_err(), "{place}");
        assert!(told(&mut rig.seat("ada", "db")).is_ok(), "{place}: whoever comes now");
        if place == 1 {
            // Let in by a token of the issuer that was.
            let late = rig.standings.join(
                session(),
                (&principal("ada"), &bearer("ada")),
                (&name("db"), &"shop".into()),
                &under,
            );
            assert!(told(&mut late.unwrap()).is_err());
        }
    }
}

/// I6: whoever is revoked is told, and nobody else; who comes with the same token finds it so, and who comes with a newer one does not.
#[test]
fn a_revocation_ends_those_whom_it_means() {
    let mut rig = Rig::new();
    let (mut ada, mut bob) = (rig.seat("ada", "db"), rig.seat("bob", "db"));
    let mark = |issued_before: u32| Mark {
        key: Revoked::Principal(principal("ada").id).key(),
        issued_before,
        until: u32::MAX,
    };
    let revoke = |rig: &mut Rig, mark: Mark| rig.change(|now| assert!(now.revocations.insert(mark)));
    revoke(&mut rig, mark(99));
    assert_eq!((told(&mut ada), told(&mut bob)), (Ok(false), Ok(false)), "it was issued later");
    revoke(&mut rig, mark(100));
    assert_eq!((told(&mut ada), told(&mut bob)), (Err(Gone::Revoked), Ok(false)));
    assert_eq!(told(&mut rig.seat("ada", "db")), Err(Gone::Revoked));
    let newer = Bearer::new(&principal("ada"), false, None, Timestamp::from_secs(101));
    let newer =
        rig.standings.join(session(), (&principal("ada"), &newer), (&name("db"), &"shop".into()), &rig.snapshot);
    assert_eq!(told(&mut newer.unwrap()), Ok(false));
    // Let in before, and come to its place after: no other policy in between.
    let under = rig.snapshot.clone();
    revoke(&mut rig, Mark { key: Revoked::All.key(), issued_before: 100, until: u32::MAX });
    let late =
        rig.standings.join(session(), (&principal("eve"), &bearer("eve")), (&name("db"), &"shop".into()), &under);
    assert_eq!(told(&mut late.unwrap()), Err(Gone::Revoked));
    assert_eq!(told(&mut bob), Err(Gone::Revoked));
}

#[test]
fn nothing_is_kept_of_who_is_gone() {
    let mut rig = Rig::new();
    let stays = rig.seat("stays", "db");
    for n in 0..5 * IDLE {
        drop(rig.seat(&format!("s{n}"), "db"));
    }
    assert!(rig.standings.len() <= 2 * IDLE, "{}", rig.standings.len());
    rig.change(|_| {});
    assert_eq!(rig.standings.len(), 1);
    drop(stays);
}

#[test]
fn a_grant_wakes_whom_it_is_of_and_its_end_ends_what_stood_on_it() {
    use postern_core::access::{Grant, OnRequest, Reviewers};
    use postern_core::{AccessId, Ttl};
    let asked = OnRequest {
        review: vec![Reviewers { groups: vec!["dba".into()], count: 1 }],
        max_duration: Ttl(60),
        expires: Ttl(60),
        min_reason: 1,
        auto_approve: Vec::new(),
    };
    let on_call = Policy {
        on_request: Some(Box::new(asked)),
        ..policy(PrincipalSelector { groups: vec!["readers".into()], ..Default::default() })
    };
    let grant = |n: u8, ends: u64| Grant {
        id: AccessId::from_bytes([n; 16]),
        principal: principal("ada").id,
        chain: Vec::new(),
        target: name("db"),
        policy: name("readers"),
        ends_at: Timestamp::from_secs(ends),
        reason: "".into(),
    };
    let mut rig = Rig::new();
    rig.change(|snapshot| {
        snapshot.policies.insert(name("readers"), on_call.clone());
        snapshot.policies.insert(name("bob"), of_subject("bob"));
        snapshot.grants.insert(grant(1, 100));
    });
    let (mut ada, mut bob) = (rig.seat("ada", "db"), rig.seat("bob", "db"));
    assert!(rig.seat("ada", "other").now().slice.is_err(), "it is of one target");
    assert!(ada.now().slice.is_ok());
    rig.change(|snapshot| snapshot.grants.insert(grant(2, 200)));
    assert_eq!((told(&mut ada), told(&mut bob)), (Ok(true), Ok(false)));
    rig.change(|snapshot| snapshot.grants.remove(grant(1, 0).id));
    assert_eq!(told(&mut ada), Ok(true));
    assert_eq!(ada.now().slice.as_ref().unwrap().next_end(), Some(Timestamp::from_secs(200)));
    rig.change(|snapshot| snapshot.grants.remove(grant(2, 0).id));
    let why = "access there is by request, and what was granted has ended";
    assert_eq!((told(&mut ada), told(&mut bob)), (Err(Gone::Policy(why)), Ok(false)));
}

/// One session is ended, whoever shares its standing goes on; also one that takes its seat later than it was ended, and one that nobody asks until then.
#[tokio::test]
async fn one_session_is_ended_and_no_other() {
    let mut rig = Rig::new();
    let (one, late, gone) = (session(), session(), session());
    let join = |rig: &Rig, id: SessionId| {
        let on = (&name("db"), &"shop".into());
        rig.standings.join(id, (&principal("ada"), &bearer("ada")), on, &rig.snapshot).unwrap()
    };
    let (mut seat, mut other) = (join(&rig, one), rig.seat("ada", "db"));
    drop(join(&rig, gone));
    for id in [one, late, gone] {
        let mark = Mark { key: Revoked::Session(id).key(), issued_before: u32::MAX, until: u32::MAX };
        rig.change(|now| assert!(now.revocations.insert(mark)));
    }
    tokio::time::timeout(std::time::Duration::from_secs(10), seat.changed()).await.unwrap();
    assert_eq!((told(&mut seat), told(&mut other)), (Err(Gone::Killed), Ok(false)));
    assert_eq!(told(&mut seat), Err(Gone::Killed), "it stays so");
    assert_eq!(told(&mut join(&rig, late)), Err(Gone::Killed));
    assert_eq!(told(&mut rig.seat("ada", "db")), Ok(false));
    drop((seat, other));
    assert_eq!(rig.standings.lock().seats.len(), 0);
}
