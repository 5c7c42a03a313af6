use bytes::Bytes;
use raft::eraftpb::{ConfState, HardState};

use super::super::log_store::SnapshotRecord;
use super::*;

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry { index, term, data: data.to_vec(), ..Default::default() }
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: 1, commit }
}

fn indices(loaded: &Loaded) -> Vec<u64> {
    loaded.entries.iter().map(|entry| entry.index).collect()
}

fn with_log(test: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut log = DiskLog::open(dir.path()).unwrap();
        assert_eq!(log.load().unwrap(), Loaded::default());
        let entries: Vec<Entry> = (1..=5).map(|index| entry(index, 1, b"data")).collect();
        log.save(Write { entries: &entries, hard_state: Some(&hard_state(1, 4)), ..Write::default() }).unwrap();
    }
    test(dir.path());
}

fn reload(dir: &Path) -> Result<Loaded, StorageError> {
    DiskLog::open(dir).unwrap().load()
}

#[test]
fn what_was_saved_is_there_after_a_restart() {
    with_log(|dir| {
        let loaded = reload(dir).unwrap();
        assert_eq!(indices(&loaded), [1, 2, 3, 4, 5]);
        assert_eq!(loaded.hard_state, hard_state(1, 4));
    });
}

#[test]
fn a_new_leaders_entries_replace_the_tail() {
    with_log(|dir| {
        {
            let mut log = DiskLog::open(dir).unwrap();
            log.load().unwrap();
            log.save(Write {
                entries: &[entry(3, 2, b"new")],
                hard_state: Some(&hard_state(2, 3)),
                ..Write::default()
            })
            .unwrap();
        }
        let loaded = reload(dir).unwrap();
        assert_eq!(indices(&loaded), [1, 2, 3]);
        assert_eq!(loaded.entries[2].data, b"new");
    });
}

#[test]
fn a_snapshot_takes_the_place_of_what_it_covers() {
    with_log(|dir| {
        let members = ConfState { voters: vec![1], ..Default::default() };
        let snapshot = SnapshotRecord { index: 3, term: 1, members, data: Bytes::from_static(b"state") };
        {
            let mut log = DiskLog::open(dir).unwrap();
            log.load().unwrap();
            log.save(Write { snapshot: Some(&snapshot), cut: Cut::UpTo(3), ..Default::default() }).unwrap();
        }
        let loaded = reload(dir).unwrap();
        assert_eq!(indices(&loaded), [4, 5]);
        assert_eq!(loaded.snapshot, Some(snapshot.clone()));
    });
}

/// How a log lay in sled alone, before there was a write-ahead log.
#[test]
fn a_log_of_before_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    {
        let database = open_database(dir.path()).unwrap();
        let tree = database.open_tree("raft").unwrap();
        let put = |key: &[u8], payload: &[u8]| drop(tree.insert(key, seal_record(key, payload)).unwrap());
        for index in 1..=5 {
            put(&entry_key(index), &entry(index, 1, b"data").encode_to_vec());
        }
        put(HARD_STATE, &hard_state(1, 4).encode_to_vec());
        put(NUMBER, &7_u64.to_be_bytes());
        Witness::open(&dir.path().join("witness")).unwrap().0.write(7).unwrap();
        database.flush().unwrap();
    }
    for _ in 0..2 {
        let loaded = reload(dir.path()).unwrap();
        assert_eq!(indices(&loaded), [1, 2, 3, 4, 5]);
        assert_eq!(loaded.hard_state, hard_state(1, 4));
    }
    let database = open_database(dir.path()).unwrap();
    assert_eq!(database.open_tree("raft").unwrap().scan_prefix([ENTRY]).count(), 0);
}

