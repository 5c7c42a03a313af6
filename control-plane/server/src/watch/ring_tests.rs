use std::time::Duration;

use super::*;

#[derive(Debug)]
struct Entry(u64, usize);

impl Held for Entry {
    fn revision(&self) -> u64 {
        self.0
    }
    fn weight(&self) -> usize {
        self.1
    }
}

const BOUNDS: Bounds = Bounds { count: 4, bytes: 100 };

fn entry(revision: u64) -> Arc<Entry> {
    Arc::new(Entry(revision, 1))
}

#[test]
fn each_entry_once_and_in_order() {
    let (ring, reader) = Ring::new(10, BOUNDS);
    for revision in [11, 15, 15, 12, 16] {
        ring.push(entry(revision));
    }
    let mut cursor = 10;
    let mut seen = Vec::new();
    while let Some(entry) = reader.after(cursor).unwrap() {
        cursor = entry.revision();
        seen.push(cursor);
    }
    assert_eq!(seen, [11, 15, 16]);
    // A revision between two entries is a place too.
    assert_eq!(reader.after(13).unwrap().unwrap().revision(), 15);
    assert_eq!((reader.head(), reader.floor()), (16, 10));
}

#[test]
fn the_oldest_go_by_count_and_by_bytes() {
    let (ring, reader) = Ring::new(0, BOUNDS);
    for revision in 1..=6 {
        ring.push(entry(revision));
    }
    assert_eq!(reader.after(1).unwrap_err(), Lost::Compacted { floor: 2 });
    assert_eq!(reader.after(2).unwrap().unwrap().revision(), 3);
    ring.push(Arc::new(Entry(7, 99)));
    assert_eq!(reader.after(4).unwrap_err(), Lost::Compacted { floor: 5 });
    assert_eq!(reader.after(6).unwrap().unwrap().revision(), 7);
    // One that is too heavy by itself is passed by all, not kept.
    ring.push(Arc::new(Entry(8, 101)));
    assert_eq!(reader.after(7).unwrap_err(), Lost::Compacted { floor: 8 });
    assert!(reader.after(8).unwrap().is_none());
}

#[test]
fn a_reset_loses_whoever_is_behind() {
    let (ring, reader) = Ring::new(0, BOUNDS);
    ring.push(entry(1));
    ring.reset(20);
    assert_eq!(reader.after(1).unwrap_err(), Lost::Compacted { floor: 20 });
    ring.push(entry(21));
    assert_eq!(reader.after(20).unwrap().unwrap().revision(), 21);
}

#[tokio::test]
async fn waiting_ends_with_an_entry_or_with_the_writer() {
    let (ring, mut reader) = Ring::new(0, BOUNDS);
    let mut other = reader.clone();
    let waiting = other.next(0);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut waiting).await.is_err());
    ring.push(entry(1));
    assert_eq!(waiting.await.unwrap().revision(), 1);
    drop(ring);
    assert_eq!(reader.next(1).await.unwrap_err(), Lost::Stopped);
}
