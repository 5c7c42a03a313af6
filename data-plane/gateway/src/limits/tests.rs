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
    limiter.admit(&who(subject), &target(on)).err().map(|exceeded| (exceeded.whose, exceeded.what))
}

#[test]
fn sessions_of_one_are_bounded_and_come_back() {
    let limiter = limits(|limits| limits.target.sessions = 4);
    let places: Vec<_> = (0..3).map(|_| limiter.admit(&who("ada"), &target("db")).unwrap()).collect();
    assert_eq!(refused(&limiter, "ada", "db"), Some((Whose::Principal, What::Sessions)), "half of all");
    let _bob = limiter.admit(&who("bob"), &target("db")).unwrap();
    assert_eq!(refused(&limiter, "bob", "db"), Some((Whose::Target, What::Sessions)));
    let _others =
        [limiter.admit(&who("bob"), &target("other")).unwrap(), limiter.admit(&who("eve"), &target("other")).unwrap()];
    assert_eq!(refused(&limiter, "eve", "other"), Some((Whose::Node, What::Sessions)));
    drop(places);
    // Those who were refused hold nothing.
    let again: Vec<_> = (0..3).map(|_| limiter.admit(&who("ada"), &target("db")).unwrap()).collect();
    assert_eq!(again.len(), 3);
}

#[test]
fn connections_of_one_do_not_use_up_another_s() {
    let limiter = limits(|limits| limits.principal.connections_per_second = 2);
    for _ in 0..2 {
        limiter.admit(&who("ada"), &target("db")).unwrap();
    }
    assert_eq!(refused(&limiter, "ada", "db"), Some((Whose::Principal, What::Connections)));
    limiter.admit(&who("bob"), &target("db")).unwrap();
}

#[test]
fn operations_wait_a_little_and_are_then_refused() {
    let limiter = limits(|limits| {
        limits.principal.operations_per_second = 10;
        limits.operation_wait = postern_runtime::config::HumanDuration(Duration::from_millis(150));
    });
    let place = limiter.admit(&who("ada"), &target("db")).unwrap();
    let other = limiter.admit(&who("bob"), &target("db")).unwrap();
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
    let stays = limiter.admit(&who("stays"), &target("db")).unwrap();
    for n in 0..50_000 {
        limiter.admit(&who(&format!("subject-{n}")), &target("db")).unwrap();
    }
    assert!(limiter.principals.0.len() <= REMEMBERED + 6, "{}", limiter.principals.0.len());
    assert!(limiter.principals.0.get(&who("stays")).is_some_and(|kept| Arc::ptr_eq(&kept, &stays.principal)));
}
