use proptest::prelude::*;
use raft::eraftpb::Entry;

use super::super::log_store::Cut;
use super::*;

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry { index, term, data: vec![u8::try_from(index % 256).unwrap(); bytes], ..Default::default() }
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: 1, commit }
}

/// What a log of these writes holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    pointer: Option<Pointer>,
    entries: Vec<(u64, u64)>,
    writes: u64,
}

impl Model {
    fn take(&mut self, cut: Cut, pointer: Option<Pointer>, hard_state: Option<&HardState>, entries: &[Entry]) {
        match cut {
            Cut::Nothing => {}
            Cut::UpTo(index) => self.entries.retain(|(at, _)| *at > index),
            Cut::All => self.entries.clear(),
        }
        self.pointer = pointer.or(self.pointer);
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some(first) = entries.first() {
            self.entries.retain(|(at, _)| *at < first.index);
        }
        self.entries.extend(entries.iter().map(|entry| (entry.index, entry.term)));
    }
}

fn open(dir: &Path, start: Option<Start>) -> Result<(Wal, Model), StorageError> {
    let mut model = Model::default();
    let wal = Wal::open(dir.to_owned(), start, 0, |record| {
        model.take(record.cut, record.pointer, record.hard_state.as_ref(), &record.entries);
    })?;
    model.writes = wal.number();
    Ok((wal, model))
}

/// Ten writes of one entry each, in segments of about three writes.
fn filled(dir: &Path) -> (Start, Model) {
    let (mut wal, mut model) = open(dir, None).unwrap();
    wal.segment_bytes = 1_500;
    for index in 1..=10 {
        let (hard_state, entries) = (hard_state(1, index - 1), [entry(index, 1, 400)]);
        wal.append(&Parts { hard_state: Some(&hard_state), entries: &entries, ..Parts::default() }).unwrap();
        model.take(Cut::Nothing, None, Some(&hard_state), &entries);
    }
    model.writes = wal.number();
    assert!(wal.segments.len() > 2, "{:?}", wal.segments);
    (wal.start_without(0).unwrap(), model)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    segments_in(dir, 0).unwrap().into_iter().map(|(_, path)| path).collect()
}

#[test]
fn goes_on_over_segments_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (start, mut model) = filled(dir.path());
    let (mut wal, again) = open(dir.path(), Some(start)).unwrap();
    assert_eq!(again, model);
    let (entries, hard_state) = ([entry(8, 2, 10)], hard_state(2, 7));
    wal.append(&Parts { hard_state: Some(&hard_state), entries: &entries, ..Parts::default() }).unwrap();
    model.take(Cut::Nothing, None, Some(&hard_state), &entries);
    model.writes = wal.number();
    drop(wal);
    assert_eq!(open(dir.path(), Some(start)).unwrap().1, model);
}

#[test]
fn what_is_not_needed_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (start, mut model) = filled(dir.path());
    let (mut wal, _) = open(dir.path(), Some(start)).unwrap();
    let before = files(dir.path()).len();
    let pointer = Pointer { index: 7, term: 1, length: 3 };
    let write = Parts { cut: Cut::UpTo(7), pointer: Some(pointer), ..Parts::default() };
    wal.append(&write).unwrap();
    model.take(write.cut, write.pointer, None, &[]);
    model.writes = wal.number();
    let start = wal.start_without(7).unwrap();
    // A crash in between leaves more than is needed.
    assert_eq!(open(dir.path(), Some(start)).unwrap().1, model);
    wal.begin_at(start);
    drop(wal);
    assert!(files(dir.path()).len() < before);
    assert_eq!(open(dir.path(), Some(start)).unwrap().1, model);
    assert_eq!(model.entries, [(8, 1), (9, 1), (10, 1)]);
}

