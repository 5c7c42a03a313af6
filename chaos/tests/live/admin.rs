//! Objects: declared, shown, changed and refused.

use postern_chaos::live::{Postern, PosternOptions, Postgres, PostgresOptions, shop_objects};

use crate::{assert_has, assert_lacks};

fn policy(reason: &str) -> String {
    format!(
        "apiVersion: postern/v1\nkind: Policy\nmetadata: {{name: p}}\nspec:\n  effect: deny\n  principals: {{groups: [a]}}\n  \
         targets: {{names: [\"*\"]}}\n  actions: [\"*\"]\n  reason: {reason}\n"
    )
}

#[test]
fn apply_is_idempotent_and_stale_updates_are_refused() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let objects = shop_objects(&postgres);
    let first = postern.apply(&objects).unwrap();
    assert_has(&first, &["secret/shop-password created", "target/shop created", "policy/analysts-read created"]);
    let second = postern.apply(&objects).unwrap();
    assert_has(&second, &["secret/shop-password unchanged", "target/shop unchanged"]);
    assert_lacks(&second, &["created", " changed"]);

    assert_has(&postern.apply(&policy("one")).unwrap(), &["policy/p created"]);
    let old = postern.cli(["get", "policy", "p", "-o", "yaml"]).unwrap().ok().unwrap();
    assert_has(&old, &["revision:", "reason: one"]);
    assert_has(&postern.apply(&old).unwrap(), &["policy/p unchanged"]);
    assert_has(&postern.apply(&policy("two")).unwrap(), &["policy/p changed"]);
    let stale = postern.try_apply(&old.replace("reason: one", "reason: three")).unwrap().fails().unwrap();
    assert_has(&stale, &["policy/p", "revision"]);
    assert_has(&postern.cli(["get", "policy", "p", "-o", "yaml"]).unwrap().ok().unwrap(), &["reason: two"]);

    let json = postern.json(["get", "targets", "-o", "json"]).unwrap();
    assert_has(&json.to_string(), &["shop-direct", "revision"]);
    assert_has(&postern.cli(["get", "policies"]).unwrap().ok().unwrap(), &["NAME", "operators-write"]);
    assert_has(
        &postern.cli(["describe", "target", "shop"]).unwrap().ok().unwrap(),
        &["shop-password", &postgres.address()],
    );
    for form in ["table", "json", "yaml"] {
        let shown = postern.cli(["get", "secrets", "-o", form]).unwrap().ok().unwrap();
        assert_lacks(&shown, &[postern_chaos::live::Role::Scram.password()]);
    }

    let used = postern.cli(["delete", "secret", "shop-password"]).unwrap().fails().unwrap();
    assert_has(&used, &["shop-password", "used by Target shop"]);
    postern.cli(["delete", "policy", "p"]).unwrap().ok().unwrap();
    postern.cli(["get", "policy", "p"]).unwrap().fails().unwrap();
}

#[test]
fn all_faults_of_a_file_are_told_at_once_with_their_lines() {
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let bad = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: Bad_Name}\nspec:\n  effect: maybe\n  actions: [\"sql:fly\"]\n  colour: red\n\
               ---\napiVersion: postern/v1\nkind: Target\nmetadata: {name: t}\nspec:\n  protocol: postgres\n  address: nowhere\n";
    let stderr = postern.try_apply(bad).unwrap().fails().unwrap();
    for part in [":3:", ":5:", ":7:", "colour", "effect"] {
        assert_has(&stderr, &[part]);
    }
    // All or none: a good object beside a bad one is not applied.
    let mixed = policy("fine")
        + "---\napiVersion: postern/v1\nkind: Target\nmetadata: {name: t}\nspec: {protocol: postgres, address: \"h:1\", credential: {username: u, secret: missing}}\n";
    let stderr = postern.try_apply(&mixed).unwrap().fails().unwrap();
    assert_has(&stderr, &["missing"]);
    postern.cli(["get", "policy", "p"]).unwrap().fails().unwrap();
}

#[test]
fn what_a_token_may_do_ends_where_administration_begins() {
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let token = postern.token("alice", &["analysts"]).unwrap();
    let who = postern.cli_as(&token, ["whoami"]).unwrap().ok().unwrap();
    assert_has(&who, &["dev/alice", "analysts"]);
    for refused in [
        &["get", "policies"][..],
        &["delete", "issuer", "dev"],
        &["certs", "issue", "--role", "gateway", "--name", "evil", "--out", "/nonexistent"],
    ] {
        postern.cli_as(&token, refused).unwrap().fails().unwrap();
    }
    let session = postern.cli_as(&token, ["token", "--ttl", "5m"]).unwrap().ok().unwrap();
    let who = postern.cli_as(session.trim(), ["whoami"]).unwrap().ok().unwrap();
    assert_has(&who, &["dev/alice", "analysts"]);
    // A refused token is refused by the command line too, in words.
    let expired = postern.token_with("alice", &[], &["--issued-ago", "2h", "--ttl", "1h"]).unwrap();
    let stderr = postern.cli_as(&expired, ["whoami"]).unwrap().fails().unwrap();
    assert_has(&stderr, &["expired"]);
    assert_lacks(&stderr, &[&expired]);
}

/// Only the operator's own health and metrics endpoints answer without an identity.
#[test]
fn health_and_metrics() {
    let postern = Postern::dev(PosternOptions::default()).unwrap();
    let metrics = postern.metrics().unwrap();
    assert_has(&metrics, &["postern_"]);
}
