use super::segment::segment_path;
use super::*;
use postern_core::Timestamp;

fn session(n: u128) -> SessionId {
    SessionId::new(Timestamp::from_millis(7), n)
}

fn append(session: SessionId, first_seq: u64, frames: &[u8]) -> Append<'_> {
    Append { session, first_seq, count: 1, seals: false, loose: false, frames }
}

fn frame(fill: u8) -> Vec<u8> {
    vec![fill; 64]
}

#[test]
fn a_restart_finds_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    spool.commit(&[append(session(1), 0, &frame(1)), append(session(2), 0, &frame(2))]).unwrap();
    spool.commit(&[append(session(1), 1, &frame(3))]).unwrap();
    drop(spool);

    let spool = Spool::open(dir.path(), 1 << 20).unwrap();
    let state = spool.session(session(1)).unwrap();
    assert_eq!((state.next_seq, state.head, state.sealed), (2, [3; 32], false));
    assert_eq!(spool.open_sessions().count(), 2);
    assert!(!spool.is_settled());
}

#[test]
fn a_torn_end_is_cut_and_damage_elsewhere_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    spool.commit(&[append(session(1), 0, &frame(1))]).unwrap();
    let (active, len) = spool.active();
    drop(spool);
    let path = segment_path(dir.path(), active);
    // What a crash in the middle of a write leaves.
    let mut torn = Vec::new();
    Record::Frames { session: session(1), first_seq: 1, count: 1, seals: false, loose: false, frames: &frame(9) }
        .encode(&mut torn);
    for cut in 1..torn.len() {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(len).unwrap();
        drop(file);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&torn[..cut]).unwrap();
        drop(file);
        // Reading it again and again: each start makes a new segment, so take that one away.
        let spool = Spool::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(spool.session(session(1)).unwrap().next_seq, 1, "cut at {cut}");
        assert_eq!(fs::metadata(&path).unwrap().len(), len);
        let newer = segment_path(dir.path(), spool.active().0);
        drop(spool);
        fs::remove_file(newer).unwrap();
    }
    // The same damage before a later segment is no torn end.
    drop(Spool::open(dir.path(), 1 << 20).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let place = bytes.len() - 5;
    bytes[place] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Spool::open(dir.path(), 1 << 20), Err(SpoolError::Damaged { .. })));
}

#[test]
fn a_crash_before_the_first_bytes_leaves_a_usable_spool() {
    let dir = tempfile::tempdir().unwrap();
    drop(Spool::open(dir.path(), 1 << 20).unwrap());
    fs::write(segment_path(dir.path(), 9), b"PST").unwrap();
    drop(Spool::open(dir.path(), 1 << 20).unwrap());
    // And the start after that, where it is no longer the last.
    drop(Spool::open(dir.path(), 1 << 20).unwrap());
}

#[test]
fn acknowledged_segments_go_and_open_sessions_stay_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1024).unwrap();
    let (idle, busy) = (session(1), session(2));
    spool.commit(&[append(idle, 0, &frame(1))]).unwrap();
    for seq in 0..40 {
        spool.commit(&[append(busy, seq, &frame(u8::try_from(seq).unwrap()))]).unwrap();
    }
    let before = spool.segment_lengths().count();
    assert!(before > 3, "{before} segments");
    spool.acknowledged(idle, 1).unwrap();
    spool.acknowledged(busy, 30).unwrap();
    assert!(spool.segment_lengths().count() < before);
    let on_disk: u64 = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "spool"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert_eq!(on_disk, spool.bytes());
    drop(spool);
    // The idle session's only frame is gone, and yet it can be closed.
    let spool = Spool::open(dir.path(), 1024).unwrap();
    let state = spool.session(idle).unwrap();
    assert_eq!((state.next_seq, state.head, state.sealed), (1, [1; 32], false));
    assert_eq!(spool.session(busy).unwrap().next_seq, 40);
}

#[test]
fn settled_when_all_is_sealed_and_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    spool.commit(&[append(session(1), 0, &frame(1))]).unwrap();
    spool.acknowledged(session(1), 1).unwrap();
    assert!(!spool.is_settled(), "still open");
    spool.commit(&[Append { seals: true, ..append(session(1), 1, &frame(2)) }]).unwrap();
    assert!(!spool.is_settled(), "not acknowledged");
    spool.acknowledged(session(1), 2).unwrap();
    assert!(spool.is_settled());
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _spool = Spool::open(dir.path(), 1 << 20).unwrap();
    assert!(matches!(Spool::open(dir.path(), 1 << 20), Err(SpoolError::InUse(_))));
}

