//! Settings that a client gives at its startup, and SET would be decided for: decided as SET is, recorded, and followed by what names mean.

use std::time::Duration;

use postern_chaos::live::{Connection, Finished, wait_until};

use crate::{assert_has, assert_lacks, shop};

const POLICIES: &str = r#"
@id("movers-read")
permit (principal in Group::"movers", action in Action::"sql:read", resource in Schema::"shop/shop.yard");

@id("movers-set")
permit (principal in Group::"movers", action == Action::"sql:set", resource in Target::"shop")
when { ["search_path", "row_security"].contains(resource.name) };

@id("movers-keep-security")
@reason("row security stays on")
forbid (principal in Group::"movers", action == Action::"sql:set", resource == Setting::"shop/row_security");

@id("askers")
@approval("leads")
permit (principal in Group::"askers", action in Action::"sql:*", resource in Target::"shop");

@id("readers")
permit (principal in Group::"readers", action in Action::"sql:read", resource in Target::"shop");
"#;

fn ask(connection: &Connection, options: &str, sql: &str) -> Finished {
    let mut psql = connection.client("psql");
    psql.args(["-X", "-A", "-t", "-c", sql]).env("PGOPTIONS", options);
    postern_chaos::live::run(psql, "", Duration::from_secs(60)).unwrap()
}

#[test]
fn startup_settings_are_decided_as_set_is() {
    let (postgres, postern) = shop();
    let tables = "CREATE SCHEMA yard; CREATE TABLE yard.orders AS SELECT 'of yard' AS note; GRANT USAGE ON SCHEMA yard TO PUBLIC; GRANT SELECT ON yard.orders TO PUBLIC";
    postgres.sql("shop", tables).unwrap();
    let file = tempfile::Builder::new().suffix(".cedar").tempfile().unwrap();
    std::fs::write(file.path(), POLICIES).unwrap();
    postern.cli(["apply", "-f", file.path().to_str().unwrap()]).unwrap().ok().unwrap();
    let mover = postern.as_member("mo", &["movers"]).unwrap();
    wait_until(Duration::from_secs(20), "the policies", || Ok(mover.run("SELECT 1")?.status.success())).unwrap();

    let path = "-c search_path=yard,public";
    assert_eq!(ask(&mover, path, "SELECT note FROM orders").ok().unwrap(), "of yard\n");
    assert_eq!(ask(&mover, path, "SHOW search_path").ok().unwrap(), "yard,public\n");
    // What the path does not lead to is decided as what it is.
    assert_has(&ask(&mover, "-c search_path=public", "SELECT * FROM orders").stderr, &["shop.public.orders"]);
    assert_has(&ask(&mover, "", "SELECT note FROM orders").stderr, &["shop.public.orders"]);
    assert_eq!(ask(&mover, path, "SELECT note FROM orders").ok().unwrap(), "of yard\n");
    let recording = postern.last_ended_session().unwrap();
    let replay = postern.cli(["sessions", "replay", &recording, "-o", "json"]).unwrap().ok().unwrap();
    assert_has(&replay, &["set_config('search_path', 'yard,public', false)", "movers-set", r#""SET""#]);

    let denied = ask(&mover, "-c row_security=off", "SELECT 1");
    assert_has(&denied.stderr, &["FATAL", "denied by policy movers-keep-security: row security stays on"]);
    assert_has(&ask(&mover, "-c search_path=yard -c role=app_md5", "SELECT 1").stderr, &["\"role\" may not be given"]);
    assert_has(&ask(&mover, "-c local_preload_libraries=x", "SELECT 1").stderr, &["may not be given"]);
    // Harmless ones are, as in SET.
    assert_eq!(ask(&mover, "-c work_mem=3MB", "SHOW work_mem").ok().unwrap(), "3MB\n");

    let reader = postern.as_member("rita", &["readers"]).unwrap();
    let denied = ask(&reader, path, "SELECT 1");
    assert_has(&denied.stderr, &["FATAL", "no policy permits sql:set on setting:search_path"]);
    assert_lacks(&denied.stdout, &["1"]);
    let asker = postern.as_member("ada", &["askers"]).unwrap();
    assert_has(&ask(&asker, path, "SELECT 1").stderr, &["cannot wait for a review"]);
    // A value that the target refuses is the target's to refuse.
    assert!(!ask(&mover, "-c search_path=yard -c work_mem=nonsense", "SELECT 1").status.success());
}
