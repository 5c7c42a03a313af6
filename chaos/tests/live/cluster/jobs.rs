//! Jobs while leaders change and the control plane is away: who could not be heard of is not dead.

use std::time::{Duration, Instant};

use postern_chaos::live::cluster::Caller;
use postern_chaos::live::{Issuer, wait_until};

use super::administration::trusted;
use super::{SOON, cluster};
use crate::assert_has;

/// A heartbeat and a half, a look, and more.
const DEAD: Duration = Duration::from_secs(11);

#[test]
fn a_job_outlives_its_leader_and_an_outage_of_all_and_not_its_runner() {
    let mut cluster = cluster();
    let (caller, issuer) = (Caller::new(&cluster).unwrap(), Issuer::start().unwrap());
    trusted(&cluster, &caller, &issuer);
    let file = cluster.folder().join("robot.token");
    std::fs::write(&file, issuer.token("robot", &[]).unwrap()).unwrap();
    let home = cluster.folder().join("home").display().to_string();
    let cli = cluster.cli_of_all(&[0, 1, 2]).unwrap().with("POSTERN_HOME", &home);
    let robot = cli.with("POSTERN_TOKEN_FILE", &file.display().to_string());
    let deadline = || {
        let listed = cli.json(["job", "list", "-o", "json"])?;
        Ok::<_, anyhow::Error>(listed[0]["deadline"].as_str().map(str::to_owned))
    };
    let heard_again = |after: &Option<String>| {
        wait_until(SOON * 2, "the job to be heard of again", || {
            let now = deadline().unwrap_or_default();
            Ok(now.is_some() && now > *after)
        })
        .unwrap();
    };
    let arguments = ["job", "run", "--name", "long", "--heartbeat", "6s", "--", "sleep", "600"];
    let mut runner = robot.spawn("runner", &arguments, cluster.folder()).unwrap();
    wait_until(SOON, "the job", || Ok(deadline()?.is_some()))
        .unwrap_or_else(|error| panic!("{error:#}: {}", runner.stderr()));

    let (leader, before) = (cluster.leader().unwrap(), deadline().unwrap());
    cluster.member(leader).unwrap().kill9().unwrap();
    heard_again(&before);
    cluster.member(leader).unwrap().start().unwrap();
    cluster.wait_healthy().unwrap();

    // All of them, for longer than the job has.
    let before = deadline().unwrap();
    for number in 0..3 {
        cluster.member(number).unwrap().kill9().unwrap();
    }
    let away = Instant::now();
    wait_until(SOON, "longer than the job has", || Ok(away.elapsed() > DEAD)).unwrap();
    for number in 0..3 {
        cluster.member(number).unwrap().start().unwrap();
    }
    heard_again(&before);
    assert!(runner.is_running());
    assert_has(&runner.stderr(), &["does not hear of the job", "hears of the job again"]);

    // And now it is really gone.
    let command = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", runner.id())).unwrap();
    runner.signal(rustix::process::Signal::KILL).unwrap();
    runner.wait(SOON).unwrap();
    wait_until(SOON * 2, "the end of the job", || Ok(deadline()?.is_none())).unwrap();
    let pid = rustix::process::Pid::from_raw(command.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
