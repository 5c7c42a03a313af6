//! I10: whoever kept a head of the log finds each recording that was changed, replaced or left out; and so does a verifier that shares no
//! code with ours.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Cli, Finished, Postern, run, wait_until};

use crate::{assert_has, shop};

const SECOND: &str = include_str!("../../fixtures/verify_recordings.py");
const LEAF: usize = 66;

/// One session after another, each with a statement; and a head that covers them.
fn sessions(postern: &Postern, count: usize, covered: usize) {
    for n in 0..count {
        let mut wire = Wire::connect(&postern.postgres_address().unwrap()).unwrap();
        wire.login("shop", "shop", &postern.token("dora", &["dba"]).unwrap()).unwrap();
        wire.query(&format!("SELECT {n} AS n")).unwrap();
        wire.message('X', b"").unwrap();
    }
    wait_for_head(postern, covered);
}

/// A head that covers so many leaves.
fn wait_for_head(postern: &Cli, covered: usize) {
    wait_until(Duration::from_secs(20), "a head of the log", || {
        let head = postern.cli(["log", "head"])?.ok()?;
        Ok(head.lines().nth(1).and_then(|size| size.parse::<usize>().ok()).is_some_and(|size| size >= covered))
    })
    .unwrap();
}

/// All that a verifier says that has found something.
pub(crate) fn told(verdict: Finished) -> String {
    assert!(!verdict.status.success(), "it found nothing:\n{}", verdict.stdout);
    verdict.stdout + &verdict.stderr
}

/// Both verifiers.
pub(crate) struct Judges {
    postern: Cli,
    key: String,
    ca: PathBuf,
}

impl Judges {
    /// What they judge by lies in `dir`.
    pub(crate) fn of(postern: &Cli, dir: &Path) -> Self {
        let ca = dir.join("ca.crt");
        std::fs::write(&ca, postern.cli(["certs", "ca"]).unwrap().ok().unwrap()).unwrap();
        let key = postern.cli(["log", "key"]).unwrap().ok().unwrap().trim().to_owned();
        Self { postern: postern.clone(), key, ca }
    }

    pub(crate) fn ours(&self, paths: &[&Path], since: Option<&Path>) -> Finished {
        let mut args = vec!["verify".to_owned(), "--log-key".into(), self.key.clone()];
        args.extend(since.iter().flat_map(|since| ["--since".to_owned(), since.display().to_string()]));
        args.extend(paths.iter().map(|path| path.display().to_string()));
        self.postern.cli(args).unwrap()
    }

    fn second(&self, paths: &[&Path], since: Option<&Path>) -> Finished {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut command = Command::new(root.join(".tools/grpc/bin/python"));
        command.arg("-").arg("--ca").arg(&self.ca).args(["--log-key", &self.key]);
        if let Some(since) = since {
            command.arg("--since").arg(since);
        }
        command.args(paths);
        run(command, SECOND, Duration::from_secs(120)).unwrap()
    }

    /// Both find nothing wrong.
    pub(crate) fn pass(&self, paths: &[&Path], since: Option<&Path>) {
        for verdict in [self.ours(paths, since), self.second(paths, since)] {
            assert_has(&verdict.ok().unwrap(), &["no fault was found"]);
        }
    }

