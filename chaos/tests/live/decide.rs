//! I1, I3: what is decided, and that nothing else reaches the target.

use crate::{assert_denied, assert_has, assert_lacks, shop};

#[test]
fn a_permitted_query_runs_over_the_tunnel_and_directly() {
    let (_postgres, postern) = shop();
    let token = postern.token("alice", &["analysts"]).unwrap();
    for target in ["shop", "shop-direct"] {
        let connection = postern.connection(target, &token).unwrap();
        let out = connection.run("SELECT count(*), sum(amount) FROM orders;").unwrap().ok().unwrap();
        assert_eq!(out, "20|315.00\n", "{target}");
    }
}

#[test]
fn denials_leave_the_connection_alive_and_the_target_untouched() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("olga", &["operators"]).unwrap();
    let script = "DROP DATABASE shop;\nDELETE FROM orders;\nDELETE FROM orders WHERE true;\nUPDATE orders SET status = 'x';\n\
                  SELECT * FROM payroll;\nSELECT * FROM orders, payroll;\nSELECT pg_read_file('/etc/passwd');\nDO $$ BEGIN END $$;\n\
                  SELECT 'alive', count(*) FROM orders;\n";
    let run = connection.run(script).unwrap();
    assert_eq!(run.stdout, "alive|20\n");
    assert_eq!(run.stderr.matches("42501").count(), 8, "{}", run.stderr);
    assert_denied(&run.stderr);
    assert_has(&run.stderr, &["shop.public.payroll", "all rows"]);
    assert_lacks(
        &postgres.log(),
        &["payroll WHERE", "SELECT * FROM payroll", "DELETE FROM orders", "pg_read_file", "DROP DATABASE"],
    );
}

#[test]
fn a_bounded_change_runs_where_an_unbounded_one_does_not() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("olga", &["operators"]).unwrap();
    let run =
        connection.run("UPDATE orders SET status = 'x' WHERE id = 1; DELETE FROM orders WHERE id IN (2, 3);").unwrap();
    assert_eq!(run.ok().unwrap(), "");
    assert_eq!(
        postgres.sql("shop", "SELECT count(*), count(*) FILTER (WHERE status = 'x') FROM orders").unwrap(),
        "18|1"
    );
}

#[test]
fn one_denied_statement_denies_the_whole_query_string() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("olga", &["operators"]).unwrap();
    // `-c` sends both in one Query message.
    let sql = "INSERT INTO notes (body) VALUES ('first'); SELECT * FROM payroll";
    let run = connection.psql().option("-c").option(sql).run("").unwrap();
    assert_denied(&run.fails().unwrap());
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM notes").unwrap(), "0");
}

#[test]
fn a_denial_inside_a_transaction_aborts_it_as_the_server_would() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("olga", &["operators"]).unwrap();
    let script =
        "BEGIN;\nINSERT INTO notes (body) VALUES ('a');\nSELECT * FROM payroll;\nSELECT 1;\nCOMMIT;\nSELECT 'after';\n";
    let run = connection.run(script).unwrap();
    assert_denied(&run.stderr);
    assert_has(&run.stderr, &["25P02"]);
    assert_eq!(run.stdout, "after\n");
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM notes").unwrap(), "0", "the transaction was rolled back");
}

#[test]
fn a_table_made_since_the_session_opened_is_known_at_once() {
    let (postgres, postern) = shop();
    let grant = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: late}\nspec:\n  effect: permit\n  \
                 principals: {groups: [analysts]}\n  targets: {names: [shop]}\n  actions: [\"sql:select\"]\n  \
                 resources: [public.late]\n";
    postern.apply(grant).unwrap();
    let mut client = postern_chaos::live::wire::Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    client.login("shop", "shop", &postern.token("alice", &["analysts"]).unwrap()).unwrap();
    // Made behind Postern's back, by another connection.
    postgres.sql("shop", "CREATE TABLE late AS SELECT 42 AS answer; GRANT SELECT ON late TO PUBLIC").unwrap();
    let kinds: String = client.query("SELECT * FROM late").unwrap().iter().map(|message| message.kind).collect();
    assert_eq!(kinds, "TDCZ");
}

#[test]
fn a_typing_error_is_told_as_one_and_never_forwarded() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("alice", &["analysts"]).unwrap();
    let run = connection.run("SELEKT 1;\nSELECT 'alive';\n").unwrap();
    assert_has(&run.stderr, &["42601", "syntax error", "dec_"]);
    assert_eq!(run.stdout, "alive\n");
    assert!(!postgres.log().contains("SELEKT"));
}

#[test]
fn nothing_is_permitted_by_default() {
    let (_postgres, postern) = shop();
    let stranger = postern.as_member("sam", &["nobodys"]).unwrap().run("SELECT 1").unwrap();
    let unknown = postern.connection("no-such-target", &postern.token("sam", &["nobodys"]).unwrap()).unwrap();
    let unknown = unknown.run("SELECT 1").unwrap().fails().unwrap();
    let stranger = stranger.fails().unwrap();
    // Whether a target exists is not told to those who may not use it.
    let plain = |text: &str| text.replace("no-such-target", "TARGET").replace("\"shop\"", "\"TARGET\"");
    let tail = |text: &str| plain(text).rsplit("FATAL:").next().unwrap_or_default().to_owned();
    assert_eq!(tail(&stranger), tail(&unknown));
    assert_lacks(&stranger, &["shop-password"]);
}

#[test]
fn a_policy_change_reaches_a_live_session() {
    let (_postgres, postern) = shop();
    let mut client = postern_chaos::live::wire::Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    client.login("shop", "shop", &postern.token("alice", &["analysts"]).unwrap()).unwrap();
    let kinds = |messages: &[postern_chaos::live::wire::Message]| messages.iter().map(|m| m.kind).collect::<String>();
    assert_eq!(kinds(&client.query("SELECT id FROM orders WHERE id = 1").unwrap()), "TDCZ");
    let deny = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: freeze}\nspec:\n  effect: deny\n  principals: {groups: [\"*\"]}\n  \
                targets: {names: [\"*\"]}\n  actions: [\"sql:select\"]\n  resources: [public.orders]\n  reason: frozen for an audit\n";
    postern.apply(deny).unwrap();
    let mut last = String::new();
    postern_chaos::live::wait_until(std::time::Duration::from_secs(5), "the new policy to hold", || {
        let messages = client.query("SELECT id FROM orders WHERE id = 1")?;
        last = messages.first().and_then(|m| m.field('M')).unwrap_or_default();
        Ok(messages.first().is_some_and(|m| m.kind == 'E'))
    })
    .unwrap();
    assert_has(&last, &["frozen for an audit"]);
}
