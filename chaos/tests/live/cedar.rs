//! Policies in Cedar: decided as they say, followed at once, told why, and tried out on what was recorded.

use std::time::Duration;

use postern_chaos::live::wait_until;
use postern_chaos::live::wire::Wire;

use crate::{assert_denied, assert_has, shop};

const LIMIT: Duration = Duration::from_secs(20);

const POLICIES: &str = r#"
@id("couriers-read")
permit (principal in Group::"couriers", action in Action::"sql:read", resource in Target::"shop")
when { resource is Table && resource.name != "payroll" };

@id("couriers-deliver")
permit (principal in Group::"couriers", action == Action::"sql:update", resource == Table::"shop/shop.public.orders");

@id("couriers-clear")
@reason("in a transaction only")
permit (principal in Group::"couriers", action == Action::"sql:delete", resource in Target::"shop")
when { context has inTransaction && context.inTransaction };

@id("couriers-bound")
@reason("bound it with WHERE")
forbid (principal in Group::"couriers", action in Action::"sql:write", resource)
when { context has bounded && !context.bounded };
"#;

const ELSEWHERE: &str = r#"
@id("couriers-from-the-depot")
@reason("couriers come from the depot")
forbid (principal in Group::"couriers", action, resource in Target::"shop")
unless { context has source && context.source.isInRange(ip("192.0.2.0/24")) };
"#;

#[test]
fn policies_in_cedar_are_followed() {
    let (postgres, postern) = shop();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("couriers.cedar");
    std::fs::write(&file, POLICIES).unwrap();
    let apply = |file: &std::path::Path| postern.cli(["apply", "-f", file.to_str().unwrap()]).unwrap();
    assert_has(&apply(&file).ok().unwrap(), &["policy/couriers-bound created", "policy/couriers-read created"]);
    assert_has(&apply(&file).ok().unwrap(), &["policy/couriers-read unchanged"]);

    let token = postern.token("carl", &["couriers"]).unwrap();
    let connection = postern.connection("shop", &token).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
    assert_eq!(connection.run("SELECT count(*) FROM orders").unwrap().ok().unwrap(), "20\n");
    assert_eq!(connection.run("UPDATE orders SET status = 'x' WHERE id = 1").unwrap().ok().unwrap(), "");
    for (sql, says) in [
        ("SELECT * FROM payroll", "no policy permits sql:select on shop.public.payroll"),
        ("UPDATE orders SET status = 'y'", "denied by policy couriers-bound: bound it with WHERE"),
        ("DELETE FROM notes WHERE id = 1", "no policy permits sql:delete"),
        ("CREATE TABLE mine (id int)", "no policy permits sql:create"),
    ] {
        let denied = connection.run(sql).unwrap();
        assert_denied(&denied.stderr);
        assert_has(&denied.stderr, &[says]);
    }
    // Where something sent with it opens the transaction, that is not known yet.
    let together =
        connection.psql().option("-c").option("BEGIN; DELETE FROM orders WHERE id = 2; COMMIT").run("").unwrap();
    assert_has(&together.fails().unwrap(), &["no policy permits sql:delete"]);
    let one_by_one = connection.run("BEGIN;\nDELETE FROM orders WHERE id = 2;\nCOMMIT;\n").unwrap();
    one_by_one.ok().unwrap();
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM orders").unwrap(), "19");

    // Why, of the cluster's own policies.
    let explain = ["policy", "explain", "--principal", "local/carl", "--group", "couriers", "--target", "shop"];
    let told = postern.cli(explain.into_iter().chain(["DELETE FROM orders"])).unwrap().ok().unwrap();
    assert_has(&told, &["denied by couriers-bound", "sql:delete on shop.public.orders (all rows)", "not known here"]);
    let told = postern.cli(explain.into_iter().chain(["SELECT * FROM orders"])).unwrap().ok().unwrap();
    assert_has(&told, &["permitted by couriers-read", "permits couriers-read"]);

    // What a draft would have changed.
    let draft = folder.path().join("draft.cedar");
    let no_updates =
        r#"@id("draft") forbid (principal in Group::"couriers", action == Action::"sql:update", resource);"#;
    std::fs::write(&draft, no_updates).unwrap();
    let diff = ["policy", "diff", draft.to_str().unwrap(), "--against-sessions", "1h"];
    wait_until(LIMIT, "what was recorded", || {
        let told = postern.cli(diff)?.ok()?;
        Ok(told.contains("1 from permit to deny") && told.contains("UPDATE orders SET status = 'x'"))
    })
    .unwrap();

    // An open session ends by what speaks of sessions, and none opens.
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &token).unwrap();
    let elsewhere = folder.path().join("elsewhere.cedar");
    std::fs::write(&elsewhere, ELSEWHERE).unwrap();
    apply(&elsewhere).ok().unwrap();
    let mut told = String::new();
    while let Ok(message) = wire.read() {
        if message.kind == 'E' {
            told = message.field('M').unwrap_or_default();
        }
    }
    assert_has(&told, &["ended by policy", "couriers come from the depot"]);
    let refused = connection.run("SELECT 1").unwrap().fails().unwrap();
    assert_has(&refused, &["no session: sessions are denied by policy couriers-from-the-depot"]);
}

