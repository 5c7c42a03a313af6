//! Tokens at every member: of callers, of administrators, of those who want to come in.

use std::thread;
use std::time::{Duration, Instant};

use postern_chaos::live::cluster::Caller;
use postern_chaos::live::token::{tampered, unsigned};
use postern_chaos::live::{Cli, Finished, Issuer, wait_until};
use postern_proto::resource::v1::Kind;
use serde_json::json;
use tonic::Code;

use super::administration::{code, trusted};
use super::{SOON, cluster};
use crate::assert_has;

/// What is no good token is so everywhere; and what was one is none any more, at every member, with the call after the one that ended it.
#[test]
fn a_token_that_is_no_good_is_so_at_every_member() {
    let cluster = cluster();
    let (caller, issuer, stranger) =
        (Caller::new(&cluster).unwrap(), Issuer::start().unwrap(), Issuer::start().unwrap());
    trusted(&cluster, &caller, &issuer);
    let good = issuer.token("kim", &["admins"]).unwrap();
    let change = |name: &'static str, value: i64| {
        let change = move |claims: &mut serde_json::Value| {
            claims[name] = json!(claims["iat"].as_i64().unwrap() + value);
        };
        issuer.token_with("kim", &["admins"], change).unwrap()
    };
    let admins = |claims: &mut serde_json::Value| claims["sub"] = json!("somebody-else");
    let bad = [
        ("none", String::new()),
        ("expired", change("exp", -3_600)),
        ("not yet valid", change("nbf", 3_600)),
        ("another audience", issuer.token_with("kim", &["admins"], |claims| claims["aud"] = json!("else")).unwrap()),
        ("an issuer that nobody trusts", stranger.token("kim", &["admins"]).unwrap()),
        ("its name, another's key", {
            let url = issuer.url();
            stranger.token_with("kim", &["admins"], |claims| claims["iss"] = json!(url)).unwrap()
        }),
        ("changed", tampered(&good, admins).unwrap()),
        ("unsigned", unsigned(&good).unwrap()),
        ("no token at all", "hunter2".to_owned()),
    ];
    let session = caller.exchange(0, &good, 300).unwrap();
    let short = caller.exchange(1, &good, 2).unwrap();
    for member in 0..3 {
        for token in [&good, &session] {
            assert_eq!(code(&caller.list(member, token, Kind::Role)), Code::Ok, "{member}");
        }
        for (name, token) in &bad {
            let answer = caller.list(member, token, Kind::Role);
            assert_eq!(code(&answer), Code::Unauthenticated, "{name} at {member}: {answer:?}");
            if !token.is_empty() {
                assert_eq!(code(&caller.exchange(member, token, 60)), Code::Unauthenticated, "{name} at {member}");
            }
        }
        wait_until(SOON, "the session token to end", || {
            let answer = caller.list(member, &short, Kind::Role);
            Ok(answer
                .is_err_and(|status| status.code() == Code::Unauthenticated && status.message() == "token-expired"))
        })
        .unwrap();
    }
    // An identity ends with its issuer.
    let follower = cluster.follower().unwrap();
    cluster.cli_of(follower).unwrap().cli(["delete", "issuer", "test"]).unwrap().ok().unwrap();
    for member in 0..3 {
        for token in [&good, &session] {
            assert_eq!(code(&caller.list(member, token, Kind::Role)), Code::Unauthenticated, "{member}");
            assert_eq!(code(&caller.exchange(member, token, 60)), Code::Unauthenticated, "{member}");
        }
    }
}

/// Both at the same moment: what each came to.
fn both(one: impl FnOnce() -> Finished + Send, other: impl FnOnce() -> Finished + Send) -> [Finished; 2] {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        [one.join().unwrap(), other]
    })
}

/// One of them came in; the other was told that the token is used up.
#[track_caller]
fn exactly_one(ends: [Finished; 2]) {
    let [one, other] = ends;
    let (good, bad) = if one.status.success() { (one, other) } else { (other, one) };
    good.ok().unwrap();
    assert_has(&bad.fails().unwrap(), &["used"]);
}

/// A token that is good once is so when it is shown to two members at the same moment.
#[test]
fn a_token_lets_one_in_however_many_come_at_once() {
    let mut cluster = cluster();
    let urls: Vec<String> = cluster.addresses().iter().map(|address| format!("https://{address}")).collect();
    let folder = cluster.folder().to_owned();
    let redeem = |token: &std::path::Path, url: &str, name: &str| {
        let (token, out) = (token.display().to_string(), folder.join(name).display().to_string());
        let arguments = ["--token-file", &token, "cluster", "redeem", "--server", url, "--name", name, "--out", &out];
        Cli::new(Vec::new()).cli(arguments).unwrap()
    };
    // The bootstrap token made the administrator that this test acts by.
    let bootstrap = folder.join("control-1/bootstrap-token");
    for url in &urls {
        assert_has(&redeem(&bootstrap, url, "second-root").fails().unwrap(), &["used"]);
    }
    let follower = cluster.follower().unwrap();
    for round in 0..4 {
        let token = folder.join(format!("admin-token-{round}"));
        std::fs::write(&token, cluster.join_token(&["--role", "admin"]).unwrap()).unwrap();
        let (first, second) = (round % 3, (round + 1) % 3);
        exactly_one(both(
            || redeem(&token, &urls[first], &format!("a{round}")),
            || redeem(&token, &urls[second], &format!("b{round}")),
        ));
    }
    // Its answer was lost: the same key is let in again by the same token, for what it was let in as, and is a credential then.
    let once = folder.join("admin-token-0");
    let first =
        ["a0", "b0"].map(|name| folder.join(name)).into_iter().find(|out| out.join("node.crt").exists()).unwrap();
    let name = first.file_name().unwrap().to_str().unwrap().to_owned();
    let again = folder.join("again");
    std::fs::create_dir(&again).unwrap();
    std::fs::copy(first.join("node.key"), again.join("joining.key")).unwrap();
    let out = again.display().to_string();
    let redeem_again = |name: &str| {
        let token = once.display().to_string();
        let all = ["--token-file", &token, "cluster", "redeem", "--server", &urls[0], "--name", name, "--out", &out];
        Cli::new(Vec::new()).cli(all).unwrap()
    };
    assert_has(&redeem_again("another-name").fails().unwrap(), &["used"]);
    redeem_again(&name).ok().unwrap();
    assert!(!again.join("joining.key").exists());
    let serial =
        |folder: &std::path::Path| postern_runtime::pki::NodeCredential::load(folder).unwrap().serial().unwrap();
    assert_eq!(serial(&again), serial(&first));
    assert_has(&redeem_again(&name).fails().unwrap(), &["already holds a key"]);

    let late = folder.join("late-token");
    std::fs::write(&late, cluster.join_token(&["--role", "admin", "--ttl", "1s"]).unwrap()).unwrap();
    let made = Instant::now();
    wait_until(SOON, "the token to expire", || Ok(made.elapsed() > Duration::from_millis(1_500))).unwrap();
    assert_has(&redeem(&late, &urls[follower], "late").fails().unwrap(), &["expired"]);

    // Two machines that were given the same token.
    let token = cluster.join_token(&["--role", "control"]).unwrap();
    let peers = cluster.peers().unwrap();
    let (four, five) = (cluster.new_member(3, "").unwrap(), cluster.new_member(4, "").unwrap());
    exactly_one(both(|| four.join(&token, &peers[1..2]).unwrap(), || five.join(&token, &peers[2..]).unwrap()));
    let members = cluster.status().unwrap().members.len();
    assert_eq!(members, 4, "{:?}", cluster.member(0).unwrap().log());
}
