//! Recordings of sessions whose members of the control plane die.

use std::time::Duration;

use postern_chaos::live::cluster::{Gateway, LiveCluster};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};

use super::cluster;
use crate::assert_has;
use crate::recording_log::Judges;

/// A gateway's link to a member that is gone has to fail first.
const SOON: Duration = Duration::from_secs(60);

struct Scene {
    _postgres: Postgres,
    cluster: LiveCluster,
    gateway: Gateway,
    session: Option<Wire>,
    id: String,
}

impl Scene {
    fn new(gateway: &str) -> Self {
        let postgres = Postgres::start(PostgresOptions::default()).unwrap();
        let cluster = cluster();
        let gateway = Gateway::start_with(&cluster, &postgres, gateway).unwrap();
        let mut session = Wire::connect(&gateway.address()).unwrap();
        session.login("shop-direct", "shop", &gateway.token("dora", &["dba"]).unwrap()).unwrap();
        let mut id = None;
        // By its principal: what the gateway's own start recorded may come later than this.
        wait_until(SOON, "the session's recording", || {
            let sessions = cluster.cli().sessions()?;
            let own = sessions.iter().find(|session| session["principal"] == "test/dora");
            id = own.and_then(|session| session["id"].as_str()).map(str::to_owned);
            Ok(id.is_some())
        })
        .unwrap();
        Self { _postgres: postgres, cluster, gateway, session: Some(session), id: id.unwrap() }
    }

    fn query(&mut self, sql: &str) {
        let answer = self.session.as_mut().unwrap().query(sql).unwrap();
        assert_eq!(answer.first().map(|message| message.kind), Some('T'), "{answer:?}");
    }

    /// How many bytes of the recording each member has.
    fn sizes(&mut self) -> Vec<u64> {
        let of = |number| {
            let all = self.cluster.member(number).unwrap().recordings();
            all.iter().find(|(id, _)| *id == self.id).map_or(0, |(_, size)| *size)
        };
        (0..3).map(of).collect()
    }

    /// The member that gets what the session does, once it has `sql`'s: what it lacked of the beginning came before.
    fn taker(&mut self, sql: &str) -> usize {
        let before = self.sizes();
        self.query(sql);
        let (mut taker, mut last) = (None, before.clone());
        let found = wait_until(SOON, "the upload", || {
            let now = self.sizes();
            let still = now == last;
            taker = (0..3).find(|number| now[*number] > before[*number]);
            last = now;
            Ok(taker.is_some() && still)
        });
        found.unwrap_or_else(|error| panic!("{error:#} {before:?}\n{}\n{}", self.gateway.log(), self.cluster.logs()));
        taker.unwrap()
    }

    fn kill(&mut self, number: usize) {
        self.cluster.member(number).unwrap().kill9().unwrap();
    }

    fn start(&mut self, number: usize) {
        self.cluster.member(number).unwrap().start().unwrap();
        self.cluster.wait_healthy().unwrap();
    }

    /// Waits until the index says that the session is over, and that its recording is whole at every member that runs.
    fn whole(&mut self, statements: &[&str]) {
        let id = self.id.clone();
        let mut last = String::new();
        let sealed = wait_until(SOON, "the recording to be verified", || {
            let run = self.cluster.cli().cli(["sessions", "verify", &id])?;
            last = format!("{run:?}");
            Ok(run.status.success())
        });
        sealed.unwrap_or_else(|error| {
            panic!("{error:#} {last}\n{:?}\n{}\n{}", self.sizes(), self.gateway.log(), self.cluster.logs())
        });
        for number in 0..3 {
            if self.cluster.member(number).unwrap().is_started() {
                let cli = self.cluster.cli_of(number).unwrap();
                assert_has(&cli.cli(["sessions", "verify", &id]).unwrap().ok().unwrap(), &["verified", &id]);
                assert_has(&cli.cli(["sessions", "replay", &id]).unwrap().ok().unwrap(), statements);
                let shown = cli.cli(["sessions", "show", &id]).unwrap().ok().unwrap();
                assert_has(&shown, &["ended"]);
            }
        }
    }
}

fn ids(cluster: &mut LiveCluster) -> Vec<String> {
    let of = |number| {
        let member = cluster.member(number).unwrap();
        member.recordings().into_iter().chain(member.stored()).map(|(id, _)| id).collect::<Vec<_>>()
    };
    (0..3).flat_map(of).collect()
}