#[test]
fn a_policy_that_means_nothing_is_refused() {
    let (_postgres, postern) = shop();
    let folder = tempfile::tempdir().unwrap();
    for (text, says) in [
        (r#"@id("a") permit (principal, action == Action::"sql:selct", resource);"#, "sql:selct"),
        ("\n\n@id(\"b\") permit (principal, action, resource) when { resource.colour == \"red\" };", ":3: policy b"),
        ("permit (principal, action, resource);", "no @id"),
    ] {
        let file = folder.path().join("x.cedar");
        std::fs::write(&file, text).unwrap();
        let refused = postern.cli(["apply", "-f", file.to_str().unwrap()]).unwrap().fails().unwrap();
        assert_has(&refused, &["x.cedar", says]);
    }
    // In a manifest as well, whatever reads it.
    let yaml = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: c}\nspec:\n  cedar: permit (principal, action, resource) when { false };\n  actions: ['*']\n";
    let refused = postern.try_apply(yaml).unwrap().fails().unwrap();
    assert_has(&refused, &["spec.cedar", "impossible", "spec.actions"]);
}

const FACTS: &str = r#"
@id("support-sees")
permit (principal in Group::"helpdesk", action == Action::"sql:select", resource == Table::"shop/shop.public.customers")
when { context has columns && ["id", "name"].containsAll(context.columns) };

@id("support-samples")
permit (principal in Group::"helpdesk", action == Action::"sql:select", resource == Table::"shop/shop.public.orders")
when { context has limit && context.limit <= 5 };

@id("support-notes")
permit (principal in Group::"helpdesk", action == Action::"sql:update", resource == Table::"shop/shop.public.orders")
when { context has columns && ["status"].containsAll(context.columns) };
"#;

const ON_CALL: &str = r#"
apiVersion: postern/v1
kind: Policy
metadata: {name: fixers}
spec:
  onRequest: {review: [{groups: [leads]}]}
  cedar: |
    permit (principal in Group::"helpdesk", action in [Action::"sql:select", Action::"sql:delete"], resource == Table::"shop/shop.public.payroll")
    when { context.granted.contains("fixers") && context has justification && context.justification like "INC-*" };
"#;

