use std::collections::BTreeMap;
use std::sync::RwLock;
use std::time::Instant;

use postern_core::delta::Delta;
use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::secret::SecretBytes;
use postern_core::signed::Purpose;
use postern_core::snapshot::Snapshot;
use postern_core::target::{CredentialSource, TargetSelector};
use postern_core::wire::snapshot::{delta_from_proto, delta_to_proto, from_proto};
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential, SealSigner};
use prost::Message as _;
use tokio::sync::watch;

use super::super::published::{Confirmed, Opened, Secrets, Step, sign};
use super::super::since::Since;
use super::super::wholes::MOST;
use super::*;
use crate::watch::testing::target;
use crate::watch::{Bounds, Ring};

struct Rig {
    steps: Ring<Step>,
    policy: watch::Sender<Arc<Policy>>,
    confirmed: watch::Sender<Confirmed>,
    published: Published,
    signer: SealSigner,
    stop: CancellationToken,
}

fn signer() -> SealSigner {
    let authority = Authority::create("c").unwrap();
    let identity = NodeIdentity { role: NodeRole::Control, name: "c1".parse().unwrap(), pool: None };
    let request = KeyRequest::generate().unwrap();
    let lifetime = Duration::from_secs(3600);
    let certificate_pem = authority.issue(&identity, &request.csr_der, &[], clock::now(), lifetime).unwrap();
    NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() }
        .signer()
        .unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn opened(password: &str, env: &str) -> Arc<Opened> {
    let labels = [("env".to_owned(), env.to_owned())].into();
    let password = SecretBytes::new(password.as_bytes().to_vec());
    Arc::new(Opened { username: "u".into(), password, labels })
}

/// `prod` and `lab` have a credential each; gateway `g1` serves the lab alone.
fn policy(signer: &SealSigner, revision: u64, targets: usize, epoch: u64) -> Policy {
    let mut snapshot = Snapshot { revision, ..Snapshot::empty("c", "i1") };
    for place in 0..targets {
        snapshot.put(target(&format!("t{place}"), CredentialSource::None)).unwrap();
    }
    policy_of(signer, snapshot, epoch)
}

fn policy_of(signer: &SealSigner, snapshot: Snapshot, epoch: u64) -> Policy {
    let opened = [(name("prod"), opened("hunter2", "prod")), (name("lab"), opened("hunter3", "lab"))].into();
    let lab = TargetSelector { names: vec![], labels: [("env".to_owned(), "lab".to_owned())].into() };
    let serves = Arc::new(BTreeMap::from([(name("g1"), lab)]));
    let secrets = Secrets {
        opened: Arc::new(opened),
        mask_key: SecretBytes::new(vec![7; 32]),
        serves,
        revoked_gateways: Arc::default(),
    };
    Policy::new(snapshot, secrets, epoch, signer.clone(), None)
}

impl Rig {
    /// At revision 10.
    fn new(targets: usize) -> Self {
        let signer = signer();
        let (steps, reader) = Ring::new(10, Bounds { count: 3, bytes: 1 << 20 });
        let (policy, policy_reader) = watch::channel(Arc::new(policy(&signer, 10, targets, 0)));
        let started = Instant::now();
        let (confirmed, confirmed_reader) = watch::channel(Confirmed { revision: 10, asked: started });
        let published = Published {
            steps: reader,
            policy: policy_reader,
            confirmed: confirmed_reader,
            since: Arc::new(RwLock::new(Since::new(10))),
            wholes: Arc::default(),
            started,
        };
        Self { steps, policy, confirmed, published, signer, stop: CancellationToken::new() }
    }

    fn step(&self, from: u64, revision: u64, credentials: Vec<(Name, Option<Arc<Opened>>)>) {
        let delta = Delta { incarnation: "i1".into(), from_revision: from, revision, ..Delta::default() };
        self.published.since.write().unwrap().take(&delta);
        let delta = sign(&self.signer, Purpose::Delta, delta_to_proto(&delta).encode_to_vec());
        self.steps.push(Arc::new(Step { revision, delta, credentials }));
        self.policy.send_replace(Arc::new(policy(&self.signer, revision, 0, 0)));
    }

