//! Just-in-time access: asked for, agreed to by enough people, used, and over by itself (I7).

use std::time::{Duration, Instant};

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postern, wait_until};

use crate::{assert_has, shop};

const LIMIT: Duration = Duration::from_secs(20);

const POLICIES: &str = "
apiVersion: postern/v1
kind: Policy
metadata: {name: on-call}
spec:
  effect: permit
  principals: {groups: [on-call]}
  targets: {names: [shop]}
  actions: ['sql:select', 'sql:update']
  onRequest:
    review: [{groups: [keepers]}, {groups: [wardens]}]
    maxDuration: 1h
    minReason: 10
---
apiVersion: postern/v1
kind: Policy
metadata: {name: night-shift}
spec:
  effect: permit
  principals: {groups: [night]}
  targets: {names: [shop]}
  actions: ['sql:select']
  onRequest:
    maxDuration: 1h
    autoApprove: [{name: short, groups: [bots], maxDuration: 5m}]
";

fn asked(postern: &Postern, token: &str, more: &[&str]) -> String {
    let mut arguments = vec!["access", "request", "--target", "shop", "--reason", "the pager rang"];
    arguments.extend(more);
    postern.cli_as(token, arguments).unwrap().ok().unwrap().trim().to_owned()
}

fn state(postern: &Postern, id: &str) -> String {
    let shown = postern.json(["access", "show", id, "-o", "json"]).unwrap();
    shown["state"].as_str().unwrap_or_default().to_owned()
}

fn wire(postern: &Postern, token: &str) -> Wire {
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", token).unwrap();
    wire
}

fn selects(wire: &mut Wire) -> bool {
    wire.query("SELECT count(*) FROM orders").unwrap().iter().any(|message| message.kind == 'D')
}

/// What a session that nobody ends is told at its end.
fn told_at_the_end(mut wire: Wire) -> String {
    let mut told = String::new();
    while let Ok(message) = wire.read() {
        if message.kind == 'E' {
            told = message.field('M').unwrap_or_default();
        }
    }
    told
}

