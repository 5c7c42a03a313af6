//! Tokens that are handed on, as the guide says it: by the command line, by OpenSSL, and in Python.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postern_chaos::live::{Connection, Postern, run};
use tempfile::TempDir;

use crate::{assert_denied, assert_has, assert_lacks, shop};

const GUIDE: &str = include_str!("../../../docs/guides/nested-agents.md");
const LIMIT: Duration = Duration::from_secs(60);

/// The guide's block that contains `mark`.
fn block(mark: &str) -> &'static str {
    let blocks = GUIDE.split("\n```").skip(1).step_by(2);
    let found = blocks.filter_map(|block| block.split_once('\n')).find(|(_, text)| text.contains(mark));
    found.map(|(_, text)| text).unwrap()
}

/// A folder in which the guide's commands are given, as the job whose token is `token`.
struct Desk<'a> {
    postern: &'a Postern,
    folder: TempDir,
    token: String,
}

impl Desk<'_> {
    fn sh(&self, script: &str) -> String {
        let mut shell = self.postern.connection("shop", "").unwrap().client("bash");
        shell.args(["-euo", "pipefail", "-c", script]).current_dir(self.folder.path());
        self.postern.surround(&mut shell).unwrap();
        shell.env("POSTERN_TOKEN", &self.token);
        run(shell, "", LIMIT).unwrap().ok().unwrap()
    }

    fn token(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap().trim().to_owned()
    }

    fn client(&self, name: &str) -> Connection {
        self.postern.connection("shop", &self.token(name)).unwrap()
    }
}

#[test]
fn what_is_handed_on_is_narrower_and_says_who_acts() {
    let (_postgres, postern) = shop();
    let token = postern.token("ci", &["dba"]).unwrap();
    let desk = Desk { postern: &postern, folder: tempfile::tempdir().unwrap(), token };
    desk.sh(block("postern token --as planner"));
    desk.sh(block("--as executor --action"));
    let mode = std::fs::metadata(desk.folder.path().join("planner.key")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);

    // The executor reads orders, and nothing else, wherever the job might.
    assert_has(&desk.sh(block("PGPASSWORD=$(cat executor.token) psql")), &["20"]);
    let executor = desk.client("executor.token");
    for beyond in ["SELECT * FROM customers;", "DELETE FROM orders WHERE id = 1;"] {
        let refused = executor.run(beyond).unwrap();
        assert_denied(&refused.stderr);
        assert_has(&refused.stderr, &["outside of the token's scope"]);
    }
    let elsewhere = postern.connection("shop-direct", &desk.token("executor.token")).unwrap().run("SELECT 1;");
    assert_has(&elsewhere.unwrap().stderr, &["no such target, or no access to it"]);
    // Nobody shows what was handed to them to hand on, nor cuts a link off.
    assert_has(&desk.client("planner.token").run("SELECT 1;").unwrap().stderr, &["the token is not accepted"]);
    let (stripped, _) =
        desk.token("executor.token").rsplit_once('~').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(stripped, desk.token("planner.token"));
    // The planner itself may do all that its token says.
    desk.sh(block("> own.token"));
    desk.client("own.token").run("SELECT count(*) FROM customers;").unwrap().ok().unwrap();

    // It is known who acted, for whom, and by which tokens; no token is in any record.
    let session = postern.last_ended_session().unwrap();
    let listed = postern.cli(["sessions", "list"]).unwrap().ok().unwrap();
    assert_has(&listed, &["dev/ci by planner > executor", "dev/ci by planner"]);
    let replay = postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap();
    assert_has(&replay, &["dev/ci by planner", "lnk_", "good for targets shop"]);
    assert_lacks(&replay, &[&desk.token("planner.token")[..40]]);
    let shown = desk.sh("postern token show --token-file executor.token");
    assert_has(&shown, &["dev/ci", "planner", "executor", "sql:select"]);
    // For work at targets only.
    let refused = postern.cli_as(&desk.token("own.token"), ["get", "policies"]).unwrap().fails().unwrap();
    assert_has(&refused, &["permitted"]);
}

#[test]
fn anyone_who_can_sign_makes_a_link() {
    let (_postgres, postern) = shop();
    let token = postern.token("ci", &["dba"]).unwrap();
    let desk = Desk { postern: &postern, folder: tempfile::tempdir().unwrap(), token };
    desk.sh(block("postern token --as planner"));
    let works = |what: &str| {
        let executor = desk.client("executor.token");
        executor.run("SELECT count(*) FROM orders;").unwrap().ok().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_has(
            &executor.run("DELETE FROM orders WHERE id = 1;").unwrap().stderr,
            &["outside of the token's scope"],
        );
    };
    desk.sh(block("openssl pkeyutl"));
    works("OpenSSL");
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(".tools/grpc/bin/python");
    assert!(python.exists(), "{} is not there: run `scripts/bootstrap.sh test`", python.display());
    let mut command = Command::new(python);
    command.arg("-").current_dir(desk.folder.path());
    let made = run(command, block("import base64, hashlib"), LIMIT).unwrap().ok().unwrap();
    std::fs::write(desk.folder.path().join("executor.token"), made).unwrap();
    works("Python");
}
