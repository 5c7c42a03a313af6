use raft::eraftpb::ConfState;

use super::*;

fn snapshot(length: usize) -> SnapshotRecord {
    let members = ConfState { voters: vec![1, 2, 3], ..Default::default() };
    let data: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
    SnapshotRecord { index: 7, term: 2, members, data: data.into() }
}

fn written(length: usize) -> (tempfile::TempDir, SnapshotDir, Pointer, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(root.path().join("snapshots")).unwrap();
    let pointer = dir.write(&snapshot(length)).unwrap();
    let path = dir.path(7, 2);
    (root, dir, pointer, path)
}

#[test]
fn what_was_written_is_read() {
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
        let (_root, dir, pointer, _) = written(length);
        assert_eq!(dir.load(Pointer::decode(&pointer.encode()).unwrap()).unwrap(), snapshot(length));
        assert_eq!(SnapshotSource::open(&dir, 7, 2).unwrap().unwrap(), snapshot(length).data);
        assert_eq!(SnapshotSource::open(&dir, 7, 3).unwrap(), None);
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let (_root, dir, pointer, path) = written(300);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(dir.load(pointer), Err(StorageError::Corrupt { .. })), "a flip at {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(matches!(dir.load(pointer), Err(StorageError::Corrupt { .. })), "a cut at {at}");
    }
    fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
    assert!(dir.load(pointer).unwrap_err().to_string().contains("longer"));
    fs::remove_file(&path).unwrap();
    assert!(dir.load(pointer).unwrap_err().to_string().contains("missing"));
}

#[test]
fn what_does_not_count_is_removed() {
    let (_root, dir, pointer, path) = written(10);
    let half = dir.path(9, 2).with_extension("tmp");
    fs::write(&half, b"half").unwrap();
    fs::write(dir.path(5, 1), b"old").unwrap();
    dir.keep_only(Some(pointer));
    assert!(path.exists() && !half.exists() && !dir.path(5, 1).exists());
}
