//! Break-glass: what is reviewed after the fact runs only once the control plane knows of it, and somebody else says afterwards what it was.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::wire::{self, Wire};
use postern_chaos::live::{Postern, Postgres, PostgresOptions, Process, wait_until};
use serde_json::Value;

use crate::{assert_has, assert_lacks, shop};

const LIMIT: Duration = Duration::from_secs(30);

const POLICIES: &str = r#"
@id("break-glass")
@review("reviewers, security")
@reviewWithin("2h")
@reason("only in an emergency")
permit (principal in Group::"on-call", action in Action::"sql:*", resource in Target::"TARGET");

@id("break-glass-soon")
@review("auditors")
@reviewWithin("1s")
permit (principal in Group::"on-call", action in Action::"sql:*", resource == Table::"TARGET/shop.public.customers");

@id("held")
@approval("reviewers")
@review("auditors")
permit (principal in Group::"careful", action in Action::"sql:*", resource in Target::"TARGET");

@id("plain")
permit (principal in Group::"on-call", action == Action::"sql:select", resource in Target::"TARGET");
"#;

fn apply(cli: &postern_chaos::live::Cli, target: &str) {
    let file = tempfile::Builder::new().suffix(".cedar").tempfile().unwrap();
    std::fs::write(file.path(), POLICIES.replace("TARGET", target)).unwrap();
    let path = file.path().to_str().unwrap();
    // The cluster comes to its feature level a moment after its start.
    wait_until(LIMIT, "the policies to be taken", || Ok(cli.cli(["apply", "-f", path])?.status.success())).unwrap();
}

fn broken_glass() -> (Postgres, Postern) {
    let (postgres, postern) = shop();
    apply(&postern, "shop");
    (postgres, postern)
}

fn reviews(cli: &postern_chaos::live::Cli, which: &str) -> Vec<Value> {
    let listed = cli.json(["review", "list", which, "-o", "json"]).unwrap();
    listed.as_array().unwrap().clone()
}

fn text<'a>(item: &'a Value, field: &str) -> &'a str {
    item[field].as_str().unwrap()
}

/// The one review there is; once its session is over, if that is asked.
fn only(postern: &Postern, over: bool) -> Value {
    let mut item = Value::Null;
    wait_until(LIMIT, "the review", || {
        let all = reviews(postern, "--all");
        assert!(all.len() <= 1, "{all:?}");
        item = all.into_iter().next().unwrap_or_default();
        Ok(!over || item["sessionOver"] == true)
    })
    .unwrap();
    item
}

#[test]
fn what_was_done_in_an_emergency_is_reviewed_by_somebody_else() {
    let (postgres, postern) = broken_glass();
    let olga = postern.token("olga", &["on-call", "reviewers"]).unwrap();
    let rita = postern.token("rita", &["reviewers"]).unwrap();
    let sam = postern.token("sam", &["analysts"]).unwrap();
    let connection = postern.connection("shop", &olga).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1 WHERE false")?.status.success())).unwrap();
    let address = postern.postgres_address().unwrap();
    let mut wire = Wire::connect(&address).unwrap();
    wire.login("shop", "shop", &olga).unwrap();
    // What does nothing that policy speaks of asks for no review.
    wire.query("BEGIN").unwrap();
    assert!(reviews(&postern, "--all").is_empty());
    wire.query("DELETE FROM orders WHERE id = 7").unwrap();
    wire.query("COMMIT").unwrap();
    let item = only(&postern, false);
    let id = text(&item, "id").to_owned();
    assert_eq!((text(&item, "state"), text(&item, "text")), ("open", "DELETE FROM orders WHERE id = 7"));
    assert_has(text(&item, "principal"), &["olga"]);
    assert_eq!(item["policies"], serde_json::json!(["break-glass"]));
    assert_eq!(item["reviewerGroups"], serde_json::json!(["reviewers", "security"]));
    assert!(item["policyRevision"].as_u64().unwrap() > 0 && text(&item, "reason") == "only in an emergency");
    // One for the session, whatever else is done in it.
    for id in 8..14 {
        wire.query(&format!("DELETE FROM orders WHERE id = {id}")).unwrap();
    }
    assert_eq!(text(&only(&postern, false), "id"), id);
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM orders").unwrap(), "13");

    // While it goes on nobody says that all of it was right.
    let early = postern.cli_as(&rita, ["review", "close", &id, "--verdict", "ok"]).unwrap().fails().unwrap();
    assert_has(&early, &["goes on"]);
    drop(wire);
    only(&postern, true);
    let own = postern.cli_as(&olga, ["review", "close", &id, "--verdict", "ok"]).unwrap().fails().unwrap();
    assert_has(&own, &["own"]);
    assert_has(
        &postern.cli_as(&olga, ["review", "show", &id]).unwrap().ok().unwrap(),
        &["DELETE FROM orders WHERE id = 7"],
    );
    // Who has nothing to do with it does not learn that it exists.
    let stranger = postern.cli_as(&sam, ["review", "close", &id, "--verdict", "ok"]).unwrap().fails().unwrap();
    assert_has(&stranger, &["no such review"]);
    assert_eq!(postern.cli_as(&sam, ["review", "list", "-o", "json"]).unwrap().ok().unwrap().trim(), "[]");
    // A concern is about something.
    let mute = postern.cli_as(&rita, ["review", "close", &id, "--verdict", "concern"]).unwrap().fails().unwrap();
    assert_has(&mute, &["comment"]);
    let closed = ["review", "close", &id, "--verdict", "concern", "--comment", "six orders too many"];
    assert_has(&postern.cli_as(&rita, closed).unwrap().ok().unwrap(), &["closed (concern)"]);
    let again = postern.cli_as(&rita, ["review", "close", &id, "--verdict", "ok"]).unwrap().fails().unwrap();
    assert_has(&again, &["closed by"]);
    let shown = postern.cli(["review", "show", &id]).unwrap().ok().unwrap();
    assert_has(&shown, &["closed", "rita", "six orders too many", "postern sessions replay"]);
    assert!(reviews(&postern, "--open").is_empty());
    let audited = postern.cli(["audit", "list", "-o", "json"]).unwrap().ok().unwrap();
    assert_has(&audited, &["ReviewService/CloseReview", &format!("Review/{id}")]);

    // The recording says of each operation which review it belongs to.
    let session = text(&item, "session").to_owned();
    let replay = postern.cli(["sessions", "replay", &session, "-o", "json"]).unwrap().ok().unwrap();
    assert_eq!(replay.matches(&format!("\"review\":\"{id}\"")).count(), 7, "{replay}");
    postern.cli(["sessions", "verify", &session]).unwrap().ok().unwrap();
}

