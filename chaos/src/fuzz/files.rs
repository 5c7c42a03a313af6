//! Files: of a snapshot beside the log, and of a backup.

#![allow(clippy::expect_used)] // a target panics where something is wrong

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use postern_server::backup;
use postern_server::keys::Keyring;
use postern_server::raft::log_store::{DiskLog, LogStore as _, SnapshotRecord, Write};
use postern_server::raft::transport::SnapshotSource;
use postern_state::State;
use raft::eraftpb::{ConfState, HardState};
use tempfile::TempDir;

use super::Bytes;
use super::entries::founded;

/// Magic, version, index, term, length of the members, length of the data.
const CHECKED: usize = 8 + 1 + 8 + 8 + 4 + 8;
/// The snapshot's place in the log.
const PLACE: (u64, u64) = (1, 1);

struct House {
    dir: TempDir,
    snapshots: Arc<dyn SnapshotSource>,
    kek: Keyring,
    runtime: tokio::runtime::Runtime,
}

fn house() -> std::sync::MutexGuard<'static, House> {
    static HOUSE: OnceLock<Mutex<House>> = OnceLock::new();
    let build = || {
        let dir = tempfile::tempdir().expect("a folder");
        let mut log = DiskLog::open(&dir.path().join("log")).expect("a log");
        log.load().expect("nothing yet");
        let snapshot = SnapshotRecord {
            index: PLACE.0,
            term: PLACE.1,
            members: ConfState { voters: vec![1, 2, 3], ..Default::default() },
            data: founded().snapshot().into(),
        };
        let hard_state = HardState { term: PLACE.1, vote: 0, commit: PLACE.0 };
        log.save(Write { snapshot: Some(&snapshot), hard_state: Some(&hard_state), ..Write::default() })
            .expect("a snapshot");
        let snapshots = log.snapshots();
        let kek = Keyring::in_file(&dir.path().join("kek")).expect("a key");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Mutex::new(House { dir, snapshots, kek, runtime })
    };
    HOUSE.get_or_init(build).lock().unwrap_or_else(PoisonError::into_inner)
}

impl House {
    fn snapshot_file(&self) -> PathBuf {
        self.dir.path().join("log/snapshots").join(format!("{:020}-{:020}.snapshot", PLACE.0, PLACE.1))
    }
}

/// The first byte: which file, and whether the checksum of a snapshot's header is put right first.
pub(super) fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let kind = bytes.byte();
    let mut file = bytes.rest().to_vec();
    let house = house();
    if kind & 1 == 0 {
        let opened = house.runtime.block_on(backup::open(&file, &house.kek));
        if let Ok((_, clear)) = opened {
            State::restore(&clear).expect("what opens was sealed here");
        }
        return;
    }
    if kind & 2 == 0 {
        correct(&mut file);
    }
    let path = house.snapshot_file();
    std::fs::write(&path, &file).expect("a file");
    if let Ok(Some(data)) = house.snapshots.open(PLACE.0, PLACE.1) {
        let _ = State::restore(&data);
    }
}

/// Else hardly any would get past it.
fn correct(file: &mut [u8]) {
    let Some((checked, rest)) = file.split_at_mut_checked(CHECKED) else { return };
    let length = checked.get(25..29).and_then(|length| length.try_into().ok()).map_or(0, u32::from_be_bytes);
    let Some((sum, rest)) = rest.split_first_chunk_mut::<4>() else { return };
    let members = rest.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or_default();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(checked);
    hasher.update(members);
    *sum = hasher.finalize().to_be_bytes();
}

/// What both kinds look like when they are whole.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let house = house();
    let backup = house.runtime.block_on(backup::Backup::begin(&founded(), &house.kek)).expect("a backup");
    let backup: Vec<u8> = backup.flat_map(|piece| piece.expect("a piece")).collect();
    let snapshot = std::fs::read(house.snapshot_file()).expect("it was written");
    vec![[&[0], &*backup].concat(), [&[1], &*snapshot].concat(), [&[3], &*snapshot].concat()]
}
