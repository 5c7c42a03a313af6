//! People log in at a real OpenID provider, by the command line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use postern_chaos::live::people::{PeopleIdp, Person};
use postern_chaos::live::{Cli, Postern, PosternOptions, Postgres, PostgresOptions, Process, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{assert_has, assert_lacks};

const LIMIT: Duration = Duration::from_secs(40);

/// A Postern that trusts a provider at which people log in, and somebody's home.
struct House {
    postern: Postern,
    idp: PeopleIdp,
    home: TempDir,
    cli: Cli,
}

impl House {
    fn start(settings: Value) -> Self {
        let postern = Postern::dev(PosternOptions::default()).unwrap();
        let idp = PeopleIdp::start(settings).unwrap();
        postern.apply(&idp.object("corp")).unwrap();
        let home = tempfile::tempdir().unwrap();
        // Not there yet: it makes its own, for nobody else.
        let own = home.path().join("postern").display().to_string();
        let cli = postern.with("POSTERN_HOME", &own).with("BROWSER", "");
        Self { postern, idp, home, cli }
    }

    /// Begins to log in.
    fn begin(&self, arguments: &[&str]) -> Process {
        let arguments = [&["login"], arguments].concat();
        let name = format!("login-{}", fastrand::u32(..));
        self.cli.spawn(&name, &arguments, self.home.path()).unwrap()
    }

    /// Logs in in a browser; what the command says.
    fn logs_in(&self, mut person: Person, arguments: &[&str]) -> (Process, String) {
        let mut login = self.begin(arguments);
        let url = said(&login, "/auth?");
        let page = person.visit(&url).unwrap();
        let _ = login.wait(LIMIT).unwrap();
        (login, page.body)
    }

    fn whoami(&self) -> Value {
        self.cli.json(["whoami", "-o", "json"]).unwrap()
    }

    fn kept(&self) -> (std::path::PathBuf, Value) {
        let folder = self.home.path().join("postern/logins");
        let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let file = files.into_iter().find(|path| path.extension().is_some_and(|it| it == "json")).unwrap();
        let kept = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        (file, kept)
    }
}

/// The line of what `login` says that has `part` in it.
fn said(login: &Process, part: &str) -> String {
    let mut found = String::new();
    wait_until(LIMIT, part, || {
        let said = login.stderr();
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        found = whole.lines().find(|line| line.contains(part)).unwrap_or_default().trim().to_owned();
        Ok(!found.is_empty())
    })
    .unwrap();
    found
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_person_logs_in_in_a_browser_is_renewed_and_logs_out() {
    let house = House::start(json!({"groups": ["analysts"]}));
    let mut login = house.begin(&["--ttl", "5s"]);
    let url = said(&login, "/auth?");
    assert_has(&url, &["code_challenge_method=S256", "nonce=", "redirect_uri=http%3A%2F%2F127.0.0.1%3A"]);
    // Somebody else on this machine does not end it, nor log in in their place.
    let port = url.split("127.0.0.1%3A").nth(1).unwrap().split('%').next().unwrap();
    let mut other = Person::new("mallory");
    let guessed = other.visit(&format!("http://127.0.0.1:{port}/callback?code=x&state=guess")).unwrap();
    assert_eq!(guessed.status, 400);
    let page = Person::new("alice").visit(&url).unwrap();
    assert!(login.wait(LIMIT).unwrap().success(), "{}", login.stderr());
    assert_has(&page.body, &["Logged in", "corp/alice"]);
    assert_has(&login.stderr(), &["Logged in as corp/alice", "renewed by itself"]);
    assert_eq!(login.stdout(), "");

    let (file, first) = house.kept();
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let who = house.whoami();
    assert_eq!(
        (&who["principal"], &who["by"], &who["groups"]),
        (&json!("corp/alice"), &json!("login"), &json!(["analysts"]))
    );

    // The session token ends after five seconds; what acts by it then has a new one each time, and of many at once one renews: the provider ends
    // the login of whoever shows a refresh token again that it has rotated.
    for _ in 0..2 {
        let before = house.kept().1;
        wait_until(LIMIT, "a renewed token", || {
            let all: Vec<Process> = (0..4)
                .map(|number| house.cli.spawn(&format!("who-{number}"), &["whoami"], house.home.path()).unwrap())
                .collect();
            for mut one in all {
                assert!(one.wait(LIMIT)?.success(), "{}", one.stderr());
            }
            Ok(house.kept().1["token"] != before["token"])
        })
        .unwrap();
    }
    let (_, last) = house.kept();
    assert_ne!(first["renewal"]["refresh_token"], last["renewal"]["refresh_token"]);
    assert_eq!(mode(&file), 0o600);

    // What others could have read is not used.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_has(&house.cli.cli(["whoami"]).unwrap().fails().unwrap(), &["open to other users"]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();

    let out = house.cli.cli(["logout"]).unwrap();
    assert_has(&out.stderr, &["corp/alice is logged out"]);
    assert_lacks(&out.stderr, &["But"]);
    assert!(!file.exists());
    assert_eq!(house.whoami()["by"], "certificate");
    assert_has(&house.cli.cli(["logout"]).unwrap().stderr, &["Nobody is logged in"]);
    // The provider has forgotten it too: what was copied renews nothing.
    std::fs::write(&file, last.to_string()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    wait_until(LIMIT, "the provider's refusal", || {
        let told = house.cli.cli(["whoami"])?;
        Ok(["invalid_grant", "postern login"].iter().all(|part| told.stderr.contains(part)))
    })
    .unwrap();
    for secret in [&first["token"], &last["token"], &last["renewal"]["refresh_token"]] {
        assert_lacks(&(house.postern.log() + &login.stderr()), &[secret.as_str().unwrap()]);
    }
}

#[test]
fn a_person_logs_in_on_another_device() {
    let mut house = House::start(json!({}));
    let mut login = house.begin(&["--device", "--issuer", "corp"]);
    let url = said(&login, "/device?user_code=");
    assert_has(&login.stderr(), &["On any device, open", "enter the code"]);
    assert_has(&Person::new("bob").visit(&url).unwrap().body, &["device: done"]);
    assert!(login.wait(LIMIT).unwrap().success(), "{}", login.stderr());
    assert_eq!(house.whoami()["principal"], "corp/bob");
    // The provider away stops nobody whose token is good.
    house.idp.stop().unwrap();
    assert_eq!(house.whoami()["principal"], "corp/bob");
    let out = house.cli.cli(["logout"]).unwrap();
    assert_has(&out.stderr, &["corp/bob is logged out", "But the refresh token is good until its end"]);
}

#[test]
fn a_login_that_is_refused_says_why() {
    let house = House::start(json!({}));
    let (login, page) = house.logs_in(Person::unwilling(), &[]);
    assert_has(&login.stderr(), &["error:", "access_denied: not today"]);
    assert_has(&page, &["Not logged in", "access_denied"]);
    assert!(!house.home.path().join("postern/logins").exists());

    let refused = |arguments: &[&str]| house.cli.cli(arguments).unwrap().fails().unwrap();
    assert_has(&refused(&["login", "--issuer", "dev"]), &["nobody logs in at dev", "there are corp"]);
    assert_has(&refused(&["login", "--saml", "corp"]), &["nobody logs in at corp by SAML"]);
    assert_has(&refused(&["login", "--timeout", "1s"]), &["nobody logged in within 1 s"]);

    // A token for a script is printed, and not kept.
    let (login, _) = house.logs_in(Person::new("carol"), &["--print"]);
    let who = house.postern.cli_as(login.stdout().trim(), ["whoami"]).unwrap().ok().unwrap();
    assert_has(&who, &["corp/carol"]);
    assert_eq!(house.whoami()["by"], "certificate");

    // Its audience is the client's id.
    let wrong = house.idp.object("wrong").replace("[postern-cli]", "[postern]");
    assert_has(
        &house.postern.try_apply(&wrong).unwrap().fails().unwrap(),
        &["clientId", "must be one of spec.audiences"],
    );
}

/// Policy asks how somebody logged in: who has not is told what to do, and does it.
#[test]
fn a_person_steps_up_for_what_asks_for_more() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let house = House::start(json!({"groups": ["people"]}));
    house.postern.apply_shop(&postgres).unwrap();
    let policy = |name: &str, action: &str, more: &str| {
        format!(
            "---\napiVersion: postern/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  effect: permit\n  principals: {{groups: [people]}}\n  \
             targets: {{names: [shop]}}\n  actions: [\"{action}\"]\n  reason: ask the desk\n{more}"
        )
    };
    let gold = "  when: {authentication: {acr: [gold], amr: [otp]}}\n";
    house.postern.apply(&policy("people-write", "sql:insert", gold)).unwrap();
    let run = |sql: &str| {
        let token = house.cli.cli(["token", "--target", "shop"]).unwrap().ok().unwrap();
        house.postern.connection("shop", token.trim()).unwrap().run(sql).unwrap()
    };
    let insert = "INSERT INTO notes (body) VALUES ('x')";
    let what = ["after a login with acr gold, amr otp (postern login --acr gold): ask the desk"];

    // By a password alone there is not even a session; and once something else permits one, no more than that.
    let (login, _) = house.logs_in(Person::new("alice").sure("silver", "pwd"), &[]);
    assert_has(&login.stderr(), &["Logged in as corp/alice"]);
    assert_eq!(house.whoami()["claims"]["acr"], json!(["silver"]));
    assert_has(&run(insert).fails().unwrap(), &["no session:", what[0]]);
    house.postern.apply(&policy("people-read", "sql:select", "")).unwrap();
    wait_until(LIMIT, "the policy", || Ok(run("SELECT 1").ok().is_ok())).unwrap();
    let denied = run(insert).stderr;
    assert_has(&denied, &["42501", "sql:insert on shop.public.notes", what[0], "decision dec_"]);

    // One of the two is not enough; both are.
    house.logs_in(Person::new("alice").sure("gold", "pwd"), &["--acr", "gold"]);
    assert_has(&run(insert).stderr, &what);
    let mut login = house.begin(&["--acr", "gold", "--max-age", "0s"]);
    let url = said(&login, "/auth?");
    assert_has(&url, &["acr_values=gold", "max_age=0"]);
    Person::new("alice").sure("gold", "pwd otp").visit(&url).unwrap();
    assert!(login.wait(LIMIT).unwrap().success());
    assert_eq!(house.whoami()["claims"]["amr"], json!(["pwd", "otp"]));
    assert_lacks(&run(insert).stderr, &["after a login"]);
}