#[test]
fn two_people_of_two_groups_grant_it_and_it_ends_by_itself() {
    let (_postgres, mut postern) = shop();
    postern.apply(POLICIES).unwrap();
    let alice = postern.token("alice", &["on-call", "keepers"]).unwrap();
    let (dora, dan) =
        (postern.token("dora", &["keepers", "wardens"]).unwrap(), postern.token("dan", &["keepers"]).unwrap());
    let connection = postern.connection("shop", &alice).unwrap();
    let refused = connection.run("SELECT 1").unwrap().fails().unwrap();
    assert_has(&refused, &["access to shop is by request", "postern access request --target shop --reason"]);
    let mallory = postern.token("mallory", &["nobody"]).unwrap();
    let stranger = postern.connection("shop", &mallory).unwrap().run("SELECT 1").unwrap().fails().unwrap();
    crate::assert_lacks(&stranger, &["request"]);
    postern
        .cli_as(&mallory, ["access", "request", "--target", "shop", "--reason", "let me in"])
        .unwrap()
        .fails()
        .unwrap();
    let short = ["access", "request", "--target", "shop", "--reason", "x"];
    assert_has(&postern.cli_as(&alice, short).unwrap().fails().unwrap(), &["reason", "10 characters"]);

    let id = asked(&postern, &alice, &["--for", "6s"]);
    let review = |token: &str| postern.cli_as(token, ["access", "approve", &id, "--comment", "go on"]).unwrap();
    assert_has(&review(&alice).fails().unwrap(), &["own request"]);
    // Nobody who may not see it learns that it is there.
    assert_has(&review(&mallory).fails().unwrap(), &["not found"]);
    let once = review(&dora).ok().unwrap();
    assert_has(&once, &["pending"]);
    assert_has(&review(&dora).fails().unwrap(), &["answered already"]);
    assert_eq!(state(&postern, &id), "pending");
    assert!(!connection.run("SELECT 1").unwrap().status.success());
    assert_has(&review(&dan).ok().unwrap(), &["active"]);

    // At once, and only what the policy permits.
    let granted = Instant::now();
    assert_eq!(connection.run("SELECT count(*) FROM orders").unwrap().ok().unwrap(), "20\n");
    assert!(granted.elapsed() < Duration::from_secs(3), "{:?}", granted.elapsed());
    let mut session = wire(&postern, &alice);
    assert!(selects(&mut session));
    let delete = connection.run("DELETE FROM orders").unwrap();
    assert_has(&delete.stderr, &["no policy permits sql:delete"]);
    let recording = postern.last_ended_session().unwrap();
    let replay = postern.cli(["sessions", "replay", &recording, "-o", "json"]).unwrap().ok().unwrap();
    assert_has(&replay, &["on-call"]);
    let end = told_at_the_end(session);
    assert_has(&end, &["access that was granted on request is over"]);
    assert!(granted.elapsed() < Duration::from_secs(12), "{:?}", granted.elapsed());
    assert_has(&connection.run("SELECT 1").unwrap().fails().unwrap(), &["access to shop is by request"]);
    wait_until(LIMIT, "the request to be over", || Ok(state(&postern, &id) == "over")).unwrap();
    let shown = postern.cli_as(&dan, ["access", "show", &id]).unwrap().ok().unwrap();
    assert_has(&shown, &["the pager rang", "alice", "approved by", "dora", "dan", "go on", "over"]);

    // Over a restart, what is granted is so, and what was ended is not.
    let id = asked(&postern, &alice, &["--for", "10m"]);
    for token in [&dora, &dan] {
        postern.cli_as(token, ["access", "approve", &id]).unwrap().ok().unwrap();
    }
    postern.kill9().unwrap();
    postern.start().unwrap();
    let connection = postern.connection("shop", &alice).unwrap();
    wait_until(LIMIT, "the grant, after the restart", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
    let mut session = wire(&postern, &alice);
    assert!(selects(&mut session));
    postern.cli_as(&alice, ["access", "end", &id, "--because", "done"]).unwrap().ok().unwrap();
    let ended = Instant::now();
    assert_has(&told_at_the_end(session), &["what was granted has ended"]);
    assert!(ended.elapsed() < Duration::from_secs(3), "{:?}", ended.elapsed());
    assert_eq!(state(&postern, &id), "ended");
    let audit = postern.cli(["audit", "list", "--method", "EndAccess"]).unwrap().ok().unwrap();
    assert_has(&audit, &["alice", &id]);
}

#[test]
fn a_workload_asks_waits_and_goes_on_unattended() {
    let (_postgres, postern) = shop();
    postern.apply(POLICIES).unwrap();
    let bot = postern.token("bot", &["night", "bots"]).unwrap();
    let ask = |token: &str, more: &[&str]| {
        let mut arguments = vec!["access", "request", "--target", "shop", "--reason", "nightly report"];
        arguments.extend(more);
        postern.cli_as(token, arguments).unwrap()
    };
    // No rule approves it, and nobody is named who could.
    assert_has(&ask(&bot, &["--for", "6m"]).fails().unwrap(), &["no rule"]);
    let granted = ask(&bot, &["--for", "5m", "--wait"]);
    assert_has(&granted.stderr, &["granted by rule short"]);
    let id = granted.ok().unwrap().trim().to_owned();
    let connection = postern.connection("shop", &bot).unwrap();
    assert_eq!(connection.run("SELECT count(*) FROM orders").unwrap().ok().unwrap(), "20\n");
    let audit = postern.cli(["audit", "list", "--method", "RequestAccess", "-o", "json"]).unwrap().ok().unwrap();
    assert_has(&audit, &[&id, "approved by rule"]);

    // A denial, and an answer that does not come, have exit codes of their own.
    let carl = postern.token("carl", &["on-call"]).unwrap();
    let unanswered = ask(&carl, &["--for", "5m", "--wait=1s"]);
    assert_eq!(unanswered.status.code(), Some(4), "{}", unanswered.stderr);
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, &carl).unwrap();
    let token_file = token_file.display().to_string();
    let arguments =
        ["access", "request", "--target", "shop", "--reason", "a second try", "--wait", "--token-file", &token_file];
    let mut waiting = postern.spawn("waiting", &arguments, folder.path()).unwrap();
    wait_until(LIMIT, "the id", || Ok(waiting.stdout().contains("acc_"))).unwrap();
    let id = waiting.stdout().trim().to_owned();
    let dan = postern.token("dan", &["keepers"]).unwrap();
    postern.cli_as(&dan, ["access", "deny", &id, "--comment", "not tonight"]).unwrap().ok().unwrap();
    assert_eq!(waiting.wait(LIMIT).unwrap().code(), Some(3), "{}", waiting.stderr());
    assert_has(&waiting.stderr(), &["dan", "not tonight"]);
    let mine = postern.cli_as(&carl, ["access", "list", "--mine", "--all"]).unwrap().ok().unwrap();
    assert_has(&mine, &["pending", "denied"]);
    assert!(!mine.contains("bot"));
}
