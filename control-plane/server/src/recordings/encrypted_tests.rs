use futures::TryStreamExt as _;

use super::tests::{send, session, whole};
use super::*;
use crate::recordings::chunks;

fn expected() -> Vec<u8> {
    [postern_core::recording::MAGIC.to_vec(), whole().concat()].concat()
}

fn read(store: &mut Store, offset: u64) -> std::io::Result<Vec<u8>> {
    let located = store.locate(session())?.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(chunks(located, offset).try_concat())
}

fn open(dir: &Path) -> Store {
    Store::open(dir, RecordingKeys::testing(&[1])).unwrap()
}

/// The file of a recording that was written in three pieces.
fn written(dir: &Path) -> (PathBuf, Vec<u8>) {
    let (mut store, all) = (open(dir), whole());
    send(&mut store, "g1", 0, &all[..1]);
    send(&mut store, "g1", 1, &all[1..2]);
    send(&mut store, "g1", 2, &all[2..]);
    let file = path(dir, session());
    let bytes = std::fs::read(&file).unwrap();
    (file, bytes)
}

#[test]
fn what_lies_on_the_disk_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_, bytes) = written(dir.path());
    for word in ["alice", "started", "shop", "closed"] {
        assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
    let expected = expected();
    let mut store = open(dir.path());
    assert_eq!(store.locate(session()).unwrap().unwrap().length, expected.len() as u64);
    for offset in 0..=expected.len() {
        assert_eq!(read(&mut store, offset as u64).unwrap(), expected[offset..], "from {offset}");
    }
}

#[test]
fn goes_on_after_a_restart_at_any_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (file, bytes) = written(dir.path());
    for cut in 0..=bytes.len() {
        for zeros in [0, 5_000] {
            std::fs::write(&file, [&bytes[..cut], &vec![0; zeros]].concat()).unwrap();
            let mut store = open(dir.path());
            // The first bytes of a file never come without its size: they are written and flushed before anything else is.
            if zeros > 0 && cut < 72 {
                continue;
            }
            let stored = send(&mut store, "g1", 0, &whole());
            assert_eq!((stored.next_seq, stored.refused), (4, None), "cut at {cut}, {zeros} zeros");
            assert_eq!(read(&mut open(dir.path()), 0).unwrap(), expected(), "cut at {cut}");
        }
    }
}

#[test]
fn a_changed_byte_is_never_taken_for_a_recording() {
    let dir = tempfile::tempdir().unwrap();
    let (file, bytes) = written(dir.path());
    let mut damaged = 0;
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 0x10;
        std::fs::write(&file, &changed).unwrap();
        let mut store = open(dir.path());
        match store.recording(session()) {
            Err(_) => damaged += 1,
            Ok(recording) if recording.damaged.is_some() => damaged += 1,
            Ok(recording) => {
                let events = recording.next_seq();
                assert!(events < 4, "byte {place}");
                // The end alone was not whole: what is sent again takes its place.
                assert_eq!(send(&mut store, "g1", events, &whole()[usize::try_from(events).unwrap()..]).next_seq, 4);
                assert_eq!(read(&mut store, 0).unwrap(), expected(), "byte {place}");
            }
        }
    }
    assert!(damaged > bytes.len() / 4, "{damaged} of {}", bytes.len());
}

#[test]
fn without_its_key_a_recording_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (file, bytes) = written(dir.path());
    let mut store = Store::open(dir.path(), RecordingKeys::testing(&[])).unwrap();
    assert!(store.locate(session()).unwrap_err().to_string().contains("not open"));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    store.keys = RecordingKeys::testing(&[1]);
    assert_eq!(read(&mut store, 0).unwrap(), expected());
}

#[test]
fn one_that_was_begun_in_clear_goes_on_so() {
    let dir = tempfile::tempdir().unwrap();
    let all = whole();
    let mut store = Store::open(dir.path(), RecordingKeys::testing(&[])).unwrap();
    send(&mut store, "g1", 0, &all[..2]);
    let mut store = open(dir.path());
    assert_eq!(send(&mut store, "g1", 2, &all[2..]).next_seq, 4);
    assert_eq!(std::fs::read(path(dir.path(), session())).unwrap(), expected());
    assert_eq!(read(&mut store, 3).unwrap(), expected()[3..]);
}