#[test]
fn policies_ask_for_columns_limits_and_why() {
    let (_postgres, postern) = shop();
    let file = tempfile::Builder::new().suffix(".cedar").tempfile().unwrap();
    std::fs::write(file.path(), FACTS).unwrap();
    postern.cli(["apply", "-f", file.path().to_str().unwrap()]).unwrap().ok().unwrap();
    postern.apply(ON_CALL).unwrap();
    let token = postern.token("carl", &["helpdesk"]).unwrap();
    let connection = postern.connection("shop", &token).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
    let permitted = |sql: &str| {
        let said = connection.run(sql).unwrap().stderr;
        if said.contains("ERROR") {
            assert_denied(&said);
        }
        !said.contains("ERROR")
    };
    for (sql, expected) in [
        ("SELECT id, name FROM customers", true),
        ("SELECT count(*) FROM customers", true),
        ("SELECT id FROM customers WHERE email = 'x'", false),
        ("SELECT id FROM customers ORDER BY email", false),
        ("SELECT * FROM customers", false),
        ("SELECT c FROM customers c", false),
        ("WITH w AS (SELECT id, email FROM customers) SELECT id FROM w", false),
        ("COPY customers (id, name) TO STDOUT", true),
        ("COPY customers TO STDOUT", false),
        ("PREPARE p AS SELECT name FROM customers; EXECUTE p", true),
        ("BEGIN; DECLARE k CURSOR FOR SELECT name FROM customers; FETCH ALL FROM k; COMMIT", true),
        ("SELECT id FROM orders LIMIT 5", true),
        ("SELECT id FROM orders LIMIT 6", false),
        ("SELECT id FROM orders", false),
        ("SELECT id FROM orders LIMIT 1; SELECT id FROM orders", false),
        ("UPDATE orders SET status = 'x'", true),
        ("UPDATE orders SET status = 'x', amount = 1", false),
        ("DELETE FROM orders WHERE false", false),
    ] {
        assert_eq!(permitted(sql), expected, "{sql}");
    }
    // Drivers that prepare are told the same.
    let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &token).unwrap();
    use postern_chaos::live::wire::{bind, parse, sync};
    let mut ask = |sql: &str| {
        let execute = postern_chaos::live::wire::message('E', b"\0\0\0\0\0").unwrap();
        let all = [parse("", sql).unwrap(), bind("", &[], 0).unwrap(), execute, sync().unwrap()].concat();
        wire.send(&all).unwrap();
        wire.until_ready().unwrap().iter().filter(|message| message.kind == 'D').count()
    };
    assert_eq!((ask("SELECT name FROM customers"), ask("SELECT email FROM customers")), (3, 0));
    // Why it was asked for decides what is granted.
    let lead = postern.token("dora", &["leads"]).unwrap();
    let ask_for = |reason: &str| {
        let ask = ["access", "request", "--target", "shop", "--policy", "fixers", "--reason", reason];
        let id = postern.cli_as(&token, ask).unwrap().ok().unwrap().trim().to_owned();
        postern.cli_as(&lead, ["access", "approve", &id]).unwrap().ok().unwrap();
    };
    ask_for("because I want to");
    assert!(!permitted("DELETE FROM payroll WHERE id = 1"));
    ask_for("INC-7: payroll twice");
    wait_until(LIMIT, "the grant", || Ok(permitted("DELETE FROM payroll WHERE id = 1"))).unwrap();
}

const CALLS: &str = r#"
@id("calm")
permit (principal in Group::"calm", action in Action::"sql:*", resource in Target::"shop")
when { !context.callsVolatile };

@id("nobody-elses-rights")
forbid (principal in Group::"calm", action in Action::"sql:*", resource)
when { context.callsDefiner };
"#;

