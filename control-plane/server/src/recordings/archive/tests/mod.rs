//! The store, over object stores that do what they should, and over one that does not.

mod faulty;

use std::time::Duration;

use futures::TryStreamExt as _;
use object_store::memory::InMemory;
use postern_core::Timestamp;
use postern_core::operation::Digest;
use postern_runtime::supervisor::{OnEnd, Supervisor};

use super::*;
use crate::recordings::store::tests::{session, whole};
use crate::recordings::{Append, Recordings, StoreError, Stored};
use faulty::{Does, Faulty};

fn archive_in(store: Arc<dyn ObjectStore>) -> Archive {
    let root = Path::from("pre/c1");
    Archive { recordings: Arc::clone(&store), key_store: store, root, keys: RecordingKeys::testing(&[1]) }
}

fn in_memory() -> Archive {
    archive_in(Arc::new(InMemory::new()))
}

fn clear() -> Vec<u8> {
    [MAGIC.to_vec(), whole().concat()].concat()
}

/// Frames that no compression makes smaller.
fn large(megabytes: usize) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let mut body = vec![0; 1 << 20];
    for _ in 0..megabytes {
        aws_lc_rs::rand::fill(&mut body).unwrap();
        out.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&body);
        out.extend_from_slice(&[7; 32]);
    }
    out
}

fn header(clear: &[u8]) -> Header {
    Header { session: session(), events: 4, length: bytes(clear.len()), head: Digest([9; 32]) }
}

async fn put(archive: &Archive, clear: &[u8]) -> Result<(), ArchiveError> {
    let parts: Vec<_> = clear.chunks(100_000).map(|part| Ok(part.to_vec())).collect();
    archive.put(header(clear), futures::stream::iter(parts)).await
}

async fn read(archive: &Archive, offset: u64) -> Result<Vec<u8>, ArchiveError> {
    let found = archive.get(session()).await?.ok_or(ArchiveError::Lies("it is not there".to_owned()))?;
    found.data(offset).try_concat().await
}

