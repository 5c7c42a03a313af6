use std::time::Duration;

use postern_core::node::{NodeIdentity, NodeRole};
use postern_core::operation::Operation;
use postern_core::policy::{Circumstances, PolicySlice, Verdict};
use postern_core::principal::{Principal, PrincipalId};
use postern_core::recording::{Authority as Anchor, MAGIC, verify};
use postern_core::target::Protocol;
use postern_core::{Code, OperationId};
use postern_runtime::clock;
use postern_runtime::pki::{Authority, KeyRequest, NodeCredential};

use super::spool::record::{Next, Record};
use super::spool::segment::open_segment;
use super::*;

mod fill;
mod quorum;

struct House {
    dir: tempfile::TempDir,
    credential: NodeCredential,
    durability: Durability,
}

impl House {
    /// One for each class of durability.
    fn both() -> [Self; 2] {
        [Durability::Spooled, Durability::Buffered].map(|durability| Self { durability, ..Self::new() })
    }

    fn new() -> Self {
        let authority = Authority::create("test").unwrap();
        let identity = NodeIdentity { role: NodeRole::Gateway, name: "gw".parse().unwrap(), pool: None };
        let request = KeyRequest::generate().unwrap();
        let certificate_pem =
            authority.issue(&identity, &request.csr_der, &[], clock::now(), Duration::from_secs(3600)).unwrap();
        let credential =
            NodeCredential { certificate_pem, key_pem: request.key_pem, ca_pem: authority.ca_pem().to_owned() };
        Self { dir: tempfile::tempdir().unwrap(), credential, durability: Durability::default() }
    }

    fn config(&self, max_bytes: u64) -> RecorderConfig {
        RecorderConfig { dir: self.dir.path().to_owned(), max_bytes, durability: self.durability }
    }

    fn start(&self, max_bytes: u64) -> (RecorderHandle, Uploader) {
        let config = self.config(max_bytes);
        start(&config, self.key(), self.credential.signer().unwrap(), &Supervisor::new()).unwrap()
    }

    /// Waits for the thread of a stopped recorder to leave the directory.
    async fn restart(&self, max_bytes: u64) -> (RecorderHandle, Uploader) {
        let config = self.config(max_bytes);
        loop {
            match start(&config, self.key(), self.credential.signer().unwrap(), &Supervisor::new()) {
                Err(SpoolError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => return other.unwrap(),
            }
        }
    }

    fn key(&self) -> SpoolKey {
        SpoolKey::of(&self.credential).unwrap()
    }

    fn segments(&self) -> Vec<std::path::PathBuf> {
        let mut segments: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sealed"))
            .collect();
        segments.sort();
        segments
    }

    /// What the spool holds of a session, as a recording's file.
    fn recording(&self, of: SessionId) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        for segment in self.segments() {
            self.each(&segment, |record| {
                if let Record::Frames { session, frames, .. } = record
                    && session == of
                {
                    file.extend_from_slice(frames);
                }
            });
        }
        file
    }

