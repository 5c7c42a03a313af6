use bytes::Bytes;
use raft::eraftpb::{ConfState, HardState};

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
        let mut log = SledLog::open(dir.path()).unwrap();
        assert_eq!(log.load().unwrap(), Loaded::default());
        let entries: Vec<Entry> = (1..=5).map(|index| entry(index, 1, b"data")).collect();
        log.save(Write { entries: &entries, hard_state: Some(&hard_state(1, 4)), ..Write::default() }).unwrap();
    }
    test(dir.path());
}

fn reload(dir: &Path) -> Result<Loaded, StorageError> {
    SledLog::open(dir).unwrap().load()
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
            let mut log = SledLog::open(dir).unwrap();
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
            let mut log = SledLog::open(dir).unwrap();
            log.load().unwrap();
            log.save(Write { snapshot: Some(&snapshot), cut: Cut::UpTo(3), ..Default::default() }).unwrap();
        }
        let loaded = reload(dir).unwrap();
        assert_eq!(indices(&loaded), [4, 5]);
        assert_eq!(loaded.snapshot, Some(snapshot.clone()));
    });
}

#[test]
fn damage_is_found_and_named() {
    type Damage = fn(&sled::Tree);
    let damage: [(&str, Damage); 6] = [
        ("entry 2: its checksum", |tree| flip(tree, &entry_key(2), 7)),
        ("entry 2: its checksum", |tree| flip(tree, &entry_key(2), 0)),
        ("the hard state: its checksum", |tree| flip(tree, HARD_STATE, 6)),
        ("entry 3 is missing", |tree| drop(tree.remove(entry_key(3)).unwrap())),
        ("are committed", |tree| {
            tree.remove(entry_key(4)).unwrap();
            tree.remove(entry_key(5)).unwrap();
        }),
        ("entry 2: its checksum", |tree| {
            let other = tree.get(entry_key(1)).unwrap().unwrap();
            tree.insert(entry_key(2), other).unwrap();
        }),
    ];
    for (expected, act) in damage {
        with_log(|dir| {
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
