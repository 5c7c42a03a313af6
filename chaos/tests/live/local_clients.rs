//! Clients that find Postern by the command line: in their environment, in a service file, or on this machine.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postern_chaos::live::{Cli, Postern, Postgres, Process, run, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{assert_has, assert_lacks, home_of, shop};

const LIMIT: Duration = Duration::from_secs(40);
const COUNT: &str = "SELECT count(*) FROM orders";

/// A shop, and somebody who reads it by a token of the development issuer.
struct House {
    _postgres: Postgres,
    postern: Postern,
    home: TempDir,
    cli: Cli,
}

impl House {
    fn start() -> Self {
        let (postgres, postern) = shop();
        let (home, cli) = home_of(&postern, "alice", &["analysts"]);
        let cli = cli.with("HOME", &home.path().display().to_string());
        Self { _postgres: postgres, postern, home, cli }
    }

    /// Whether a session opens by `token`.
    fn is_good(&self, token: &str) -> bool {
        self.postern.connection("shop", token).unwrap().run("SELECT 1").unwrap().status.success()
    }
}

/// The environment of a process.
fn environment(id: u32, name: &str) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{id}/environ")).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.split('\0').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(str::to_owned)
}

/// The first child of a process.
fn child(id: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Whether `text` is among the arguments of any process.
fn is_in_process_list(text: &str) -> bool {
    let all =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    all.into_iter().any(|line| line.windows(text.len()).any(|window| window == text.as_bytes()))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_command_runs_with_a_token_that_dies_with_it() {
    let house = House::start();
    let exec = |command: &[&str]| house.cli.cli([&["exec", "shop", "--as", "job", "--"], command].concat()).unwrap();
    // Stock psql, with the gateway's certificate verified.
    let out = exec(&["psql", "-XAtc", COUNT]).ok().unwrap();
    assert!(out.trim().parse::<u32>().unwrap() > 0, "{out}");
    let session = house.postern.last_ended_session().unwrap();
    assert_has(&house.postern.cli(["sessions", "show", &session]).unwrap().ok().unwrap(), &["dev/alice by job"]);
    let told = exec(&["sh", "-c", "echo $PGHOST $PGUSER $PGDATABASE $PGSSLMODE $POSTERN_TOKEN_FILE; exit 7"]);
    assert_eq!(told.status.code(), Some(7), "{told:?}");
    assert_eq!(told.stdout.trim(), "gateways.postern.internal shop shop verify-full");
    assert_eq!(told.stderr, "");
    assert_eq!(exec(&["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    let none = exec(&["/no/such/command"]);
    assert_eq!(none.status.code(), Some(127));
    assert_has(&none.stderr, &["cannot run /no/such/command"]);

    // It is good while the command runs, for the target alone, and for nobody once it has ended.
    let token =
        exec(&["sh", "-c", &format!("psql -XAtc '{COUNT}' >/dev/null && printf %s \"$PGPASSWORD\"")]).ok().unwrap();
    wait_until(LIMIT, "the token to be refused", || Ok(!house.is_good(&token))).unwrap();
    let other = exec(&["sh", "-c", "PGUSER=shop-direct psql -XAtc 'SELECT 1'"]).fails().unwrap();
    assert_has(&other, &["no such target, or no access to it"]);

    // Ended from outside: the command is told, and the token is revoked. Nobody saw it in the list of processes.
    let mut running = house.cli.spawn("exec", &["exec", "shop", "--", "sleep", "600"], house.home.path()).unwrap();
    let mut token = None;
    wait_until(LIMIT, "the command", || {
        token = child(running.id()).and_then(|id| environment(id, "PGPASSWORD"));
        Ok(token.is_some())
    })
    .unwrap();
    let token = token.unwrap();
    assert!(house.is_good(&token));
    assert!(!is_in_process_list(&token));
    running.signal(Signal::TERM).unwrap();
    assert_eq!(running.wait(LIMIT).unwrap().code(), Some(143), "{}", running.stderr());
    wait_until(LIMIT, "the token to be refused", || Ok(!house.is_good(&token))).unwrap();
    assert_lacks(&(running.stderr() + &house.postern.log()), &[&token]);

    // A target that is not theirs is none.
    let unknown = house.cli.cli(["exec", "vault", "--", "true"]).unwrap().fails().unwrap();
    assert_has(&unknown, &["there is no target vault for you"]);
}

#[test]
fn an_environment_and_a_service_file_lead_stock_clients_there() {
    let house = House::start();
    let mut script = Command::new("sh");
    let text = format!(
        "eval \"$(postern env shop)\" && psql -XAtc '{COUNT}' && eval \"$(postern env shop --passfile)\" && test -z \"$PGPASSWORD\" || exit 3"
    );
    script.args(["-c", &format!("{text}; unset PGPASSWORD; psql -XAtc '{COUNT}'")]);
    house.postern.surround(&mut script).unwrap();
    script
        .env("POSTERN_TOKEN_FILE", house.home.path().join("token"))
        .env("POSTERN_HOME", house.home.path().join("postern"));
    script.env_remove("PGPASSWORD");
    let out = run(script, "", LIMIT).unwrap();
    assert_eq!(out.stdout.lines().count(), 1, "{out:?}");

    let json = house.cli.json(["env", "shop", "--format", "json"]).unwrap();
    assert_eq!(json["PGUSER"], "shop");
    assert!(house.is_good(json["PGPASSWORD"].as_str().unwrap()));
    let service = house.home.path().join(".pg_service.conf");
    std::fs::write(&service, "[mine]\nhost=elsewhere\n").unwrap();
    for _ in 0..2 {
        let out = house.cli.cli(["env", "shop", "--write"]).unwrap();
        assert_eq!(out.clone().ok().unwrap(), "");
        assert_has(&out.stderr, &["service=shop is in"]);
    }
    let written = std::fs::read_to_string(&service).unwrap();
    assert_eq!(written.matches("[shop]").count(), 1);
    assert_has(&written, &["[mine]\nhost=elsewhere\n", "sslmode=verify-full", "passfile="]);
    assert_lacks(&written, &["eyJ"]);
    let passwords = house.home.path().join("postern/passwords/shop.pgpass");
    assert_eq!((mode(&passwords), mode(passwords.parent().unwrap())), (0o600, 0o700));
    let mut psql = Command::new("psql");
    psql.args(["service=shop", "-XAtc", COUNT]).env("PGSERVICEFILE", &service).env_remove("PGPASSWORD");
    let out = run(psql, "", LIMIT).unwrap().ok().unwrap();
    assert!(out.trim().parse::<u32>().unwrap() > 0, "{out}");
}

/// What a proxy says when it listens.
fn listening(proxy: &mut Process) -> String {
    let mut line = String::new();
    wait_until(LIMIT, "the proxy", || {
        assert!(proxy.is_running(), "{}", proxy.stderr());
        line = proxy.stdout().trim().to_owned();
        Ok(line.starts_with("host="))
    })
    .unwrap();
    line
}

fn psql(connection: &str, password: &str, sql: &str) -> postern_chaos::live::Finished {
    let mut psql = Command::new("psql");
    psql.args([connection, "-XAt", "-v", "ON_ERROR_STOP=1"]).env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "20");
    run(psql, sql, LIMIT).unwrap()
}

#[test]
fn a_proxy_gives_each_connection_a_fresh_token_and_nobody_else_one() {
    let house = House::start();
    let secret = house.home.path().join("password").display().to_string();
    let arguments = ["proxy", "shop", "--port", "0", "--ttl", "4s", "--password-file", &secret];
    let mut proxy = house.cli.spawn("proxy", &arguments, house.home.path()).unwrap();
    let at = listening(&mut proxy);
    assert_has(&at, &["host=127.0.0.1 port=", "user=shop"]);
    assert_eq!(mode(Path::new(&secret)), 0o600);
    let password = std::fs::read_to_string(&secret).unwrap();
    assert_lacks(&(proxy.stdout() + &proxy.stderr()), &[&password]);
    assert!(!is_in_process_list(&password));

    let count = psql(&at, &password, COUNT).ok().unwrap();
    assert!(count.trim().parse::<u32>().unwrap() > 0, "{count}");
    let wrong = psql(&at, "guess", COUNT).fails().unwrap();
    assert_has(&wrong, &["password is wrong"]);
    // The gateway's own words come through, whatever the client calls itself.
    let denied = psql(&at.replace("user=shop", "user=me"), &password, "SELECT * FROM payroll").fails().unwrap();
    assert_has(&denied, &["denied by Postern", "decision dec_"]);

    // A session ends with its token; the next one has another.
    let long = psql(&at, &password, "SELECT 1;\n\\! sleep 6\nSELECT 2;\n").fails().unwrap();
    assert_has(&long, &["expired"]);
    wait_until(LIMIT, "the proxy to say so", || Ok(proxy.stderr().contains("a connection ended with its token")))
        .unwrap();
    assert!(psql(&at, &password, COUNT).ok().is_ok());
    let tokens = |session: &serde_json::Value| session["principal"].clone();
    assert!(house.postern.sessions().unwrap().iter().map(tokens).all(|who| who == "dev/alice"));
    assert_eq!(proxy.terminate(LIMIT).unwrap().code(), Some(0), "{}", proxy.stderr());

    // On a socket that is this user's alone.
    let folder = house.home.path().join("socket");
    let arguments = ["proxy", "shop", "--port", "5432", "--socket", &folder.display().to_string()];
    let mut proxy = house.cli.spawn("proxy-socket", &arguments, house.home.path()).unwrap();
    let at = listening(&mut proxy);
    let socket = folder.join(".s.PGSQL.5432");
    assert_eq!((mode(&socket), mode(&folder)), (0o600, 0o700));
    assert_eq!(psql(&at, "", COUNT).ok().unwrap(), count);
    assert_eq!(proxy.terminate(LIMIT).unwrap().code(), Some(0), "{}", proxy.stderr());
    assert!(!socket.exists());

    let open = house.cli.cli(["proxy", "shop", "--port", "0", "--listen", "0.0.0.0"]).unwrap().fails().unwrap();
    assert_has(&open, &["a loopback address"]);
}