fn from(spool: &Spool, of: SessionId) -> u64 {
    spool.session(of).unwrap().from
}

#[test]
fn acknowledged_events_of_open_sessions_are_kept_up_to_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1024).unwrap().keeping(4096);
    let (long, short) = (session(1), session(2));
    for seq in 0..20 {
        spool.commit(&[append(long, seq, &frame(1))]).unwrap();
    }
    spool.acknowledged(long, 20).unwrap();
    spool.delete_unneeded().unwrap();
    assert_eq!(from(&spool, long), 0, "the member that has them may be lost");
    // Past the bound the oldest go.
    for seq in 20..100 {
        spool.commit(&[append(long, seq, &frame(1))]).unwrap();
        spool.acknowledged(long, seq + 1).unwrap();
    }
    assert!(spool.bytes() <= 4096 + 1024 + 200, "{}", spool.bytes());
    let had = from(&spool, long);
    assert!(had > 20, "{had}");
    // What another member lacks must stay until it has it.
    spool.rewind(&[(long, had)]);
    for seq in 0..60 {
        spool.commit(&[append(short, seq, &frame(2))]).unwrap();
        spool.acknowledged(short, seq + 1).unwrap();
    }
    assert_eq!((from(&spool, long), spool.session(long).unwrap().acked), (had, had));
    drop(spool);
    let mut spool = Spool::open(dir.path(), 1024).unwrap();
    assert_eq!((from(&spool, long), spool.session(long).unwrap().next_seq), (had, 100));
    spool.acknowledged(long, 100).unwrap();
    spool.acknowledged(short, 60).unwrap();
    // Only where its chain stands is known now.
    assert_eq!((from(&spool, long), spool.segment_lengths().count()), (100, 1));
    drop(spool);
    let spool = Spool::open(dir.path(), 1024).unwrap();
    assert_eq!((from(&spool, long), spool.session(long).unwrap().next_seq), (100, 100));
}

#[test]
fn a_session_that_is_over_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1024).unwrap().keeping(1 << 20);
    for seq in 0..40 {
        spool.commit(&[Append { seals: seq == 39, ..append(session(1), seq, &frame(1)) }]).unwrap();
    }
    spool.acknowledged(session(1), 40).unwrap();
    assert_eq!(spool.segment_lengths().count(), 1);
}

fn next_seq(spool: &Spool, of: u128) -> Option<u64> {
    spool.session(session(of)).map(|state| state.next_seq)
}

/// A disk that lost what it was to keep: whatever was not durable is gone, of whomever, and what was stays.
#[test]
fn a_failed_flush_undoes_all_that_was_not_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    spool.commit(&[append(session(1), 0, &frame(1))]).unwrap();
    let durable = spool.active();
    spool.append(&[append(session(1), 1, &frame(2)), append(session(2), 0, &frame(3))]).unwrap();
    assert_eq!(spool.active(), durable, "written is not durable");
    let sync = spool.begin_sync();
    spool.append(&[append(session(1), 2, &frame(4))]).unwrap();
    let outcome = spool.end_sync(&sync, Err(io::Error::other("no")));
    assert!(outcome.is_err() && !spool.is_poisoned());
    assert_eq!(spool.take_lost().into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([session(1), session(2)]));
    assert_eq!((next_seq(&spool, 1), next_seq(&spool, 2)), (Some(1), None));
    assert_eq!(fs::metadata(segment_path(dir.path(), durable.0)).unwrap().len(), durable.1);
    spool.commit(&[append(session(1), 1, &frame(5))]).unwrap();
    drop(spool);
    let spool = Spool::open(dir.path(), 1 << 20).unwrap();
    assert_eq!((next_seq(&spool, 1), next_seq(&spool, 2)), (Some(2), None));
    assert_eq!(spool.session(session(1)).unwrap().head, [5; 32]);
}

