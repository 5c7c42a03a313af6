use std::fs;
use std::path::Path;

use postern_core::delta::Delta;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::signed::{Purpose, message};
use postern_core::wire::snapshot::{delta_to_proto, to_proto};
use postern_runtime::pki::{Authority, KeyRequest, SealSigner};
use prost::Message as _;

use postern_core::snapshot::Snapshot;
use postern_proto::gateway::v1::{self as pb, WatchResponse};

use super::mark::{Boot, Mark};
use super::*;

const LIMIT: Duration = Duration::from_secs(600);

struct Rig {
    authority: Authority,
    credential: NodeCredential,
    signer: SealSigner,
    dir: tempfile::TempDir,
}

/// A gateway that runs: what it takes in is kept.
struct Running {
    assembler: Assembler,
    keeper: Keeper,
    store: Store,
    policy: Option<(Arc<Current>, Option<Instant>)>,
    revoked_gateways: Option<Signed>,
}

fn credential(authority: &Authority, role: NodeRole, name: &str) -> NodeCredential {
    let identity = NodeIdentity { role, name: name.parse().unwrap(), pool: None };
    let request = KeyRequest::generate().unwrap();
    let hour = Duration::from_secs(3600);
    let certificate_pem = authority.issue(&identity, &request.csr_der, &[], clock::now(), hour).unwrap();
    NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
}

impl Rig {
    fn new() -> Self {
        let authority = Authority::create("c").unwrap();
        let credential_of = credential(&authority, NodeRole::Gateway, "one");
        let signer = credential(&authority, NodeRole::Control, "c1").signer().unwrap();
        Self { authority, credential: credential_of, signer, dir: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> KeptConfig {
        let dir = self.dir.path().join("policy");
        KeptConfig { gateway: "one".parse().unwrap(), dir, credentials: false, limit: LIMIT }
    }

    fn start_with(&self, config: KeptConfig) -> Running {
        let (Loaded { assembler, policy, revoked_gateways }, keeper, store) = open(config, &self.credential).unwrap();
        Running { assembler, keeper, store, policy, revoked_gateways }
    }

    fn start(&self) -> Running {
        self.start_with(self.config())
    }

    fn signed(&self, purpose: Purpose, payload: Vec<u8>) -> Signed {
        Signed {
            signature: self.signer.sign(&message(purpose, &payload)).into(),
            certificate: self.signer.certificate_der().to_vec().into(),
            payload: payload.into(),
        }
    }

    fn whole(&self, revision: u64) -> WatchResponse {
        let snapshot = Snapshot { revision, ..Snapshot::empty("c", "i1") };
        let password =
            pb::Credential { target: "db".into(), username: String::new(), password: b"correct horse".to_vec() };
        let credentials =
            pb::Credentials { whole: true, credentials: vec![password], mask_key: vec![7; 32], ..Default::default() };
        WatchResponse {
            policy: Some(watch_response::Policy::Whole(
                self.signed(Purpose::Snapshot, to_proto(&snapshot).encode_to_vec()),
            )),
            credentials: Some(credentials),
            ..Default::default()
        }
    }

    fn delta(&self, from: u64, revoked: Vec<String>) -> WatchResponse {
        let delta =
            Delta { incarnation: "i1".into(), from_revision: from, revision: from + 1, revoked, ..Default::default() };
        let signed = self.signed(Purpose::Delta, delta_to_proto(&delta).encode_to_vec());
        WatchResponse { policy: Some(watch_response::Policy::Delta(signed)), ..Default::default() }
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let all = fs::read_dir(self.dir.path().join("policy")).unwrap();
        all.map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "kept"))
            .collect()
    }

    fn mark(&self) -> std::path::PathBuf {
        self.dir.path().join("policy/policy.mark")
    }

    /// Changes the mark, by the gateway's own key: as if it had been written so.
    fn bend_mark(&self, change: impl FnOnce(&mut Mark)) {
        let root = Root::of(&self.credential).unwrap();
        let dir = self.config().dir;
        let mut mark = Mark::read(&dir, &root).unwrap().unwrap();
        change(&mut mark);
        mark.write(&dir, &root).unwrap();
    }
}

impl Running {
    fn take(&mut self, answer: WatchResponse) {
        let newest = self.assembler.take(answer, clock::now()).unwrap().unwrap();
        self.keeper.took(self.assembler.taken(), &newest, clock::now());
        self.keeper.confirmed(Instant::now());
    }

    fn flush(&mut self) -> bool {
        let pending = std::mem::take(&mut *lock(&self.keeper.0.pending));
        self.store.flush(pending)
    }

    /// The revision, and whether it is served.
    fn has(&self) -> Option<(u64, bool)> {
        self.policy.as_ref().map(|(current, confirmed)| (current.snapshot.revision, confirmed.is_some()))
    }
}

