//! What the control plane is to have before an operation runs.

use super::*;

/// Long enough for what is to come, too long for what must not.
const SOON: Duration = Duration::from_millis(50);

async fn open(house: &House) -> (RecorderHandle, Uploader, SessionRecorder, SessionId) {
    let (handle, uploader) = house.start(1 << 24);
    let session = clock::session_id();
    let recorder = handle.open(started(session)).await.unwrap();
    (handle, uploader, recorder, session)
}

fn house() -> House {
    House { durability: Durability::Quorum, ..House::new() }
}

async fn acknowledge(handle: &RecorderHandle, session: SessionId, next_seq: u64) {
    handle.way.to.send(Msg::Acknowledged { session, next_seq }).await.unwrap();
}

async fn recorded(recorder: &mut SessionRecorder, session: SessionId) -> Unacknowledged {
    let id = clock::operation_id();
    match recorder.operation(covered(session, id), &cancel_event()).await.unwrap() {
        Recorded::Unacknowledged(waits) => waits,
        Recorded::Cleared(cleared) => panic!("{cleared:?}"),
    }
}

#[tokio::test]
async fn an_operation_is_cleared_once_its_own_event_is_acknowledged() {
    let house = house();
    let (handle, _uploader, mut recorder, session) = open(&house).await;
    for n in 1..4 {
        // What was said before does not hold for what comes after.
        let mut waits = recorded(&mut recorder, session).await;
        acknowledge(&handle, session, n).await;
        assert!(tokio::time::timeout(SOON, waits.acknowledged()).await.is_err());
        acknowledge(&handle, session, n + 1).await;
        waits.acknowledged().await;
        assert_eq!(waits.operation(), waits.clear().unwrap().operation());
    }
}

#[tokio::test]
async fn the_next_one_does_not_take_the_answer_to_one_that_was_given_up() {
    let house = house();
    let (handle, _uploader, mut recorder, session) = open(&house).await;
    let first = recorded(&mut recorder, session).await;
    assert_eq!(first.clear().unwrap_err(), RecordError::Unacknowledged);
    let mut second = recorded(&mut recorder, session).await;
    acknowledge(&handle, session, 2).await;
    assert!(tokio::time::timeout(SOON, second.acknowledged()).await.is_err());
    acknowledge(&handle, session, 3).await;
    second.acknowledged().await;
    drop(second.clear().unwrap());
}

#[tokio::test]
async fn what_another_member_lacks_does_not_count() {
    let house = house();
    let (handle, _uploader, mut recorder, session) = open(&house).await;
    acknowledge(&handle, session, 1).await;
    let mut waits = recorded(&mut recorder, session).await;
    let (done, rewound) = oneshot::channel();
    handle.way.to.send(Msg::Rewind { sessions: vec![(session, 0)], done }).await.unwrap();
    rewound.await.unwrap();
    acknowledge(&handle, session, 1).await;
    assert!(tokio::time::timeout(SOON, waits.acknowledged()).await.is_err());
    acknowledge(&handle, session, 2).await;
    waits.acknowledged().await;
    drop(waits.clear().unwrap());
}

#[tokio::test]
async fn a_refused_recording_clears_nothing() {
    let house = house();
    let (handle, _uploader, mut recorder, session) = open(&house).await;
    let mut waits = recorded(&mut recorder, session).await;
    acknowledge(&handle, session, log::REFUSED).await;
    waits.acknowledged().await;
    assert_eq!(waits.clear().unwrap_err(), RecordError::Refused);
    let mut next = recorded(&mut recorder, session).await;
    next.acknowledged().await;
    assert_eq!(next.clear().unwrap_err(), RecordError::Refused);
    // It is recorded all the same, and not cleared.
    recorder.seal(None, "closed").await.unwrap();
    assert_eq!(house.verify(session).events, 5);
}

#[tokio::test]
async fn what_waits_is_sent_at_once() {
    let house = house();
    let (handle, _uploader, mut recorder, session) = open(&house).await;
    let log = handle.way.log.upgrade().unwrap();
    let waits = recorded(&mut recorder, session).await;
    tokio::time::timeout(Duration::from_secs(5), log.urgent().notified()).await.unwrap();
    // Nobody waits: nothing is urgent.
    drop(waits);
    recorder.append(&cancel_event()).await.unwrap();
    assert!(tokio::time::timeout(SOON, log.urgent().notified()).await.is_err());
}