    /// Both find something wrong, ours this.
    pub(crate) fn fail(&self, what: &str, path: &Path, says: &str) {
        let ours = told(self.ours(&[path], None));
        assert!(ours.contains(says), "{what}: {ours}");
        let second = told(self.second(&[path], None));
        assert!(second.contains("fault"), "{what}: {second}");
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn recordings(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut all: Vec<PathBuf> = all.filter(|path| path.extension().is_some_and(|it| it == "rec")).collect();
    all.sort();
    all
}

#[test]
fn what_is_changed_or_left_out_is_found_by_both_verifiers() {
    let (_postgres, postern) = shop();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    sessions(&postern, 3, 3);
    let judges = Judges::of(&postern, dir.path());
    let export = |name: &str, since: Option<&Path>| {
        let mut args = vec!["log".to_owned(), "export".into(), at(name).display().to_string()];
        args.extend(since.iter().flat_map(|since| ["--since".to_owned(), since.display().to_string()]));
        postern.cli(args).unwrap().ok().unwrap()
    };
    std::fs::write(at("kept"), postern.cli(["log", "head"]).unwrap().ok().unwrap()).unwrap();
    export("first", None);
    judges.pass(&[&at("first")], None);
    sessions(&postern, 4, 7);
    export("rest", Some(&at("kept")));
    judges.pass(&[&at("rest"), &at("first")], None);
    judges.pass(&[&at("rest")], Some(&at("kept")));
    assert_eq!((recordings(&at("first")).len(), recordings(&at("rest")).len()), (3, 4));
    export("all", None);
    // Whoever kept the older head is not content with an export that begins elsewhere.
    assert_has(&told(judges.ours(&[&at("all")], Some(&at("kept")))), &["edge"]);

    one_export(&judges, dir.path());
    one_recording(&judges, dir.path());
    proofs(&judges, dir.path());
}

/// Copies of one export, each with something wrong.
fn one_export(judges: &Judges, dir: &Path) {
    let good = dir.join("rest");
    let files: Vec<String> =
        recordings(&good).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    let foreign = recordings(&dir.join("first")).remove(0);
    let older = std::fs::read(good.join("since")).unwrap();
    let leaves = |change: &dyn Fn(Vec<u8>) -> Vec<u8>, at: &Path| {
        let path = at.join("leaves");
        std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
    };
    type Change<'a> = &'a dyn Fn(&Path);
    let bad: [(&str, &str, Change<'_>); 12] = [
        ("a recording is gone", "is missing", &|at| std::fs::remove_file(at.join(&files[1])).unwrap()),
        ("a recording in another's place", "is missing", &|at| {
            assert!(std::fs::copy(at.join(&files[0]), at.join(&files[1])).unwrap() > 0);
        }),
        ("a recording of elsewhere", "is not in the log", &|at| {
            assert!(std::fs::copy(&foreign, at.join(foreign.file_name().unwrap())).unwrap() > 0);
        }),
        ("a recording is cut", "the bytes end inside a frame", &|at| {
            let path = at.join(&files[2]);
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        }),
        ("a leaf is gone", "leaves between the heads", &|at| leaves(&|all| all[LEAF..].to_vec(), at)),
        ("a leaf and its recording are gone", "leaves between the heads", &|at| {
            leaves(&|all| all[..3 * LEAF].to_vec(), at);
            std::fs::remove_file(at.join(&files[3])).unwrap();
        }),
        ("a leaf is changed", "do not lead", &|at| {
            leaves(
                &|mut all| {
                    all[LEAF + 30] ^= 1;
                    all
                },
                at,
            );
        }),
        ("two leaves have changed places", "do not lead", &|at| {
            leaves(&|all| [&all[LEAF..2 * LEAF], &all[..LEAF], &all[2 * LEAF..]].concat(), at);
        }),
        ("a leaf more", "leaves between the heads", &|at| leaves(&|all| [&all[..], &all[..LEAF]].concat(), at)),
        ("the newer head is the older one", "leaves between the heads", &|at| {
            std::fs::write(at.join("head"), &older).unwrap();
        }),
        ("a head of other leaves", "the newer head", &|at| {
            let path = at.join("head");
            let text = std::fs::read_to_string(&path).unwrap().replacen("\n7\n", "\n8\n", 1);
            std::fs::write(&path, text).unwrap();
        }),
        ("another edge", "edge", &|at| {
            let path = at.join("edge");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.lines().rev().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        }),
    ];
    for (n, (what, says, change)) in bad.into_iter().enumerate() {
        let at = dir.join(format!("bad-{n}"));
        copy(&good, &at);
        change(&at);
        judges.fail(what, &at, says);
    }
    // Several at once are all told.
    let at = dir.join("bad-many");
    copy(&good, &at);
    std::fs::remove_file(at.join(&files[0])).unwrap();
    std::fs::remove_file(at.join(&files[3])).unwrap();
    assert_has(&told(judges.ours(&[&at], None)), &["leaf 3, is missing", "leaf 6, is missing", "2 faults"]);
}

/// A recording with each of its bytes changed once.
fn one_recording(judges: &Judges, dir: &Path) {
    let whole = std::fs::read(recordings(&dir.join("rest")).remove(0)).unwrap();
    let at = dir.join("flipped");
    std::fs::create_dir(&at).unwrap();
    let mut paths = Vec::new();
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        let path = at.join(format!("{place}.rec"));
        std::fs::write(&path, changed).unwrap();
        paths.push(path);
    }
    for some in paths.chunks(1_000) {
        let some: Vec<&Path> = some.iter().map(PathBuf::as_path).collect();
        for verdict in [judges.ours(&some, None), judges.second(&some, None)] {
            let told = told(verdict);
            let named: BTreeSet<&str> =
                told.lines().filter_map(|line| line.split_once(": ")).map(|line| line.0).collect();
            let good: Vec<_> = some.iter().filter(|path| !named.contains(path.to_str().unwrap())).collect();
            assert!(good.is_empty(), "{} taken for good: {:?}; {}", good.len(), good.first(), last_line(&told));
            assert!(!told.contains(", good"));
        }
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

/// A recording by itself, with its proof beside it.
fn proofs(judges: &Judges, dir: &Path) {
    let all = recordings(&dir.join("rest"));
    let (own, other) = (&all[0], &all[1]);
    let beside = |path: &Path| PathBuf::from(format!("{}.tlog-proof", path.display()));
    let prove = |path: &Path| {
        let id = path.file_stem().unwrap().to_string_lossy().into_owned();
        let to = beside(path).display().to_string();
        judges.postern.cli(["log", "prove", &id, "-o", &to]).unwrap().ok().unwrap();
    };
    assert_has(&judges.ours(&[own], None).ok().unwrap(), &["the log was not asked"]);
    prove(own);
    assert_has(&judges.ours(&[own], None).ok().unwrap(), &["leaf 3 of 7 in the log"]);
    prove(other);
    std::fs::copy(beside(other), beside(own)).unwrap();
    assert_has(&told(judges.ours(&[own], None)), &["the proof of another recording"]);
    let text = std::fs::read_to_string(beside(other)).unwrap();
    std::fs::write(beside(other), text.replacen("index 4", "index 5", 1)).unwrap();
    assert_has(&told(judges.ours(&[other], None)), &["another root"]);
}