#[test]
fn damage_to_the_checkpoint_is_found_and_named() {
    type Damage = fn(&sled::Tree);
    let damage: [(&str, Damage); 3] = [
        ("the hard state: its checksum", |tree| flip(tree, HARD_STATE, 6)),
        ("where the log begins: its checksum", |tree| flip(tree, START, 9)),
        ("the number of the last write: its checksum", |tree| {
            let other = tree.get(HARD_STATE).unwrap().unwrap();
            tree.insert(NUMBER, other).unwrap();
        }),
    ];
    for (expected, act) in damage {
        with_log(|dir| {
            {
                let mut log = DiskLog::open(dir).unwrap();
                log.load().unwrap();
                let snapshot = SnapshotRecord { index: 3, term: 1, ..SnapshotRecord::default() };
                log.save(Write { snapshot: Some(&snapshot), cut: Cut::UpTo(3), ..Default::default() }).unwrap();
            }
            {
                let database = open_database(dir).unwrap();
                act(&database.open_tree("raft").unwrap());
                database.flush().unwrap();
            }
            let error = reload(dir).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        });
    }
}

fn flip(tree: &sled::Tree, key: &[u8], at: usize) {
    let mut record = tree.get(key).unwrap().unwrap().to_vec();
    record[at] ^= 1;
    tree.insert(key, record).unwrap();
}

/// Whatever happens to a file, a node starts with all that it acknowledged, or not at all.
#[test]
fn damage_to_a_file_never_loses_an_acknowledged_write_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let whole = {
        let mut log = DiskLog::open(dir.path()).unwrap();
        log.load().unwrap();
        for n in 1..=200_u64 {
            let data = vec![u8::try_from(n % 256).unwrap(); 300];
            let entries = [entry(n, 1, &data)];
            log.save(Write { entries: &entries, hard_state: Some(&hard_state(1, n - 1)), ..Write::default() }).unwrap();
            if n == 100 {
                let snapshot = SnapshotRecord { index: 50, term: 1, ..SnapshotRecord::default() };
                log.save(Write { snapshot: Some(&snapshot), cut: Cut::UpTo(20), ..Default::default() }).unwrap();
            }
        }
        drop(log);
        reload(dir.path()).unwrap()
    };
    assert_eq!(whole.entries.len(), 180);
    let (mut refused, mut unharmed) = (0, 0);
    for damaged in ["db", "wal/00000000000000000001.wal"] {
        let file = std::fs::read(dir.path().join(damaged)).unwrap();
        let used = file.iter().rposition(|byte| *byte != 0).unwrap();
        for step in 0..48 {
            let copy = tempfile::tempdir().unwrap();
            for folder in ["", "wal", "snapshots"] {
                std::fs::create_dir_all(copy.path().join(folder)).unwrap();
                for item in std::fs::read_dir(dir.path().join(folder)).unwrap().map(Result::unwrap) {
                    if item.file_type().unwrap().is_file() {
                        std::fs::copy(item.path(), copy.path().join(folder).join(item.file_name())).unwrap();
                    }
                }
            }
            let at = used - used * step / 97;
            let mut bytes = file.clone();
            match step % 3 {
                0 => bytes[at] ^= 0x10,
                1 => bytes.truncate(at),
                _ => bytes[at..].fill(0),
            }
            std::fs::write(copy.path().join(damaged), bytes).unwrap();
            match DiskLog::open(copy.path()).and_then(|mut log| log.load()) {
                Ok(loaded) => {
                    assert!(loaded == whole, "{damaged}, step {step}: {} entries", loaded.entries.len());
                    unharmed += 1;
                }
                Err(StorageError::Corrupt { .. } | StorageError::Io(_)) => refused += 1,
                Err(other) => panic!("{damaged}, step {step}: {other}"),
            }
        }
    }
    assert!(refused > 50, "{refused} refused, {unharmed} unharmed");
}

#[test]
fn a_log_whose_end_is_gone_is_refused() {
    with_log(end_is_gone);
}

fn end_is_gone(dir: &Path) {
    let path = dir.join("wal/00000000000000000001.wal");
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::write(&path, vec![0; usize::try_from(length).unwrap()]).unwrap();
    let error = reload(dir).unwrap_err().to_string();
    assert!(error.contains("its end is missing: 2 writes were acknowledged, 0 are there"), "{error}");
}