/// Twice, the member that gets the recording and the leader die under the session; the last of them is not back when it ends.
#[test]
fn outlive_the_members_that_took_them() {
    let mut scene = Scene::new("");
    let statements = ["SELECT 100", "SELECT 101", "SELECT 200", "SELECT 201", "SELECT 300", "SELECT 301"];
    for two in statements[..4].chunks(2) {
        let taker = scene.taker(two[0]);
        scene.kill(taker);
        let next = scene.taker(two[1]);
        assert_ne!(next, taker);
        let leader = scene.cluster.leader().unwrap();
        scene.start(taker);
        scene.kill(leader);
        scene.query("SELECT 1");
        scene.start(leader);
    }
    let taker = scene.taker(statements[4]);
    scene.kill(taker);
    scene.query(statements[5]);
    scene.session = None;
    scene.whole(&statements);
    // Whoever has all of it: without them the others say who it is that does not answer.
    scene.start(taker);
    scene.whole(&statements);
    let mut holders = Vec::new();
    wait_until(SOON, "the recording to be in a store", || {
        let has = |number: &usize| {
            let stored = scene.cluster.member(*number).map(|member| member.stored());
            stored.is_ok_and(|all| all.iter().any(|(id, _)| *id == scene.id))
        };
        holders = (0..3).filter(has).collect();
        Ok(!holders.is_empty())
    })
    .unwrap();
    if let [holder] = holders[..] {
        let name = scene.cluster.member(holder).unwrap().name().to_owned();
        scene.kill(holder);
        let id = scene.id.clone();
        wait_until(SOON, "another leader", || Ok(scene.cluster.cli().cli(["sessions", "show", &id])?.status.success()))
            .unwrap();
        let said = scene.cluster.cli().cli(["sessions", "verify", &id]).unwrap().fails().unwrap();
        assert_has(&said, &["no member that answers has the whole recording", &name]);
    }
}

/// What the gateway has no more, as its spool is small, a new member gets from the one that has it, as soon as that is back.
#[test]
fn outlive_them_when_the_spool_is_small() {
    let mut scene = Scene::new("spool_max = \"4MiB\"");
    let taker = scene.taker("SELECT 100");
    // Some 3 MB: more than what the gateway keeps of what is acknowledged.
    for _ in 0..30 {
        scene.taker("SELECT repeat('x', 100000)");
    }
    scene.kill(taker);
    scene.query("SELECT 200");
    scene.session = None;
    let gateway = &scene.gateway;
    wait_until(SOON, "the recording to wait", || Ok(gateway.log().contains("waits for the member"))).unwrap();
    // Another session does not wait.
    let before = ids(&mut scene.cluster);
    gateway.connection("dora", &["dba"]).unwrap().run("SELECT 1").unwrap().ok().unwrap();
    let cluster = &mut scene.cluster;
    let mut other = String::new();
    wait_until(SOON, "the recording of another session", || {
        other = ids(cluster).into_iter().find(|id| !before.contains(id)).unwrap_or_default();
        Ok(!other.is_empty() && cluster.cli().cli(["sessions", "verify", &other])?.status.success())
    })
    .unwrap();
    scene.start(taker);
    scene.whole(&["SELECT 100", "SELECT 200"]);
}

/// With class `quorum` an operation waits until another member has what the dead one had, and its own record.
#[test]
fn of_class_quorum_are_at_another_member_before_the_next_operation_runs() {
    let mut scene = Scene::new("durability = \"quorum\"\nquorum_limit = \"60s\"");
    let statements = ["SELECT 100", "SELECT 200", "SELECT 300"];
    for statement in statements {
        let before = scene.sizes();
        scene.query(statement);
        // Answered: it is there, without waiting for it.
        let now = scene.sizes();
        let taker = (0..3).find(|number| now[*number] > before[*number]).expect("a member that has it");
        scene.kill(taker);
        scene.query("SELECT 1");
        scene.start(taker);
    }
    scene.session = None;
    scene.whole(&statements);
}

