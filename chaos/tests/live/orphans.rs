//! Sessions of a gateway that is gone: they are not open for ever, and what there is of them is proved.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, RoleOptions, ThreeProcesses, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::recording_log::{Judges, copy, told};
use crate::{assert_has, assert_lacks};

/// A gateway that died leaves the directory after five seconds; its sessions are closed within thirty of that.
const CLOSED: Duration = Duration::from_secs(35);

/// A session with some statements, beside one that may be open.
fn open(three: &ThreeProcesses, beside: &str) -> (Wire, String) {
    open_as(three, "dora", beside)
}

fn open_as(three: &ThreeProcesses, who: &str, beside: &str) -> (Wire, String) {
    let mut wire = Wire::connect(&three.postgres_address()).unwrap();
    wire.login("shop-direct", "shop", &three.issuer().token(who, &["dba"]).unwrap()).unwrap();
    for n in 0..20 {
        wire.query(&format!("INSERT INTO notes (body) VALUES ('kept {n}')")).unwrap();
    }
    let mut id = String::new();
    wait_until(Duration::from_secs(10), "what was done is with the control plane", || {
        let open = three.sessions()?.into_iter().find(|session| session["state"] == "open" && session["id"] != beside);
        id = open.and_then(|session| session["id"].as_str().map(str::to_owned)).unwrap_or_default();
        Ok(!id.is_empty() && three.cli(["sessions", "replay", &id])?.stdout.contains("'kept 19'"))
    })
    .unwrap();
    (wire, id)
}

fn show(three: &ThreeProcesses, id: &str) -> Value {
    let shown = three.cli(["sessions", "show", id, "-o", "json"]).unwrap().ok().unwrap();
    serde_json::from_str(&shown).unwrap()
}

/// State, and whether it is an orphan.
fn is(three: &ThreeProcesses, id: &str) -> (String, bool) {
    let session = show(three, id);
    (session["state"].as_str().unwrap().to_owned(), session["orphaned"].as_bool().unwrap())
}

fn becomes(three: &ThreeProcesses, id: &str, state: &str, orphaned: bool, limit: Duration) {
    let what = format!("{id} is {state}, orphaned {orphaned}");
    wait_until(limit, &what, || Ok(is(three, id) == (state.to_owned(), orphaned))).unwrap();
}

fn export(three: &ThreeProcesses, to: &Path) {
    three.cli(["log", "export", &to.display().to_string()]).unwrap().ok().unwrap();
}

/// Once a signed head covers what the index has of it.
fn proves(three: &ThreeProcesses, id: &str, to: &Path) {
    let events = show(three, id)["events"].as_u64().unwrap();
    wait_until(Duration::from_secs(20), "a head of the log", || {
        let proof = three.cli(["log", "prove", id])?;
        let leaf = proof.stdout.lines().find_map(|line| line.strip_prefix("extra "));
        let leaf = leaf.and_then(|leaf| STANDARD.decode(leaf).ok()).unwrap_or_default();
        let is_it = leaf.get(18..26) == Some(&events.to_be_bytes()[..]);
        if is_it {
            std::fs::write(to, proof.stdout)?;
        }
        Ok(is_it)
    })
    .unwrap();
}

#[test]
fn sessions_of_a_gateway_that_died_are_closed_and_proved_and_sealed_when_it_is_back() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut three = ThreeProcesses::start(&postgres, RoleOptions::default()).unwrap();
    let (_wire, id) = open(&three, "");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let follower = three.spawn("follow", &["sessions", "replay", "--follow", &id], dir.path());
    let mut follower = follower.unwrap();
    three.gateway().unwrap().kill9().unwrap();
    let died = Instant::now();
    becomes(&three, &id, "interrupted", true, CLOSED);
    assert!(died.elapsed() > Duration::from_secs(10), "too soon: a gateway may turn to another member");
    assert_has(&show(&three, &id).to_string(), &["its gateway is gone"]);
    // Who follows it is told.
    assert!(follower.wait(Duration::from_secs(10)).unwrap().success());
    assert_has(&follower.stdout(), &["'kept 19'"]);
    assert_has(&follower.stderr(), &["its gateway is gone"]);

    let folded = three.cli(["sessions", "replay", &id]).unwrap();
    assert_has(&folded.stdout, &["'kept 0'", "'kept 19'"]);
    assert_has(&folded.stderr, &["no seal"]);
    let proof = at("alone.rec.tlog-proof");
    proves(&three, &id, &proof);
    let judges = Judges::of(&three, dir.path());
    export(&three, &at("orphan"));
    judges.pass(&[&at("orphan")], None);
    let file = format!("{id}.rec");
    // By itself, with its proof beside it.
    std::fs::remove_file(&proof).unwrap();
    let alone = at("alone.rec");
    std::fs::copy(at("orphan").join(&file), &alone).unwrap();
    assert_has(&told(judges.ours(&[&alone], None)), &["no seal"]);
    proves(&three, &id, &proof);
    assert_has(&judges.ours(&[&alone], None).ok().unwrap(), &["without a seal", "in the log"]);
    spoiled(&judges, dir.path(), &file);

    three.start_gateway().unwrap();
    becomes(&three, &id, "interrupted", false, Duration::from_secs(30));
    assert_has(&three.cli(["sessions", "verify", &id]).unwrap().ok().unwrap(), &["verified", "sealed, interrupted"]);
    proves(&three, &id, &proof);
    export(&three, &at("sealed"));
    judges.pass(&[&at("sealed"), &at("orphan")], None);
    let leaves = std::fs::read(at("sealed").join("leaves")).unwrap();
    assert_eq!(leaves.chunks(66).filter(|leaf| leaf[1] == 2).count(), 1);
    std::fs::copy(at("sealed").join(&file), &alone).unwrap();
    let proved = judges.ours(&[&alone], None).ok().unwrap();
    assert_has(&proved, &["in the log", "the gateway had died"]);
    assert_lacks(&proved, &["without a seal"]);
    // What was enough before the seal came is not any more.
    copy(&at("sealed"), &at("old"));
    std::fs::copy(at("orphan").join(&file), at("old").join(&file)).unwrap();
    judges.fail("the orphan in place of the sealed one", &at("old"), "is not the one of leaf");
}

