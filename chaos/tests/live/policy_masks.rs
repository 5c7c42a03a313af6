//! Masks that hold because a policy asks for them, on a real PostgreSQL: for whom it speaks of, in everything that a session does.

use std::time::Duration;

use postern_chaos::live::wire::{self, Message, Wire};
use postern_chaos::live::{Connection, Postern, Postgres, wait_until};

use crate::{assert_denied, assert_has, assert_lacks, shop};

const LIMIT: Duration = Duration::from_secs(20);

const RULES: &str = r##"
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: plates}
spec: {onlyByPolicy: true, columns: [public.vans.plate], mask: {redact: {text: "#"}}, exemptGroups: [privacy]}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: drivers}
spec: {onlyByPolicy: true, columns: [public.vans.driver], mask: "null", opaque: true, exemptGroups: [privacy]}
"##;

const POLICIES: &str = r#"
@id("carriers")
@mask("plates")
permit (principal in Group::"carriers", action in Action::"sql:*", resource in Target::"shop");

@id("clerks")
permit (principal in Group::"clerks", action in Action::"sql:*", resource in Target::"shop");

@id("trainees")
@mask("plates, drivers")
permit (principal in Group::"trainees", action == Action::"sql:select", resource == Table::"shop/shop.public.payroll");
"#;

const VANS: &str = "
CREATE TABLE vans (id int PRIMARY KEY, plate text UNIQUE, driver text);
INSERT INTO vans VALUES (1, 'SECRET-1', 'Ada'), (2, 'SECRET-2', 'Brook');
CREATE VIEW plates AS SELECT id, plate AS p FROM vans;
GRANT ALL ON vans, plates TO PUBLIC";

fn vans() -> (Postgres, Postern) {
    let (postgres, postern) = shop();
    postgres.sql("shop", VANS).unwrap();
    postern.apply(RULES).unwrap();
    apply(&postern, POLICIES);
    (postgres, postern)
}

fn apply(postern: &Postern, policies: &str) {
    let file = tempfile::Builder::new().suffix(".cedar").tempfile().unwrap();
    std::fs::write(file.path(), policies).unwrap();
    postern.cli(["apply", "-f", file.path().to_str().unwrap()]).unwrap().ok().unwrap();
}

fn member(postern: &Postern, groups: &[&str]) -> (Connection, String) {
    let token = postern.token("carl", groups).unwrap();
    let connection = postern.connection("shop", &token).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
    (connection, token)
}

/// The texts of the rows, and the error.
fn shown(messages: &[Message]) -> String {
    let text = |value: Option<Vec<u8>>| value.map_or("NULL".into(), |value| String::from_utf8(value).unwrap());
    let part = |message: &Message| match message.kind {
        'D' => Some(message.values().unwrap().into_iter().map(text).collect::<Vec<_>>().join("|")),
        'E' => Some(format!("E({})", message.field('C').unwrap())),
        _ => None,
    };
    messages.iter().filter_map(part).collect::<Vec<_>>().join(" ")
}