/// Whoever follows a session sees each statement once and soon, whichever members die, also the one that they ask.
#[test]
fn are_followed_while_members_die() {
    let mut scene = Scene::new("");
    let folder = tempfile::tempdir().unwrap();
    let cli = scene.cluster.cli_of_all(&[0, 1, 2]).unwrap();
    let id = scene.id.clone();
    let mut follower = cli.spawn("follow", &["sessions", "replay", "--follow", &id], folder.path()).unwrap();
    let mut statements = Vec::new();
    for round in 0..3 {
        let statement = format!("SELECT {}", 1000 + round);
        let taker = scene.taker(&statement);
        statements.push(statement.clone());
        let shown = wait_until(SOON, "the statement to be shown", || Ok(follower.stdout().contains(&statement)));
        shown.unwrap_or_else(|error| {
            panic!("{error:#} {}\n{}\n{}", follower.stdout(), follower.stderr(), scene.cluster.logs())
        });
        // The member that takes them, the one that is asked first, the leader.
        let dies = [taker, 0, scene.cluster.leader().unwrap()][round];
        scene.kill(dies);
        let statement = format!("SELECT {}", 2000 + round);
        scene.query(&statement);
        statements.push(statement.clone());
        let shown = wait_until(SOON, "the statement to be shown", || Ok(follower.stdout().contains(&statement)));
        shown.unwrap_or_else(|error| {
            panic!("{error:#} {}\n{}\n{}", follower.stdout(), follower.stderr(), scene.cluster.logs())
        });
        scene.start(dies);
    }
    assert!(follower.is_running());
    scene.session = None;
    let status = follower.wait(SOON).unwrap();
    assert!(status.success(), "{}", follower.stderr());
    assert_has(&follower.stderr(), &["its recording is sealed"]);
    let shown = follower.stdout();
    for statement in statements {
        assert_eq!(shown.matches(&statement).count(), 1, "{statement}: {shown}");
    }
    // Of one that is over it shows all, and ends.
    let again = cli.cli(["sessions", "replay", "--follow", &id]).unwrap().ok().unwrap();
    assert_eq!(again, shown);
}

/// The gateway dies, and with it the one member that has what its session did. That member's copy counts as soon as it is back.
#[test]
fn of_a_gateway_that_is_gone_are_closed_with_what_any_member_has() {
    let mut scene = Scene::new("");
    let statements = ["SELECT 100", "SELECT 200"];
    let taker = scene.taker(statements[0]);
    assert_eq!(scene.taker(statements[1]), taker);
    scene.gateway.kill9().unwrap();
    scene.kill(taker);
    let events = |scene: &Scene| {
        let shown = scene.cluster.cli().cli(["sessions", "show", &scene.id, "-o", "json"])?.ok()?;
        let session: serde_json::Value = serde_json::from_str(&shown)?;
        let orphaned = session["orphaned"] == true && session["state"] == "interrupted";
        anyhow::Ok(orphaned.then(|| session["events"].as_u64().unwrap_or(0)))
    };
    // Whoever leads now does not know what the dead member has.
    wait_until(SOON, "the session to be closed with nothing", || Ok(events(&scene)? == Some(0))).unwrap();
    scene.start(taker);
    wait_until(SOON, "the session to be closed with what there is", || {
        Ok(events(&scene)?.is_some_and(|events| events > 0))
    })
    .unwrap();
    for number in 0..3 {
        let replay =
            scene.cluster.cli_of(number).unwrap().cli(["sessions", "replay", &scene.id]).unwrap().ok().unwrap();
        assert_has(&replay, &statements);
    }
    let dir = tempfile::tempdir().unwrap();
    let judges = Judges::of(&scene.cluster.cli(), dir.path());
    let exported = |scene: &Scene, name: &str, count: usize| {
        let to = dir.path().join(name);
        wait_until(SOON, "the log's leaves", || {
            drop(std::fs::remove_dir_all(&to));
            scene.cluster.cli().cli(["log", "export", &to.display().to_string()])?.ok()?;
            let leaves = std::fs::read(to.join("leaves"))?;
            Ok(leaves.chunks(66).filter(|leaf| leaf.get(1) == Some(&2)).count() == count)
        })
        .unwrap();
        judges.pass(&[&to], None);
    };
    exported(&scene, "orphan", 2);
    scene.gateway.start_again().unwrap();
    wait_until(SOON, "the gateway's own word", || {
        Ok(scene.cluster.cli().cli(["sessions", "verify", &scene.id])?.stdout.contains("sealed, interrupted"))
    })
    .unwrap();
    exported(&scene, "sealed", 2);
}
