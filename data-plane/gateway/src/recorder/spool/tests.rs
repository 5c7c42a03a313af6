use super::segment::segment_path;
use super::*;
use postern_core::Timestamp;

fn session(n: u128) -> SessionId {
    SessionId::new(Timestamp::from_millis(7), n)
}

fn key() -> SpoolKey {
    SpoolKey::of_tests(1)
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
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    spool.commit(&[append(session(1), 0, &frame(1)), append(session(2), 0, &frame(2))]).unwrap();
    spool.commit(&[append(session(1), 1, &frame(3))]).unwrap();
    drop(spool);

    let spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    let state = spool.session(session(1)).unwrap();
    assert_eq!((state.next_seq, state.head, state.sealed), (2, [3; 32], false));
    assert_eq!(spool.open_sessions().count(), 2);
    assert!(!spool.is_settled());
}

#[test]
fn a_torn_end_is_cut_and_damage_elsewhere_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    spool.commit(&[append(session(1), 0, &frame(1))]).unwrap();
    let (active, len) = spool.active();
    drop(spool);
    let path = segment_path(dir.path(), active);
    // What a crash in the middle of a write leaves.
    let mut torn = Vec::new();
    Record::Frames { session: session(1), first_seq: 1, count: 1, seals: false, loose: false, frames: &frame(9) }
        .encode_clear(&mut torn);
    for cut in 1..torn.len() {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(len).unwrap();
        drop(file);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&torn[..cut]).unwrap();
        drop(file);
        // Reading it again and again: each start makes a new segment, so take that one away.
        let spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
        assert_eq!(spool.session(session(1)).unwrap().next_seq, 1, "cut at {cut}");
        assert_eq!(fs::metadata(&path).unwrap().len(), len);
        let newer = segment_path(dir.path(), spool.active().0);
        drop(spool);
        fs::remove_file(newer).unwrap();
    }
    // The same damage before a later segment is no torn end.
    drop(Spool::open(dir.path(), &key(), 1 << 20).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let place = bytes.len() - 5;
    bytes[place] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Spool::open(dir.path(), &key(), 1 << 20), Err(SpoolError::Damaged { .. })));
}

#[test]
fn a_crash_before_the_first_bytes_leaves_a_usable_spool() {
    let dir = tempfile::tempdir().unwrap();
    drop(Spool::open(dir.path(), &key(), 1 << 20).unwrap());
    fs::write(segment_path(dir.path(), 9), b"PST").unwrap();
    drop(Spool::open(dir.path(), &key(), 1 << 20).unwrap());
    // And the start after that, where it is no longer the last.
    drop(Spool::open(dir.path(), &key(), 1 << 20).unwrap());
}

#[test]
fn acknowledged_segments_go_and_open_sessions_stay_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1024).unwrap();
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
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "sealed"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert_eq!(on_disk, spool.bytes());
    drop(spool);
    // The idle session's only frame is gone, and yet it can be closed.
    let spool = Spool::open(dir.path(), &key(), 1024).unwrap();
    let state = spool.session(idle).unwrap();
    assert_eq!((state.next_seq, state.head, state.sealed), (1, [1; 32], false));
    assert_eq!(spool.session(busy).unwrap().next_seq, 40);
}

#[test]
fn settled_when_all_is_sealed_and_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
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
    let _spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    assert!(matches!(Spool::open(dir.path(), &key(), 1 << 20), Err(SpoolError::InUse(_))));
}

fn from(spool: &Spool, of: SessionId) -> u64 {
    spool.session(of).unwrap().from
}

#[test]
fn acknowledged_events_of_open_sessions_are_kept_up_to_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1024).unwrap().keeping(4096);
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
    let mut spool = Spool::open(dir.path(), &key(), 1024).unwrap();
    assert_eq!((from(&spool, long), spool.session(long).unwrap().next_seq), (had, 100));
    spool.acknowledged(long, 100).unwrap();
    spool.acknowledged(short, 60).unwrap();
    // Only where its chain stands is known now.
    assert_eq!((from(&spool, long), spool.segment_lengths().count()), (100, 1));
    drop(spool);
    let spool = Spool::open(dir.path(), &key(), 1024).unwrap();
    assert_eq!((from(&spool, long), spool.session(long).unwrap().next_seq), (100, 100));
}

#[test]
fn a_session_that_is_over_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1024).unwrap().keeping(1 << 20);
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
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
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
    let spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    assert_eq!((next_seq(&spool, 1), next_seq(&spool, 2)), (Some(2), None));
    assert_eq!(spool.session(session(1)).unwrap().head, [5; 32]);
}

