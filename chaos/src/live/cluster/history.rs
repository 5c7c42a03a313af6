//! What clients saw of registers, and whether one order of all operations explains it.
//!
//! A register is an object: it has a value, and a revision that every write moves forward. As revisions tell the order of the writes, whether
//! a history is linearizable can be decided exactly and fast: operations in the order of their revisions must nowhere go against real
//! time, and every value must be what was written at its revision.

use std::collections::BTreeMap;
use std::time::Duration;

/// One operation on one register by one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which register.
    pub register: String,
    /// What was asked.
    pub asked: Asked,
    /// When it was asked, on the clock of the clients.
    pub start: Duration,
    /// When its answer was there; of an operation without an answer, when it was given up.
    pub end: Duration,
    /// The answer.
    pub answer: Answer,
}

/// What was asked of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Its value. Linearizable.
    Read,
    /// A new value, which no other write ever writes; with `expected` only when the register is at that revision.
    Write {
        /// The new value.
        value: String,
        /// The revision that it must be at.
        expected: Option<u64>,
    },
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A read: nothing was ever written.
    Nothing,
    /// A read's value, or the value that was written, and its revision.
    Value(String, u64),
    /// A write that was refused: its register was at another revision.
    Conflict,
    /// It was not done.
    Refused,
    /// None came, or none that tells: it was done, or will be, or not.
    Unknown,
}

/// A history that no order explains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A read gave what nobody wrote, or what was refused.
    #[error("a value that nobody wrote: {0:?}")]
    Invented(Box<Operation>),
    /// A read's value had another revision when it was written.
    #[error("one value at two revisions, or two at one: {0:?} and {1:?}")]
    Revision(Box<Operation>, Box<Operation>),
    /// The later operation saw an older state than the one that had ended before it began.
    #[error("stale: {after:?} began after {before:?} had ended")]
    Stale {
        /// The one that had ended.
        before: Box<Operation>,
        /// The one that had not seen it.
        after: Box<Operation>,
    },
    /// A value was seen before its write had begun.
    #[error("seen before it was written: {read:?} of {write:?}")]
    TooEarly {
        /// Who saw it.
        read: Box<Operation>,
        /// What was to be written.
        write: Box<Operation>,
    },
    /// A compare-and-set was done though another write lay between.
    #[error("not at the revision that it was to be at: {write:?}, but {between:?} had come before")]
    Compare {
        /// What was done.
        write: Box<Operation>,
        /// What lay between.
        between: Box<Operation>,
    },
    /// A compare-and-set was refused though its register was at the expected revision all the time.
    #[error("refused without cause: {0:?}")]
    NoConflict(Box<Operation>),
}

/// Looks for an order of `history` that explains it.
///
/// # Errors
/// What no order explains.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    let mut registers: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        registers.entry(&operation.register).or_default().push(operation);
    }
    registers.into_values().try_for_each(check_register)
}

fn check_register(history: Vec<&Operation>) -> Result<(), Violation> {
    let writes: BTreeMap<&str, &Operation> = history
        .iter()
        .filter_map(|operation| match &operation.asked {
            Asked::Write { value, .. } => Some((value.as_str(), *operation)),
            Asked::Read => None,
        })
        .collect();
    let versions = versions(&history, &writes)?;
    real_time(&history)?;
    let revisions: BTreeMap<&str, u64> = versions
        .iter()
        .filter_map(|(revision, write)| match &write.asked {
            Asked::Write { value, .. } => Some((value.as_str(), *revision)),
            Asked::Read => None,
        })
        .collect();
    for operation in &history {
        compare(operation, &versions, &writes, &revisions)?;
    }
    Ok(())
}

/// The revision that an operation is at, in the order of revisions; `None`: it has no place, or nobody knows which.
fn place(operation: &Operation) -> Option<u64> {
    match operation.answer {
        Answer::Nothing => Some(0),
        Answer::Value(_, revision) => Some(revision),
        Answer::Conflict | Answer::Refused | Answer::Unknown => None,
    }
}

