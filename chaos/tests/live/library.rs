//! The policies of docs/policies, in force on a real PostgreSQL.

use std::path::Path;
use std::time::Duration;

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Issuer, Postern, Postgres, shop_objects, wait_until};

use crate::{assert_has, shop};

const LIMIT: Duration = Duration::from_secs(20);

struct House {
    postgres: Postgres,
    postern: Postern,
    corp: Issuer,
    github: Issuer,
}

impl House {
    /// With all of the library, but for the hours and the network that a test has to live with.
    fn start() -> Self {
        let (postgres, postern) = shop();
        let (corp, github) = (Issuer::start().unwrap(), Issuer::start().unwrap());
        let keeps =
            |object: String, claims: &str| object.replace("[postern]", &format!("[postern], keepClaims: [{claims}]"));
        let objects = shop_objects(&postgres)
            .replace("{name: shop, labels: {kind: shop}}", "{name: shop, labels: {kind: shop, env: prod}}");
        let all = [corp.object("corp"), keeps(github.object("github"), "repository, ref"), objects].concat();
        postern.apply(&all).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "cedar") {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text
                    .replace("context.weekday <= 5 && context.hour >= 6 && context.hour < 20", "context.weekday <= 7")
                    .replace("10.0.0.0/8", "127.0.0.0/8");
                std::fs::write(folder.path().join(path.file_name().unwrap()), text).unwrap();
            }
        }
        postern.cli(["apply", "-f", folder.path().to_str().unwrap()]).unwrap().ok().unwrap();
        Self { postgres, postern, corp, github }
    }

    fn wire(&self, token: &str) -> Wire {
        let connection = self.postern.connection("shop", token).unwrap();
        wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
        let mut wire = Wire::connect(&self.postern.postgres_address().unwrap()).unwrap();
        wire.login("shop", "shop", token).unwrap();
        wire
    }
}

/// The error of a statement, or nothing.
fn said(wire: &mut Wire, sql: &str) -> String {
    let messages = wire.query(sql).unwrap();
    let error = messages.iter().find(|message| message.kind == 'E');
    error.map(|error| format!("{} {}", error.field('C').unwrap(), error.field('M').unwrap())).unwrap_or_default()
}

#[test]
fn analysts_read_some_and_change_nothing() {
    let house = House::start();
    let mut wire = house.wire(&house.corp.token("alice", &["analysts"]).unwrap());
    assert_eq!(said(&mut wire, "SELECT count(*) FROM orders"), "");
    let many = said(&mut wire, "SELECT 1 FROM orders a, orders b, orders c, orders d");
    assert_has(&many, &["54000", "read-only-analyst", "10000 rows"]);
    assert_has(&said(&mut wire, "UPDATE orders SET status = 'x' WHERE id = 1"), &["42501", "sql:update"]);
    assert_has(&said(&mut wire, "SELECT count(*), pg_sleep(2) FROM orders WHERE id < 3 FOR UPDATE"), &["42501"]);
    assert_eq!(said(&mut wire, "BEGIN READ WRITE; SET TRANSACTION READ WRITE"), "");
    assert_eq!(said(&mut wire, "SELECT count(*) FROM orders"), "");
    // It cannot be made to write again: the target itself says so.
    assert_has(&said(&mut wire, "SET TRANSACTION READ WRITE"), &["25001"]);
}

#[test]
fn migrations_come_from_the_pipeline_alone() {
    let house = House::start();
    let bot = |reference: &str| {
        let claims = |claims: &mut serde_json::Value| {
            claims["repository"] = "acme/shop".into();
            claims["ref"] = reference.into();
        };
        house.github.token_with("repo:acme/shop", &[], claims).unwrap()
    };
    let mut wire = house.wire(&bot("refs/heads/main"));
    assert_eq!(said(&mut wire, "CREATE TABLE migrated (id int PRIMARY KEY)"), "");
    assert_eq!(said(&mut wire, "ALTER TABLE migrated ADD COLUMN note text"), "");
    assert_eq!(said(&mut wire, "INSERT INTO migrated VALUES (1, 'x')"), "");
    assert_has(&said(&mut wire, "TRUNCATE migrated"), &["42501", "no-truncate"]);
    // What it drops waits for somebody.
    wire.message('Q', b"DROP TABLE migrated\0").unwrap();
    let notice = wire.read().unwrap();
    assert_eq!(notice.kind, 'N');
    assert_has(&notice.field('M').unwrap(), &["held by Postern", "what a migration drops is reviewed"]);
    drop(wire);
    assert_eq!(house.postgres.sql("shop", "SELECT count(*) FROM migrated").unwrap(), "1");
    // Nobody else defines anything there, and the pipeline does from its main branch only.
    let refused = house.postern.connection("shop", &bot("refs/heads/try")).unwrap().run("CREATE TABLE other (id int)");
    assert_has(&refused.unwrap().stderr, &["no policy permits"]);
    let token = house.corp.token_with("olga", &["on-call"], |claims| claims["amr"] = serde_json::json!(["pwd", "otp"]));
    let mut wire = house.wire(&token.unwrap());
    assert_has(&said(&mut wire, "CREATE TABLE other (id int)"), &["42501", "no-ddl", "by migration only"]);
}

