use super::*;
use crate::sim::rng::stream;

const MOST: u64 = 1_000_000;

fn op(client: u64, action: Action, answer: Answer, called: u64, returned: u64) -> Operation {
    Operation { client, action, answer, called, returned }
}

fn write(value: u64, called: u64, returned: u64) -> Operation {
    op(1, Action::Write(value), Answer::Done, called, returned)
}

fn read(seen: Option<u64>, called: u64, returned: u64) -> Operation {
    op(2, Action::Read, Answer::Saw(seen), called, returned)
}

fn culprit(history: &[Operation]) -> usize {
    match check(history, MOST) {
        Err(Fault::NotLinearizable { operation, .. }) => operation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn good_histories() {
    let lost = op(1, Action::Write(9), Answer::Unknown, 1, 0);
    let good: [&[Operation]; 9] = [
        &[],
        &[read(None, 1, 2)],
        &[write(1, 1, 2), read(Some(1), 3, 4)],
        // Concurrent: either order.
        &[write(1, 1, 4), read(None, 2, 3)],
        &[write(1, 1, 4), read(Some(1), 2, 3)],
        // Of two that overlap, the second in real time may be the first.
        &[write(1, 1, 4), write(2, 2, 3), read(Some(1), 5, 6)],
        // Unknown: at once, much later, or never.
        &[lost.clone(), read(Some(9), 2, 3)],
        &[lost.clone(), read(None, 2, 3), write(1, 4, 5), read(Some(9), 6, 7)],
        &[lost, write(1, 4, 5), read(Some(1), 6, 7)],
    ];
    for history in good {
        assert_eq!(check(history, MOST), Ok(()), "{history:?}");
    }
}

#[test]
fn bad_histories_name_their_operation() {
    // A stale read.
    assert_eq!(culprit(&[write(1, 1, 2), write(2, 3, 4), read(Some(1), 5, 6)]), 2);
    // A lost write.
    assert_eq!(culprit(&[write(1, 1, 2), read(None, 3, 4)]), 1);
    // What nobody wrote.
    assert_eq!(culprit(&[write(1, 1, 2), read(Some(3), 3, 4)]), 1);
    // Seen, and then not seen any more.
    let lost = op(1, Action::Write(9), Answer::Unknown, 1, 0);
    assert_eq!(culprit(&[write(1, 2, 3), lost.clone(), read(Some(9), 4, 5), read(Some(1), 6, 7)]), 3);
    // Before it was asked for.
    let late = op(1, Action::Write(9), Answer::Unknown, 8, 0);
    assert_eq!(culprit(&[late, read(Some(9), 4, 5)]), 1);
}

#[test]
fn compare_and_set() {
    let cas =
        |expected, value, answer, called, returned| op(3, Action::Cas { expected, value }, answer, called, returned);
    let good: [&[Operation]; 4] = [
        &[cas(None, 1, Answer::Done, 1, 2), cas(Some(1), 2, Answer::Done, 3, 4), read(Some(2), 5, 6)],
        &[cas(None, 1, Answer::Done, 1, 4), cas(None, 2, Answer::Refused, 2, 3)],
        &[cas(None, 1, Answer::Unknown, 1, 0), cas(None, 2, Answer::Refused, 2, 3), read(Some(1), 5, 6)],
        &[write(1, 1, 2), op(1, Action::Delete, Answer::Done, 3, 4), cas(None, 2, Answer::Done, 5, 6)],
    ];
    for history in good {
        assert_eq!(check(history, MOST), Ok(()), "{history:?}");
    }
    // Both won.
    assert_eq!(culprit(&[cas(None, 1, Answer::Done, 1, 3), cas(None, 2, Answer::Done, 2, 4)]), 1);
    // Refused, though it was as expected.
    assert_eq!(culprit(&[write(1, 1, 2), cas(Some(1), 2, Answer::Refused, 3, 4)]), 1);
    // Deleted, though there was nothing.
    assert_eq!(culprit(&[op(1, Action::Delete, Answer::Done, 3, 4)]), 0);
}

#[test]
fn a_search_that_is_too_long_proves_nothing() {
    let history = [write(1, 1, 2), write(2, 3, 4)];
    assert_eq!(check(&history, 1), Err(Fault::TooLong));
    assert!(explain(&history, &Fault::TooLong).contains("proves nothing"));
}

/// Every order, by brute force.
fn by_brute_force(history: &[Operation], left: &mut Vec<usize>, value: Option<u64>) -> bool {
    if left.iter().all(|place| history[*place].answer == Answer::Unknown) {
        return true;
    }
    for at in 0..left.len() {
        let place = left[at];
        let first_return = left.iter().filter(|other| history[**other].answer != Answer::Unknown);
        let first_return = first_return.map(|other| history[*other].returned).min().unwrap_or(u64::MAX);
        if history[place].called > first_return {
            continue;
        }
        if let Some(after) = step(value, history[place].action, history[place].answer) {
            left.remove(at);
            let found = by_brute_force(history, left, after);
            left.insert(at, place);
            if found {
                return true;
            }
        }
    }
    false
}

#[test]
fn agrees_with_brute_force_on_small_histories() {
    let mut rng = stream(1, "checker");
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4_000 {
        let mut history = Vec::new();
        for client in 0..rng.u64(1..7) {
            let called = rng.u64(0..24) * 16 + client;
            let returned = called + 8 + rng.u64(0..10) * 16;
            let seen = [None, Some(1), Some(2), Some(3)][rng.usize(0..4)];
            let (action, answer) = match rng.u64(0..8) {
                0..3 => (Action::Read, Answer::Saw(seen)),
                3 => (Action::Write(client), Answer::Done),
                4 => (Action::Write(client), Answer::Unknown),
                5 => (Action::Cas { expected: seen, value: client }, Answer::Done),
                6 => (Action::Cas { expected: seen, value: client }, Answer::Refused),
                _ => (Action::Delete, Answer::Done),
            };
            history.push(op(client, action, answer, called, returned));
        }
        let expected = by_brute_force(&history, &mut (0..history.len()).collect(), None);
        assert_eq!(check(&history, MOST).is_ok(), expected, "{history:?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 300 && bad > 300, "{good} good, {bad} bad");
}

/// Long histories, as simulation makes them, are quick: each key's operations overlap only a little.
#[test]
fn long_histories_are_quick() {
    let mut rng = stream(2, "checker");
    let (mut history, mut value, mut at) = (Vec::new(), None, 0);
    for n in 1..2_000_u64 {
        at += 10;
        // Applied in this order, each within its own interval.
        let (called, returned) = (at - rng.u64(0..40).min(at), at + 1 + rng.u64(0..4) * 10);
        let (action, answer) = match rng.u64(0..4) {
            0 => (Action::Write(n), Answer::Done),
            1 => (Action::Cas { expected: value, value: n }, Answer::Done),
            2 => (Action::Cas { expected: Some(u64::MAX), value: n }, Answer::Refused),
            _ => (Action::Read, Answer::Saw(value)),
        };
        value = step(value, action, answer).unwrap();
        history.push(op(n % 8, action, answer, called * 4_096 + n, returned * 4_096 + n));
    }
    assert_eq!(check(&history, MOST), Ok(()));
    let last = history.len() - 1;
    history.push(read(Some(77_777), (at + 100) * 4_096, (at + 101) * 4_096));
    assert_eq!(culprit(&history), last + 1);
}