/// What was written while a flush ran is not durable by it, and a flush that another has overtaken says nothing.
#[test]
fn a_flush_counts_for_what_was_written_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    spool.append(&[append(session(1), 0, &frame(1))]).unwrap();
    let (sync, outdated) = (spool.begin_sync(), spool.begin_sync());
    spool.append(&[append(session(1), 1, &frame(2))]).unwrap();
    let outcome = sync.run();
    spool.end_sync(&sync, outcome).unwrap();
    let (first, half) = spool.active();
    let both = fs::metadata(segment_path(dir.path(), first)).unwrap().len();
    assert!(half < both, "{half} of {both}");
    spool.commit(&[append(session(1), 2, &frame(3))]).unwrap();
    let whole = spool.active();
    spool.end_sync(&outdated, Ok(())).unwrap();
    assert_eq!(spool.active(), whole);
    // Nor is anything durable by a flush that heard nothing of another's error.
    spool.append(&[append(session(1), 3, &frame(4))]).unwrap();
    let (told, untold) = (spool.begin_sync(), spool.begin_sync());
    spool.end_sync(&told, Err(io::Error::other("no"))).unwrap_err();
    spool.end_sync(&untold, Ok(())).unwrap_err();
    assert!(!spool.is_poisoned());
    assert_eq!(next_seq(&spool, 1), Some(3));
    // That an error was told to an outdated one alone leaves nobody to say what the disk has.
    spool.append(&[append(session(1), 3, &frame(4))]).unwrap();
    spool.end_sync(&outdated, Err(io::Error::other("no"))).unwrap_err();
    assert!(spool.is_poisoned());
}

#[test]
fn room_is_trimmed_before_another_segment_follows() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 4096).unwrap();
    spool.reserve();
    for seq in 0..15 {
        spool.commit(&[append(session(1), seq, &frame(1))]).unwrap();
    }
    assert!(!spool.wants_spare());
    while !spool.wants_spare() {
        let seq = spool.session(session(1)).unwrap().next_seq;
        spool.commit(&[append(session(1), seq, &frame(1))]).unwrap();
    }
    assert!(!spool.wants_spare(), "told once");
    for _ in 0..30 {
        let seq = spool.session(session(1)).unwrap().next_seq;
        spool.commit(&[append(session(1), seq, &frame(1))]).unwrap();
    }
    let lengths: Vec<u64> = spool.segment_lengths().map(|(_, len)| len).collect();
    let on_disk = |number| fs::metadata(segment_path(dir.path(), number)).unwrap().len();
    let active = spool.active().0;
    for (number, len) in (1..active).zip(lengths) {
        assert_eq!(on_disk(number), len);
    }
    let next_seq = spool.session(session(1)).unwrap().next_seq;
    drop(spool);
    let mut spool = Spool::open(dir.path(), 4096).unwrap();
    assert_eq!(spool.session(session(1)).unwrap().next_seq, next_seq);
    assert!(on_disk(active) < 4096, "trimmed");
    spool.commit(&[append(session(1), next_seq, &frame(1))]).unwrap();
    drop(spool);
    // Zeros where there were records are damage, but at the end of the last.
    let path = segment_path(dir.path(), active);
    let mut bytes = fs::read(&path).unwrap();
    let len = bytes.len();
    bytes[len / 2..].fill(0);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Spool::open(dir.path(), 4096), Err(SpoolError::Damaged { .. })));
}

#[test]
fn a_session_that_does_not_wait_is_known_by_each_of_its_later_records() {
    let dir = tempfile::tempdir().unwrap();
    let is_loose = |spool: &Spool, n| spool.session(session(n)).unwrap().loose;
    let mut spool = Spool::open(dir.path(), 64 << 10).unwrap();
    spool.commit(&[append(session(1), 0, &frame(0)), append(session(2), 0, &frame(0))]).unwrap();
    spool.commit(&[Append { loose: true, ..append(session(1), 1, &frame(1)) }]).unwrap();
    spool.commit(&[append(session(1), 2, &frame(2)), append(session(2), 1, &frame(1))]).unwrap();
    assert_eq!((is_loose(&spool, 1), is_loose(&spool, 2)), (true, false));
    drop(spool);
    let mut spool = Spool::open(dir.path(), 64 << 10).unwrap();
    assert_eq!((is_loose(&spool, 1), is_loose(&spool, 2)), (true, false));
    // All of it is acknowledged and deleted, and therefore durable: nothing is missing unless another such operation follows.
    spool.acknowledged(session(1), 3).unwrap();
    spool.acknowledged(session(2), 2).unwrap();
    assert_eq!(spool.session(session(1)).map(|state| (state.next_seq, state.loose)), Some((3, false)));
    drop(spool);
    let spool = Spool::open(dir.path(), 64 << 10).unwrap();
    assert_eq!(spool.session(session(1)).map(|state| (state.next_seq, state.loose)), Some((3, false)));
}
