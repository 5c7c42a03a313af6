//! What happens as the spool fills, and before the first operation that is forwarded before it is durable.

use super::*;

fn log_of(max: u64) -> (tempfile::TempDir, Log, mpsc::Sender<Msg>, mpsc::Receiver<Msg>) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new(spool::Spool::open(dir.path(), &SpoolKey::of_tests(1), 1 << 20).unwrap(), max);
    let (to, mailbox) = mpsc::channel(1);
    (dir, log, to, mailbox)
}

fn frames(session: SessionId, first_seq: u64) -> Frames {
    Frames { session, first_seq, count: 1, bytes: vec![1; 1 << 10] }
}

/// First operations wait a little, then no more begin, and only then is what runs refused its record. A seal is always let in.
#[test]
fn each_limit_comes_before_the_next_one() {
    let max = 256 << 10;
    let (_dir, log, to, _mailbox) = log_of(max);
    let session = clock::session_id();
    let (mut seq, mut steps) = (0, Vec::new());
    loop {
        log.tell_fill(&log.lock());
        let step = (log.pressure().is_zero(), log.lock().is_nearly_full(), log.has_room());
        if steps.last() != Some(&step) {
            steps.push(step);
        }
        assert!(log.pressure() <= log::MOST_HELD_BACK);
        match log.write(&frames(session, seq), log::Until::Written, &to) {
            Ok(_) => seq += 1,
            Err(error) => break assert_eq!(error, RecordError::Full),
        }
    }
    let expected = [(true, false, true), (false, false, true), (false, true, true), (false, true, false)];
    assert_eq!(steps, expected);
    assert!(log.lock().spool.bytes() <= max && seq > 200);
    let other = clock::session_id();
    log.lock().admit(&frames(other, 0), true).unwrap();
}

/// The mark is durable before the first such operation is forwarded: what is found without it has lost none.
#[test]
fn the_first_operation_that_need_not_wait_does() {
    let (dir, log, to, _mailbox) = log_of(1 << 24);
    let session = clock::session_id();
    let mut first = match log.write(&frames(session, 0), log::Until::Marked, &to).unwrap() {
        log::Written::Flushing(answer) => answer,
        log::Written::Soon => panic!("it is to wait"),
    };
    assert!(first.try_recv().is_err());
    log.flush().unwrap();
    assert_eq!(first.try_recv().unwrap(), Ok(()));
    assert!(matches!(log.write(&frames(session, 1), log::Until::Marked, &to).unwrap(), log::Written::Soon));
    drop(log);
    let spool = spool::Spool::open(dir.path(), &SpoolKey::of_tests(1), 1 << 20).unwrap();
    assert!(spool.session(session).unwrap().loose);
}