/// What was written while a flush ran is not durable by it, and a flush that another has overtaken says nothing.
#[test]
fn a_flush_counts_for_what_was_written_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
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
    let mut spool = Spool::open(dir.path(), &key(), 4096).unwrap();
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
    let mut spool = Spool::open(dir.path(), &key(), 4096).unwrap();
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
    assert!(matches!(Spool::open(dir.path(), &key(), 4096), Err(SpoolError::Damaged { .. })));
}

#[test]
fn a_session_that_does_not_wait_is_known_by_each_of_its_later_records() {
    let dir = tempfile::tempdir().unwrap();
    let is_loose = |spool: &Spool, n| spool.session(session(n)).unwrap().loose;
    let mut spool = Spool::open(dir.path(), &key(), 64 << 10).unwrap();
    spool.commit(&[append(session(1), 0, &frame(0)), append(session(2), 0, &frame(0))]).unwrap();
    spool.commit(&[Append { loose: true, ..append(session(1), 1, &frame(1)) }]).unwrap();
    spool.commit(&[append(session(1), 2, &frame(2)), append(session(2), 1, &frame(1))]).unwrap();
    assert_eq!((is_loose(&spool, 1), is_loose(&spool, 2)), (true, false));
    drop(spool);
    let mut spool = Spool::open(dir.path(), &key(), 64 << 10).unwrap();
    assert_eq!((is_loose(&spool, 1), is_loose(&spool, 2)), (true, false));
    // All of it is acknowledged and deleted, and therefore durable: nothing is missing unless another such operation follows.
    spool.acknowledged(session(1), 3).unwrap();
    spool.acknowledged(session(2), 2).unwrap();
    assert_eq!(spool.session(session(1)).map(|state| (state.next_seq, state.loose)), Some((3, false)));
    drop(spool);
    let spool = Spool::open(dir.path(), &key(), 64 << 10).unwrap();
    assert_eq!(spool.session(session(1)).map(|state| (state.next_seq, state.loose)), Some((3, false)));
}

fn lives(dir: &Path, number: u64) -> Vec<u8> {
    fs::read(segment_path(dir, number)).unwrap()
}

/// Three flushes of one record each in the first segment, and a start later another.
fn three() -> (tempfile::TempDir, Vec<u8>, u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    for seq in 0..3 {
        spool
            .commit(&[append(session(1), seq, b"SELECT 'a secret' FROM somewhere, and what else a frame has")])
            .unwrap();
    }
    let (active, len) = spool.active();
    drop(spool);
    let bytes = lives(dir.path(), active);
    assert_eq!(u64::try_from(bytes.len()).unwrap(), len);
    (dir, bytes, active)
}

fn without(dir: &Path, number: u64) {
    for path in [segment_path(dir, number), segment::clear_path(dir, number)] {
        drop(fs::remove_file(path));
    }
}

/// Whatever is flipped in the last segment: it is told as damage, or, where nothing later says that it was durable, cut off as a torn end. Never is something
/// else read than was written.
#[test]
fn a_flipped_byte_is_found() {
    let (dir, bytes, active) = three();
    let record = (bytes.len() - cipher::BEGIN) / 3;
    let last = cipher::BEGIN + 2 * record;
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        fs::write(segment_path(dir.path(), active), &damaged).unwrap();
        let opened = Spool::open(dir.path(), &key(), 1 << 20);
        // Where a record's length is no more what it was, what follows cannot be found.
        let length = place >= cipher::BEGIN && (place - cipher::BEGIN) % record < 4;
        match opened {
            Err(SpoolError::OtherKey(_)) => assert!(place < cipher::BEGIN, "{place}"),
            Err(SpoolError::Damaged { offset, .. }) => {
                // The one before the last is not known to be durable by the last: it was written when that was.
                assert!(place >= cipher::BEGIN && place < last && !length, "{place}");
                assert_eq!(offset, cipher::BEGIN + (place - cipher::BEGIN) / record * record);
            }
            Ok(spool) => {
                assert!(place >= last || length, "{place}");
                let whole = (place - cipher::BEGIN) / record;
                assert_eq!(next_seq(&spool, 1), (whole > 0).then_some(u64::try_from(whole).unwrap()), "{place}");
                let newer = spool.active().0;
                drop(spool);
                without(dir.path(), newer);
            }
            Err(error) => panic!("{place}: {error}"),
        }
    }
}

/// Of what was written without a flush any part can be missing after a loss of power: that is no damage.
#[test]
fn a_hole_in_what_was_not_flushed_is_a_torn_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    spool.commit(&[append(session(1), 0, &frame(1))]).unwrap();
    let (active, durable) = spool.active();
    for seq in 1..4 {
        spool.append(&[append(session(1), seq, &frame(1))]).unwrap();
    }
    drop(spool);
    let mut bytes = lives(dir.path(), active);
    bytes[usize::try_from(durable).unwrap() + 20] ^= 1;
    fs::write(segment_path(dir.path(), active), &bytes).unwrap();
    let spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    assert_eq!(next_seq(&spool, 1), Some(1));
    assert_eq!(lives(dir.path(), active).len(), usize::try_from(durable).unwrap());
}