/// A loss of power during a write: any part of it may have got to the disk.
#[test]
fn a_write_that_was_broken_off_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(dir.path(), None).unwrap();
    let entries = [entry(1, 1, 100)];
    wal.append(&Parts { entries: &entries, hard_state: Some(&hard_state(1, 0)), ..Parts::default() }).unwrap();
    let (before, first) = (usize::try_from(wal.end).unwrap(), open(dir.path(), None).unwrap().1);
    wal.append(&Parts { entries: &[entry(2, 1, 100)], ..Parts::default() }).unwrap();
    let after = usize::try_from(wal.end).unwrap();
    drop(wal);
    let path = files(dir.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    for kept in before..after {
        for hole in [false, true] {
            let mut bytes = whole.clone();
            if hole {
                // The end came first.
                bytes[before..=kept].fill(0);
            } else {
                bytes[kept..].fill(0);
            }
            std::fs::write(&path, &bytes).unwrap();
            let (mut wal, found) = open(dir.path(), None).unwrap();
            // Padding is no part of what was written.
            if found.writes > first.writes {
                assert_eq!(found.entries, [(1, 1), (2, 1)]);
                assert!(!hole && kept + 8 >= after);
                continue;
            }
            assert_eq!(found, first, "{kept} {hole}");
            wal.append(&Parts { entries: &[entry(2, 2, 10)], ..Parts::default() }).unwrap();
            assert_eq!(open(dir.path(), None).unwrap().1.entries, [(1, 1), (2, 2)]);
        }
    }
}

#[test]
fn a_segment_that_was_broken_off_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (start, model) = filled(dir.path());
    for rest in [&b""[..], &[0; 4096], b"pWAL half a frame"] {
        let number = u64::try_from(files(dir.path()).len()).unwrap() + 1;
        std::fs::write(dir.path().join(name(number)), rest).unwrap();
        assert_eq!(open(dir.path(), Some(start)).unwrap().1, model);
        assert!(!dir.path().join(name(number)).exists());
    }
}

/// A segment's first write is two frames: whatever is there of them, the log is as before, or has the write.
#[test]
fn a_first_write_that_was_broken_off_leaves_what_was() {
    let dir = tempfile::tempdir().unwrap();
    let (start, before) = filled(dir.path());
    let (mut wal, _) = open(dir.path(), Some(start)).unwrap();
    wal.segment_bytes = wal.end;
    let (hard_state, entries) = (hard_state(2, 12), [entry(11, 2, 100), entry(12, 2, 100)]);
    let pointer = Pointer { index: 9, term: 1, length: 5 };
    let write = Parts { pointer: Some(pointer), hard_state: Some(&hard_state), entries: &entries, ..Parts::default() };
    wal.append(&write).unwrap();
    let end = usize::try_from(wal.end).unwrap();
    drop(wal);
    let path = files(dir.path()).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let same = |found: &Model| Model { writes: 0, ..found.clone() };
    for kept in 0..end {
        std::fs::write(&path, &whole[..kept]).unwrap();
        let (_, found) = open(dir.path(), Some(start)).unwrap();
        let written = found.entries.len() > before.entries.len();
        assert!(same(&found) == same(&before) || (written && kept + 8 > end), "{kept}: {found:?}");
    }
    std::fs::write(&path, &whole).unwrap();
    let (_, found) = open(dir.path(), Some(start)).unwrap();
    assert_eq!((found.entries.len(), found.hard_state, found.pointer), (12, hard_state, Some(pointer)));
}

