//! Whether a history of one register is linearizable: there is one order of its operations that respects real time and that a single
//! register would have answered so.
//!
//! Independent of what it checks: it knows operations and answers, nothing of Raft or of the state machine. The search is Wing and Gong's
//! ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of configurations seen ("Testing for Linearizability", 2017).

use std::collections::HashSet;
use std::fmt;

/// What a client asked of the register. Values are unique in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// What is there?
    Read,
    /// Whatever is there: now it is this.
    Write(u64),
    /// If it is `expected` (`None`: nothing), now it is `value`.
    Cas {
        /// What must be there.
        expected: Option<u64>,
        /// What comes in its place.
        value: u64,
    },
    /// Whatever is there: now there is nothing.
    Delete,
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The read saw this.
    Saw(Option<u64>),
    /// Done.
    Done,
    /// Not done: the register was not as the action needs it.
    Refused,
    /// Nothing: it may have come to pass, or may yet, or never.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Whose.
    pub client: u64,
    /// What.
    pub action: Action,
    /// What came of it.
    pub answer: Answer,
    /// When it was asked; moments are unique in a history.
    pub called: u64,
    /// When it was answered; of no meaning where the answer is unknown.
    pub returned: u64,
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such order.
    NotLinearizable {
        /// The operation whose answer no order explains, by its place in the history.
        operation: usize,
        /// How many operations the best order explains.
        explained: usize,
        /// What the register held after those.
        value: Option<u64>,
    },
    /// The search was longer than it may be: the history proves nothing.
    TooLong,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} {:?} -> {:?} [{}..", self.client, self.action, self.answer, self.called)?;
        if self.answer == Answer::Unknown { write!(f, "]") } else { write!(f, "{}]", self.returned) }
    }
}

/// The register after `action` was answered so, where it held `value`; `None` when it cannot have been answered so.
fn step(value: Option<u64>, action: Action, answer: Answer) -> Option<Option<u64>> {
    match (action, answer) {
        (Action::Read, Answer::Saw(seen)) => (seen == value).then_some(value),
        (Action::Read, Answer::Unknown) => Some(value),
        (Action::Write(new), Answer::Done | Answer::Unknown) => Some(Some(new)),
        (Action::Cas { expected, value: new }, Answer::Done) => (expected == value).then_some(Some(new)),
        (Action::Cas { expected, .. }, Answer::Refused) => (expected != value).then_some(value),
        (Action::Cas { expected, value: new }, Answer::Unknown) => {
            Some(if expected == value { Some(new) } else { value })
        }
        (Action::Delete, Answer::Done) => value.map(|_| None),
        (Action::Delete, Answer::Refused) => value.is_none().then_some(None),
        (Action::Delete, Answer::Unknown) => Some(None),
        // An answer that is none to this action.
        (Action::Read, Answer::Done | Answer::Refused)
        | (Action::Write(_), Answer::Refused)
        | (Action::Write(_) | Action::Cas { .. } | Action::Delete, Answer::Saw(_)) => None,
    }
}

/// Calls and returns by time, doubly linked, so that an operation can be lifted out and put back.
struct Timeline {
    /// The operation of each node, and whether the node is its return. Node 0 is the head.
    nodes: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The node of each operation's return; 0 for none.
    returns: Vec<usize>,
}

const END: usize = usize::MAX;

impl Timeline {
    fn new(history: &[Operation]) -> Self {
        let mut moments: Vec<(u64, usize, bool)> = Vec::with_capacity(history.len().saturating_mul(2));
        for (place, operation) in history.iter().enumerate() {
            moments.push((operation.called, place, false));
            if operation.answer != Answer::Unknown {
                moments.push((operation.returned, place, true));
            }
        }
        moments.sort_unstable();
        let mut timeline =
            Self { nodes: vec![(END, false)], next: vec![END], previous: vec![END], returns: vec![0; history.len()] };
        for (_, place, is_return) in moments {
            let node = timeline.nodes.len();
            timeline.nodes.push((place, is_return));
            timeline.previous.push(node.saturating_sub(1));
            timeline.next.push(END);
            set(&mut timeline.next, node.saturating_sub(1), node);
            if is_return {
                set(&mut timeline.returns, place, node);
            }
        }
        timeline
    }