/// The file is not flushed with each write: it may be as it was some writes ago, or empty, or gone.
#[test]
fn a_witness_that_the_power_failed_refuses_nothing_and_vouches_again() {
    for left in [Some(&b""[..]), Some(&[0; 24]), None] {
        with_log(|dir| {
            let witness = dir.join("witness");
            match left {
                Some(left) => std::fs::write(&witness, left).unwrap(),
                None => std::fs::remove_file(&witness).unwrap(),
            }
            assert_eq!(indices(&reload(dir).unwrap()), [1, 2, 3, 4, 5]);
            end_is_gone(dir);
        });
    }
}

#[test]
fn a_leaders_snapshot_begins_the_log_anew() {
    with_log(|dir| {
        let members = ConfState { voters: vec![1, 2], ..Default::default() };
        let snapshot = SnapshotRecord { index: 4, term: 2, members, data: Bytes::from_static(b"state") };
        let entries = [entry(5, 2, b"new")];
        {
            let mut log = DiskLog::open(dir).unwrap();
            log.load().unwrap();
            let write = Write {
                entries: &entries,
                hard_state: Some(&hard_state(2, 4)),
                snapshot: Some(&snapshot),
                cut: Cut::All,
            };
            log.save(write).unwrap();
            assert_eq!(log.snapshots().open(4, 2).unwrap().unwrap(), snapshot.data);
        }
        let loaded = reload(dir).unwrap();
        assert_eq!(loaded, Loaded { hard_state: hard_state(2, 4), snapshot: Some(snapshot), entries: entries.into() });
    });
}

#[test]
fn entries_are_kept_behind_a_snapshot_and_a_half_written_one_is_not_missed() {
    with_log(|dir| {
        let members = ConfState { voters: vec![1], ..Default::default() };
        let snapshot = SnapshotRecord { index: 4, term: 1, members, data: Bytes::from_static(b"state") };
        {
            let mut log = DiskLog::open(dir).unwrap();
            log.load().unwrap();
            log.snapshot_writer()(&snapshot).unwrap();
            log.save(Write { snapshot: Some(&snapshot), cut: Cut::UpTo(2), ..Write::default() }).unwrap();
            // A crash while the next one was written: it was never pointed to.
            log.snapshot_writer()(&SnapshotRecord { index: 5, ..snapshot.clone() }).unwrap();
            std::fs::write(dir.join("snapshots/half.tmp"), b"half").unwrap();
        }
        let loaded = reload(dir).unwrap();
        assert_eq!(indices(&loaded), [3, 4, 5]);
        assert_eq!(loaded.snapshot, Some(snapshot.clone()));
        assert_eq!(std::fs::read_dir(dir.join("snapshots")).unwrap().count(), 1);
    });
}

#[test]
fn a_snapshot_file_that_is_gone_or_short_is_refused() {
    with_log(|dir| {
        let members = ConfState { voters: vec![1], ..Default::default() };
        let snapshot = SnapshotRecord { index: 4, term: 1, members, data: Bytes::from(vec![1; 1_000]) };
        {
            let mut log = DiskLog::open(dir).unwrap();
            log.load().unwrap();
            log.save(Write { snapshot: Some(&snapshot), cut: Cut::UpTo(4), ..Write::default() }).unwrap();
        }
        let file = std::fs::read_dir(dir.join("snapshots")).unwrap().next().unwrap().unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        assert!(reload(dir).unwrap_err().to_string().contains("it is cut off"));
        std::fs::remove_file(&file).unwrap();
        assert!(reload(dir).unwrap_err().to_string().contains("it is missing"));
    });
}

#[test]
fn a_write_larger_than_a_segment_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = DiskLog::open(dir.path()).unwrap();
    log.load().unwrap();
    let data = vec![7; 9 << 20];
    for index in 1..=3 {
        let entries = [entry(2 * index - 1, 1, &data), entry(2 * index, 1, &data)];
        log.save(Write { entries: &entries, hard_state: Some(&hard_state(1, 0)), ..Write::default() }).unwrap();
    }
    drop(log);
    assert_eq!(indices(&reload(dir.path()).unwrap()), [1, 2, 3, 4, 5, 6]);
}