/// Each revision that was seen, with the write that made it.
fn versions<'a>(
    history: &[&'a Operation],
    writes: &BTreeMap<&str, &'a Operation>,
) -> Result<BTreeMap<u64, &'a Operation>, Violation> {
    let mut versions: BTreeMap<u64, &Operation> = BTreeMap::new();
    let mut revisions: BTreeMap<&str, (u64, &Operation)> = BTreeMap::new();
    for operation in history {
        let Answer::Value(value, revision) = &operation.answer else { continue };
        let invented = || Violation::Invented(boxed(operation));
        let write = *writes.get(value.as_str()).ok_or_else(invented)?;
        if matches!(write.answer, Answer::Conflict | Answer::Refused) {
            return Err(invented());
        }
        if operation.end < write.start {
            return Err(Violation::TooEarly { read: boxed(operation), write: boxed(write) });
        }
        let seen = versions.entry(*revision).or_insert(write);
        let at = revisions.entry(value).or_insert((*revision, operation));
        if *seen != write || at.0 != *revision {
            return Err(Violation::Revision(boxed(operation), boxed(at.1)));
        }
    }
    Ok(versions)
}

/// What began after another had ended must not be at an older revision, and a write must be at a newer one.
fn real_time(history: &[&Operation]) -> Result<(), Violation> {
    let mut by_start: Vec<(u64, &Operation)> =
        history.iter().filter_map(|operation| Some((place(operation)?, *operation))).collect();
    let mut by_end = by_start.clone();
    by_start.sort_by_key(|(_, operation)| operation.start);
    by_end.sort_by_key(|(_, operation)| operation.end);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<(u64, &Operation)> = None;
    for (revision, after) in by_start {
        while let Some(before) = ended.next_if(|(_, before)| before.end < after.start) {
            if newest.is_none_or(|(newest, _)| before.0 > newest) {
                newest = Some(before);
            }
        }
        let Some((newest, before)) = newest else { continue };
        let writes = matches!(after.asked, Asked::Write { .. });
        if revision < newest || (writes && revision == newest) {
            return Err(Violation::Stale { before: boxed(before), after: boxed(after) });
        }
    }
    Ok(())
}

/// A compare-and-set is done when its register is at the expected revision, and not otherwise.
fn compare(
    operation: &Operation,
    versions: &BTreeMap<u64, &Operation>,
    writes: &BTreeMap<&str, &Operation>,
    revisions: &BTreeMap<&str, u64>,
) -> Result<(), Violation> {
    let Asked::Write { expected: Some(expected), .. } = &operation.asked else { return Ok(()) };
    match &operation.answer {
        Answer::Value(_, revision) => {
            let between = versions.range(expected + 1..*revision).next();
            between.map_or(Ok(()), |(_, between)| {
                Err(Violation::Compare { write: boxed(operation), between: boxed(between) })
            })
        }
        Answer::Conflict => {
            // It was there before, and nothing that may have come after it had begun before this ended.
            let was_there = versions.get(expected).is_some_and(|write| write.end < operation.start);
            // Thousands of operations are held against thousands: nothing here may take long.
            let disturbed = writes.iter().any(|(value, write)| {
                let may_be_done = !matches!(write.answer, Answer::Conflict | Answer::Refused);
                let known = || revisions.get(value).is_some_and(|revision| revision <= expected);
                may_be_done && write.start <= operation.end && !known() && *write != operation
            });
            if was_there && !disturbed { Err(Violation::NoConflict(boxed(operation))) } else { Ok(()) }
        }
        Answer::Nothing | Answer::Refused | Answer::Unknown => Ok(()),
    }
}

