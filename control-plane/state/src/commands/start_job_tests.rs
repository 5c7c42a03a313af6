use std::sync::Arc;

use postern_core::principal::Link;
use postern_core::revocation::{Revocation, Revoked, TokenName};
use postern_core::scope::Scope;
use postern_core::{Principal, Timestamp, Ttl};
use proptest::prelude::*;

use super::super::testing::*;
use super::super::{BeatJobs, EndJob, ExpireApprovals, RevokeTokens};
use super::*;
use crate::outcome::Effect;
use crate::state::State;

fn fixture() -> Fixture {
    Fixture::on_request(reviewed_by(&["dba"]))
}

/// Of `token`, which was made from tokens by the ids before it.
fn made_from(before: &[&str], token: &str) -> Job {
    let chain = before.iter().chain([&token]).filter(|_| !before.is_empty());
    let chain = chain.map(|token| Link { token: (*token).into(), actor: None, scope: Scope::default() });
    let own = Principal { chain: chain.collect(), ..principal("ci", &["dev"]) };
    Job::new(&own, &token.into(), Timestamp::from_millis(100_000), ("build".to_owned(), Ttl(10)))
}

fn job(token: &str) -> Job {
    made_from(&[], token)
}

fn is_revoked(state: &State, token: &str) -> bool {
    state.revocation(&Revoked::Subtree(TokenName::session(token).unwrap()).key()).is_some()
}

fn end(token: &str, unheard_of_since: Option<Timestamp>) -> EndJob {
    EndJob { token: token.into(), unheard_of_since, by: "postern".into(), because: "finished".into() }
}

fn beat(tokens: &[&str]) -> BeatJobs {
    BeatJobs { tokens: tokens.iter().map(|token| Arc::from(*token)).collect() }
}

#[test]
fn a_job_that_is_heard_of_lives_and_one_that_is_not_takes_its_token_along() {
    let mut fixture = fixture();
    fixture.now = 10_000;
    fixture.run(StartJob { job: job("tok_a") }).unwrap();
    // A heartbeat, and half of one.
    let deadline = Timestamp::from_millis(25_000);
    assert_eq!(fixture.state.jobs_unheard_of(deadline, |_| true, 10)[0].deadline, deadline);
    fixture.now = 15_000;
    fixture.run(beat(&["tok_a", "tok_gone"])).unwrap();
    // It was heard of while somebody took it for dead.
    assert!(matches!(fixture.run(end("tok_a", Some(deadline))), Err(Refusal::InvalidState(_))));
    assert!(!is_revoked(&fixture.state, "tok_a") && fixture.state.jobs_unheard_of(deadline, |_| true, 10).is_empty());
    // A log's time alone ends none: the leader may have been away itself.
    fixture.now = 60_000;
    fixture.run(ExpireApprovals).unwrap();
    let late = fixture.state.jobs_unheard_of(fixture.state.now(), |_| true, 10);
    assert_eq!(late[0].deadline, Timestamp::from_millis(30_000));
    assert!(fixture.state.jobs_unheard_of(fixture.state.now(), |job| job.heartbeat < Ttl(10), 10).is_empty());
    fixture.run(end("tok_a", Some(late[0].deadline))).unwrap();
    assert!(fixture.effects.contains(&Effect::PolicyChanged) && is_revoked(&fixture.state, "tok_a"));
    // Nothing brings it back.
    fixture.run(beat(&["tok_a"])).unwrap();
    assert!(fixture.state.job("tok_a").is_none());
    assert_eq!(fixture.run(end("tok_a", None)).unwrap_err().code(), "NOT_FOUND");
}

#[test]
fn finishing_is_for_ever_and_what_ended_by_itself_is_forgotten() {
    let mut fixture = fixture();
    for token in ["tok_a", "tok_b"] {
        fixture.run(StartJob { job: job(token) }).unwrap();
        fixture.run(StartJob { job: job(token) }).unwrap();
    }
    let other = Job { heartbeat: Ttl(20), ..job("tok_b") };
    assert_eq!(fixture.run(StartJob { job: other }).unwrap_err().code(), "ALREADY_EXISTS");
    fixture.run(end("tok_a", None)).unwrap();
    assert!(is_revoked(&fixture.state, "tok_a") && !is_revoked(&fixture.state, "tok_b"));
    let resumed = State::restore(&fixture.state.snapshot()).unwrap();
    assert_eq!((resumed.hash(), resumed.jobs().len()), (fixture.state.hash(), 1));
    assert!(resumed.jobs.derives_the_same(&fixture.state.jobs));
    assert_eq!(resumed.jobs_unheard_of(Timestamp::from_millis(99_000), |_| true, 10).len(), 1);
    fixture.now = 100_000;
    fixture.run(ExpireApprovals).unwrap();
    assert!(fixture.state.jobs.derives_the_same(&crate::jobs::Jobs::default()));
}

