//! Witnesses sign the heads of the log of recordings, and what they have signed can be told from what they have not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, Process, RoleOptions, ThreeProcesses, wait_until};

use crate::assert_has;
use crate::recording_log::told;

/// They are asked every five seconds, and one that did not sign fifteen seconds later.
const SOON: Duration = Duration::from_secs(45);

/// A program of its own, that keeps to C2SP's tlog-witness.
struct Witness {
    folder: tempfile::TempDir,
    key: String,
    url: String,
    _process: Process,
}

impl Witness {
    fn start(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let (folder, python) = (tempfile::tempdir().unwrap(), root.join(".tools/grpc/bin/python"));
        let script = root.join("chaos/fixtures/witness.py").display().to_string();
        let arguments = [script, folder.path().display().to_string(), name.to_owned()];
        let process = Process::start("witness", &python, &arguments, &[], None, folder.path()).unwrap();
        wait_until(SOON, "the witness", || Ok(process.stdout().contains('\n'))).unwrap();
        let (key, url) = process.stdout().trim().split_once(' ').map(|(key, url)| (key.into(), url.into())).unwrap();
        Self { folder, key, url, _process: process }
    }

    fn config(&self) -> String {
        format!("[[control.recordings.witnesses]]\nkey = \"{}\"\nurl = \"{}\"\n", self.key, self.url)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join(file), text).unwrap();
    }

    /// How many leaves the head has that it has signed last.
    fn seen(&self) -> u64 {
        let seen = std::fs::read_to_string(self.folder.path().join("seen")).unwrap_or_default();
        seen.split(' ').next().and_then(|size| size.parse().ok()).unwrap_or(0)
    }
}

struct Scene {
    _postgres: Postgres,
    three: ThreeProcesses,
    witnesses: [Witness; 2],
    dir: tempfile::TempDir,
    exports: u32,
}

impl Scene {
    fn new() -> Self {
        let postgres = Postgres::start(PostgresOptions::default()).unwrap();
        let witnesses = ["witness.example/one", "witness.example/two"].map(Witness::start);
        let control: String = witnesses.iter().map(Witness::config).collect();
        let three = ThreeProcesses::start(&postgres, RoleOptions { control, ..RoleOptions::default() }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), three.cli(["certs", "ca"]).unwrap().ok().unwrap()).unwrap();
        Self { _postgres: postgres, three, witnesses, dir, exports: 0 }
    }

    /// A session; how many leaves a signed head has then.
    fn session(&self) -> u64 {
        let before = self.size(&["log", "head"]);
        let mut wire = Wire::connect(&self.three.postgres_address()).unwrap();
        wire.login("shop-direct", "shop", &self.three.issuer().token("dora", &["dba"]).unwrap()).unwrap();
        wire.query("SELECT 1").unwrap();
        wire.message('X', b"").unwrap();
        let mut size = before;
        wait_until(SOON, "a head that covers it", || {
            size = self.size(&["log", "head"]);
            Ok(size > before)
        })
        .unwrap();
        size
    }

    /// Of the head that a command prints; 0: there is none.
    fn size(&self, command: &[&str]) -> u64 {
        let head = self.three.cli(command).unwrap().stdout;
        head.lines().nth(1).and_then(|size| size.parse().ok()).unwrap_or(0)
    }

    /// Until witnesses have signed a head of so many leaves.
    #[track_caller]
    fn witnessed(&self, size: u64) {
        let signed = wait_until(SOON, "a head that was signed by witnesses", || {
            Ok(self.size(&["log", "head", "--witnessed"]) >= size)
        });
        signed.unwrap_or_else(|error| panic!("{error:#}\n{}", self.three.log("control")));
    }

    /// `postern verify` of an export up to the newest head with witnesses, by these witnesses' keys.
    fn verify(&mut self, keys: &[&str]) -> postern_chaos::live::Finished {
        self.exports += 1;
        let to: PathBuf = self.dir.path().join(format!("export-{}", self.exports));
        self.three.cli(["log", "export", "--witnessed", &to.display().to_string()]).unwrap().ok().unwrap();
        let key = self.three.cli(["log", "key"]).unwrap().ok().unwrap();
        let mut args = vec!["verify".to_owned(), "--log-key".into(), key.trim().to_owned()];
        args.extend(keys.iter().flat_map(|key| ["--witness".to_owned(), (*key).to_owned()]));
        args.push(to.display().to_string());
        self.three.cli(args).unwrap()
    }

    fn log_key(&self) -> String {
        self.three.cli(["log", "key"]).unwrap().ok().unwrap().trim().to_owned()
    }

    #[track_caller]
    fn says(&self, what: &str) {
        wait_until(SOON, what, || Ok(self.three.log("control").contains(what)))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.three.log("control")));
    }
}

#[test]
fn heads_are_signed_by_witnesses_and_only_by_those_that_keep_to_it() {
    let mut scene = Scene::new();
    let mut size = scene.session();
    // They do not know the log yet.
    scene.says("it answered 404: unknown log");
    assert!(scene.three.cli(["log", "head", "--witnessed"]).unwrap().fails().unwrap().contains("no witness"));
    let log_key = scene.log_key();
    scene.witnesses.iter().for_each(|witness| witness.write("log-key", &log_key));
    scene.witnessed(size);
    let keys = scene.witnesses.each_ref().map(|witness| witness.key.clone());
    let both = [keys[0].as_str(), keys[1].as_str()];
    wait_until(SOON, "both", || Ok(scene.verify(&both).status.success())).unwrap();
    assert_has(&told(scene.verify(&[&log_key])), &["not a witness'"]);

    // One is away: the other signs on, and the log goes on. When it is back it has to be shown that the log went on from what it knew.
    scene.witnesses[1].write("mode", "away");
    for _ in 0..2 {
        size = scene.session();
    }
    scene.witnessed(size);
    scene.says("it answered 503: away");
    assert_has(&scene.verify(&both[..1]).ok().unwrap(), &["no fault was found"]);
    let said = told(scene.verify(&both));
    assert_has(&said, &["witness witness.example/two: the checkpoint is not signed by this key"]);
    scene.witnesses[1].write("mode", "well");
    let both_sign = wait_until(SOON, "both again", || Ok(scene.verify(&both).status.success()));
    both_sign.unwrap_or_else(|error| panic!("{error:#}\n{}", scene.three.log("control")));

    // A new leader knows nothing of what they have seen, and asks.
    scene.three.control().unwrap().kill9().unwrap();
    scene.three.start_control().unwrap();
    size = scene.session();
    scene.witnessed(size);
    wait_until(SOON, "both after a restart", || Ok(scene.verify(&both).status.success())).unwrap();

    // What is not its signature is not kept as one.
    scene.witnesses[1].write("mode", "lying");
    size = scene.session();
    scene.witnessed(size);
    scene.says("what it answered is not its signature");
    assert!(!scene.verify(&both).status.success());
    assert!(scene.verify(&both[..1]).status.success());

    // A log that was set back: who has seen more of it says so.
    scene.witnesses[0].write("seen", &format!("{} {}", size + 5, "A".repeat(43) + "="));
    scene.session();
    scene.says("a witness contradicts the log of recordings");
    scene.says(&format!("it has seen {} leaves", size + 5));
    assert_eq!(scene.witnesses[0].seen(), size + 5);
}