fn boxed(operation: &Operation) -> Box<Operation> {
    Box::new(operation.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(asked: Asked, start: u64, end: u64, answer: Answer) -> Operation {
        let at = Duration::from_millis;
        Operation { register: "r".to_owned(), asked, start: at(start), end: at(end), answer }
    }

    fn read(start: u64, end: u64, value: &str, revision: u64) -> Operation {
        let answer = if revision == 0 { Answer::Nothing } else { Answer::Value(value.to_owned(), revision) };
        operation(Asked::Read, start, end, answer)
    }

    fn write(start: u64, end: u64, value: &str, expected: Option<u64>, revision: u64) -> Operation {
        let answer = if revision == 0 { Answer::Unknown } else { Answer::Value(value.to_owned(), revision) };
        operation(Asked::Write { value: value.to_owned(), expected }, start, end, answer)
    }

    fn conflict(start: u64, end: u64, expected: u64) -> Operation {
        operation(Asked::Write { value: format!("x{start}"), expected: Some(expected) }, start, end, Answer::Conflict)
    }

    #[test]
    fn what_one_order_explains_is_accepted() {
        check(&[]).unwrap();
        check(&[
            read(0, 1, "", 0),
            write(2, 9, "a", None, 5),
            // Both while `a` is written: one before, one after.
            read(3, 4, "", 0),
            read(5, 6, "a", 5),
            // Without an answer, and done.
            write(10, 20, "b", Some(5), 0),
            read(30, 31, "b", 7),
            // Without an answer, and never done.
            write(32, 40, "c", None, 0),
            write(41, 42, "d", Some(7), 9),
            conflict(50, 51, 7),
        ])
        .unwrap();
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [write(0, 1, "a", None, 5), write(2, 3, "b", None, 6), read(4, 5, "a", 5)];
        assert!(matches!(check(&history), Err(Violation::Stale { .. })));
        // Two reads, the later one the older: whatever the write's answer.
        let history = [write(0, 1, "a", None, 5), write(2, 99, "b", None, 0), read(4, 5, "b", 6), read(6, 7, "a", 5)];
        assert!(matches!(check(&history), Err(Violation::Stale { .. })));
    }

    #[test]
    fn a_lost_write_is_found() {
        assert!(matches!(check(&[write(0, 1, "a", None, 5), read(2, 3, "", 0)]), Err(Violation::Stale { .. })));
        let history = [write(0, 1, "a", None, 5), write(2, 3, "b", None, 5)];
        assert!(matches!(check(&history), Err(Violation::Revision(..))));
        assert!(matches!(check(&[write(0, 1, "a", None, 5), write(2, 3, "b", None, 4)]), Err(Violation::Stale { .. })));
    }

    #[test]
    fn what_nobody_wrote_is_found() {
        assert!(matches!(check(&[read(0, 1, "ghost", 3)]), Err(Violation::Invented(_))));
        let refused = operation(Asked::Write { value: "a".into(), expected: Some(1) }, 0, 1, Answer::Conflict);
        assert!(matches!(check(&[refused, read(2, 3, "a", 3)]), Err(Violation::Invented(_))));
        assert!(matches!(check(&[read(0, 1, "a", 3), write(2, 3, "a", None, 3)]), Err(Violation::TooEarly { .. })));
        // One write that is done twice.
        let history = [write(0, 9, "a", None, 0), read(1, 2, "a", 3), read(3, 4, "a", 4)];
        assert!(matches!(check(&history), Err(Violation::Revision(..))));
    }

    #[test]
    fn compare_and_set_is_held_to_its_word() {
        let history = [write(0, 1, "a", None, 3), write(2, 3, "b", None, 4), write(2, 9, "c", Some(3), 5)];
        assert!(matches!(check(&history), Err(Violation::Compare { .. })));
        assert!(matches!(check(&[write(0, 1, "a", None, 3), conflict(2, 3, 3)]), Err(Violation::NoConflict(_))));
        check(&[write(0, 1, "a", None, 3), conflict(2, 3, 3), write(3, 9, "b", None, 4)]).unwrap();
        check(&[write(0, 1, "a", None, 3), write(1, 2, "b", None, 0), conflict(4, 5, 3)]).unwrap();
    }

    #[test]
    fn registers_do_not_meet() {
        let mut other = read(5, 6, "", 0);
        other.register = "other".to_owned();
        check(&[write(0, 1, "a", None, 5), other]).unwrap();
    }
}