#[test]
fn nobody_of_the_chain_reviews_and_each_group_has_its_own() {
    let (_postgres, postern) = broken_glass();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("olga.key").display().to_string();
    let olga = postern.token("olga", &["on-call", "reviewers", "auditors"]).unwrap();
    let wait = postern.connection("shop", &olga).unwrap();
    wait_until(LIMIT, "the policies", || Ok(wait.run("SELECT 1 WHERE false")?.status.success())).unwrap();
    // By a token that is handed on: done for olga, and no more hers to review.
    let parent = ["token", "--as", "helper", "--target", "shop", "--delegate", &key];
    let parent = postern.cli_as(&olga, parent).unwrap().ok().unwrap();
    let file = folder.path().join("parent.token");
    std::fs::write(&file, parent).unwrap();
    let child = ["token", "child", "--token-file", file.to_str().unwrap(), "--key", &key, "--as", "tool"];
    let child = postern.cli(child).unwrap().ok().unwrap();
    let connection = postern.connection("shop", child.trim()).unwrap();
    connection.run("UPDATE customers SET name = 'Adi' WHERE id = 1").unwrap().ok().unwrap();
    let all = || reviews(&postern, "--all");
    wait_until(LIMIT, "the session to be over", || {
        let all = all();
        Ok(all.len() == 2 && all.iter().all(|item| item["sessionOver"] == true))
    })
    .unwrap();
    let of = |group: &str| {
        let found = all().into_iter().find(|item| item["reviewerGroups"].to_string().contains(group));
        text(&found.unwrap(), "id").to_owned()
    };
    let (soon, later) = (of("auditors"), of("reviewers"));
    for id in [&soon, &later] {
        let own = postern.cli_as(&olga, ["review", "close", id, "--verdict", "ok"]).unwrap().fails().unwrap();
        assert_has(&own, &["own"]);
        let handed = postern.cli_as(child.trim(), ["review", "close", id, "--verdict", "ok"]).unwrap();
        handed.fails().unwrap();
    }
    assert_has(&postern.cli(["review", "show", &later]).unwrap().ok().unwrap(), &["olga by helper > tool"]);
    // Late, once, and still to be closed, each by its own.
    wait_until(LIMIT, "it to be overdue", || Ok(reviews(&postern, "--overdue").len() == 1)).unwrap();
    assert_eq!(text(&reviews(&postern, "--overdue")[0], "id"), soon);
    let rita = postern.token("rita", &["reviewers"]).unwrap();
    let other = postern.cli_as(&rita, ["review", "close", &soon, "--verdict", "ok"]).unwrap().fails().unwrap();
    assert_has(&other, &["no such review"]);
    let anna = postern.token("anna", &["auditors"]).unwrap();
    postern.cli_as(&anna, ["review", "close", &soon, "--verdict", "ok"]).unwrap().ok().unwrap();
    postern.cli_as(&rita, ["review", "close", &later, "--verdict", "ok"]).unwrap().ok().unwrap();
    assert!(reviews(&postern, "--open").is_empty());
}