#[test]
fn the_glass_is_broken_by_people_with_a_second_factor() {
    let house = House::start();
    let olga = |amr: &[&str]| {
        let amr = serde_json::json!(amr);
        house.corp.token_with("olga", &["on-call"], |claims| claims["amr"] = amr).unwrap()
    };
    let mut wire = house.wire(&olga(&["pwd", "otp"]));
    assert_has(&said(&mut wire, "DELETE FROM orders"), &["42501", "no-unbounded-writes: bound it with WHERE"]);
    assert_has(&said(&mut wire, "UPDATE orders SET status = 'x'"), &["42501", "no-unbounded-writes"]);
    assert_has(&said(&mut wire, "TRUNCATE orders"), &["42501", "no-truncate"]);
    assert_eq!(said(&mut wire, "DELETE FROM orders WHERE id = 1"), "");
    assert_eq!(house.postgres.sql("shop", "SELECT count(*) FROM orders").unwrap(), "19");
    let without = house.postern.connection("shop", &olga(&["pwd"])).unwrap().run("DELETE FROM orders WHERE id = 2");
    assert_has(&without.unwrap().stderr, &["no policy permits"]);
    drop(wire);
    // Reviewed afterwards, by somebody else.
    let mut id = String::new();
    wait_until(LIMIT, "the session to be over", || {
        let listed = house.postern.json(["review", "list", "--principal", "corp/olga", "-o", "json"])?;
        id = listed[0]["id"].as_str().unwrap_or_default().to_owned();
        Ok(listed[0]["sessionOver"] == true)
    })
    .unwrap();
    let dan = house.corp.token("dan", &["dba"]).unwrap();
    let close = ["review", "close", &id, "--verdict", "ok", "--comment", "the order was a test"];
    house.postern.cli_as(&dan, close).unwrap().ok().unwrap();
}

#[test]
fn an_agent_of_an_agent_sees_orders_only() {
    let house = House::start();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let keep = |name: &str, token: String| std::fs::write(at(&format!("{name}.token")), token).unwrap();
    let token = |name: &str| std::fs::read_to_string(at(&format!("{name}.token"))).unwrap().trim().to_owned();
    let login = house.corp.token("planner", &["agents"]).unwrap();
    let key = at("planner.key");
    let planner = ["token", "--as", "planner", "--target", "shop", "--delegate", &key];
    keep("planner", house.postern.cli_as(&login, planner).unwrap().ok().unwrap());
    for (parent, name) in [("planner", "executor"), ("executor", "tool")] {
        let (from, with, own) =
            (at(&format!("{parent}.token")), at(&format!("{parent}.key")), at(&format!("{name}.key")));
        let child = ["token", "child", "--token-file", &from, "--key", &with, "--as", name];
        keep(&format!("{name}-shown"), house.postern.cli(child).unwrap().ok().unwrap());
        let hands_on = child.into_iter().chain(["--delegate", &own, "--depth", "1"]);
        keep(name, house.postern.cli(hands_on).unwrap().ok().unwrap());
    }
    let mut executor = house.wire(&token("executor-shown"));
    assert_eq!(said(&mut executor, "SELECT count(*) FROM orders"), "");
    assert_eq!(said(&mut executor, "SELECT count(*) FROM customers"), "");
    assert_has(&said(&mut executor, "DELETE FROM orders WHERE id = 1"), &["42501", "no policy permits sql:delete"]);
    let mut tool = house.wire(&token("tool-shown"));
    assert_eq!(said(&mut tool, "SELECT count(*) FROM orders"), "");
    for beyond in ["SELECT count(*) FROM customers", "SELECT 1 FROM orders JOIN customers USING (id)"] {
        let told = said(&mut tool, beyond);
        assert_has(&told, &["42501", "deep-agents-see-orders-only", "an agent of an agent sees orders only"]);
    }
}