    async fn watcher(&self, gateway: &str, known: u64) -> Result<Watcher, Ended> {
        Watcher::new(self.published.clone(), name(gateway), known, "i1", self.stop.clone()).await
    }
}

fn names(credentials: &pb::Credentials) -> Vec<&str> {
    credentials.credentials.iter().map(|credential| credential.target.as_str()).collect()
}

fn revision_of(answer: &WatchResponse) -> u64 {
    match &answer.policy {
        Some(Answer::Delta(signed)) => pb::Delta::decode(signed.payload.clone()).unwrap().revision,
        Some(Answer::Whole(signed)) => pb::Snapshot::decode(signed.payload.clone()).unwrap().revision,
        _ => 0,
    }
}

#[tokio::test]
async fn a_gateway_gets_credentials_of_what_it_serves_and_of_nothing_else() {
    let rig = Rig::new(0);
    let mut narrow = rig.watcher("g1", 0).await.unwrap();
    let mut wide = rig.watcher("g2", 0).await.unwrap();
    assert_eq!(names(&narrow.next().await.unwrap().credentials.unwrap()), ["lab"]);
    assert_eq!(names(&wide.next().await.unwrap().credentials.unwrap()), ["lab", "prod"]);
    // Another password, and a target that moves from the lab to production.
    rig.step(10, 11, vec![(name("prod"), Some(opened("new", "prod"))), (name("lab"), Some(opened("x", "prod")))]);
    let change = narrow.next().await.unwrap().credentials.unwrap();
    assert!(change.credentials.is_empty(), "a credential of a target that it does not serve");
    assert_eq!(change.removed, ["prod", "lab"]);
    assert_eq!(names(&wide.next().await.unwrap().credentials.unwrap()), ["prod", "lab"]);
    rig.step(11, 12, vec![]);
    assert!(narrow.next().await.unwrap().credentials.is_none());
}

#[tokio::test]
async fn who_is_too_slow_for_the_steps_gets_all_that_was_changed_since() {
    let rig = Rig::new(0);
    let mut watcher = rig.watcher("g1", 10).await.unwrap();
    for revision in 11..=20 {
        rig.step(revision - 1, revision, vec![]);
    }
    let answer = watcher.next().await.unwrap();
    assert!(matches!(answer.policy, Some(Answer::Delta(_))), "{:?}", answer.policy);
    assert_eq!((revision_of(&answer), names(&answer.credentials.unwrap())), (20, vec!["lab"]));
    rig.step(20, 21, vec![]);
    assert_eq!(revision_of(&watcher.next().await.unwrap()), 21);
}

#[tokio::test]
async fn where_that_is_not_known_the_whole_comes_anew() {
    let rig = Rig::new(0);
    let mut watcher = rig.watcher("g2", 10).await.unwrap();
    for revision in 11..=20 {
        rig.step(revision - 1, revision, vec![]);
    }
    *rig.published.since.write().unwrap() = Since::new(15);
    let answer = watcher.next().await.unwrap();
    assert_eq!((answer.because.as_str(), revision_of(&answer)), ("revision compacted", 20));
    rig.step(20, 21, vec![]);
    assert_eq!(revision_of(&watcher.next().await.unwrap()), 21);
}

/// What a gateway has of it, and how much it took of the network.
#[derive(Default)]
struct Reader {
    held: Option<Snapshot>,
    parts: Vec<u8>,
    taken: usize,
    wholes: usize,
}

