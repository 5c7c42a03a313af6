//! I6: what is revoked ends, on open sessions too, and nothing else does.

use std::time::{Duration, Instant};

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postern, Postgres, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::{assert_has, assert_lacks, shop};

/// What is promised is a second, which benches measure; this is for a busy machine.
const SOON: Duration = Duration::from_secs(10);

struct Open {
    wire: Wire,
    token: String,
    who: &'static str,
}

fn open(postern: &Postern, who: &'static str, token: &str) -> Open {
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", token).unwrap();
    Open { wire, token: token.to_owned(), who }
}

impl Open {
    /// It is told why, and its token lets nobody in any more.
    #[track_caller]
    fn has_ended(mut self, postern: &Postern, since: Instant) {
        let said = self.wire.read().unwrap();
        let (took, what) = (since.elapsed(), said.field('M').unwrap_or_default());
        assert_eq!((said.kind, said.field('C').as_deref()), ('E', Some("28P01")), "{}: {what}", self.who);
        assert_has(&what, &["its token was revoked"]);
        assert!(took < SOON, "{} after {took:?}", self.who);
        refused(postern, &self.token);
    }

    #[track_caller]
    fn goes_on(&mut self) {
        let answer = self.wire.query("SELECT 1").unwrap();
        assert!(answer.iter().any(|message| message.kind == 'D'), "{}: {answer:?}", self.who);
    }
}

#[track_caller]
fn refused(postern: &Postern, token: &str) {
    let refused = postern.connection("shop", token).unwrap().run("SELECT 1").unwrap();
    assert_has(&refused.stderr, &["the token was revoked"]);
}

fn session_token(postern: &Postern, from: &str, arguments: &[&str]) -> String {
    let made = postern.cli_as(from, ["token"].iter().chain(arguments)).unwrap().ok().unwrap();
    made.trim().to_owned()
}

fn id(token: &str) -> String {
    let claims = postern_chaos::live::token::claims(token).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}

/// Runs `postern revoke` as the administrator; gives when it was done, and what it said.
fn revoke(postern: &Postern, arguments: &[&str]) -> (Instant, String) {
    let said = postern.cli(["revoke"].iter().chain(arguments)).unwrap().ok().unwrap();
    (Instant::now(), said)
}

