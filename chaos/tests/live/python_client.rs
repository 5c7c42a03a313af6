//! The public API as strangers use it: a client generated from proto/ with grpcio, and one that has only reflection.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postern_chaos::live::{Postern, PosternOptions, run};

use crate::{assert_has, assert_lacks};

const CLIENT: &str = include_str!("../../fixtures/admin_client.py");

#[test]
fn a_generated_python_client_and_reflection_work() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = root.join(".tools/grpc/bin/python");
    assert!(python.exists(), "{} is not there: run `scripts/bootstrap.sh test`", python.display());
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let profile: serde_json::Value =
        serde_json::from_slice(&std::fs::read(postern.data_dir().join("client.json")).unwrap()).unwrap();
    let at = |key: &str| postern.data_dir().join(profile[key].as_str().unwrap());
    let address = profile["server"].as_str().unwrap().trim_start_matches("https://");
    let credential = at("credential");
    let mut command = Command::new(python);
    command.args(["-", address]).arg(root.join("proto")).arg(at("ca"));
    command.arg(credential.join("node.crt")).arg(credential.join("node.key"));
    let out = run(command, CLIENT, Duration::from_secs(60)).unwrap().ok().unwrap();
    assert_has(&out, &["all well"]);
}

#[test]
fn the_audit_log_is_listed_and_verified_from_the_command_line() {
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let policy = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: p, labels: {env: prod}}\nspec:\n  effect: deny\n  \
                  principals: {groups: [a]}\n  targets: {names: [\"*\"]}\n  actions: [\"*\"]\n";
    postern.apply(policy).unwrap();
    postern.cli(["get", "policy", "none"]).unwrap().fails().unwrap();
    let listed = postern.cli(["audit", "list"]).unwrap().ok().unwrap();
    assert_has(&listed, &["ResourceService/Apply", "Policy/p", "ResourceService/Get", "NOT_FOUND", "admin.admin"]);
    let refused = postern.cli(["audit", "list", "--code", "!OK"]).unwrap().ok().unwrap();
    assert_has(&refused, &["NOT_FOUND"]);
    assert_lacks(&refused, &["ResourceService/Apply"]);
    assert_has(&postern.cli(["audit", "verify"]).unwrap().ok().unwrap(), &["unbroken"]);

    // An export is verified offline; what was edited, or taken out, shows.
    let export = postern.data_dir().join("audit.jsonl");
    let file = export.display().to_string();
    postern.cli(["audit", "export", "-o", &file]).unwrap().ok().unwrap();
    assert_has(&postern.cli(["audit", "verify", &file]).unwrap().ok().unwrap(), &["unbroken"]);
    let text = std::fs::read_to_string(&export).unwrap();
    std::fs::write(&export, text.replace("Policy/p", "Policy/q")).unwrap();
    assert_has(&postern.cli(["audit", "verify", &file]).unwrap().fails().unwrap(), &["was changed"]);
    let without: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != 1).map(|(_, line)| line).collect();
    std::fs::write(&export, without.join("\n")).unwrap();
    assert_has(&postern.cli(["audit", "verify", &file]).unwrap().fails().unwrap(), &["missing"]);

    // Selectors and order.
    let found = postern.cli(["get", "policies", "-l", "env=prod", "--sort", "updated desc"]).unwrap().ok().unwrap();
    assert_has(&found, &["deny"]);
    assert_lacks(&postern.cli(["get", "policies", "-l", "env!=prod"]).unwrap().ok().unwrap(), &["deny"]);
}