fn begun(rig: &Rig) -> Running {
    let mut running = rig.start();
    assert_eq!(running.has(), None);
    assert!(running.keeper.wants_whole(), "nothing is kept yet");
    running.take(rig.whole(10));
    assert!(!running.flush());
    running
}

#[test]
fn what_was_taken_is_there_after_a_restart() {
    let rig = Rig::new();
    let mut running = begun(&rig);
    running.take(rig.delta(10, vec![]));
    running.flush();
    running.take(rig.delta(11, vec!["ab".into()]));
    running.take(rig.delta(12, vec![]));
    running.flush();
    drop(running);
    let mut again = rig.start();
    assert_eq!(again.has(), Some((13, true)));
    let (current, confirmed) = again.policy.clone().unwrap();
    assert!(current.snapshot.revoked.contains("ab"));
    assert!(confirmed.unwrap().elapsed() < Duration::from_secs(60));
    // The control plane is asked for what comes after, and that is kept in the same file.
    assert_eq!(again.assembler.known(), (13, "i1".to_owned()));
    assert!(!again.keeper.wants_whole());
    again.take(rig.delta(13, vec![]));
    again.flush();
    assert_eq!((rig.start().has(), rig.files().len()), (Some((14, true)), 1));
    // A new whole begins a new file.
    again.take(rig.whole(20));
    again.flush();
    assert_eq!((rig.start().has(), rig.files().len()), (Some((20, true)), 1));
}

#[test]
fn credentials_are_kept_only_when_that_is_configured_and_nothing_in_clear_ever() {
    let rig = Rig::new();
    drop(begun(&rig));
    let snapshot = rig.start().policy.unwrap().0.snapshot.clone();
    assert!(snapshot.credentials.is_empty() && snapshot.mask_key.expose().is_empty());

    let keeping = KeptConfig { credentials: true, ..rig.config() };
    let mut running = rig.start_with(keeping.clone());
    running.take(rig.whole(11));
    running.flush();
    drop(running);
    let kept = rig.start_with(keeping).policy.unwrap().0;
    assert_eq!(kept.snapshot.credentials[&"db".parse().unwrap()].expose(), b"correct horse");
    assert_eq!(kept.snapshot.mask_key.expose(), [7; 32]);
    for file in rig.files() {
        let bytes = fs::read(file).unwrap();
        for clear in [b"correct horse".as_slice(), b"postern.internal", b"i1"] {
            assert!(!bytes.windows(clear.len()).any(|window| window == clear), "{}", clear.escape_ascii());
        }
    }
    // No longer configured: not taken out of the file any more, and the file is to go.
    let without = rig.start();
    assert!(without.policy.as_ref().unwrap().0.snapshot.credentials.is_empty());
    assert!(without.keeper.wants_whole());
}

#[track_caller]
fn refused(rig: &Rig, why: &str) {
    let running = rig.start();
    assert_eq!(running.has(), None, "{why}");
    assert!(running.keeper.wants_whole(), "{why}");
}

#[test]
fn what_is_damaged_or_of_another_is_not_served() {
    let rig = Rig::new();
    drop(begun(&rig));
    let (file, good) = (rig.files().remove(0), fs::read(&rig.files()[0]).unwrap());
    for at in [0, 12, 25, 30, good.len() / 2, good.len() - 1] {
        let mut bent = good.clone();
        bent[at] ^= 1;
        fs::write(&file, &bent).unwrap();
        refused(&rig, &format!("byte {at}"));
    }
    for len in [0, 5, 24, 27, good.len() - 1] {
        fs::write(&file, &good[..len]).unwrap();
        refused(&rig, &format!("{len} bytes"));
    }
    // A length that promises the whole memory.
    let mut huge = good.clone();
    huge[24..28].copy_from_slice(&u32::MAX.to_be_bytes());
    fs::write(&file, &huge).unwrap();
    refused(&rig, "huge");
    fs::write(&file, &good).unwrap();
    assert_eq!(rig.start().has(), Some((10, true)));

    let mark = fs::read(rig.mark()).unwrap();
    let mut bent = mark.clone();
    *bent.last_mut().unwrap() ^= 1;
    fs::write(rig.mark(), &bent).unwrap();
    refused(&rig, "a bent mark");
    fs::write(rig.mark(), &mark[..10]).unwrap();
    refused(&rig, "half a mark");
    fs::remove_file(rig.mark()).unwrap();
    refused(&rig, "no mark");
    fs::write(rig.mark(), &mark).unwrap();

    // Under another node's key, and by another name.
    let other = Rig { credential: credential(&rig.authority, NodeRole::Gateway, "one"), ..Rig::new() };
    let (loaded, ..) = open(rig.config(), &other.credential).unwrap();
    assert!(loaded.policy.is_none());
    let named = KeptConfig { gateway: "two".parse().unwrap(), ..rig.config() };
    assert!(rig.start_with(named).policy.is_none());
}