const CODE: &str = "
CREATE FUNCTION pure(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION vol(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION owners(int) RETURNS int LANGUAGE sql STABLE SECURITY DEFINER AS 'SELECT $1';
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION add(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1 + $2';
CREATE AGGREGATE total(int) (SFUNC = add, STYPE = int);
CREATE OPERATOR ^^^ (FUNCTION = owners, RIGHTARG = int);
CREATE TABLE plain (id serial PRIMARY KEY, n int DEFAULT pure(1), at timestamptz DEFAULT now());
CREATE TABLE by_default (id int, n int DEFAULT vol(1));
CREATE TABLE by_check (id int CHECK (owners(id) > 0));
CREATE TABLE by_trigger (id int);
CREATE TRIGGER keep BEFORE INSERT ON by_trigger FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TABLE by_policy (id int);
ALTER TABLE by_policy ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON by_policy USING (owners(id) > 0);
CREATE TABLE by_index (id int);
CREATE FUNCTION lies(int) RETURNS int LANGUAGE sql IMMUTABLE SECURITY DEFINER AS 'SELECT $1';
CREATE INDEX ON by_index (lies(id));
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (parent_id int REFERENCES parent ON DELETE CASCADE);
CREATE TRIGGER keep BEFORE DELETE ON child FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TABLE parts (id int) PARTITION BY LIST (id);
CREATE TABLE part_one PARTITION OF parts DEFAULT;
CREATE TRIGGER keep BEFORE INSERT ON part_one FOR EACH ROW EXECUTE FUNCTION keep();
CREATE VIEW calm_view AS SELECT pure(id) AS id, random() FROM plain;
CREATE VIEW by_view AS SELECT vol(id) AS id FROM plain;
CREATE VIEW by_views AS SELECT * FROM by_view;
CREATE VIEW by_operator AS SELECT ^^^ id AS id FROM plain;
CREATE VIEW by_system AS SELECT nextval('plain_id_seq') AS id;
CREATE VIEW simple AS SELECT id FROM by_trigger;
CREATE FUNCTION peek() RETURNS SETOF int LANGUAGE sql STABLE AS 'SELECT id FROM plain';
GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC";

#[test]
fn policies_ask_what_is_called() {
    let (postgres, postern) = shop();
    postgres.sql("shop", CODE).unwrap();
    let file = tempfile::Builder::new().suffix(".cedar").tempfile().unwrap();
    std::fs::write(file.path(), CALLS).unwrap();
    postern.cli(["apply", "-f", file.path().to_str().unwrap()]).unwrap().ok().unwrap();
    let token = postern.token("carl", &["calm", "privacy"]).unwrap();
    let connection = postern.connection("shop", &token).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
    let permitted = |sql: &str| {
        let said = connection.run(sql).unwrap().stderr;
        if said.contains("ERROR") {
            assert_denied(&said);
        }
        !said.contains("ERROR")
    };
    for (sql, expected) in [
        ("SELECT pure(id), random(), now() FROM plain", true),
        ("SELECT * FROM calm_view", true),
        ("SELECT * FROM peek()", true),
        ("INSERT INTO plain DEFAULT VALUES", true),
        ("SELECT max(id) FROM by_default", true),
        ("SELECT * FROM simple", true),
        ("SELECT vol(id) FROM plain", false),
        ("SELECT id FROM plain WHERE vol(id) = 1", false),
        ("SELECT total(id) FROM plain", false),
        ("SELECT owners(id) FROM plain", false),
        ("SELECT ^^^ id FROM plain", false),
        ("SELECT nextval('plain_id_seq')", false),
        ("SELECT 1 FROM plain; SELECT vol(1)", false),
        ("PREPARE p AS SELECT vol(1)", false),
        ("EXPLAIN SELECT vol(id) FROM plain", false),
        ("DO 'BEGIN END'", false),
        ("SELECT * FROM by_view", false),
        ("SELECT * FROM by_views", false),
        ("SELECT * FROM by_operator", false),
        ("SELECT * FROM by_system", false),
        ("BEGIN; DECLARE k CURSOR FOR SELECT * FROM by_views; FETCH ALL FROM k; COMMIT", false),
        ("COPY (SELECT * FROM by_views) TO STDOUT", false),
        ("INSERT INTO by_default (id) VALUES (1)", false),
        ("UPDATE by_default SET n = DEFAULT", false),
        ("INSERT INTO by_check VALUES (1)", false),
        ("INSERT INTO by_trigger VALUES (1)", false),
        ("INSERT INTO simple VALUES (1)", false),
        ("SELECT * FROM by_policy", false),
        ("INSERT INTO by_index VALUES (1)", false),
        ("DELETE FROM parent", false),
        ("INSERT INTO parts VALUES (1)", false),
    ] {
        assert_eq!(permitted(sql), expected, "{sql}");
    }
    // What is made later is known as soon as other changes of the catalog are.
    postgres.sql("shop", "ALTER TABLE plain ALTER n SET DEFAULT vol(1)").unwrap();
    wait_until(Duration::from_secs(60), "the catalog", || Ok(!permitted("INSERT INTO plain DEFAULT VALUES"))).unwrap();
    assert!(permitted("SELECT id FROM plain"));
}