#[test]
fn damage_is_never_taken_for_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (start, model) = filled(dir.path());
    let files = files(dir.path());
    let last = files.last().unwrap();
    for path in &files {
        let whole = std::fs::read(path).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for at in (0..=used).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(path, &bytes).unwrap();
            match open(dir.path(), Some(start)) {
                Err(StorageError::Corrupt { what }) => {
                    assert!(what.contains(path.to_str().unwrap()) || what.contains(".wal"), "{what}")
                }
                Err(other) => panic!("{other}"),
                // Bytes that say nothing, or the last write of all: whoever has a witness knows that it was acknowledged.
                Ok((_, found)) => assert!(found == model || (path == last && found.writes + 1 == model.writes), "{at}"),
            }
            std::fs::write(path, &whole).unwrap();
        }
        std::fs::remove_file(path).unwrap();
        match open(dir.path(), Some(start)) {
            Err(StorageError::Corrupt { what }) => assert!(path != last && what.contains("is missing"), "{what}"),
            Err(other) => panic!("{other}"),
            Ok((_, found)) => assert!(path == last && found.writes < model.writes),
        }
        std::fs::write(path, &whole).unwrap();
    }
    assert_eq!(open(dir.path(), Some(start)).unwrap().1, model);
}

#[test]
fn a_newer_version_is_refused() {
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, 1, 1, &Parts::default()).unwrap();
    let (frame, taken) = frame::decode(&bytes, 1).unwrap();
    assert_eq!((frame.number, taken), (1, bytes.len()));
    assert!(frame.read().is_ok());
    assert!(frame::decode(&bytes, 2).is_none(), "it is of another segment");
    bytes[24] = 2;
    let sum = frame::checksum(1, 1, 2, &bytes[24..26]);
    bytes[16..20].copy_from_slice(&sum.to_be_bytes());
    let read = frame::decode(&bytes, 1).unwrap().0.read();
    assert!(matches!(read, Err(StorageError::Version { version: 2, known: 1 })));
}

#[derive(Clone, Debug)]
enum Step {
    Append { back: u64, count: u64, bytes: usize },
    HardState,
    Compact { keep: u64 },
    Snapshot { ahead: u64 },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_u64, 1..5_u64, 0..900_usize).prop_map(|(back, count, bytes)| Step::Append { back, count, bytes }),
        2 => Just(Step::HardState),
        1 => (0..4_u64).prop_map(|keep| Step::Compact { keep }),
        1 => (0..9_u64).prop_map(|ahead| Step::Snapshot { ahead }),
        2 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn is_what_was_written(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let (mut wal, mut model) = open(dir.path(), None).unwrap();
        wal.segment_bytes = 2_000;
        let (mut start, mut last, mut term) = (None, 0_u64, 1_u64);
        for step in steps {
            let (mut cut, mut pointer, mut entries) = (Cut::Nothing, None, Vec::new());
            let mut state = None;
            match step {
                Step::Append { back, count, bytes } => {
                    let first = model.entries.first().map_or(last + 1, |(first, _)| *first);
                    let from = (last + 1).saturating_sub(back).max(first);
                    term += u64::from(back > 0);
                    entries = (from..from + count).map(|index| entry(index, term, bytes)).collect();
                    last = from + count - 1;
                    state = Some(hard_state(term, 0));
                }
                Step::HardState => state = Some(hard_state(term + 1, last)),
                Step::Compact { keep } => {
                    cut = Cut::UpTo(last.saturating_sub(keep));
                    pointer = Some(Pointer { index: last, term, length: 1 });
                }
                Step::Snapshot { ahead } => {
                    last += ahead;
                    cut = Cut::All;
                    pointer = Some(Pointer { index: last, term, length: 2 });
                }
                Step::Reopen => {
                    drop(wal);
                    let (again, found) = open(dir.path(), start).unwrap();
                    prop_assert_eq!(&found, &model);
                    wal = again;
                    wal.segment_bytes = 2_000;
                    continue;
                }
            }
            wal.append(&Parts { cut, pointer, hard_state: state.as_ref(), entries: &entries }).unwrap();
            model.take(cut, pointer, state.as_ref(), &entries);
            model.writes = wal.number();
            let without = match cut {
                Cut::Nothing => continue,
                Cut::UpTo(index) => index,
                Cut::All => u64::MAX,
            };
            start = wal.start_without(without);
            wal.begin_at(start.unwrap());
        }
    }
}