/// Copies of an export of one orphan, each with something wrong.
fn spoiled(judges: &Judges, dir: &Path, file: &str) {
    let good = std::fs::read(dir.join("orphan").join(file)).unwrap();
    let last = {
        let (mut offset, mut last) = (8, 8);
        while offset < good.len() {
            last = offset;
            let length = u32::from_be_bytes(good[offset..offset + 4].try_into().unwrap());
            offset += 4 + usize::try_from(length).unwrap() + 32;
        }
        last
    };
    let mut changed = good.clone();
    changed[last + 10] ^= 1;
    for (name, bytes) in [("cut", &good[..last]), ("changed", &changed), ("begun", &good[..good.len() - 1])] {
        let to = dir.join(name);
        copy(&dir.join("orphan"), &to);
        std::fs::write(to.join(file), bytes).unwrap();
        judges.fail(name, &to, "fault");
    }
    let to = dir.join("gone");
    copy(&dir.join("orphan"), &to);
    std::fs::remove_file(to.join(file)).unwrap();
    judges.fail("no file", &to, "is missing");
}

#[test]
fn a_gateway_that_was_only_cut_off_has_its_sessions_back() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut three = ThreeProcesses::start(&postgres, RoleOptions::default()).unwrap();
    let (mut wire, id) = open(&three, "");
    let (mut killed, other) = open_as(&three, "eve", &id);
    three.gateway().unwrap().signal(Signal::STOP).unwrap();
    // Its connection stands: it is missed only when it has said nothing for twenty seconds.
    becomes(&three, &id, "interrupted", true, CLOSED + Duration::from_secs(15));
    // It may go on where its gateway is: whoever ends all that one has, ends this, too.
    becomes(&three, &other, "interrupted", true, CLOSED);
    let principal = show(&three, &other)["principal"].as_str().unwrap().to_owned();
    let told =
        three.cli(["sessions", "kill", "--principal", &principal, "--yes", "--wait", "0"]).unwrap().ok().unwrap();
    assert_has(&told, &[&format!("{other}: is told to end")]);
    three.gateway().unwrap().signal(Signal::CONT).unwrap();
    becomes(&three, &id, "open", false, Duration::from_secs(60));
    becomes(&three, &other, "ended", false, Duration::from_secs(60));
    let said = killed.read().unwrap();
    assert_eq!((said.kind, said.field('C').as_deref()), ('E', Some("57P01")));
    wire.query("INSERT INTO notes (body) VALUES ('after all')").unwrap();
    wire.message('X', b"").unwrap();
    becomes(&three, &id, "ended", false, Duration::from_secs(20));
    assert_has(&three.cli(["sessions", "replay", &id]).unwrap().ok().unwrap(), &["'kept 19'", "'after all'", "sealed"]);
    let dir = tempfile::tempdir().unwrap();
    proves(&three, &id, &dir.path().join("proof"));
    export(&three, &dir.path().join("all"));
    Judges::of(&three, dir.path()).pass(&[&dir.path().join("all")], None);
}

/// Started anew without its spool it can never say how its sessions ended.
#[test]
fn what_a_gateway_has_lost_is_closed_though_the_gateway_is_there() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut three = ThreeProcesses::start(&postgres, RoleOptions::default()).unwrap();
    let (_wire, id) = open(&three, "");
    three.gateway().unwrap().kill9().unwrap();
    std::fs::remove_dir_all(three.folder().join("spool")).unwrap();
    three.start_gateway().unwrap();
    let (mut wire, other) = open(&three, &id);
    becomes(&three, &id, "interrupted", true, Duration::from_secs(75));
    // The new one's sessions are none of it.
    assert_eq!(is(&three, &other), ("open".to_owned(), false));
    wire.query("SELECT 1").unwrap();
}