    fn unlink(&mut self, node: usize) {
        let (before, after) = (get(&self.previous, node), get(&self.next, node));
        set(&mut self.next, before, after);
        set(&mut self.previous, after, before);
    }

    /// In the reverse order of [`Self::unlink`].
    fn relink(&mut self, node: usize) {
        let (before, after) = (get(&self.previous, node), get(&self.next, node));
        set(&mut self.next, before, node);
        set(&mut self.previous, after, node);
    }
}

fn get(list: &[usize], at: usize) -> usize {
    list.get(at).copied().unwrap_or(END)
}

fn set(list: &mut [usize], at: usize, to: usize) {
    if let Some(place) = list.get_mut(at) {
        *place = to;
    }
}

/// Looks for an order of `history`, in at most `most` steps. The register holds nothing at first.
///
/// # Errors
/// When there is none, or none was found in that many steps.
pub fn check(history: &[Operation], most: u64) -> Result<(), Fault> {
    let mut timeline = Timeline::new(history);
    let mut pending = history.iter().filter(|operation| operation.answer != Answer::Unknown).count();
    let mut done = vec![0_u64; history.len().div_ceil(64)];
    let mut value: Option<u64> = None;
    let mut stack: Vec<(usize, Option<u64>)> = Vec::new();
    let mut seen: HashSet<(Box<[u64]>, Option<u64>)> = HashSet::new();
    let mut best = (0, 0, None, false);
    let mut node = get(&timeline.next, 0);
    for _ in 0..most {
        if pending == 0 {
            return Ok(());
        }
        let (place, is_return) = timeline.nodes.get(node).copied().unwrap_or((END, true));
        let Some(operation) = history.get(place).filter(|_| !is_return) else {
            // A return whose operation has found no place, or the end: another choice has to be made before.
            if place != END && (!best.3 || stack.len() > best.1) {
                best = (place, stack.len(), value, true);
            }
            let Some((call, before)) = stack.pop() else {
                let (operation, explained, value, _) = best;
                return Err(Fault::NotLinearizable { operation, explained, value });
            };
            let (place, _) = timeline.nodes.get(call).copied().unwrap_or((END, true));
            value = before;
            flip(&mut done, place);
            let answered = get(&timeline.returns, place);
            if answered != 0 {
                timeline.relink(answered);
                pending = pending.saturating_add(1);
            }
            timeline.relink(call);
            node = get(&timeline.next, call);
            continue;
        };
        if let Some(after) = step(value, operation.action, operation.answer) {
            flip(&mut done, place);
            if seen.insert((done.clone().into_boxed_slice(), after)) {
                stack.push((node, value));
                value = after;
                timeline.unlink(node);
                let answered = get(&timeline.returns, place);
                if answered != 0 {
                    timeline.unlink(answered);
                    pending = pending.saturating_sub(1);
                }
                node = get(&timeline.next, 0);
                continue;
            }
            flip(&mut done, place);
        }
        node = get(&timeline.next, node);
    }
    Err(Fault::TooLong)
}

fn flip(done: &mut [u64], place: usize) {
    if let Some(word) = done.get_mut(place / 64) {
        *word ^= 1 << (place % 64);
    }
}

/// `fault` in words, with the operations around it.
#[must_use]
pub fn explain(history: &[Operation], fault: &Fault) -> String {
    match fault {
        Fault::TooLong => format!("no order of {} operations was found in time: it proves nothing", history.len()),
        Fault::NotLinearizable { operation, explained, value } => {
            let Some(culprit) = history.get(*operation) else { return "an empty history".to_owned() };
            let mut out = format!(
                "not linearizable: {culprit} has no place; the best order explains {explained} of {} operations and ends with {value:?}. Around it:",
                history.len()
            );
            let around = history.iter().filter(|other| {
                let ends = if other.answer == Answer::Unknown { u64::MAX } else { other.returned };
                ends >= culprit.called && other.called <= culprit.returned
            });
            let before =
                history.iter().filter(|other| other.answer != Answer::Unknown && other.returned < culprit.called);
            let mut before: Vec<&Operation> = before.collect();
            before.sort_by_key(|other| other.returned);
            let skipped = before.len().saturating_sub(6);
            for other in before.into_iter().skip(skipped).chain(around) {
                out.push_str("\n    ");
                out.push_str(&other.to_string());
            }
            out
        }
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