#[test]
fn a_job_goes_with_what_its_token_was_made_from() {
    let mut fixture = fixture();
    for job in [made_from(&["root", "mid"], "tok_a"), made_from(&["root"], "tok_b"), made_from(&["roots"], "tok_c")] {
        fixture.run(StartJob { job }).unwrap();
    }
    let revoke = |of: Revoked| {
        let until = Timestamp::from_millis(90_000);
        let (issued_before, at) = Default::default();
        let (by, because) = (String::new(), "gone".to_owned());
        RevokeTokens { revocations: vec![Revocation { of, issued_before, until, by, because, at, revision: 0 }] }
    };
    let left = |fixture: &Fixture| fixture.state.jobs().map(|job| job.token.to_string()).collect::<Vec<_>>();
    let session = |id: &str| TokenName::session(id).unwrap();
    // The token alone: what was made of it goes on, and so does the job. And another issuer's token of the same id is another.
    fixture.run(revoke(Revoked::Token(session("tok_a")))).unwrap();
    fixture.run(revoke(Revoked::Subtree(TokenName { issuer: name("corp"), id: "root".into() }))).unwrap();
    assert_eq!(left(&fixture), ["tok_a", "tok_b", "tok_c"]);
    fixture.run(revoke(Revoked::Subtree(session("mid")))).unwrap();
    assert_eq!(left(&fixture), ["tok_b", "tok_c"]);
    fixture.run(revoke(Revoked::Subtree(session("root")))).unwrap();
    assert_eq!(left(&fixture), ["tok_c"]);
}

#[test]
fn bad_jobs_are_refused_and_each_has_so_many() {
    let mut fixture = fixture();
    for bad in [
        Job { heartbeat: Ttl(4), ..job("tok_a") },
        Job { heartbeat: Ttl(3_601), ..job("tok_a") },
        Job { name: "a\nb".into(), ..job("tok_a") },
        Job { name: "x".repeat(129), ..job("tok_a") },
        Job { ends_at: Timestamp::from_millis(1), ..job("tok_a") },
        Job { token: "tok_b".into(), ..job("tok_a") },
        job(""),
    ] {
        assert_eq!(fixture.run(StartJob { job: bad }).unwrap_err().code(), "INVALID_ARGUMENT");
    }
    assert_eq!(fixture.run(beat(&[])).unwrap_err().code(), "INVALID_ARGUMENT");
    for n in 0..Limits::STANDARD.jobs_each {
        fixture.run(StartJob { job: job(&format!("tok_{n}")) }).unwrap();
    }
    assert!(matches!(fixture.run(StartJob { job: job("tok_x") }), Err(Refusal::Limit(_))));
    fixture.run(end("tok_0", None)).unwrap();
    fixture.run(StartJob { job: job("tok_x") }).unwrap();
    // A cluster with members that know none of this takes none of it.
    let mut old = Fixture::new();
    assert!(matches!(old.run(StartJob { job: job("tok_a") }), Err(Refusal::FeatureLevel { needed: 4, .. })));
}

proptest! {
    /// Whatever happens to jobs: what is derived is what a restored state has, and who was heard of is not ended by a deadline of before.
    #[test]
    fn jobs_are_as_they_are_kept(steps in prop::collection::vec((0_u8..5, 0_u8..4, 0_u64..9_000), 0..40)) {
        let mut fixture = fixture();
        for (what, which, passes) in steps {
            fixture.now += passes;
            let token = format!("tok_{which}");
            let known = fixture.state.job(&token).cloned();
            match what {
                0 | 1 => drop(fixture.run(StartJob { job: made_from(&["root"][..usize::from(which % 2)], &token) })),
                2 => drop(fixture.run(beat(&[&token]))),
                3 => drop(fixture.run(end(&token, None))),
                _ => {
                    let stale = known.as_ref().map(|job| Timestamp::from_millis(job.deadline.millis() - 1));
                    fixture.run(end(&token, stale.or(Some(Timestamp::from_millis(1))))).unwrap_err();
                    let there = fixture.state.job(&token).is_some();
                    prop_assert_eq!(there, known.is_some_and(|job| job.ends_at > fixture.state.now()));
                }
            }
            let resumed = State::restore(&fixture.state.snapshot()).unwrap();
            prop_assert_eq!(resumed.hash(), fixture.state.hash());
            prop_assert!(resumed.jobs.derives_the_same(&fixture.state.jobs));
        }
    }
}