/// What waits for an approval is down for review before anybody approves; what a driver sends at once waits in its order.
#[test]
fn reviews_stand_in_line_with_all_else() {
    let (postgres, postern) = broken_glass();
    let connection = postern.as_member("cora", &["careful"]).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1 WHERE false")?.status.success())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut psql = connection.psql().start("held", "DELETE FROM orders WHERE id = 1", folder.path()).unwrap();
    let approval = postern.pending_approval().unwrap();
    let item = only(&postern, false);
    assert_eq!((text(&item, "state"), text(&item, "text")), ("open", "DELETE FROM orders WHERE id = 1"));
    let rita = postern.token("rita", &["reviewers"]).unwrap();
    postern.cli_as(&rita, ["approvals", "approve", &approval]).unwrap().ok().unwrap();
    assert!(psql.wait(LIMIT).unwrap().success(), "{}", psql.stderr());
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM orders").unwrap(), "19");

    let token = postern.token("olga", &["on-call"]).unwrap();
    let mut pipelined = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
    pipelined.login("shop", "shop", &token).unwrap();
    let run =
        |sql: &str| [wire::parse("", sql).unwrap(), wire::bind("", &[], 0).unwrap(), wire::execute().unwrap()].concat();
    let all = ["SELECT 1", "DELETE FROM orders WHERE id = 2", "DELETE FROM orders WHERE id = 3", "SELECT 2"];
    let sent: Vec<u8> = all.iter().flat_map(|sql| run(sql)).chain(wire::sync().unwrap()).collect();
    pipelined.send(&sent).unwrap();
    let answers = pipelined.until_ready().unwrap();
    let tags: Vec<String> = (answers.iter().filter(|message| message.kind == 'C'))
        .map(|message| std::str::from_utf8(&message.body).unwrap().trim_end_matches('\0').to_owned())
        .collect();
    assert_eq!(tags, ["SELECT 1", "DELETE 1", "DELETE 1", "SELECT 1"]);
    assert_eq!(reviews(&postern, "--all").len(), 2);
}