/// Records that are swapped, repeated or left out do not open, nor do segments under another's number.
#[test]
fn what_is_moved_is_found() {
    let (dir, bytes, active) = three();
    drop(Spool::open(dir.path(), &key(), 1 << 20).unwrap());
    let record = (bytes.len() - cipher::BEGIN) / 3;
    let part = |n: usize| &bytes[cipher::BEGIN + n * record..][..record];
    for order in [vec![1, 0, 2], vec![0, 0, 1, 2], vec![0, 2], vec![1, 2]] {
        let mut moved = bytes[..cipher::BEGIN].to_vec();
        order.iter().for_each(|n| moved.extend_from_slice(part(*n)));
        fs::write(segment_path(dir.path(), active), &moved).unwrap();
        let opened = Spool::open(dir.path(), &key(), 1 << 20);
        assert!(matches!(opened, Err(SpoolError::Damaged { .. })), "{order:?}");
    }
    fs::write(segment_path(dir.path(), active), lives(dir.path(), active + 1)).unwrap();
    fs::write(segment_path(dir.path(), active + 1), &bytes).unwrap();
    fs::write(segment_path(dir.path(), active + 2), &bytes).unwrap();
    assert!(matches!(Spool::open(dir.path(), &key(), 1 << 20), Err(SpoolError::Damaged { .. })));
}

#[test]
fn nothing_clear_is_on_the_disk_and_another_key_is_told() {
    let (dir, bytes, active) = three();
    for clear in [b"secret".as_slice(), b"SELECT", &session(1).to_bytes()] {
        assert!(!bytes.windows(clear.len()).any(|window| window == clear));
    }
    let other = Spool::open(dir.path(), &SpoolKey::of_tests(2), 1 << 20).map(drop).unwrap_err();
    assert!(matches!(&other, SpoolError::OtherKey(path) if *path == segment_path(dir.path(), active)), "{other}");
    assert_eq!(lives(dir.path(), active), bytes, "it is left as it is");
    assert_eq!(next_seq(&Spool::open(dir.path(), &key(), 1 << 20).unwrap(), 1), Some(3));
}

/// The key and the place of what was cut off are never used for anything else.
#[test]
fn after_a_failed_flush_another_segment_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    spool.commit(&[append(session(1), 0, &frame(1))]).unwrap();
    let before = spool.active();
    spool.append(&[append(session(1), 1, &frame(2))]).unwrap();
    let sync = spool.begin_sync();
    spool.end_sync(&sync, Err(io::Error::other("no"))).unwrap_err();
    spool.commit(&[append(session(1), 1, &frame(3))]).unwrap();
    assert_eq!(spool.active().0, before.0 + 1);
    assert_eq!(u64::try_from(lives(dir.path(), before.0).len()).unwrap(), before.1);
    drop(spool);
    let spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    assert_eq!(spool.session(session(1)).unwrap().head, [3; 32]);
}

/// What a gateway before this one left, torn end and all, is taken over; and such a gateway cannot start here any more.
#[test]
fn segments_in_clear_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = record::MAGIC.to_vec();
    for first_seq in 0..2 {
        let frames = &frame(u8::try_from(first_seq).unwrap());
        Record::Frames { session: session(1), first_seq, count: 1, seals: false, loose: false, frames }
            .encode_clear(&mut old);
    }
    let len = old.len();
    old.extend_from_slice(&[0, 0, 1]);
    fs::write(segment::clear_path(dir.path(), 7), &old).unwrap();
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    assert_eq!((next_seq(&spool, 1), spool.active().0), (Some(2), 8));
    assert_eq!(fs::metadata(segment::clear_path(dir.path(), 7)).unwrap().len(), u64::try_from(len).unwrap());
    spool.commit(&[append(session(1), 2, &frame(2))]).unwrap();
    // It reads what has the lowest number first, and gives up.
    let guard = dir.path().join(format!("{:016x}.spool", 0));
    assert_eq!(fs::read(&guard).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    drop(spool);
    let mut spool = Spool::open(dir.path(), &key(), 1 << 20).unwrap();
    assert_eq!(next_seq(&spool, 1), Some(3));
    spool.acknowledged(session(1), 3).unwrap();
    spool.delete_unneeded().unwrap();
    assert!(!segment::clear_path(dir.path(), 7).exists());
    assert_eq!(next_seq(&spool, 1), Some(3));
}
