//! Sealed recordings in an object store that all members share, and that does not always do what it should.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_chaos::live::cluster::{ClusterOptions, Gateway, LiveCluster};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Fault, Finished, ObjectStore, Postgres, PostgresOptions, wait_until};

use crate::{assert_has, assert_lacks};

/// A gateway's link to a member that is gone has to fail first, and a request that hangs.
const SOON: Duration = Duration::from_secs(90);

struct Scene {
    postgres: Postgres,
    store: ObjectStore,
    cluster: LiveCluster,
    gateway: Gateway,
}

impl Scene {
    fn new(members: usize, bucket: &str) -> Self {
        let (postgres, store) = (Postgres::start(PostgresOptions::default()).unwrap(), ObjectStore::start().unwrap());
        let control = store.config(bucket).unwrap();
        let cluster = LiveCluster::start(ClusterOptions { members, control, ..Default::default() }).unwrap();
        let gateway = Gateway::start(&cluster, &postgres).unwrap();
        let this = Self { postgres, store, cluster, gateway };
        // What the start itself recorded.
        this.wait("the first recordings in the store", || Ok(!this.store.objects(bucket)?.is_empty()));
        this
    }

    #[track_caller]
    fn wait(&self, what: &str, done: impl FnMut() -> anyhow::Result<bool>) {
        let waited = wait_until(SOON, what, done);
        waited.unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", self.gateway.log(), self.cluster.logs()));
    }

    /// A session of `subject` with these statements; its id, once the index knows that it is over.
    fn session(&self, subject: &str, statements: &[String]) -> String {
        let mut wire = Wire::connect(&self.gateway.address()).unwrap();
        wire.login("shop-direct", "shop", &self.gateway.token(subject, &["dba"]).unwrap()).unwrap();
        for statement in statements {
            let answer = wire.query(statement).unwrap();
            assert_eq!(answer.first().map(|message| message.kind), Some('T'), "{answer:?}");
        }
        drop(wire);
        let (mut id, principal) = (String::new(), format!("test/{subject}"));
        self.wait("the session's end", || {
            let sessions = self.cluster.cli().sessions()?;
            let own = sessions.iter().find(|session| session["principal"] == principal.as_str());
            id = own.and_then(|session| session["id"].as_str()).unwrap_or_default().to_owned();
            Ok(own.is_some_and(|session| session["state"] != "open"))
        });
        id
    }

    fn verify(&self, number: usize, id: &str) -> Finished {
        self.cluster.cli_of(number).unwrap().cli(["sessions", "verify", id]).unwrap()
    }

    fn on_disks(&mut self, id: &str) -> usize {
        let members = 0..self.cluster.len();
        let all = members.flat_map(|number| self.cluster.member(number).unwrap().recordings());
        all.filter(|(held, _)| held == id).count()
    }

    #[track_caller]
    fn put_away(&mut self, id: &str) {
        let gone = wait_until(SOON, "the recording to leave the disks", || Ok(self.on_disks(id) == 0));
        gone.unwrap_or_else(|error| panic!("{error:#}\n{}", self.cluster.logs()));
    }

