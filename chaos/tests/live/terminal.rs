//! People at a terminal: what they type and interrupt reaches their clients, however these reach the target.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Cli, Postern, Postgres, wait_until};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::{home_of, shop};

const LIMIT: Duration = Duration::from_secs(40);
const INTERRUPT: &str = "\u{3}";

struct House {
    postgres: Postgres,
    postern: Postern,
    home: TempDir,
    cli: Cli,
}

impl House {
    fn start() -> Self {
        let (postgres, postern) = shop();
        let (home, cli) = home_of(&postern, "ann", &["dba"]);
        Self { postgres, postern, home, cli }
    }

    fn terminal(&self, command: &str) -> Terminal {
        Terminal::open(&self.cli, command, self.home.path())
    }

    /// A statement that takes long is interrupted; the session goes on.
    fn interrupts(&self, terminal: &mut Terminal) {
        let canceled = self.postgres.log().matches("canceling statement due to user request").count();
        let asked = self.postgres.log().matches("pg_sleep(55)").count();
        terminal.types("SELECT pg_sleep(55);\n");
        wait_until(LIMIT, "the statement at the target", || {
            Ok(self.postgres.log().matches("pg_sleep(55)").count() > asked)
        })
        .unwrap();
        terminal.types(INTERRUPT);
        terminal.shows("canceling statement due to user request");
        let now = self.postgres.log().matches("canceling statement due to user request").count();
        assert!(now > canceled, "{}", self.postgres.log());
        terminal.types("SELECT 'still ' || 'here';\n");
        terminal.shows("still here");
    }
}

/// A terminal of its own (`script`), in which one command runs.
struct Terminal {
    child: Child,
    shown: PathBuf,
}

impl Terminal {
    fn open(cli: &Cli, command: &str, folder: &Path) -> Self {
        let shown = folder.join("shown");
        let mut script = Command::new("script");
        cli.surround(&mut script).unwrap();
        // The shell makes way: one that stays (dash) is interrupted with its command, and tells that.
        let command = format!("exec {command}");
        script.env("SHELL", "/bin/sh").args(["--quiet", "--return", "--flush", "--command", &command, "/dev/null"]);
        // In a terminal, psql asks for the encoding of its locale.
        script.env("LC_ALL", "C.UTF-8");
        script.env("PAGER", "cat").env("TERM", "dumb").env("PSQLRC", "/dev/null").env("PSQL_HISTORY", "/dev/null");
        let output = File::create(&shown).unwrap();
        let errors = output.try_clone().unwrap();
        script.stdin(Stdio::piped()).stdout(output).stderr(errors).process_group(0);
        Self { child: script.spawn().unwrap(), shown }
    }

    fn text(&self) -> String {
        String::from_utf8(std::fs::read(&self.shown).unwrap()).unwrap()
    }