impl Reader {
    /// Takes what comes next, as the gateway does; how many bytes it was.
    async fn read(&mut self, watcher: &mut Watcher) -> usize {
        let answer = tokio::time::timeout(Duration::from_secs(5), watcher.next()).await.unwrap().unwrap();
        let size = answer.encoded_len();
        match answer.policy {
            Some(Answer::Part(part)) => self.parts.extend(part),
            Some(Answer::Whole(signed)) => {
                self.parts.extend(&signed.payload);
                let whole = from_proto(pb::Snapshot::decode(&*std::mem::take(&mut self.parts)).unwrap()).unwrap();
                assert!(whole.revision >= self.revision());
                self.held = Some(whole);
                self.wholes += 1;
            }
            Some(Answer::Delta(signed)) => {
                let delta = delta_from_proto(pb::Delta::decode(signed.payload).unwrap()).unwrap();
                self.held = Some(self.held.as_ref().unwrap().apply(delta).unwrap());
            }
            None => {}
        }
        self.taken += size;
        size
    }

    fn revision(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.revision)
    }
}

/// Changes one of the first 200 targets with each step.
struct Writer<'a> {
    rig: &'a Rig,
    snapshot: Snapshot,
}

impl Writer<'_> {
    fn write(&mut self, changes: u64) {
        for _ in 0..changes {
            let from = self.snapshot.revision;
            let mut changed = target(&format!("t{}", from % 200), CredentialSource::None);
            changed.metadata.labels = [("changed".to_owned(), from.to_string())].into();
            let (incarnation, revision) = ("i1".to_owned(), from + 1);
            let delta = Delta {
                incarnation,
                from_revision: from,
                revision,
                upserts: vec![changed.clone()],
                ..Delta::default()
            };
            self.rig.published.since.write().unwrap().take(&delta);
            self.snapshot.put(changed).unwrap();
            self.snapshot.revision = revision;
            let delta = pb::Signed { payload: delta_to_proto(&delta).encode_to_vec().into(), ..pb::Signed::default() };
            self.rig.steps.push(Arc::new(Step { revision, delta, credentials: vec![] }));
        }
        self.rig.policy.send_replace(Arc::new(policy_of(&self.rig.signer, self.snapshot.clone(), 0)));
    }
}

/// 4 KiB a second, beside a change every 10 ms: the ring forgets long before the policy has arrived.
#[tokio::test]
async fn a_slow_gateway_gets_to_the_newest_policy_while_it_changes_all_the_time() {
    let rig = Rig::new(6_000);
    let mut writer = Writer { rig: &rig, snapshot: rig.published.policy.borrow().snapshot.clone() };
    let mut watcher = rig.watcher("g1", 0).await.unwrap();
    let mut reader = Reader::default();
    let (mut written, mut behind) = (0, 0);
    while reader.held.is_none() || reader.taken < 2_000_000 {
        let size = reader.read(&mut watcher).await;
        if reader.held.is_some() {
            behind = behind.max(writer.snapshot.revision - reader.revision());
        }
        let changes = u64::try_from(size).unwrap() * 100 / 4_096;
        writer.write(changes);
        written += changes;
    }
    assert!(written > 40_000, "{written} changes");
    assert_eq!(reader.wholes, 1);
    assert!(behind < written / 2, "{behind} of {written} behind");
    while reader.revision() < writer.snapshot.revision {
        reader.read(&mut watcher).await;
    }
    assert_eq!(reader.held.unwrap().targets, writer.snapshot.targets);
    assert_eq!(reader.wholes, 1);
}

#[tokio::test]
async fn many_who_come_while_it_changes_share_few_whole_policies() {
    let rig = Rig::new(2_000);
    let mut writer = Writer { rig: &rig, snapshot: rig.published.policy.borrow().snapshot.clone() };
    let mut gateways = Vec::new();
    for _ in 0..4 * MOST {
        let mut gateway = (rig.watcher("g1", 0).await.unwrap(), Reader::default());
        gateway.1.read(&mut gateway.0).await;
        gateways.push(gateway);
        writer.write(10);
    }
    assert_eq!(rig.published.wholes.kept(), MOST);
    // What they have got is not thrown away, whatever becomes of the policy meanwhile.
    for (watcher, reader) in &mut gateways {
        while reader.revision() < writer.snapshot.revision {
            reader.read(watcher).await;
        }
        assert_eq!((reader.wholes, &reader.held.as_ref().unwrap().targets), (1, &writer.snapshot.targets));
    }
    assert!(rig.published.wholes.kept() <= 1);
}

