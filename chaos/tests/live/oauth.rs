//! OAuth's endpoints, as the guide says them: by curl, and by a library that verifies Postern's tokens from their metadata alone.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postern_chaos::live::saml::{Answer, Browser};
use postern_chaos::live::{Issuer, Postern, PosternOptions, Postgres, PostgresOptions, free_port, run, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use crate::{assert_denied, assert_has, assert_lacks};

const JOBS: &str = include_str!("../../../docs/guides/jobs.md");
pub(super) const GUIDE: &str = include_str!("../../../docs/guides/tokens.md");
const LIMIT: Duration = Duration::from_secs(60);
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The block of `guide` that contains `mark`.
pub(super) fn block(guide: &'static str, mark: &str) -> &'static str {
    let blocks = guide.split("\n```").skip(1).step_by(2);
    let found = blocks.filter_map(|block| block.split_once('\n')).find(|(_, text)| text.contains(mark));
    found.map(|(_, text)| text).unwrap()
}

/// A shop behind a Postern with OAuth's endpoints, and a folder in which the guide's commands are given.
pub(super) struct House {
    _postgres: Postgres,
    pub(super) postern: Postern,
    pub(super) web: String,
    pub(super) browser: Browser,
    folder: TempDir,
}

impl House {
    pub(super) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments of `postern dev`.
    pub(super) fn start_with(more: &[&str]) -> Self {
        let postgres = Postgres::start(PostgresOptions::default()).unwrap();
        let port = free_port().unwrap();
        let mut arguments = vec!["--web-listen".to_owned(), format!("127.0.0.1:{port}")];
        arguments.extend(more.iter().map(ToString::to_string));
        let postern = Postern::dev(PosternOptions { arguments, ..PosternOptions::default() }).unwrap();
        postern.apply_shop(&postgres).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = postern.data_dir().join("control/admin/ca.crt");
        let ca_pem = std::fs::read_to_string(&ca).unwrap_or_else(|error| panic!("{}: {error}", ca.display()));
        std::fs::write(folder.path().join("ca.crt"), &ca_pem).unwrap();
        let browser = Browser { ca_pem, ..Browser::default() };
        Self { _postgres: postgres, postern, web: format!("https://localhost:{port}"), browser, folder }
    }

    pub(super) fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub(super) fn sh(&self, script: &str) -> String {
        let mut shell = self.postern.connection("shop", "").unwrap().client("bash");
        shell.args(["-euo", "pipefail", "-c", script]).current_dir(self.folder.path());
        self.postern.surround(&mut shell).unwrap();
        shell.env("POSTERN_WEB", &self.web);
        run(shell, "", LIMIT).unwrap().ok().unwrap()
    }

    /// A script of the repository's by Node, with the library of `scripts/bootstrap.sh`.
    pub(super) fn node(&self, script: &str, arguments: &[&str], more: &[(&str, &str)]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let modules = root.join(".tools/oauth/node_modules");
        assert!(modules.exists(), "{} is not there: run `scripts/bootstrap.sh test`", modules.display());
        let mut command = Command::new("node");
        command.arg(root.join(script)).args(arguments).current_dir(self.folder.path());
        command.env("NODE_PATH", modules).env("NODE_EXTRA_CA_CERTS", "ca.crt").envs(more.iter().copied());
        let thumbprint = std::fs::read_to_string(self.folder.path().join("thumbprint")).unwrap();
        command.env("CERTIFICATE", thumbprint.trim());
        run(command, "", LIMIT).unwrap().ok().unwrap()
    }

    pub(super) fn python(&self, script: &str, arguments: &[&str]) -> String {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(".tools/grpc/bin/python");
        assert!(python.exists(), "{} is not there: run `scripts/bootstrap.sh test`", python.display());
        let mut command = Command::new(python);
        command.arg("-").args(arguments).current_dir(self.folder.path());
        run(command, script, LIMIT).unwrap().ok().unwrap()
    }

    fn post(&self, fields: &[(&str, &str)]) -> (Answer, Value) {
        let answer = self.browser.post_all(&format!("{}/oauth/token", self.web), fields).unwrap();
        assert_eq!(answer.headers["content-type"], "application/json", "{answer:?}");
        assert_eq!(answer.headers["cache-control"], "no-store");
        let body = serde_json::from_str(&answer.body).unwrap();
        (answer, body)
    }

    /// An exchange of `subject`, with more.
    fn exchange(&self, subject: &str, more: &[(&str, &str)]) -> (Answer, Value) {
        let mut fields = vec![("grant_type", EXCHANGE), ("subject_token", subject), ("subject_token_type", JWT)];
        fields.extend(more);
        self.post(&fields)
    }

    /// The same, that succeeds.
    fn token(&self, subject: &str, more: &[(&str, &str)]) -> String {
        let (answer, body) = self.exchange(subject, more);
        assert_eq!(answer.status, 200, "{answer:?}");
        body["access_token"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_token_is_exchanged_as_the_guide_says() {
    let house = House::start();
    house.put("job.token", &house.postern.token("ci", &["dba"]).unwrap());
    house.sh(block(GUIDE, "curl --silent"));
    assert_has(&house.sh(block(GUIDE, "PGPASSWORD=")), &["20"]);
    let answer: Value =
        serde_json::from_str(&std::fs::read_to_string(house.folder.path().join("answer.json")).unwrap()).unwrap();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["expires_in"], 300);
    assert_eq!(answer["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!(answer["scope"], "target:shop action:sql:select resource:public.orders");
    let token = answer["access_token"].as_str().unwrap();
    let client = house.postern.connection("shop", token).unwrap();
    for beyond in ["SELECT * FROM customers;", "DELETE FROM orders WHERE id = 1;"] {
        assert_denied(&client.run(beyond).unwrap().stderr);
    }
    // Others verify it by what is published, with a library off the shelf.
    let said = house.python(block(GUIDE, "PyJWKClient"), &[&house.web, token]);
    assert_has(&said, &["dev/ci"]);
    // And those of the next key beside them: the set has both.
    house.postern.cli(["cluster", "rotate-signing-key", "--now", "--algorithm", "es256"]).unwrap().ok().unwrap();
    let newer = house.token(&house.postern.token("ci", &["dba"]).unwrap(), &[]);
    assert_ne!(token.split('.').next(), newer.split('.').next());
    for token in [token, newer.as_str()] {
        assert_has(&house.python(block(GUIDE, "PyJWKClient"), &[&house.web, token]), &["dev/ci"]);
    }
    let metadata = house.browser.get(&format!("{}/.well-known/openid-configuration", house.web)).unwrap();
    assert_eq!(metadata.headers["cache-control"], "public, max-age=300");
    assert_has(&metadata.body, &[&house.web, "token-exchange"]);
    // The head of the log of recordings is published, too: whoever keeps it needs no account.
    let published = |path: &str| house.browser.get(&format!("{}/log/{path}", house.web)).unwrap();
    let (head, key) = (published("checkpoint"), published("key"));
    assert_eq!(head.headers["content-type"], "text/plain; charset=utf-8");
    let origin = head.body.lines().next().unwrap();
    assert!(origin.ends_with(".log.postern.internal") && key.body.starts_with(&format!("{origin}+")), "{key:?}");
    // One that is bound is good with its certificate alone.
    house.sh(block(GUIDE, "certificate_sha256@"));
    let bound = block(GUIDE, "PGSSLCERT=");
    assert_has(&house.sh(bound), &["20"]);
    house.sh("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=job -keyout other.key -out other.crt; chmod 600 other.key");
    let thief = house.sh(&format!("{} 2>&1 || true", bound.trim().replace("client.", "other.")));
    assert_has(&thief, &["the token is not accepted"]);
    let token_alone = house.folder.path().join("bound.token");
    let token_alone = std::fs::read_to_string(token_alone).unwrap();
    let without = house.postern.connection("shop", token_alone.trim()).unwrap().run("SELECT 1;").unwrap();
    assert_has(&without.stderr, &["the token is not accepted"]);
    // What it is worth is told to who may ask, and to nobody else; its bearer ends it.
    house.put("session.token", token);
    house.put("reader.token", &house.postern.token("reader", &["postern-auditors"]).unwrap());
    let worth = || -> Value { serde_json::from_str(&house.sh(block(GUIDE, "$POSTERN_WEB/oauth/introspect"))).unwrap() };
    let told = worth();
    assert_eq!((&told["active"], &told["sub"]), (&Value::Bool(true), &"dev/ci".into()), "{told}");
    assert_eq!(told["scope"], answer["scope"]);
    let url = format!("{}/oauth/introspect", house.web);
    assert_eq!(house.browser.post_all(&url, &[("token", token)]).unwrap().status, 401);
    client.run("SELECT count(*) FROM orders;").unwrap().ok().unwrap();
    for _ in 0..2 {
        house.sh(block(GUIDE, "/oauth/revoke"));
        assert_eq!(worth(), serde_json::json!({"active": false}));
    }
    wait_until(LIMIT, "gateways to know", || Ok(client.run("SELECT count(*) FROM orders;")?.ok().is_err())).unwrap();
    let revoke = house.browser.post_all(&format!("{}/oauth/revoke", house.web), &[("token", "x.y.z")]).unwrap();
    assert_eq!(revoke.status, 200, "{revoke:?}");
    // Who asked for what is known, and no token is.
    let audit = house.postern.cli(["audit", "list"]).unwrap().ok().unwrap();
    assert_has(&audit, &["/oauth/token", "dev/ci"]);
    assert_lacks(&house.postern.log(), &[token, &token[..60]]);
    // A job needs no more than curl.
    house.put("ci.token", &house.postern.token("ci", &["dba"]).unwrap());
    let told = house.sh(block(JOBS, "/oauth/heartbeat"));
    assert_has(&told, &["\"name\":\"nightly\"", "\"heartbeat\":60", "\"deadline\":"]);
    let over = std::fs::read_to_string(house.folder.path().join("job.token")).unwrap();
    let beat = house.browser.post_all(&format!("{}/oauth/heartbeat", house.web), &[("token", over.trim())]).unwrap();
    assert_eq!(beat.status, 400, "{beat:?}");
    assert_has(&beat.body, &["invalid_request", "revoked"]);
    assert_eq!(house.postern.json(["job", "list", "-o", "json"]).unwrap(), serde_json::json!([]));
}

#[test]
fn who_acts_is_proven_and_errors_are_as_the_rfc_says() {
    let house = House::start();
    let (subjects, agents) = (Issuer::start().unwrap(), Issuer::start().unwrap());
    house.postern.apply(&format!("{}{}", subjects.object("people"), agents.object("agents"))).unwrap();
    let alice = subjects.token("alice", &["dba"]).unwrap();
    let planner = agents.token("planner", &[]).unwrap();
    let by = [("actor_token", &*planner), ("actor_token_type", JWT)];
    wait_until(LIMIT, "the issuers' keys", || Ok(house.exchange(&alice, &by).0.status == 200)).unwrap();
    let token = house.token(&alice, &[by[0], by[1], ("resource", "postern:target:shop")]);
    house.postern.connection("shop", &token).unwrap().run("SELECT 1;").unwrap().ok().unwrap();
    let listed = house.postern.cli(["sessions", "list"]).unwrap().ok().unwrap();
    assert_has(&listed, &["people/alice by agents/planner"]);
    // A child says both.
    let child = house.token(&token, &[("actor", "executor")]);
    house.postern.connection("shop", &child).unwrap().run("SELECT 1;").unwrap().ok().unwrap();
    assert_has(
        &house.postern.cli(["sessions", "list"]).unwrap().ok().unwrap(),
        &["people/alice by agents/planner > executor"],
    );

    let named = |sub: &str, iss: String| {
        let may_act = serde_json::json!({"sub": sub, "iss": iss});
        subjects.token_with("alice", &["dba"], |claims| claims["may_act"] = may_act).unwrap()
    };
    house.token(&named("planner", agents.url()), &by);
    let error = |subject: &str, more: &[(&str, &str)]| {
        let (answer, body) = house.exchange(subject, more);
        assert!(body["access_token"].is_null());
        (
            answer.status,
            body["error"].as_str().unwrap().to_owned(),
            body["error_description"].as_str().unwrap().to_owned(),
        )
    };
    let bad_request = |subject: &str, more: &[(&str, &str)], expected: &str| {
        let (status, error, text) = error(subject, more);
        assert_eq!((status, &*error), (400, expected), "{more:?}: {text}");
        text
    };
    bad_request(&named("another", agents.url()), &by, "invalid_request");
    bad_request(&named("planner", subjects.url()), &by, "invalid_request");
    // A bad token of an actor is one, as a bad subject's.
    assert_eq!(bad_request("x.y.z", &[], "invalid_request"), "token-invalid");
    assert_eq!(bad_request(&alice, &[("actor_token", "x.y.z"), by[1]], "invalid_request"), "token-invalid");
    bad_request(&alice, &[by[0]], "invalid_request");
    bad_request(&alice, &[("scope", "openid")], "invalid_scope");
    bad_request(&alice, &[("audience", "a b")], "invalid_target");
    bad_request(&token, &[("audience", "shop-direct")], "invalid_target");
    bad_request(&alice, &[("requested_token_type", "urn:ietf:params:oauth:token-type:saml2")], "invalid_request");
    bad_request(&alice, &[("requested_ttl", "43201")], "invalid_request");
    bad_request(&alice, &[("scope", "action:sql:select"), ("scope", "action:sql:select")], "invalid_request");
    assert_eq!(error(&alice, &[("client_secret", "x")]).1, "invalid_client");
    assert_eq!(house.post(&[("grant_type", "password")]).1["error"], "unsupported_grant_type");
    assert_eq!(house.post(&[]).1["error"], "invalid_request");
    let get = house.browser.get(&format!("{}/oauth/token", house.web)).unwrap();
    assert_eq!(get.status, 405);
}

const ACCOUNTS: &str = include_str!("../../../docs/guides/service-accounts.md");

#[test]
fn a_service_account_proves_itself_by_its_key() {
    let house = House::start();
    house.sh(block(ACCOUNTS, "openssl genpkey"));
    house.put("account.yaml", block(ACCOUNTS, "kind: ServiceAccount"));
    house.sh("postern apply -f account.yaml");
    assert_has(&house.sh("postern get service-accounts"), &["nightly", "dba", "the nightly reports"]);
    house.sh(block(ACCOUNTS, "openssl pkeyutl"));
    let answer: Value =
        serde_json::from_str(&std::fs::read_to_string(house.folder.path().join("answer.json")).unwrap()).unwrap();
    assert_eq!((&answer["expires_in"], &answer["scope"]), (&serde_json::json!(600), &serde_json::json!("target:shop")));
    let by_shell = answer["access_token"].as_str().unwrap();
    let by_python = house.python(block(ACCOUNTS, "uuid.uuid4"), &[&house.web]);
    house.sh(block(ACCOUNTS, "postern token"));
    let by_postern = std::fs::read_to_string(house.folder.path().join("nightly.token")).unwrap();
    for token in [by_shell, by_python.trim(), by_postern.trim()] {
        let client = house.postern.connection("shop", token).unwrap();
        assert_has(&client.run("SELECT count(*) FROM orders;").unwrap().ok().unwrap(), &["20"]);
    }
    assert_has(&house.postern.cli(["sessions", "list"]).unwrap().ok().unwrap(), &["service-account/nightly"]);
    assert_has(&house.postern.cli(["audit", "list"]).unwrap().ok().unwrap(), &["service-account/nightly"]);

    // The assertion was good once; a stranger's, one for nobody, and one of a disabled account get the same answer.
    let shown = std::fs::read_to_string(house.folder.path().join("to-sign")).unwrap();
    let show = |assertion: &str| {
        let (answer, body) = house.post(&[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ]);
        (answer.status, body)
    };
    let sign = |script: &str| house.sh(&format!("{script}\nprintf '%s.%s' \"$(cat to-sign)\" \"$signature\""));
    let guide = block(ACCOUNTS, "openssl pkeyutl");
    let (making, _) = guide.split_once("curl").unwrap();
    let again = format!(
        "b64() {{ openssl base64 -A | tr '+/' '-_' | tr -d '='; }}\nprintf '%s' '{shown}' > to-sign\nsignature=$(openssl pkeyutl -sign -rawin -inkey nightly.key -in to-sign | b64)"
    );
    let (status, refused) = show(&sign(&again));
    assert_eq!((status, refused["error"].as_str()), (401, Some("invalid_client")), "{refused}");
    let stranger = sign(&format!(
        "openssl genpkey -algorithm ed25519 -out other.key\n{}",
        making.replace("nightly.key", "other.key")
    ));
    assert_eq!(show(&stranger), (status, refused.clone()));
    assert_eq!(show(&sign(&making.replace("nightly\"", "nobody\""))), (status, refused.clone()));
    assert_eq!(show(&sign(&making.replace("$POSTERN_WEB", "https://other.example"))), (status, refused.clone()));
    // The same key speaks in fewer words, and is told as little.
    let grant = |assertion: &str| {
        let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let (answer, body) = house.post(&[grant, ("assertion", assertion), ("audience", "shop")]);
        (answer.status, body["error"].clone(), body["scope"].clone())
    };
    let word = sign(making);
    assert_eq!(grant(&word), (200, Value::Null, "target:shop".into()));
    let job = house.postern.token("ci", &["dba"]).unwrap();
    assert_eq!(grant(&job).0, 200);
    for bad in [&*word, &*stranger, "x.y.z", &job[..job.len() - 8]] {
        assert_eq!(grant(bad), (400, "invalid_grant".into(), Value::Null));
    }
    let good = show(&sign(making));
    assert_eq!(good.0, 200, "{good:?}");
    let disabled = block(ACCOUNTS, "kind: ServiceAccount").replace("  groups", "  disabled: true\n  groups");
    house.put("account.yaml", &disabled);
    house.sh("postern apply -f account.yaml");
    assert_eq!(show(&sign(making)), (status, refused));
    // What it has makes no more.
    let (answer, body) = house.exchange(good.1["access_token"].as_str().unwrap(), &[]);
    assert_eq!((answer.status, &body["error_description"]), (400, &"revoked".into()));
    let client = house.postern.connection("shop", good.1["access_token"].as_str().unwrap()).unwrap();
    wait_until(LIMIT, "gateways to know", || Ok(client.run("SELECT 1;")?.ok().is_err())).unwrap();
}