#[test]
fn a_torn_end_is_cut_off_and_a_lost_one_is_not_served() {
    let rig = Rig::new();
    let mut running = begun(&rig);
    let (file, before) = (rig.files().remove(0), fs::read(&rig.files()[0]).unwrap());
    running.take(rig.delta(10, vec![]));
    let mark = fs::read(rig.mark()).unwrap();
    running.flush();
    drop(running);
    let after = fs::read(&file).unwrap();
    // Power was lost before the mark: the change may be there or not, and it may be torn.
    fs::write(rig.mark(), &mark).unwrap();
    for len in [before.len(), before.len() + 2, before.len() + 40, after.len() - 1] {
        fs::write(&file, &after[..len]).unwrap();
        let mut again = rig.start();
        assert_eq!(again.has(), Some((10, true)), "{len} bytes");
        again.take(rig.delta(10, vec![]));
        again.flush();
        drop(again);
        assert_eq!(rig.start().has(), Some((11, true)), "{len} bytes");
        fs::write(rig.mark(), &mark).unwrap();
    }
    fs::write(&file, &after).unwrap();
    assert_eq!(rig.start().has(), Some((11, true)));
    // The mark tells of it: the file was rolled back.
    rig.bend_mark(|mark| mark.records += 2);
    refused(&rig, "an older file");
    // An older mark of a file that is gone.
    rig.bend_mark(|mark| mark.file = [9; 16]);
    refused(&rig, "a file that is gone");
}

#[test]
fn it_is_served_no_longer_than_the_limit_whatever_the_clock_says() {
    let rig = Rig::new();
    drop(begun(&rig));
    let ago = |secs: u64| {
        let (now, boot) = (clock::now().secs(), Boot::now());
        rig.bend_mark(|mark| {
            mark.confirmed = Timestamp::from_secs(now - secs);
            mark.seen = mark.confirmed;
            mark.boot = Boot { id: "another".into(), ..boot };
        });
    };
    ago(500);
    let confirmed = rig.start().policy.unwrap().1.unwrap().elapsed().as_secs();
    assert!((499..560).contains(&confirmed), "{confirmed}");
    ago(LIMIT.as_secs() + 1);
    // It is held, so that nothing older is taken; it is not served.
    assert_eq!(rig.start().has(), Some((10, false)));
    // A clock that was set back: the file is of the future.
    let future = Timestamp::from_secs(clock::now().secs() + 3_600);
    rig.bend_mark(|mark| (mark.confirmed, mark.seen) = (future, future));
    assert_eq!(rig.start().has(), Some((10, false)));
    // Set back to a moment after it was confirmed, in the same boot: the machine knows better.
    rig.bend_mark(|mark| {
        mark.confirmed = Timestamp::from_secs(clock::now().secs() - 1);
        mark.seen = mark.confirmed;
        mark.boot = Boot { uptime: Duration::ZERO, ..Boot::now() };
    });
    let up = Boot::now().uptime;
    assert_eq!(rig.start().has(), Some((10, up <= LIMIT)));
    // Once the control plane has confirmed it anew, the clock of then counts for nothing more.
    rig.bend_mark(|mark| mark.seen = future);
    let mut running = rig.start();
    running.take(rig.delta(10, vec![]));
    running.flush();
    assert_eq!(rig.start().has(), Some((11, true)));
}

/// It is there after a restart, whatever became of the policy beside it; one that nobody of the control plane signed is not passed on.
#[test]
fn the_list_of_revoked_gateways_is_kept_beside_it() {
    let rig = Rig::new();
    let mut running = rig.start();
    let list = |serial: &[u8]| {
        let list = postern_proto::tunnel::v1::RevokedGateways { serials: vec![serial.to_vec()] };
        rig.signed(Purpose::RevokedGateways, list.encode_to_vec())
    };
    assert_eq!(running.revoked_gateways, None);
    running.keeper.revoked(list(&[1]));
    // It is not lost with what a new whole makes needless.
    running.take(rig.whole(10));
    running.flush();
    assert_eq!(rig.start().revoked_gateways, Some(list(&[1])));
    let mut running = rig.start();
    running.keeper.revoked(list(&[1, 2]));
    running.flush();
    fs::remove_file(rig.mark()).unwrap();
    let again = rig.start();
    assert_eq!((again.has(), again.revoked_gateways), (None, Some(list(&[1, 2]))));

    let file = rig.dir.path().join("policy/revoked-gateways");
    let good = fs::read(&file).unwrap();
    let other = rig.signed(Purpose::Snapshot, list(&[3]).payload.to_vec()).encode_to_vec();
    let stranger = Rig::new().signed(Purpose::RevokedGateways, list(&[3]).payload.to_vec()).encode_to_vec();
    for bad in [&good[..good.len() - 1], &other, &stranger, b""] {
        fs::write(&file, bad).unwrap();
        assert_eq!(rig.start().revoked_gateways, None);
    }
    // Nor one by a node that was revoked since.
    fs::write(&file, &good).unwrap();
    let mut running = rig.start();
    running.take(rig.whole(11));
    let serial = postern_runtime::pki::serial_of(&rig.signer.certificate_der()).unwrap();
    running.take(rig.delta(11, vec![serial]));
    assert!(revoked::read(&rig.config().dir, &running.assembler, clock::now()).is_none());
}