#[tokio::test]
async fn who_takes_nothing_gives_way() {
    let rig = Rig::new(2_000);
    let mut writer = Writer { rig: &rig, snapshot: rig.published.policy.borrow().snapshot.clone() };
    let mut stuck = Vec::new();
    for _ in 0..MOST {
        let mut watcher = rig.watcher("g1", 0).await.unwrap();
        assert!(matches!(watcher.next().await.unwrap().policy, Some(Answer::Part(_))));
        stuck.push(watcher);
        writer.write(10);
    }
    let known = writer.snapshot.revision;
    *rig.published.since.write().unwrap() = Since::new(known + 10);
    let mut watcher = rig.watcher("g1", known).await.unwrap();
    writer.write(10);
    assert_eq!(watcher.next().await.unwrap_err(), Ended::Busy);
    rig.published.wholes.stall();
    let mut watcher = rig.watcher("g1", known).await.unwrap();
    assert!(matches!(watcher.next().await.unwrap().policy, Some(Answer::Part(_))));
    assert_eq!(stuck[0].next().await.unwrap_err(), Ended::TooSlow);
}

#[tokio::test]
async fn credentials_that_changed_without_a_revision_are_sent_whole() {
    let rig = Rig::new(0);
    let mut watcher = rig.watcher("g1", 0).await.unwrap();
    watcher.next().await.unwrap();
    rig.policy.send_replace(Arc::new(policy(&rig.signer, 10, 0, 1)));
    let answer = watcher.next().await.unwrap();
    assert!(answer.policy.is_none());
    let credentials = answer.credentials.unwrap();
    assert!(credentials.whole);
    assert_eq!(names(&credentials), ["lab"]);
}

#[tokio::test]
async fn a_node_that_is_cut_off_confirms_nothing_and_serves_nobody() {
    let rig = Rig::new(0);
    let long_ago = |age: Duration| Instant::now().checked_sub(age).unwrap();
    let mut watcher = rig.watcher("g2", 10).await.unwrap();
    let first = watcher.next().await.unwrap();
    assert!(first.confirmation.is_some());
    rig.confirmed.send_replace(Confirmed { revision: 10, asked: long_ago(LOST_AFTER - Duration::from_millis(50)) });
    // That confirmation is passed on with its age; after it the stream ends.
    let confirmation = watcher.next().await.unwrap().confirmation.unwrap();
    assert!(confirmation.sent_ms.saturating_sub(confirmation.asked_ms) < 12_000);
    assert_eq!(watcher.next().await.unwrap_err(), Ended::Lost);
    assert_eq!(rig.watcher("g2", 10).await.err(), Some(Ended::Lost));
}

#[tokio::test]
async fn nothing_is_confirmed_that_the_gateway_does_not_have() {
    let rig = Rig::new(0);
    // The cluster has acknowledged revision 12, this node has applied 11.
    rig.step(10, 11, vec![]);
    rig.confirmed.send_replace(Confirmed { revision: 12, asked: Instant::now() });
    let mut watcher = rig.watcher("g2", 10).await.unwrap();
    let answer = watcher.next().await.unwrap();
    assert_eq!((revision_of(&answer), answer.confirmation), (11, None));
    rig.step(11, 12, vec![]);
    let answer = watcher.next().await.unwrap();
    assert_eq!((revision_of(&answer), answer.confirmation.unwrap().revision), (12, 12));
}