#[test]
fn they_hold_on_every_way_out() {
    let (_postgres, postern) = vans();
    let (carrier, _) = member(&postern, &["carriers"]);
    for (sql, expected) in [
        ("SELECT id, plate, driver FROM vans ORDER BY id", "1|#|Ada\n2|#|Brook\n"),
        ("SELECT plate AS harmless FROM vans WHERE id = 1", "#\n"),
        ("SELECT p FROM plates WHERE id = 1", "#\n"),
        ("COPY vans TO STDOUT", "1\t#\tAda\n2\t#\tBrook\n"),
        ("COPY (SELECT plate FROM vans) TO STDOUT WITH CSV", "\n\n"),
        ("UPDATE vans SET driver = driver WHERE id = 1 RETURNING plate", "#\n"),
        ("SELECT count(*) FROM vans", "2\n"),
    ] {
        assert_eq!(carrier.run(sql).unwrap().ok().unwrap(), expected, "{sql}");
    }
    for sql in [
        "SELECT upper(plate), row_to_json(v), v FROM vans v",
        "INSERT INTO vans VALUES (3, 'SECRET-3') RETURNING *",
        "DELETE FROM vans WHERE id = 3 RETURNING lower(plate)",
        "INSERT INTO vans VALUES (4, 'SECRET-1')",
        "BEGIN; DECLARE c CURSOR FOR SELECT plate FROM vans; FETCH ALL FROM c; MOVE ABSOLUTE 0 FROM c; FETCH NEXT FROM c; COMMIT",
        "PREPARE s AS SELECT plate FROM vans WHERE id = $1; EXECUTE s(1)",
        "COPY vans TO STDOUT (FORMAT binary)",
        "SELECT plate::int FROM vans",
        "EXPLAIN ANALYZE SELECT * FROM vans ORDER BY plate",
    ] {
        let run = carrier.run(sql).unwrap();
        assert_lacks(&(run.stdout + &run.stderr).to_uppercase(), &["SECRET-1", "SECRET-2"]);
    }
    for sql in ["CREATE TABLE kept AS SELECT plate FROM vans", "UPDATE vans SET driver = plate WHERE id = 1"] {
        assert_denied(&carrier.run(sql).unwrap().stderr);
    }
    // In the extended protocol, in binary, by parts of a portal.
    let (_, token) = member(&postern, &["carriers"]);
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &token).unwrap();
    for format in [0, 1] {
        let sent = [
            wire::parse("s", "SELECT plate FROM vans WHERE id > $1::text::int ORDER BY id").unwrap(),
            wire::bind("s", &["0"], format).unwrap(),
            wire::message('E', b"\0\0\0\0\x01").unwrap(),
            wire::message('E', b"\0\0\0\0\0").unwrap(),
            wire::message('C', b"Ss\0").unwrap(),
            wire::sync().unwrap(),
        ];
        wire.send(&sent.concat()).unwrap();
        assert_eq!(shown(&wire.until_ready().unwrap()), "# #");
    }
    drop(wire);
    // Nor does the recording hold them, which says what masked them.
    let recording = postern.last_ended_session().unwrap();
    let replay = postern.cli(["sessions", "replay", &recording, "-o", "json"]).unwrap().ok().unwrap();
    assert_lacks(&replay, &["SECRET-1", "SECRET-2"]);
    assert_has(&replay, &[r#""masks":{"plates":"carriers"}"#]);
}

#[test]
fn they_hold_for_those_of_whom_the_policy_speaks() {
    let (_postgres, postern) = vans();
    let all = "SELECT plate, driver FROM vans WHERE id = 1";
    let ask = |groups: &[&str], sql: &str| member(&postern, groups).0.run(sql).unwrap();
    assert_eq!(ask(&["clerks"], all).ok().unwrap(), "SECRET-1|Ada\n");
    // What another policy permits is masked all the same, also of what the one that asks does not speak.
    assert_eq!(ask(&["clerks", "carriers"], all).ok().unwrap(), "#|Ada\n");
    assert_eq!(ask(&["clerks", "trainees"], all).ok().unwrap(), "#|\n");
    assert_eq!(ask(&["clerks", "trainees", "privacy"], all).ok().unwrap(), "SECRET-1|Ada\n");
    let opaque = ask(&["clerks", "trainees"], "SELECT id FROM vans WHERE driver = 'Ada'");
    assert_denied(&opaque.stderr);
    assert_has(&opaque.stderr, &["driver"]);
    let explain = ["policy", "explain", "--principal", "local/carl", "--group", "carriers", "--target", "shop", all];
    assert_has(&postern.cli(explain).unwrap().ok().unwrap(), &["runs so only: masked by plates (carriers)"]);
}

#[test]
fn they_follow_policy_while_a_session_is_open() {
    let (_postgres, postern) = vans();
    let (_, token) = member(&postern, &["clerks"]);
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &token).unwrap();
    let prepared = wire::parse("s", "SELECT plate FROM vans WHERE id = 1").unwrap();
    let mut run = |prepared: &[u8]| {
        let rest =
            [wire::bind("s", &[], 0).unwrap(), wire::message('E', b"\0\0\0\0\0").unwrap(), wire::sync().unwrap()];
        wire.send(&[prepared, &rest.concat()].concat()).unwrap();
        shown(&wire.until_ready().unwrap())
    };
    assert_eq!(run(&prepared), "SECRET-1");
    let clerks = |mask: &str| {
        let rest = r#"permit (principal in Group::"clerks", action in Action::"sql:*", resource in Target::"shop");"#;
        apply(&postern, &format!("@id(\"clerks\") {mask} {rest}"));
    };
    clerks(r#"@mask("plates")"#);
    wait_until(LIMIT, "the mask", || Ok(run(&[]) == "#")).unwrap();
    // The rule is changed, and the mask with it.
    postern.apply(&RULES.replace("text: \"#\"", "text: \"other\"")).unwrap();
    wait_until(LIMIT, "the other mask", || Ok(run(&[]) == "other")).unwrap();
    // A rule that is gone is no leave to see: everything is hidden then.
    postern.cli(["delete", "maskingrule", "plates"]).unwrap().ok().unwrap();
    wait_until(LIMIT, "the rule to be gone", || Ok(run(&[]) == "NULL")).unwrap();
    clerks("");
    wait_until(LIMIT, "no mask", || Ok(run(&[]) == "SECRET-1")).unwrap();
}