#[test]
fn what_a_revoked_node_signed_is_not_served_and_soon_not_kept() {
    let mut rig = Rig::new();
    let mut running = begun(&rig);
    let serial = postern_runtime::pki::serial_of(&rig.signer.certificate_der()).unwrap();
    rig.signer = credential(&rig.authority, NodeRole::Control, "c2").signer().unwrap();
    running.take(rig.delta(10, vec![serial]));
    assert!(running.flush(), "a new whole is wanted");
    refused(&rig, "signed by one that was revoked");
    running.take(rig.whole(12));
    assert!(!running.flush());
    assert_eq!(rig.start().has(), Some((12, true)));
}

#[test]
fn what_is_not_signed_is_not_served_even_under_the_right_key() {
    let rig = Rig::new();
    let stranger = Rig::new();
    for signer in [stranger.signer.clone(), rig.credential.signer().unwrap()] {
        let forged = Rig { signer, ..Rig::new() }.whole(99);
        let Some(watch_response::Policy::Whole(signed)) = forged.policy else { panic!() };
        let (_, _, mut store) = open(rig.config(), &rig.credential).unwrap();
        let whole = Some((vec![], signed, clock::now()));
        store.flush(Pending { whole, confirmed: Some(Instant::now()), ..Pending::default() });
        refused(&rig, "forged");
    }
}

#[test]
fn a_disk_that_takes_nothing_stops_nothing() {
    let rig = Rig::new();
    let mut running = begun(&rig);
    fs::remove_dir_all(rig.dir.path().join("policy")).unwrap();
    fs::write(rig.dir.path().join("policy"), "not a directory").unwrap();
    running.take(rig.delta(10, vec![]));
    assert!(running.flush(), "the whole is wanted, to begin anew");
    fs::remove_file(rig.dir.path().join("policy")).unwrap();
    create_private_dir(&rig.config().dir).unwrap();
    // Changes alone begin nothing.
    running.take(rig.delta(11, vec![]));
    assert!(running.flush());
    assert!(rig.files().is_empty());
    running.take(rig.whole(13));
    assert!(!running.flush());
    assert_eq!(rig.start().has(), Some((13, true)));
    // Changes that the disk is too slow for.
    let mut many = rig.delta(13, vec![]);
    if let Some(watch_response::Policy::Delta(signed)) = &mut many.policy {
        let revoked = (0..90_000).map(|n| format!("{n:0100}")).collect();
        let delta = Delta { incarnation: "i1".into(), from_revision: 13, revision: 14, revoked, ..Default::default() };
        *signed = rig.signed(Purpose::Delta, delta_to_proto(&delta).encode_to_vec());
    }
    running.take(many);
    assert!(running.flush());
    assert_eq!(rig.start().has(), Some((13, true)), "what is there stays");
    assert!(Path::exists(&rig.mark()));
}

/// What is revoked stays so over a restart of the gateway, also while the control plane is away.
#[test]
fn revocations_are_kept() {
    use postern_core::revocation::{Mark, Revoked};
    let rig = Rig::new();
    let mut running = begun(&rig);
    let mark = |of: Revoked| Mark { key: of.key(), issued_before: 7, until: u32::MAX };
    let marks = [mark(Revoked::All), mark(Revoked::Issuer("ci".parse().unwrap()))];
    let delta = |from: u64, mark: Mark| {
        let delta = Delta {
            incarnation: "i1".into(),
            from_revision: from,
            revision: from + 1,
            revocations: vec![mark],
            ..Default::default()
        };
        let signed = rig.signed(Purpose::Delta, delta_to_proto(&delta).encode_to_vec());
        WatchResponse { policy: Some(watch_response::Policy::Delta(signed)), ..Default::default() }
    };
    running.take(delta(10, marks[0]));
    running.take(delta(11, marks[1]));
    assert!(!running.flush());
    drop(running);
    let again = rig.start();
    assert_eq!(again.has(), Some((12, true)));
    let (current, _) = again.policy.unwrap();
    for mark in marks {
        assert_eq!(current.snapshot.revocations.get(&mark.key), Some(mark));
    }
}
