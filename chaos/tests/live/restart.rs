//! I8, as far as one node goes: a restart keeps everything, and Ctrl-C ends it well.

use postern_chaos::live::wire::Wire;

use crate::{assert_has, shop};

#[test]
fn a_restart_keeps_everything() {
    let (_postgres, mut postern) = shop();
    let oidc = postern.token("alice", &["analysts"]).unwrap();
    let session_token = postern.cli_as(&oidc, ["token"]).unwrap().ok().unwrap();
    postern.connection("shop", &oidc).unwrap().run("SELECT 'before'").unwrap().ok().unwrap();
    let session = postern.last_ended_session().unwrap();
    let before = postern.cli(["get", "policies", "-o", "yaml"]).unwrap().ok().unwrap();
    postern.stop().unwrap();
    postern.start().unwrap();
    assert_eq!(postern.cli(["get", "policies", "-o", "yaml"]).unwrap().ok().unwrap(), before);
    for token in [&oidc, session_token.trim()] {
        let out = postern
            .connection("shop", token)
            .unwrap()
            .run("SELECT email FROM customers LIMIT 1")
            .unwrap()
            .ok()
            .unwrap();
        assert_eq!(out, "****\n");
    }
    assert_has(&postern.cli(["sessions", "replay", &session]).unwrap().ok().unwrap(), &["SELECT 'before'"]);
    postern.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
    // Killed rather than stopped: the same.
    postern.kill9().unwrap();
    postern.start().unwrap();
    assert_eq!(postern.cli(["get", "policies", "-o", "yaml"]).unwrap().ok().unwrap(), before);
}

#[test]
fn ctrl_c_drains_live_sessions_and_exits_0() {
    let (_postgres, mut postern) = shop();
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &postern.token("alice", &["analysts"]).unwrap()).unwrap();
    wire.query("SELECT 'seen'").unwrap();
    postern.stop().unwrap();
    let said = wire.read().unwrap();
    assert_eq!((said.kind, said.field('C').as_deref()), ('E', Some("57P01")));
    postern.start().unwrap();
    let session = postern.last_ended_session().unwrap();
    let verified = postern.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
    assert!(!verified.contains("interrupted"), "its end was sealed before the exit: {verified}");
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let (_postgres, postern) = shop();
    let data = postern.data_dir();
    let arguments = [
        "dev",
        "--data-dir",
        data.to_str().unwrap(),
        "--postgres-listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let run = postern.cli(arguments).unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(
        run.stderr.trim().lines().filter(|line| line.contains("postern:") || line.contains("error")).count(),
        1,
        "{}",
        run.stderr
    );
}