    fn types(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    fn shows(&self, text: &str) {
        wait_until(LIMIT, text, || Ok(self.text().contains(text)))
            .unwrap_or_else(|error| panic!("{error:#}: {}", self.text()));
    }

    fn ends(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(LIMIT, "the end", || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", self.text()));
        status.unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

#[test]
fn psql_in_exec_has_the_terminal() {
    let house = House::start();
    let mut terminal = house.terminal("postern exec shop -- psql");
    // It prompts: it takes what it reads from for a terminal.
    terminal.shows("shop=>");
    terminal.types("SELECT count(*) AS orders_in_all FROM orders;\n");
    terminal.shows("orders_in_all");
    house.interrupts(&mut terminal);
    // At the prompt it clears the line, and ends nothing.
    terminal.types("SELECT 'half a line");
    terminal.shows("half a line");
    terminal.types(INTERRUPT);
    wait_until(LIMIT, "another prompt", || Ok(terminal.text().trim_end().ends_with("shop=>"))).unwrap();
    terminal.types("SELECT 'and ' || 'another';\n");
    terminal.shows("and another");
    terminal.types("\\q\n");
    assert_eq!(terminal.ends().code(), Some(0), "{}", terminal.text());
    let revocations = house.postern.cli(["revocations", "list"]).unwrap().ok().unwrap();
    assert!(revocations.contains("its command ended"), "{revocations}");
}

#[test]
fn psql_through_the_proxy_is_interrupted() {
    let house = House::start();
    let secret = house.home.path().join("password").display().to_string();
    let arguments = ["proxy", "shop", "--port", "0", "--password-file", &secret];
    let mut proxy = house.cli.spawn("proxy", &arguments, house.home.path()).unwrap();
    wait_until(LIMIT, "the proxy", || Ok(proxy.stdout().starts_with("host="))).unwrap();
    let connection = format!("{} dbname=shop", proxy.stdout().trim());
    let mut terminal = house.terminal(&format!("env PGPASSWORD=$(cat {secret}) psql '{connection}'"));
    terminal.shows("shop=>");
    // Another connection of the same proxy is nobody's to interrupt.
    let mut other = Terminal::open(
        &house.cli,
        &format!("env PGPASSWORD=$(cat {secret}) psql '{connection}'"),
        tempfile::tempdir_in(house.home.path()).unwrap().keep().as_path(),
    );
    other.shows("shop=>");
    other.types("SELECT pg_sleep(4), 'not ' || 'interrupted';\n");
    house.interrupts(&mut terminal);
    other.shows("not interrupted");
    for terminal in [&mut terminal, &mut other] {
        terminal.types("\\q\n");
        assert_eq!(terminal.ends().code(), Some(0), "{}", terminal.text());
    }
    assert_eq!(proxy.terminate(LIMIT).unwrap().code(), Some(0), "{}", proxy.stderr());
}

#[test]
fn a_job_is_interrupted_with_its_command() {
    let house = House::start();
    let mut terminal = house.terminal("postern job run -- sh -c 'echo it runs; exec sleep 600'");
    terminal.shows("it runs");
    terminal.types(INTERRUPT);
    assert_eq!(terminal.ends().code(), Some(130), "{}", terminal.text());
    let revocations = house.postern.cli(["revocations", "list"]).unwrap().ok().unwrap();
    assert!(revocations.contains("job sh is finished: its command ended with 130"), "{revocations}");
}

/// A recording is played by keys, and the terminal is given back as it was, whatever ends it.
#[test]
fn a_recording_is_played() {
    let house = House::start();
    let mut wire = Wire::connect(&house.postern.postgres_address().unwrap()).unwrap();
    wire.login("shop", "shop", &house.postern.token("ann", &["dba"]).unwrap()).unwrap();
    for sql in ["SELECT 'alpha'", "SELECT pg_sleep(2)", "SELECT 'omega'"] {
        wire.query(sql).unwrap();
    }
    wire.message('X', b"").unwrap();
    let id = house.postern.last_ended_session().unwrap();
    let replay = |further: &[&str]| {
        house.postern.cli([&["sessions", "replay", id.as_str()], further].concat()).unwrap().ok().unwrap()
    };
    let text = replay(&[]);
    // Without a terminal there are no keys; what is shown is the same.
    assert_eq!(replay(&["--speed", "1000"]), text);
    assert_eq!(replay(&["--speed", "0.01", "--from", "1h"]), text);
    // As an asciicast: a header, and text with times, in their order.
    let cast = replay(&["--asciicast", "--idle", "1s"]);
    let mut lines = cast.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let header = lines.next().unwrap();
    assert_eq!((&header["version"], &header["idle_time_limit"]), (&2.into(), &1.0.into()));
    assert!(header["title"].as_str().unwrap().contains(&id));
    let events: Vec<_> = lines.collect();
    assert!(events.iter().all(|event| event[1] == "o"));
    assert!(events.is_sorted_by_key(|event| event[0].as_f64().unwrap()));
    assert!(events.last().unwrap()[0].as_f64().unwrap() > 2.0);
    let played: String = events.iter().map(|event| event[2].as_str().unwrap()).collect();
    assert!(played.contains("'alpha'") && played.contains("'omega'") && !played.replace("\r\n", "").contains('\n'));

    let play = |further: &str| {
        house.terminal(&format!("sh -c 'postern sessions replay {id} {further}; echo ended with $?; stty -a'"))
    };
    // At this pace two seconds take more than three minutes.
    let mut terminal = play("--speed 0.01");
    terminal.shows("space: pause");
    terminal.shows("'alpha'");
    terminal.types(" ++-");
    // Some time passes.
    assert_eq!(replay(&[]), text);
    assert!(!terminal.text().contains("'omega'"), "{}", terminal.text());
    terminal.types("\u{1b}[C");
    terminal.shows("'omega'");
    terminal.shows("ended with 0");
    terminal.shows(" icanon");
    terminal.shows(" echo ");
    drop(terminal);
    let mut terminal = play("--speed 0.01 --search OMEGA");
    terminal.shows("'omega'");
    terminal.types(INTERRUPT);
    terminal.shows("ended with 0");
    terminal.shows(" icanon");
    drop(terminal);
    let mut terminal = play("--speed 0.01 --search nowhere");
    terminal.shows("nothing in the recording has that text");
    terminal.shows("ended with 1");
    assert!(terminal.ends().success());
}
