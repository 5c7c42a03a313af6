//! Jobs: their tokens end with them, however they end, and so does what was made of these and is open.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Cli, Postern, Postgres, Process, run, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{assert_has, assert_lacks, home_of, shop};

const GUIDE: &str = include_str!("../../../docs/guides/jobs.md");
const LIMIT: Duration = Duration::from_secs(60);
const COUNT: &str = "SELECT count(*) FROM orders";

struct House {
    _postgres: Postgres,
    postern: Postern,
    home: TempDir,
    cli: Cli,
}

/// A job that runs, with the environment of its command.
struct Running {
    process: Process,
    command: u32,
    id: String,
    token: String,
}

impl House {
    fn start() -> Self {
        let (postgres, postern) = shop();
        let (home, cli) = home_of(&postern, "robot", &["analysts"]);
        Self { _postgres: postgres, postern, home, cli }
    }

    /// A job that does nothing for long.
    fn running(&self, name: &str, heartbeat: &str) -> Running {
        let arguments = ["job", "run", "shop", "--name", name, "--heartbeat", heartbeat, "--", "sleep", "600"];
        let process = self.cli.spawn(name, &arguments, self.home.path()).unwrap();
        let mut found = None;
        wait_until(LIMIT, "the command", || {
            let environment = child(process.id()).and_then(|id| Some((id, environment(id)?)));
            let of = |all: &str, name: &str| {
                all.split('\0').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(str::to_owned)
            };
            found = environment.and_then(|(id, all)| {
                // Before its own program runs, a child shows what its parent has.
                let found = (id, of(&all, "POSTERN_JOB")?, of(&all, "POSTERN_TOKEN")?);
                assert_eq!(of(&all, "POSTERN_TOKEN_FILE"), None);
                Some(found)
            });
            Ok(found.is_some())
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", process.stderr()));
        let (command, id, token) = found.unwrap();
        Running { process, command, id, token }
    }

    fn open(&self, token: &str) -> Wire {
        let mut wire = Wire::connect(&self.postern.postgres_address().unwrap()).unwrap();
        wire.login("shop", "shop", token).unwrap();
        assert!(wire.query(COUNT).unwrap().iter().any(|message| message.kind == 'D'));
        wire
    }

    /// The open session is told that its token was revoked; when.
    fn has_ended(&self, mut wire: Wire) -> Instant {
        let said = wire.read().unwrap();
        assert_eq!((said.kind, said.field('C').as_deref()), ('E', Some("28P01")), "{said:?}");
        assert_has(&said.field('M').unwrap_or_default(), &["its token was revoked"]);
        Instant::now()
    }

    fn is_good(&self, token: &str) -> bool {
        self.postern.connection("shop", token).unwrap().run("SELECT 1").unwrap().status.success()
    }

    fn jobs(&self) -> Vec<String> {
        let listed = self.cli.json(["job", "list", "-o", "json"]).unwrap();
        listed.as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Runs a script with `postern` at hand, by `token`.
    fn sh(&self, script: &str, token: &str) -> String {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", script]).current_dir(self.home.path());
        self.postern.surround(&mut shell).unwrap();
        shell.env("POSTERN_HOME", self.home.path().join("postern")).env("POSTERN_TOKEN", token);
        run(shell, "", LIMIT).unwrap().ok().unwrap()
    }
}

fn environment(id: u32) -> Option<String> {
    String::from_utf8(std::fs::read(format!("/proc/{id}/environ")).ok()?).ok()
}

/// The first child of a process.
fn child(id: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// The guide's block that contains `mark`.
fn block(mark: &str) -> &'static str {
    let blocks = GUIDE.split("\n```").skip(1).step_by(2);
    let found = blocks.filter_map(|block| block.split_once('\n')).find(|(_, text)| text.contains(mark));
    found.map(|(_, text)| text).unwrap_or_else(|| panic!("the guide has no block with {mark}"))
}

#[test]
fn a_command_is_a_job_and_takes_its_token_along() {
    let house = House::start();
    let job = |more: &[&str], command: &[&str]| {
        let all = [&["job", "run"], more, &["--"], command].concat();
        house.cli.cli(all).unwrap()
    };
    // With a target, stock clients are led there.
    let count = job(&["shop", "--as", "nightly"], &["psql", "-XAtc", COUNT]).ok().unwrap();
    assert!(count.trim().parse::<u32>().unwrap() > 0, "{count}");
    let session = house.postern.last_ended_session().unwrap();
    assert_has(&house.postern.cli(["sessions", "show", &session]).unwrap().ok().unwrap(), &["dev/robot by nightly"]);
    let ended = job(&[], &["sh", "-c", "test -z \"${PGPASSWORD:-}${PGUSER:-}${POSTERN_TOKEN_FILE:-}\" && exit 7"]);
    assert_eq!(ended.status.code(), Some(7), "{ended:?}");
    assert_eq!(job(&[], &["/no/such/command"]).status.code(), Some(127));
    for bad in [&["--heartbeat", "4s"][..], &["--heartbeat", "2h"], &["--name", ""]] {
        let refused = job(bad, &["true"]).fails().unwrap();
        assert_has(&refused, &["job."]);
    }
    assert!(house.jobs().is_empty());

    // Told to end, it has its command end, and then its token.
    let mut running = house.running("told", "1h");
    assert_eq!(house.jobs(), ["told"]);
    let (open, token) = (house.open(&running.token), running.token.clone());
    running.process.signal(Signal::TERM).unwrap();
    assert_eq!(running.process.wait(LIMIT).unwrap().code(), Some(143), "{}", running.process.stderr());
    house.has_ended(open);
    assert!(house.jobs().is_empty() && !house.is_good(&token));
    let audit = house.postern.cli(["audit", "list", "--method", "EndJob"]).unwrap().ok().unwrap();
    assert_has(&audit, &["dev/robot", "Job/tok_"]);
    let revocations = house.postern.cli(["revocations", "list"]).unwrap().ok().unwrap();
    assert_has(&revocations, &["job told is finished: its command ended with 143"]);
    assert_lacks(&(running.process.stderr() + &house.postern.log()), &[&token[..60]]);
}

#[test]
fn a_runner_that_is_killed_and_a_job_that_is_ended_take_all_along_that_is_open() {
    let house = House::start();
    // Killed without a word: its command lives on, and its sessions do not.
    let mut killed = house.running("killed", "5s");
    let mut other = house.running("other", "20s");
    // Made of the job's token: by the control plane, and from that with no call.
    let file = |name: &str| house.home.path().join(name).display().to_string();
    let made = house.sh(&format!("postern token --as planner --delegate {}", file("planner.key")), &other.token);
    let child = house.sh(&format!("postern token child --key {} --as tool", file("planner.key")), made.trim());
    let (mine, mut grandchild) = (house.open(&killed.token), house.open(child.trim()));
    killed.process.signal(Signal::KILL).unwrap();
    killed.process.wait(LIMIT).unwrap();
    let at = Instant::now();
    let took = house.has_ended(mine).duration_since(at);
    // Not sooner than it might have been heard of again; a heartbeat and a half, a look, and a busy machine later.
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(30), "{took:?}");
    assert!(Path::new(&format!("/proc/{}", killed.command)).exists());
    let pid = rustix::process::Pid::from_raw(i32::try_from(killed.command).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    let revocations = house.postern.cli(["revocations", "list"]).unwrap().ok().unwrap();
    assert_has(&revocations, &["job killed was not heard of in time"]);

    // One that is heard of goes on, whatever became of its neighbour; until somebody says that it is finished, as may not whoever was handed a part.
    assert_eq!(house.jobs(), ["other"]);
    assert!(grandchild.query(COUNT).unwrap().iter().any(|message| message.kind == 'D'));
    let refused = house.postern.cli_as(child.trim(), ["job", "end", &other.id]).unwrap().fails().unwrap();
    assert_has(&refused, &["not permitted"]);
    let beaten = house.postern.cli_as(child.trim(), ["job", "beat"]).unwrap().ok().unwrap();
    assert_has(&beaten, &[&other.id, "to be heard of by"]);
    house.cli.cli(["job", "end", &other.id, "--because", "enough"]).unwrap().ok().unwrap();
    let at = Instant::now();
    let took = house.has_ended(grandchild).duration_since(at);
    assert!(took < Duration::from_secs(10), "{took:?}");
    wait_until(LIMIT, "the runner to say so", || Ok(other.process.stderr().contains("the job has ended"))).unwrap();
    assert_eq!(other.process.terminate(LIMIT).unwrap().code(), Some(143));
    assert!(!house.is_good(child.trim()) && house.jobs().is_empty());
}

#[test]
fn the_guides_commands_do_as_it_says() {
    let house = House::start();
    let token = house.postern.token("robot", &["analysts"]).unwrap();
    house.sh(block("postern job run shop"), &token);
    house.sh(block("postern token --as tool"), &token);
    assert!(house.jobs().is_empty());
    // By hand.
    house.sh(block("postern token --job nightly"), &token);
    let mine = std::fs::read_to_string(house.home.path().join("job.token")).unwrap();
    assert!(house.is_good(mine.trim()));
    assert_has(&house.sh(block("postern job beat"), &token), &["nightly", "to be heard of by"]);
    house.sh(block("postern job end"), &token);
    assert!(!house.is_good(mine.trim()) && house.jobs().is_empty());
}