    fn counter(&mut self, number: usize, name: &str) -> f64 {
        let metrics = self.cluster.member(number).unwrap().metrics().unwrap();
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Statements of so many megabytes in all that nothing makes smaller than three quarters.
fn large(megabytes: usize) -> Vec<String> {
    let random = |_| {
        let mut bytes = vec![0; 750_000];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        format!("SELECT length('{}')", STANDARD.encode(bytes))
    };
    (0..megabytes).map(random).collect()
}

#[test]
fn every_member_reads_what_one_put_there() {
    let bucket = "recordings-locked";
    let mut scene = Scene::new(3, bucket);
    let ids = [scene.session("ann", &["SELECT 4711".to_owned()]), scene.session("bob", &large(26))];
    for id in &ids {
        scene.put_away(id);
    }
    let objects = scene.store.objects(bucket).unwrap();
    for id in &ids {
        let (name, size) = objects.iter().find(|(name, _)| name.contains(id.as_str())).unwrap();
        assert!(name.starts_with("postern/test/") && name.ends_with(".rec"), "{name}");
        assert_eq!(*size > 16 << 20, *id == ids[1], "{name}: {size}");
    }
    // (Of uploads in parts this store does not lock what they come to.)
    let (small, _) = objects.iter().find(|(name, _)| name.contains(&ids[0])).unwrap();
    assert_eq!(scene.store.lock(bucket, small).unwrap(), "COMPLIANCE");
    let requests = scene.store.requests().unwrap();
    assert_has(&requests, &["?uploads", "partNumber=2", "uploadId="]);
    let keys = scene.store.objects("keys").unwrap();
    assert!(keys.iter().all(|(name, size)| name.ends_with(".key") && *size < 100), "{keys:?}");
    assert_eq!(keys.len(), objects.len());

    // Of any member, also when those that took the recording are gone, with their disks.
    for number in 0..3 {
        for id in &ids {
            assert_has(&scene.verify(number, id).ok().unwrap(), &["verified", id]);
        }
        let replay = scene.cluster.cli_of(number).unwrap().cli(["sessions", "replay", &ids[0]]).unwrap();
        assert_has(&replay.ok().unwrap(), &["SELECT 4711"]);
    }
    for number in 0..2 {
        scene.cluster.member(number).unwrap().kill9().unwrap();
        let other = (number + 1) % 3;
        wait_until(SOON, "the others to answer", || Ok(scene.verify(other, &ids[1]).status.success())).unwrap();
        scene.cluster.member(number).unwrap().start().unwrap();
        scene.cluster.wait_healthy().unwrap();
    }

    // Without its key nobody reads it any more; that it was there stays proved.
    scene.wait("a head that covers it", || {
        let proved = scene.cluster.cli().cli(["log", "prove", &ids[0]])?;
        Ok(proved.status.success())
    });
    let key = keys.iter().map(|(name, _)| name).find(|name| name.contains(&ids[0])).unwrap();
    scene.store.delete("keys", key).unwrap();
    assert_has(&scene.verify(1, &ids[0]).fails().unwrap(), &["erased, or its key is lost"]);
    scene.cluster.cli().cli(["log", "prove", &ids[0]]).unwrap().ok().unwrap();
}

#[test]
fn a_store_that_is_away_or_full_or_forgets_holds_up_nobody() {
    let mut scene = Scene::new(1, "recordings");
    for (fault, counted) in [
        (Fault::Away, "postern_control_archive_failed "),
        (Fault::Full, "postern_control_archive_failed "),
        (Fault::Forget, "postern_control_archive_lies_total "),
        (Fault::Hang, ""),
    ] {
        let subject = format!("{fault:?}").to_lowercase();
        scene.store.does(fault).unwrap();
        let before = if counted.is_empty() { 0.0 } else { scene.counter(0, counted) };
        // Its recording is taken, and it is over for the index; only that it stays on the disk.
        let id = scene.session(&subject, &["SELECT 1".to_owned()]);
        if !counted.is_empty() {
            let counted = wait_until(SOON, "the failure to be counted", || Ok(scene.counter(0, counted) > before));
            counted.unwrap_or_else(|error| panic!("{error:#} {fault:?}\n{}", scene.cluster.logs()));
        }
        assert_eq!(scene.on_disks(&id), 1, "{fault:?}");
        assert_has(&scene.verify(0, &id).ok().unwrap(), &["verified"]);
        // Nor is it forgotten with the process.
        scene.cluster.member(0).unwrap().kill9().unwrap();
        scene.cluster.member(0).unwrap().start().unwrap();
        scene.cluster.wait_healthy().unwrap();
        scene.store.does(Fault::Well).unwrap();
        scene.put_away(&id);
        assert_has(&scene.verify(0, &id).ok().unwrap(), &["verified"]);
    }
    let logs = scene.cluster.logs();
    assert_has(&logs, &["stay on this member's disk", "SlowDown", "XMinioStorageFull"]);
    assert_lacks(&logs, &["SecretAccessKey"]);
    drop(scene.postgres);
}

#[test]
fn what_a_store_makes_up_is_told_and_never_shown() {
    let mut scene = Scene::new(1, "recordings");
    let ids = ["ann", "bob"].map(|subject| scene.session(subject, &["SELECT 4711".to_owned()]));
    for id in &ids {
        scene.put_away(id);
    }
    for fault in [Fault::Other, Fault::Flip, Fault::Short] {
        // What it gives instead is what it gave before.
        scene.verify(0, &ids[0]).ok().unwrap();
        scene.store.does(fault).unwrap();
        let said = scene.verify(0, &ids[1]).fails().unwrap();
        assert_lacks(&said, &["verified"]);
        assert_has(&said, &["gave back something else than was put there"]);
        scene.store.does(Fault::Well).unwrap();
    }
    assert!(scene.counter(0, "postern_control_archive_lies_total ") >= 3.0);
    // A connection that breaks is no lie: what is missing is asked for.
    scene.store.does(Fault::Cut).unwrap();
    assert_has(&scene.verify(0, &ids[1]).ok().unwrap(), &["verified"]);
    scene.store.does(Fault::Well).unwrap();
    assert_has(&scene.verify(0, &ids[1]).ok().unwrap(), &["verified"]);

    // A recording that the index has and the store has no more.
    let objects = scene.store.objects("recordings").unwrap();
    let (name, _) = objects.iter().find(|(name, _)| name.contains(&ids[0])).unwrap();
    scene.store.delete("recordings", name).unwrap();
    assert_has(&scene.verify(0, &ids[0]).fails().unwrap(), &["recording", "not"]);
}