async fn object(archive: &Archive, path: &Path) -> Vec<u8> {
    archive.recordings.get(path).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn replace(archive: &Archive, path: &Path, bytes: Vec<u8>) {
    archive.recordings.put(path, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn what_went_in_comes_out_from_any_byte_on() {
    let (archive, clear) = (in_memory(), clear());
    assert!(archive.get(session()).await.unwrap().is_none());
    put(&archive, &clear).await.unwrap();
    assert_eq!(archive.get(session()).await.unwrap().unwrap().header, header(&clear));
    for offset in 0..=clear.len() {
        assert_eq!(read(&archive, offset as u64).await.unwrap(), clear[offset..], "from {offset}");
    }
    let bytes = object(&archive, &archive.object(session())).await;
    for word in ["alice", "started", "shop"] {
        assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
    assert_eq!(archive.object(session()).as_ref(), format!("pre/c1/recordings/2026-11/{}.rec", session()));
    assert_eq!(archive.key_object(session()).as_ref(), format!("pre/c1/keys/2026-11/{}.key", session()));
}

#[tokio::test]
async fn a_large_one_goes_up_in_parts() {
    let (archive, clear) = (in_memory(), large(40));
    put(&archive, &clear).await.unwrap();
    assert!(read(&archive, 0).await.unwrap() == clear);
    assert!(read(&archive, 33_000_001).await.unwrap() == clear[33_000_001..]);
    // Once more is nothing: it is there.
    let before = archive.recordings.head(&archive.object(session())).await.unwrap();
    put(&archive, &clear).await.unwrap();
    assert_eq!(archive.recordings.head(&archive.object(session())).await.unwrap().e_tag, before.e_tag);
}

#[tokio::test]
async fn a_changed_byte_is_never_taken_for_a_recording() {
    let (archive, clear) = (in_memory(), clear());
    put(&archive, &clear).await.unwrap();
    for path in [archive.object(session()), archive.key_object(session())] {
        let good = object(&archive, &path).await;
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 4;
            replace(&archive, &path, bad).await;
            let error = read(&archive, 0).await.unwrap_err();
            // Of the number of the key that it is under, one may say only that this one is not open.
            assert!(matches!(error, ArchiveError::Lies(_) | ArchiveError::Keys(_)), "byte {place}: {error}");
        }
        for length in 0..good.len() {
            replace(&archive, &path, good[..length].to_vec()).await;
            let error = read(&archive, 0).await.unwrap_err();
            assert!(matches!(error, ArchiveError::Lies(_)), "cut at {length}: {error}");
        }
        replace(&archive, &path, [&good[..], &[0]].concat()).await;
        assert!(matches!(read(&archive, 0).await, Err(ArchiveError::Lies(_))), "longer");
        replace(&archive, &path, good).await;
    }
    assert_eq!(read(&archive, 0).await.unwrap(), clear);
}

#[tokio::test]
async fn what_is_wrong_there_is_put_there_anew() {
    let clear = clear();
    for spoil in ["cut off", "of another session", "of other events", "its key is of another session", "no key"] {
        let archive = in_memory();
        put(&archive, &clear).await.unwrap();
        let (path, key) = (archive.object(session()), archive.key_object(session()));
        let other = SessionId::new(Timestamp::from_secs(1), 1);
        match spoil {
            "cut off" => {
                let cut = object(&archive, &path).await[..100].to_vec();
                replace(&archive, &path, cut).await;
            }
            "of another session" => {
                let header = Header { session: other, ..header(&clear) };
                archive.put(header, futures::stream::iter([Ok(clear.clone())])).await.unwrap();
                let other = object(&archive, &archive.object(other)).await;
                replace(&archive, &path, other).await;
            }
            "of other events" => {
                archive.recordings.delete(&path).await.unwrap();
                let header = Header { events: 5, ..header(&clear) };
                archive.put(header, futures::stream::iter([Ok(clear.clone())])).await.unwrap();
            }
            "no key" => archive.recordings.delete(&key).await.unwrap(),
            _ => {
                let (_, slot) = archive.keys.make(other).unwrap().unwrap();
                replace(&archive, &key, [KEY_MAGIC.as_slice(), slot.as_bytes()].concat()).await;
            }
        }
        put(&archive, &clear).await.unwrap();
        assert_eq!(read(&archive, 0).await.unwrap(), clear, "{spoil}");
    }
}

#[tokio::test]
async fn members_that_come_at_once_leave_one_recording() {
    for _ in 0..50 {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let members: Vec<Archive> = (0..4).map(|_| archive_in(Arc::clone(&store))).collect();
        let clear = clear();
        let all = members.iter().map(|member| put(member, &clear));
        for outcome in futures::future::join_all(all).await {
            outcome.unwrap();
        }
        for member in &members {
            assert_eq!(read(member, 0).await.unwrap(), clear);
        }
    }
}

#[tokio::test]
async fn a_store_that_does_not_keep_what_it_takes_is_not_believed() {
    for (does, clear) in [
        (Does::Nothing, clear()),
        (Does::Half, clear()),
        (Does::Full, clear()),
        (Does::Away, clear()),
        (Does::Half, large(20)),
        (Does::Full, large(20)),
        (Does::Aborts, large(40)),
    ] {
        let faulty = Arc::new(Faulty::new());
        let archive = archive_in(Arc::clone(&faulty) as Arc<dyn ObjectStore>);
        faulty.set(does);
        let error = put(&archive, &clear).await.unwrap_err();
        let expected = match does {
            Does::Nothing | Does::Half => matches!(error, ArchiveError::Lies(_) | ArchiveError::NoKey),
            _ => matches!(error, ArchiveError::Store(_)),
        };
        assert!(expected, "{does:?}: {error}");
        faulty.set(Does::Well);
        put(&archive, &clear).await.unwrap();
        assert!(read(&archive, 0).await.unwrap() == clear, "{does:?}");
    }
}

/// A member's disk, with what puts it away.
struct Member {
    dir: tempfile::TempDir,
    store: Arc<Faulty>,
    recordings: Recordings,
    archivist: Archivist,
    archive: Archive,
    stop: tokio_util::sync::CancellationToken,
}

impl Member {
    fn start(dir: tempfile::TempDir, store: Arc<Faulty>) -> Self {
        let (supervisor, stop) = (Supervisor::new(), tokio_util::sync::CancellationToken::new());
        let recordings = Recordings::start(dir.path(), RecordingKeys::testing(&[1]), &supervisor).unwrap();
        let archive = archive_in(Arc::clone(&store) as Arc<dyn ObjectStore>);
        let (archivist, told) = Archivist::new();
        let parts = Parts { archive: archive.clone(), recordings: recordings.clone(), dir: dir.path().to_owned() };
        supervisor.spawn("archivist", OnEnd::StopNode, super::archive(parts, told, stop.clone()));
        Self { dir, store, recordings, archivist, archive, stop }
    }

    async fn restart(self) -> Self {
        self.recordings.stop().await;
        self.stop.cancel();
        Self::start(self.dir, self.store)
    }

    async fn send(&self, first_seq: u64, frames: &[Vec<u8>]) -> Result<Stored, StoreError> {
        let gateway = "g1".parse().unwrap();
        let append = Append { gateway, session: session(), first_seq, frames: frames.concat() };
        self.recordings.append(append).await?.done().await
    }

    fn files(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.dir.path().join("2026-11")) else { return Vec::new() };
        let names = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
        names.map(|name| name.rsplit_once('.').map_or_else(String::new, |(_, end)| end.to_owned())).collect()
    }

    async fn until_put_away(&self) {
        for _ in 0..600 {
            if self.files() == ["done"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", self.files());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_recording_leaves_the_disk_and_its_gateway_hears_how_it_stands() {
    let member = Member::start(tempfile::tempdir().unwrap(), Arc::new(Faulty::new()));
    let all = whole();
    member.send(0, &all[..3]).await.unwrap();
    // Told of too early: it is not sealed.
    member.archivist.sealed(session());
    member.send(3, &all[3..]).await.unwrap();
    let reader = member.recordings.locate(session()).await.unwrap().unwrap();
    member.archivist.sealed(session());
    member.until_put_away().await;
    assert!(member.recordings.locate(session()).await.unwrap().is_none());
    assert_eq!(read(&member.archive, 0).await.unwrap(), clear());
    // Who was reading goes on.
    assert_eq!(super::super::chunks(reader, 0).try_concat().await.unwrap(), clear());
    let head = whole_end(&member.archive).await;
    for member in [member.restart().await] {
        for first in [0, 3] {
            let stored = member.send(first, &all[usize::try_from(first).unwrap()..]).await.unwrap();
            assert_eq!((stored.next_seq, stored.refused), (4, None), "from {first}");
            assert_eq!(stored.session.unwrap().end.clone().unwrap().head, head);
        }
        assert!(member.send(4, &all[..1]).await.unwrap().refused.is_some());
        assert_eq!(member.files(), ["done"]);
    }
}

async fn whole_end(archive: &Archive) -> Digest {
    archive.get(session()).await.unwrap().unwrap().header.head
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_put_away_stays_until_it_can() {
    for does in [Does::Away, Does::Full, Does::Nothing] {
        let member = Member::start(tempfile::tempdir().unwrap(), Arc::new(Faulty::new()));
        member.store.set(does);
        member.send(0, &whole()).await.unwrap();
        member.archivist.sealed(session());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(member.files(), ["rec"], "{does:?}");
        assert!(member.recordings.locate(session()).await.unwrap().is_some());
        // Also one that nobody tells of again: it is found on the disk.
        let member = member.restart().await;
        member.store.set(Does::Well);
        member.until_put_away().await;
        assert_eq!(read(&member.archive, 0).await.unwrap(), clear(), "{does:?}");
    }
}

#[tokio::test]
async fn a_directory_keeps_them_too() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let config = StoreConfig::default();
        Archive::open(&config, &dir.path().join("store"), "c1", RecordingKeys::testing(&[1])).unwrap()
    };
    put(&open(), &clear()).await.unwrap();
    assert_eq!(read(&open(), 0).await.unwrap(), clear());
    let large = large(20);
    let other = SessionId::new(Timestamp::from_secs(1), 1);
    let header = Header { session: other, ..header(&large) };
    open().put(header, futures::stream::iter([Ok(large.clone())])).await.unwrap();
    let found = open().get(other).await.unwrap().unwrap();
    assert!(found.data(0).try_concat().await.unwrap() == large);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(dir.path().join("store")).unwrap().permissions().mode() & 0o077, 0);
}

/// A gateway that turned to another member left the beginning of a recording here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beginning_goes_once_all_of_it_is_in_the_store() {
    let store = Arc::new(Faulty::new());
    let member = Member::start(tempfile::tempdir().unwrap(), Arc::clone(&store));
    member.send(0, &whole()[..2]).await.unwrap();
    let file = member.dir.path().join(format!("2026-11/{}.rec", session()));
    let rest = |hours: u64| {
        let then = std::time::UNIX_EPOCH + Duration::from_secs(1_795_255_200 - 3_600 * hours);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
    };
    // Not there yet; there, and not whole; and then whole.
    rest(24);
    let member = member.restart().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(member.files(), ["rec"]);
    put(&member.archive, &clear()).await.unwrap();
    let (path, good) =
        (member.archive.object(session()), object(&member.archive, &member.archive.object(session())).await);
    replace(&member.archive, &path, good[..good.len() - 1].to_vec()).await;
    let member = member.restart().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(member.files(), ["rec"]);
    replace(&member.archive, &path, good).await;
    for _ in 0..600 {
        if member.files().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(member.files(), [""; 0]);
    // Its gateway may still ask, and has it whole.
    assert_eq!(member.send(0, &whole()).await.unwrap().next_seq, 4);
}