/// Who waits for an approval when policy begins to ask for a review has to ask again: a grant would find it without.
#[test]
fn a_review_that_comes_while_an_operation_is_held_is_not_passed_by() {
    let (postgres, postern) = shop();
    let connection = postern.as_member("robot-1", &["robots"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sql = "DELETE FROM orders WHERE id = 7";
    let mut psql = connection.psql().start("held", sql, folder.path()).unwrap();
    let approval = postern.pending_approval().unwrap();
    wait_until(LIMIT, "the client's notice", || Ok(psql.stderr().contains(&approval))).unwrap();
    let policy = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: robots-reviewed}\nspec:\n  effect: permit\n  \
        principals: {groups: [robots]}\n  targets: {names: [shop]}\n  actions: [\"sql:*\"]\n  \
        approval: {groups: [reviewers]}\n  obligations: {reviewAfterwards: {groups: [auditors]}}\n";
    postern.apply(policy).unwrap();
    psql.wait(LIMIT).unwrap();
    assert_has(&psql.stderr(), &["asks now for a review afterwards: run it again"]);
    let rita = postern.token("rita", &["reviewers"]).unwrap();
    postern.cli_as(&rita, ["approvals", "approve", &approval]).unwrap().fails().unwrap();
    assert_lacks(&postgres.log(), &[sql]);
    assert!(reviews(&postern, "--all").is_empty());
    let got = postern.cli(["get", "policy", "robots-reviewed", "-o", "yaml"]).unwrap().ok().unwrap();
    assert_has(&got, &["reviewAfterwards:", "auditors"]);
}

/// Takes what is posted, one line of JSON each, to the file that it is given.
const ENDPOINT: &str = r#"
import http.server, sys
class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with open(sys.argv[2], "ab") as out:
            out.write(body + b"\n")
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Endpoint).serve_forever()
"#;

#[test]
fn webhooks_are_told_of_reviews() {
    let (_postgres, postern) = broken_glass();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told");
    let arguments = ["-c".to_owned(), ENDPOINT.to_owned(), port.to_string(), file.display().to_string()];
    let _endpoint =
        Process::start("endpoint", Path::new("/usr/bin/python3"), &arguments, &[], None, folder.path()).unwrap();
    let objects = format!(
        "apiVersion: postern/v1\nkind: Secret\nmetadata: {{name: hook}}\nspec: {{value: not-guessed-91d7}}\n---\n\
         apiVersion: postern/v1\nkind: Webhook\nmetadata: {{name: ops}}\n\
         spec: {{url: \"http://127.0.0.1:{port}/\", secret: hook, events: [review.requested, review.overdue, review.closed]}}\n---\n\
         apiVersion: postern/v1\nkind: Webhook\nmetadata: {{name: chat}}\n\
         spec: {{url: \"http://127.0.0.1:{port}/\", secret: hook, format: slack, events: [review.closed]}}\n"
    );
    wait_until(LIMIT, "the webhooks", || Ok(postern.try_apply(&objects)?.status.success())).unwrap();
    let connection = postern.as_member("olga", &["on-call"]).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1 WHERE false")?.status.success())).unwrap();
    connection.run("UPDATE customers SET name = 'Adi' WHERE email = 'ada@secret.example'").unwrap().ok().unwrap();
    let told = || std::fs::read_to_string(&file).unwrap_or_default();
    let count = |what: &str| told().matches(&format!("\"type\":\"{what}\"")).count();
    wait_until(LIMIT, "both requests and what is overdue", || {
        Ok(count("review.requested") == 2 && count("review.overdue") == 1)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", told()));
    assert_has(&told(), &["UPDATE customers", "break-glass-soon", "olga", "dueAt"]);
    let anna = postern.token("anna", &["auditors", "security"]).unwrap();
    wait_until(LIMIT, "the session to be over", || {
        Ok(reviews(&postern, "--all").iter().all(|item| item["sessionOver"] == true))
    })
    .unwrap();
    // What masks hide from reviewers is not shown to them, nor to anybody by a webhook.
    let anything = |item: &Value| postern.cli_as(&anna, ["review", "show", text(item, "id")]).unwrap().ok().unwrap();
    for item in reviews(&postern, "--open") {
        assert_has(&anything(&item), &["WHERE email = ****", "Hidden"]);
        postern.cli_as(&anna, ["review", "close", text(&item, "id"), "--verdict", "ok"]).unwrap().ok().unwrap();
    }
    wait_until(LIMIT, "the closings", || Ok(count("review.closed") == 2 && told().contains("Reviewed: ")))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", told()));
    assert_eq!(count("review.overdue"), 1);
    assert_lacks(&told(), &["ada@secret.example"]);
}

#[test]
fn without_the_control_plane_the_glass_stays_whole() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let options = FleetOptions { gateways: 1, agents: 0, ..Default::default() };
    let mut fleet = Fleet::start(&postgres, options).unwrap();
    apply(&fleet.cluster.cli(), "shop-direct");
    let connection = fleet.connection(0, "shop-direct", "olga", &["on-call"]).unwrap();
    wait_until(LIMIT, "the policies", || Ok(connection.run("SELECT 1 WHERE false")?.status.success())).unwrap();
    let token = fleet.issuer().token("olga", &["on-call"]).unwrap();
    let login = |fleet: &mut Fleet| {
        let mut wire = Wire::connect(&fleet.gateway(0).unwrap().postgres()).unwrap();
        wire.login("shop-direct", "shop", &token).unwrap();
        wire
    };
    let (mut known, mut new) = (login(&mut fleet), login(&mut fleet));
    let said = |wire: &mut Wire, sql: &str| {
        let messages = wire.query(sql).unwrap();
        let error = messages.iter().find(|message| message.kind == 'E');
        error.map(|error| error.field('M').unwrap()).unwrap_or_default()
    };
    assert_eq!(said(&mut known, "DELETE FROM orders WHERE id = 1"), "");
    fleet.cluster.member(0).unwrap().kill9().unwrap();
    // What has its item of review goes on; what has none does not run, and the client is told soon.
    assert_eq!(said(&mut known, "DELETE FROM orders WHERE id = 2"), "");
    let began = Instant::now();
    let refused = said(&mut new, "DELETE FROM orders WHERE id = 3");
    assert_has(&refused, &["to be reviewed afterwards", "control plane does not answer"]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(said(&mut new, "SHOW server_version"), "", "the session goes on");
    assert_lacks(&postgres.log(), &["DELETE FROM orders WHERE id = 3"]);
    // Nor is it forgotten when the control plane comes back.
    fleet.cluster.member(0).unwrap().start().unwrap();
    wait_until(LIMIT, "the control plane", || Ok(said(&mut new, "DELETE FROM orders WHERE id = 3").is_empty()))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.cluster.logs()));
    let all = reviews(&fleet.cluster.cli(), "--all");
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM orders").unwrap(), "17");
}