#[test]
fn each_way_ends_its_own_and_no_other() {
    let (_postgres, postern) = shop();
    let oidc = |who: &str| postern.token(who, &["analysts"]).unwrap();
    let mut stays = open(&postern, "another's", &oidc("zoe"));

    // A token, and not what was made of it; then all that is made of it.
    let root = session_token(&postern, &oidc("ann"), &["--ttl", "30m"]);
    let child = session_token(&postern, &root, &["--as", "planner"]);
    let grandchild = session_token(&postern, &child, &["--as", "executor"]);
    let (one, mut two, three) =
        (open(&postern, "root", &root), open(&postern, "child", &child), open(&postern, "grandchild", &grandchild));
    let (at, said) = revoke(&postern, &["token", &id(&root), "--reason", "leaked"]);
    assert_has(&said, &["revoked: token tok_", "kept until"]);
    one.has_ended(&postern, at);
    two.goes_on();
    let sibling = session_token(&postern, &child, &["--as", "sibling"]);
    let mut sibling = open(&postern, "sibling", &sibling);
    let (at, _) = revoke(&postern, &["token", &id(&grandchild), "--subtree"]);
    three.has_ended(&postern, at);
    sibling.goes_on();
    let (at, _) = revoke(&postern, &["token", &id(&root), "--subtree"]);
    two.has_ended(&postern, at);
    sibling.has_ended(&postern, at);
    // Nothing is made of it any more; what comes of a new proof is another tree.
    assert_has(&postern.cli_as(&root, ["token"]).unwrap().fails().unwrap(), &["revoked"]);
    assert_has(&postern.cli_as(&root, ["whoami"]).unwrap().fails().unwrap(), &["revoked"]);
    open(&postern, "a new proof", &session_token(&postern, &oidc("ann"), &[])).goes_on();

    // A principal's: the token of the issuer, and what was made of it, too.
    let bob = oidc("bob");
    let (first, made) = (open(&postern, "bob", &bob), session_token(&postern, &bob, &[]));
    let second = open(&postern, "bob's", &made);
    let (at, said) = revoke(&postern, &["principal", "dev/bob"]);
    assert_has(&said, &["revoked: principal dev/bob, issued until"]);
    first.has_ended(&postern, at);
    second.has_ended(&postern, at);

    // Whoever has a token may revoke it, also a narrowed one, and nothing else.
    let own = session_token(&postern, &oidc("cat"), &["--target", "shop"]);
    let other = session_token(&postern, &oidc("cat"), &[]);
    let (mine, mut hers) = (open(&postern, "own", &own), open(&postern, "other", &other));
    let refused = postern.cli_as(&other, ["revoke", "token", &id(&own)]).unwrap().fails().unwrap();
    assert_has(&refused, &["create of revocations is not permitted"]);
    let at = Instant::now();
    postern.cli_as(&own, ["revoke", "token"]).unwrap().ok().unwrap();
    mine.has_ended(&postern, at);
    hers.goes_on();

    // Everybody's, up to a time; whoever proves anew who they are comes in.
    stays.goes_on();
    let before = open(&postern, "before", &oidc("dan"));
    let ended = Instant::now();
    wait_until(SOON, "the next second", || Ok(ended.elapsed() > Duration::from_millis(1_100))).unwrap();
    let (at, _) = revoke(&postern, &["issuer", "dev"]);
    stays.has_ended(&postern, at);
    before.has_ended(&postern, at);
    hers.has_ended(&postern, at);
    wait_until(SOON, "a token of a later second", || {
        let come = postern.connection("shop", &oidc("dan"))?.run("SELECT 1")?;
        Ok(come.stdout == "1\n")
    })
    .unwrap();
    let listed = postern.cli(["revocations", "list"]).unwrap().ok().unwrap();
    assert_has(&listed, &["issuer dev", "principal dev/bob", "subtree tok_", "leaked", "its bearer"]);
    let session = postern.last_ended_session().unwrap();
    assert_has(&postern.cli(["sessions", "list", "-o", "json"]).unwrap().ok().unwrap(), &["its token was revoked"]);
    postern.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
    assert_has(&postern.cli(["audit", "list"]).unwrap().ok().unwrap(), &["Revoke"]);
    assert_lacks(&postern.log(), &[&root[..60], &own[..60]]);
}

