use super::account::REMEMBERED;
use super::*;

fn limits(change: impl FnOnce(&mut Limits)) -> Arc<Limiter> {
    let mut limits = Limits { max_connections: 6, ..Limits::default() };
    change(&mut limits);
    Limiter::new(limits)
}

fn who(subject: &str) -> PrincipalId {
    PrincipalId { issuer: "ci".parse().unwrap(), subject: subject.into() }
}

fn target(name: &str) -> Name {
    name.parse().unwrap()
}

fn refused(limiter: &Arc<Limiter>, subject: &str, on: &str) -> Option<(Whose, What)> {
    limiter.admit(&who(subject), &target(on), Central::default()).err().map(|exceeded| (exceeded.whose, exceeded.what))
}

#[test]
fn sessions_of_one_are_bounded_and_come_back() {
    let limiter = limits(|limits| limits.target.sessions = 4);
    let places: Vec<_> =
        (0..3).map(|_| limiter.admit(&who("ada"), &target("db"), Central::default()).unwrap()).collect();
    assert_eq!(refused(&limiter, "ada", "db"), Some((Whose::Principal, What::Sessions)), "half of all");
    let _bob = limiter.admit(&who("bob"), &target("db"), Central::default()).unwrap();
    assert_eq!(refused(&limiter, "bob", "db"), Some((Whose::Target, What::Sessions)));
    let _others = [
        limiter.admit(&who("bob"), &target("other"), Central::default()).unwrap(),
        limiter.admit(&who("eve"), &target("other"), Central::default()).unwrap(),
    ];
    assert_eq!(refused(&limiter, "eve", "other"), Some((Whose::Node, What::Sessions)));
    drop(places);
    // Those who were refused hold nothing.
    let again: Vec<_> =
        (0..3).map(|_| limiter.admit(&who("ada"), &target("db"), Central::default()).unwrap()).collect();
    assert_eq!(again.len(), 3);
}

#[test]
fn connections_of_one_do_not_use_up_another_s() {
    let limiter = limits(|limits| limits.principal.connections_per_second = 2);
    for _ in 0..2 {
        limiter.admit(&who("ada"), &target("db"), Central::default()).unwrap();
    }
    assert_eq!(refused(&limiter, "ada", "db"), Some((Whose::Principal, What::Connections)));
    limiter.admit(&who("bob"), &target("db"), Central::default()).unwrap();
}

#[test]
fn operations_wait_a_little_and_are_then_refused() {
    let limiter = limits(|limits| {
        limits.principal.operations_per_second = 10;
        limits.operation_wait = postern_runtime::config::HumanDuration(Duration::from_millis(150));
    });
    let place = limiter.admit(&who("ada"), &target("db"), Central::default()).unwrap();
    let other = limiter.admit(&who("bob"), &target("db"), Central::default()).unwrap();
    let taken: Vec<_> = (0..20).map(|_| place.operation()).collect();
    let at_once = taken.iter().filter(|taken| **taken == Ok(Duration::ZERO)).count();
    assert!((10..=12).contains(&at_once), "{taken:?}");
    let exceeded = taken.last().unwrap().unwrap_err();
    assert_eq!((exceeded.whose, exceeded.what), (Whose::Principal, What::Operations));
    assert!(exceeded.after.unwrap() > Duration::from_millis(150));
    assert_eq!(other.operation(), Ok(Duration::ZERO));
}

/// Whoever makes up identities, with good tokens even, does not make the gateway remember them all.
#[test]
fn a_crowd_is_forgotten() {
    let limiter = limits(|limits| limits.principal.connections_per_second = 1);
    let stays = limiter.admit(&who("stays"), &target("db"), Central::default()).unwrap();
    for n in 0..50_000 {
        limiter.admit(&who(&format!("subject-{n}")), &target("db"), Central::default()).unwrap();
    }
    assert!(limiter.principals.len() <= REMEMBERED + 6, "{}", limiter.principals.len());
    assert!(limiter.principals.get(&who("stays")).is_some_and(|kept| Arc::ptr_eq(&kept, &stays.counted.principal)));
}

/// What is said centrally holds beside what the gateway says, and acts on who is there already.
#[test]
fn what_policy_says_holds_at_once() {
    let limiter = limits(|limits| limits.max_connections = 1000);
    let pair = |sessions, operations_per_second| Central {
        pair: Allowance { sessions, operations_per_second, ..Allowance::default() },
        ..Central::default()
    };
    let admit = |subject, central| limiter.admit(&who(subject), &target("db"), central);
    let first = admit("ada", pair(2, 0)).unwrap();
    let _second = admit("ada", pair(2, 0)).unwrap();
    let full = admit("ada", pair(2, 0)).unwrap_err();
    assert_eq!((full.whose, full.what), (Whose::Pair, What::Sessions));
    assert!(full.to_string().contains("of this identity on this target"), "{full}");
    let elsewhere = limiter.admit(&who("ada"), &target("other"), pair(2, 0)).unwrap();
    let bob = admit("bob", pair(2, 0)).unwrap();
    assert_eq!(first.operation(), Ok(Duration::ZERO));
    first.allow_pair(pair(2, 1).pair);
    let taken: Vec<_> = (0..5).map(|_| first.operation()).collect();
    assert_eq!(taken.last().unwrap().unwrap_err().whose, Whose::Pair);
    assert_eq!((bob.operation(), elsewhere.operation()), (Ok(Duration::ZERO), Ok(Duration::ZERO)));
    first.allow_pair(Allowance::default());
    assert_eq!(first.operation(), Ok(Duration::ZERO));
}

#[test]
fn of_a_target_s_limits_the_gateway_s_own_may_be_the_smaller() {
    let limiter = limits(|limits| {
        limits.target.sessions = 3;
        limits.max_connections = 100;
    });
    let said = |sessions| Central { target: Allowance { sessions, ..Allowance::default() }, ..Central::default() };
    let admit = |sessions| limiter.admit(&who("ada"), &target("db"), said(sessions));
    let _places = [admit(5).unwrap(), admit(5).unwrap(), admit(5).unwrap()];
    assert_eq!(admit(5).unwrap_err().whose, Whose::Target);
    assert_eq!(admit(0).unwrap_err().whose, Whose::Target);
    limiter.allow_targets(|_| Allowance { sessions: 1, ..Allowance::default() });
    assert_eq!(limiter.targets.get(&target("db")).map(|db| db.sit(Whose::Target).is_err()), Some(true));
}

#[test]
fn who_only_prepares_is_held_up_too() {
    let limiter = limits(|limits| {
        limits.principal.operations_per_second = 2;
        limits.operation_wait = postern_runtime::config::HumanDuration(Duration::ZERO);
    });
    let place = limiter.admit(&who("ada"), &target("db"), Central::default()).unwrap();
    for _ in 0..2 {
        // One after the other is one operation, not two.
        assert_eq!((place.statement(), place.operation()), (Ok(Duration::ZERO), Ok(Duration::ZERO)));
    }
    assert_eq!(place.statement().unwrap_err().what, What::Statements);
}