    /// Tells of each record of a segment, and how many bytes there are with them.
    fn each(&self, segment: &std::path::Path, mut tell: impl FnMut(Record<'_>)) -> usize {
        let name = segment.file_stem().unwrap().to_str().unwrap();
        let number = u64::from_str_radix(name, 16).unwrap();
        let (_, mut reader) = open_segment(self.dir.path(), &self.key(), number).unwrap();
        let mut bytes = std::fs::read(segment).unwrap();
        let mut at = reader.begin();
        while let Next::Record { record, size, .. } = reader.next(&mut bytes[at..]) {
            tell(record);
            at += size;
        }
        at
    }

    /// Bytes of all segments, without the room that they have.
    fn written(&self) -> u64 {
        self.segments().iter().map(|segment| u64::try_from(self.each(segment, |_| {})).unwrap()).sum()
    }

    fn verify(&self, session: SessionId) -> postern_core::recording::Report {
        verify(&self.recording(session), Anchor(&self.credential.ca_der()))
    }

    /// The recorder's thread seals by itself what was given up.
    async fn soon_good(&self, session: SessionId) {
        let began = std::time::Instant::now();
        while !self.verify(session).is_good() {
            assert!(began.elapsed() < Duration::from_secs(10), "{}", self.verify(session));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn started(session: SessionId) -> Started {
    Started {
        session,
        principal: Principal {
            id: PrincipalId { issuer: "ci".parse().unwrap(), subject: "job".into() },
            groups: Default::default(),
            token_id: None,
            expires_at: None,
            chain: Vec::new(),
            claims: postern_core::KeptClaims::default(),
        },
        target: "db".parse().unwrap(),
        protocol: Protocol::Postgres,
        database: "app".into(),
        cluster: "test".into(),
        gateway: "gw".into(),
        client_address: "127.0.0.1:1".into(),
        application: String::new(),
        revision: 1,
    }
}

fn cancel_event() -> Event {
    Event::CancelRequested { client_address: "127.0.0.1:2".into() }
}

fn covered(session: SessionId, id: OperationId) -> postern_core::policy::Covered {
    postern_core::policy::OpenedReviews::default().cover(permit(session, id)).unwrap()
}

fn permit(session: SessionId, id: OperationId) -> postern_core::policy::Permit {
    let everything = postern_core::policy::Policy {
        effect: postern_core::policy::Effect::Permit,
        principals: postern_core::policy::PrincipalSelector {
            groups: vec!["*".into()],
            subjects: Vec::new(),
            tokens: Vec::new(),
        },
        targets: postern_core::target::TargetSelector { names: vec!["*".into()], ..Default::default() },
        actions: vec![postern_core::policy::ActionPattern::Any],
        resources: Vec::new(),
        when: Default::default(),
        approval: None,
        waits: false,
        staleness: postern_core::policy::Staleness::default(),
        limits: postern_core::allowance::Allowance::default(),
        on_request: None,
        cedar: None,
        obligations: postern_core::policy::Obligations::default(),
        reason: None,
    };
    let (name, target) = ("all".parse().unwrap(), "db".parse().unwrap());
    let policies = postern_core::snapshot::Table::from([(name, everything)]);
    let mut slice = PolicySlice::new(1, policies.shared(), &started(session).principal, &target, &Default::default());
    let operation = Operation::new(id, session, "select 1".into(), Vec::new(), Vec::new());
    let at = Circumstances::new(clock::now(), postern_core::policy::Freshness::CONFIRMED);
    match slice.decide(&operation, clock::decision_id(), &at) {
        Verdict::Permit(permit, _) => permit,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_is_recorded_and_verifies() {
    for house in House::both() {
        let (handle, _uploader) = house.start(1 << 24);
        assert!(handle.is_ready());
        let session = clock::session_id();
        let mut recorder = handle.open(started(session)).await.unwrap();
        recorder.enqueue(&cancel_event()).await.unwrap();
        let id = clock::operation_id();
        let recorded = recorder.operation(covered(session, id), &cancel_event()).await.unwrap();
        let cleared = recorded.within(Duration::ZERO).await.unwrap();
        assert_eq!(cleared.operation(), id);
        // Durable on return: the file has it now.
        assert_eq!(house.verify(session).events, 3);
        recorder.enqueue(&cancel_event()).await.unwrap();
        recorder.push().await.unwrap();
        recorder.seal(None, "the client left").await.unwrap();
        let report = house.verify(session);
        assert!(report.is_good() && report.events == 6, "{report}");
    }
}

#[tokio::test]
async fn waiting_sessions_share_a_flush_and_keep_their_order() {
    for house in House::both() {
        let (handle, _uploader) = house.start(1 << 26);
        let mut sessions = Vec::new();
        for _ in 0..32 {
            let handle = handle.clone();
            sessions.push(async move {
                let session = clock::session_id();
                let mut recorder = handle.open(started(session)).await.unwrap();
                for _ in 0..20 {
                    recorder.append(&cancel_event()).await.unwrap();
                }
                recorder.seal(None, "done").await.unwrap();
                session
            });
        }
        for session in futures::future::join_all(sessions).await {
            let report = house.verify(session);
            assert!(report.is_good() && report.events == 23, "{report}");
        }
    }
}

#[tokio::test]
async fn a_crash_leaves_a_session_that_the_next_start_closes() {
    for house in House::both() {
        let (handle, uploader) = house.start(1 << 24);
        let session = clock::session_id();
        let mut recorder = handle.open(started(session)).await.unwrap();
        recorder.append(&cancel_event()).await.unwrap();
        // As SIGKILL: neither sealed nor told of the end.
        std::mem::forget(recorder);
        handle.way.to.send(Msg::Stop).await.unwrap();
        drop((handle, uploader));

        let (_handle, _uploader) = house.restart(1 << 24).await;
        let report = house.verify(session);
        assert!(report.is_good() && report.interrupted && report.events == 4, "{report}");
    }
}

#[tokio::test]
async fn a_lost_session_task_is_sealed_by_the_thread() {
    for house in House::both() {
        let (handle, _uploader) = house.start(1 << 24);
        let session = clock::session_id();
        drop(handle.open(started(session)).await.unwrap());
        // The first of these may share a flush with what comes before the seal; the second is answered after it.
        for _ in 0..2 {
            drop(handle.open(started(clock::session_id())).await.unwrap());
        }
        let report = house.verify(session);
        assert!(report.is_good() && !report.interrupted, "{report}");
    }
}

/// Its client went away, or shutdown hurried, while the disk was at it.
#[tokio::test]
async fn a_recording_that_is_given_up_while_it_begins_is_closed() {
    use futures::FutureExt as _;

    let house = House::new();
    let (recorder, _uploader) = house.start(1 << 20);
    let (session, other) = (clock::session_id(), clock::session_id());
    let given_up = recorder.open(started(session)).now_or_never();
    // What follows comes after it in the mailbox.
    let other = recorder.open(started(other)).await.unwrap();
    if let Some(opened) = given_up {
        drop(opened.unwrap());
    }
    other.seal(None, "over").await.unwrap();
    house.soon_good(session).await;
}

#[tokio::test]
async fn a_full_spool_refuses_new_sessions_and_ends_old_ones() {
    for house in House::both() {
        let (handle, _uploader) = house.start(256 << 10);
        let session = clock::session_id();
        let mut recorder = handle.open(started(session)).await.unwrap();
        let big = Event::CancelRequested { client_address: "x".repeat(8 << 10) };
        let error = loop {
            if let Err(error) = recorder.append(&big).await {
                break error;
            }
        };
        assert_eq!(error, RecordError::Full);
        assert_eq!(error.code(), Code::RecordingUnavailable);
        assert!(recorder.append(&cancel_event()).await.is_err(), "a hole must not be written over");
        assert!(recorder.seal(None, "ended").await.is_err(), "it is sealed already");
        let other = handle.open(started(clock::session_id())).await;
        assert_eq!(other.unwrap_err(), RecordError::Full);
        assert!(!handle.is_ready());
        // It is sealed after those who wait were told.
        house.soon_good(session).await;
    }
}

#[tokio::test]
async fn an_event_that_is_too_large_harms_nothing_else() {
    for house in House::both() {
        let (handle, _uploader) = house.start(1 << 26);
        let session = clock::session_id();
        let mut recorder = handle.open(started(session)).await.unwrap();
        let huge = Event::CancelRequested { client_address: "x".repeat(17 << 20) };
        assert!(matches!(recorder.append(&huge).await, Err(RecordError::TooLarge(_))));
        recorder.append(&cancel_event()).await.unwrap();
        recorder.seal(None, "done").await.unwrap();
        assert!(house.verify(session).is_good());
    }
}

/// What does not wait for the disk is in the file when it is forwarded, in order with what does, and soon durable.
#[tokio::test]
async fn what_is_buffered_survives_the_process_at_once_and_is_flushed_soon() {
    let house = House { durability: Durability::Buffered, ..House::new() };
    let (handle, _uploader) = house.start(1 << 24);
    let session = clock::session_id();
    let mut recorder = handle.open(started(session)).await.unwrap();
    let flushed = handle.view.borrow().segments.clone();
    for _ in 0..20 {
        let id = clock::operation_id();
        let recorded = recorder.operation(covered(session, id), &cancel_event()).await.unwrap();
        assert_eq!(recorded.within(Duration::ZERO).await.unwrap().operation(), id);
    }
    assert_eq!(house.verify(session).events, 21, "all is there, whatever is flushed");
    let mut view = handle.view.clone();
    tokio::time::timeout(Duration::from_secs(5), view.wait_for(|view| view.segments != flushed))
        .await
        .unwrap()
        .unwrap();
    let wanted = house.written();
    let all = |view: &View| view.segments.values().sum::<u64>() == wanted;
    tokio::time::timeout(Duration::from_secs(5), view.wait_for(all)).await.unwrap().unwrap();
    recorder.seal(None, "done").await.unwrap();
    assert!(house.verify(session).is_good());
}

/// Segments that were made ready are used, and a crash in one with room is no torn end.
#[tokio::test]
async fn segments_have_room_before_they_are_written() {
    let house = House::new();
    let max = 16 * (64 << 10);
    let (handle, uploader) = house.start(max);
    let session = clock::session_id();
    let mut recorder = handle.open(started(session)).await.unwrap();
    let lengths = |house: &House| -> Vec<u64> {
        house.segments().iter().map(|segment| std::fs::metadata(segment).unwrap().len()).collect()
    };
    assert_eq!(lengths(&house), [64 << 10]);
    let big = Event::CancelRequested { client_address: "x".repeat(3 << 10) };
    let next = house.dir.path().join("next");
    let mut events = 1;
    while lengths(&house).len() < 4 {
        recorder.append(&big).await.unwrap();
        events += 1;
        let half_full = house.written() % (64 << 10) > 40 << 10;
        let began = std::time::Instant::now();
        while half_full && !next.exists() && began.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    recorder.append(&cancel_event()).await.unwrap();
    let lengths_now = lengths(&house);
    assert_eq!(*lengths_now.last().unwrap(), 64 << 10, "made ready: {lengths_now:?}");
    assert_eq!(house.verify(session).events, events + 1);
    std::mem::forget(recorder);
    handle.way.to.send(Msg::Stop).await.unwrap();
    drop((handle, uploader));
    let (_handle, _uploader) = house.restart(max).await;
    let report = house.verify(session);
    assert!(report.is_good() && report.interrupted && report.events == events + 3, "{report}");
    // What nothing follows in has no room left.
    let kept: u64 = lengths(&house)[..lengths_now.len()].iter().sum();
    assert!(kept < lengths_now.iter().sum(), "{:?}", lengths(&house));
}

/// Another's failure may undo what they wrote: they are told, whatever the flush says that they wait for.
#[test]
fn those_who_wait_for_what_is_undone_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(spool::Spool::open(dir.path(), &SpoolKey::of_tests(1), 1 << 20).unwrap(), 1 << 24);
    let (to, mut mailbox) = mpsc::channel(1);
    let frames = |session, first_seq| Frames { session, first_seq, count: 1, bytes: vec![1; 64] };
    let waits = |frames: &Frames| match log.write(frames, log::Until::Durable, &to).unwrap() {
        log::Written::Flushing(answer) => answer,
        log::Written::Soon => panic!("nobody may go on before it is durable"),
    };
    let (one, other) = (clock::session_id(), clock::session_id());
    let mut first = waits(&frames(one, 0));
    assert!(log.is_asked());
    assert_eq!(log.flush().unwrap(), 1);
    assert_eq!(first.try_recv().unwrap(), Ok(()));
    assert!(!log.is_asked());

    // One writes before the flush that fails begins, another while it is under way: of neither is anything left.
    let mut before = waits(&frames(one, 1));
    let sync = log.lock().spool.begin_sync();
    let mut during = waits(&frames(other, 0));
    log.lock().end_sync(&sync, Err(std::io::Error::other("injected"))).unwrap_err();
    for answer in [&mut before, &mut during] {
        assert_eq!(answer.try_recv().unwrap(), Err(RecordError::Unavailable));
    }
    let next_seq = |session| log.lock().next_seq(session);
    assert_eq!((next_seq(one), next_seq(other)), (Some(1), Some(0)));
    assert!(log.write(&frames(one, 1), log::Until::Written, &to).is_err(), "it has a hole");
    // One message asks for all of them.
    assert!(matches!(mailbox.try_recv(), Ok(Msg::Flush)) && mailbox.try_recv().is_err());
}

/// Sessions fill segments while nobody looks: what is told of a segment that is full is all of it, or its end would never be uploaded.
#[tokio::test]
async fn all_of_a_full_segment_is_told() {
    for house in House::both() {
        let (handle, _uploader) = house.start(16 * (64 << 10));
        let mut recorders = Vec::new();
        for _ in 0..4 {
            recorders.push(handle.open(started(clock::session_id())).await.unwrap());
        }
        let big = Event::CancelRequested { client_address: "x".repeat(3 << 10) };
        for round in 0..30 {
            // It looks now and then: at most one segment is filled in between.
            if round % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            for recorder in &mut recorders {
                recorder.enqueue(&big).await.unwrap();
            }
            // Each by itself, without waiting for the thread to look.
            for recorder in &mut recorders {
                recorder.push().await.unwrap();
            }
        }
        let wanted = house.written();
        let mut view = handle.view.clone();
        let all = |view: &View| view.segments.len() > 2 && view.segments.values().sum::<u64>() == wanted;
        tokio::time::timeout(Duration::from_secs(10), view.wait_for(all)).await.expect("some is never told").unwrap();
        for recorder in recorders {
            recorder.seal(None, "done").await.unwrap();
        }
    }
}

/// Not in a segment, not in one to come, nor in what a crash leaves: nothing of what is recorded can be read in the spool's folder.
#[tokio::test]
async fn nothing_that_is_recorded_lies_in_clear() {
    for house in House::both() {
        let (handle, uploader) = house.start(16 * (64 << 10));
        let mut recorder = handle.open(started(clock::session_id())).await.unwrap();
        let big = Event::CancelRequested { client_address: "a-secret-".repeat(400) };
        for _ in 0..40 {
            recorder.append(&big).await.unwrap();
        }
        drop((handle, uploader));
        assert!(house.segments().len() > 1);
        for entry in std::fs::read_dir(house.dir.path()).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                for clear in [b"a-secret-".as_slice(), b"client_address", b"cancel-requested"] {
                    assert!(!bytes.windows(clear.len()).any(|window| window == clear), "{:?}", entry.path());
                }
            }
        }
    }
}