#[test]
fn it_outlives_a_kill_and_reaches_what_was_made_without_a_call() {
    let (_postgres, mut postern) = shop();
    let oidc = postern.token("ann", &["operators"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("planner.key").display().to_string();
    let parent = session_token(&postern, &oidc, &["--as", "planner", "--delegate", &key]);
    let link = |name: &str| session_token(&postern, &parent, &["child", "--key", &key, "--as", name]);
    let (first, second) = (link("one"), link("two"));
    let (one, two) = (open(&postern, "link", &first), open(&postern, "its sibling", &second));
    // Its parent's token stands in front of it, and is not for it to revoke.
    let denied = postern.cli_as(&parent, ["revoke", "token", "--subtree"]).unwrap().fails().unwrap();
    assert_has(&denied, &["only handed on"]);
    let at = Instant::now();
    postern.cli_as(&first, ["revoke", "token", "--subtree"]).unwrap().ok().unwrap();
    one.has_ended(&postern, at);
    let mut two = two;
    two.goes_on();
    // Its principal may, by another token of its own.
    let file = folder.path().join("parent.token");
    std::fs::write(&file, &parent).unwrap();
    let file = file.display().to_string();
    postern.cli_as(&oidc, ["revoke", "token", "--file", &file, "--subtree"]).unwrap().ok().unwrap();
    two.has_ended(&postern, at);
    refused(&postern, &link("three"));

    postern.kill9().unwrap();
    postern.start().unwrap();
    refused(&postern, &first);
    refused(&postern, &second);
    postern.connection("shop", &oidc).unwrap().run("SELECT 1").unwrap().ok().unwrap();
    assert_has(&postern.cli(["revocations", "list"]).unwrap().ok().unwrap(), &["subtree lnk_", "subtree tok_"]);
}

#[test]
fn a_statement_under_way_is_stopped_and_a_held_one_withdrawn() {
    let (postgres, postern) = shop();
    let folder = tempfile::tempdir().unwrap();
    let robot = postern.token("robot-1", &["robots"]).unwrap();
    let connection = postern.connection("shop", &robot).unwrap();
    let mut held = connection.psql().start("held", "DELETE FROM orders WHERE id = 7", folder.path()).unwrap();
    let approval = postern.pending_approval().unwrap();
    let slow = postern.as_member("ann", &["dba"]).unwrap();
    let mut slow = slow.psql().start("slow", "SELECT pg_sleep(60)", folder.path()).unwrap();
    wait_until(SOON, "the statement at the target", || runs(&postgres, "SELECT pg_sleep(60)")).unwrap();
    revoke(&postern, &["all", "--before", "now"]);
    for psql in [&mut held, &mut slow] {
        assert!(!psql.wait(SOON).unwrap().success());
        assert_has(&psql.stderr(), &["28P01", "its token was revoked"]);
    }
    wait_until(SOON, "the withdrawal", || {
        let shown = postern.json(["approvals", "show", &approval, "-o", "json"])?;
        Ok(shown["state"].as_str().is_some_and(|state| state.eq_ignore_ascii_case("withdrawn")))
    })
    .unwrap();
    wait_until(SOON, "the target to be told", || Ok(postgres.log().contains("canceling statement"))).unwrap();
}

/// Whether a session of the target's is at this statement. (Its log has the words of the catalog's queries, too.)
fn runs(postgres: &Postgres, statement: &str) -> anyhow::Result<bool> {
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{statement}'");
    Ok(postgres.sql("shop", &count)?.trim() == "1")
}

/// A cancel request that comes before the server has read the statement hits nothing. The statement must end all the same, once the server gets to it.
#[test]
fn a_statement_that_the_target_has_not_begun_is_stopped_too() {
    let (postgres, postern) = shop();
    let mut ann = open(&postern, "ann", &postern.token("ann", &["dba"]).unwrap());
    let answer = ann.wire.query("SELECT pg_backend_pid()").unwrap();
    let pid = answer[1].values().unwrap()[0].clone().unwrap();
    let server = Pid::from_raw(String::from_utf8(pid).unwrap().parse().unwrap()).unwrap();
    kill_process(server, Signal::STOP).unwrap();
    ann.wire.message('Q', b"SELECT pg_sleep(50)\0").unwrap();
    // It is on its way, and nobody takes it.
    let for_a_while = || postgres.sql("shop", "SELECT pg_sleep(0.7)").unwrap();
    for_a_while();
    let since = Instant::now();
    revoke(&postern, &["all", "--before", "now"]);
    ann.has_ended(&postern, since);
    for_a_while();
    kill_process(server, Signal::CONT).unwrap();
    wait_until(SOON, "the target to stop it", || {
        let log = postgres.log();
        let after = log.split_once("SELECT pg_sleep(50)").map(|(_, after)| after);
        Ok(after.is_some_and(|after| after.contains("canceling statement")))
    })
    .unwrap();
    let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {}", server.as_raw_nonzero());
    wait_until(SOON, "the session's end", || Ok(postgres.sql("shop", &gone)?.trim() == "0")).unwrap();
}
