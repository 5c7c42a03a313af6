//! Approvals: clients ask for them, review each other's, and take what was granted, several of them the same one. Whatever goes wrong, each
//! is taken at most once, never without the word of another than who asked, and what became of it stays so (I7).

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use postern_core::approval::{Approval, ApprovalRequirement, ApprovalState, ReviewVerdict};
use postern_core::operation::Digest;
use postern_core::principal::PrincipalId;
use postern_core::{ApprovalId, Name, OperationId, Principal, SessionId, Timestamp, Ttl};
use postern_state::commands::{ConsumeApproval, RequestApproval, ReviewApproval};
use postern_state::{Command, Outcome, Refusal, State, Success};

use super::rng::chance;
use super::{Violation, broken};

/// The newest ones, which clients care for.
const NEWEST: u64 = 3;
const ONCE: &str = "an approval is taken at most once";
const STAYS: &str = "what became of an approval stays so";
const NOT_ONES_OWN: &str = "nobody grants what they asked for";

/// What a client wants with an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// To have it.
    Request,
    /// To say yes, or no.
    Review(ReviewVerdict),
    /// To do what was granted.
    Take,
}

/// One thing asked about one approval.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    number: u64,
    act: Act,
    client: u64,
    /// Which of all.
    ask: u64,
    /// How far the approval was known to be when this was asked.
    called: Known,
}

/// What clients were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    /// It is there.
    there: bool,
    /// It is over, so.
    over: Option<ApprovalState>,
}

#[derive(Debug, Default)]
struct Record {
    requester: u64,
    known: Known,
    /// Another than the requester has said yes, or may have.
    granted_by_another: bool,
    /// Which ask has taken it.
    taken_by: Option<u64>,
}

/// What clients asked about approvals, and were told.
#[derive(Debug, Default)]
pub struct Approvals {
    records: BTreeMap<u64, Record>,
    asks: u64,
    /// Answers.
    pub answers: usize,
}

fn name() -> Name {
    "simulated".parse().unwrap_or_else(|_| unreachable!("it is a name"))
}

fn id(number: u64) -> ApprovalId {
    ApprovalId::from_bytes(u128::from(number).to_be_bytes())
}

fn session(number: u64) -> SessionId {
    SessionId::from_bytes(u128::from(number).to_be_bytes())
}

fn principal(client: u64) -> Principal {
    Principal {
        id: PrincipalId { issuer: name(), subject: format!("client-{client}").into() },
        groups: [Arc::from("reviewers")].into(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: postern_core::KeptClaims::default(),
    }
}

fn approval(number: u64, client: u64) -> Approval {
    let groups = vec!["reviewers".to_owned()];
    Approval {
        id: id(number),
        state: ApprovalState::Pending,
        requester: principal(client),
        target: name(),
        session: session(number),
        operation: OperationId::from_bytes(u128::from(number).to_be_bytes()),
        digest: Digest([7; 32]),
        text: "delete from t".to_owned(),
        parameters: Vec::new(),
        actions: Vec::new(),
        policies: Vec::new(),
        reason: String::new(),
        requirement: ApprovalRequirement { groups, count: 1, expires: Ttl(1) },
        reviews: Vec::new(),
        requested_at: Timestamp::default(),
        expires_at: Timestamp::default(),
        revision: 0,
        withdrawn_because: String::new(),
        background: None,
    }
}

impl Approvals {
    /// What `client` asks next, and the command that says it.
    pub fn ask(&mut self, client: u64, rng: &mut Rng) -> (Ask, Command) {
        let newest = self.records.last_key_value().map_or(0, |(number, _)| *number);
        let (number, act) = match rng.u64(0..100) {
            _ if newest == 0 => (1, Act::Request),
            0..25 => (newest.saturating_add(1), Act::Request),
            dice => {
                let number = rng.u64(newest.saturating_sub(NEWEST).saturating_add(1).max(1)..=newest);
                let act = match dice {
                    25..30 => Act::Review(ReviewVerdict::Deny),
                    30..55 => Act::Review(ReviewVerdict::Approve),
                    _ => Act::Take,
                };
                (number, act)
            }
        };
        let command = match act {
            Act::Request => {
                let expires = Ttl(if chance(rng, 500) { 1 } else { rng.u32(2..10) });
                RequestApproval { approval: approval(number, client), expires }.into()
            }
            Act::Review(verdict) => {
                ReviewApproval { id: id(number), reviewer: principal(client), verdict, comment: String::new() }.into()
            }
            Act::Take => ConsumeApproval { id: id(number), session: session(number), digest: Digest([7; 32]) }.into(),
        };
        let record = self.records.entry(number).or_insert_with(|| Record { requester: client, ..Record::default() });
        record.granted_by_another |= act == Act::Review(ReviewVerdict::Approve) && record.requester != client;
        self.asks = self.asks.saturating_add(1);
        (Ask { number, act, client, ask: self.asks, called: record.known }, command)
    }

    /// `ask` was answered.
    ///
    /// # Errors
    /// When it must not be, or not so.
    pub fn answered(&mut self, ask: Ask, outcome: &Outcome) -> Result<(), Violation> {
        let Ask { number, act, client, ask, called } = ask;
        let Some(record) = self.records.get_mut(&number) else { return Ok(()) };
        self.answers = self.answers.saturating_add(1);
        let told = format!("client {client}, {act:?} of approval {number}: {outcome:?}; before: {record:?}");
        let own = record.requester == client;
        let mut over = None;
        match (act, outcome) {
            (_, Err(Refusal::NotFound { .. })) if act != Act::Request => {
                return if called.there { broken("what is acknowledged is there", told) } else { Ok(()) };
            }
            (Act::Request, Ok(Success::Approval(_))) => {}
            (Act::Review(_), Err(Refusal::SelfReview)) if own => {}
            (Act::Review(_), _) if own => return broken(NOT_ONES_OWN, told),
            (Act::Review(_), Err(Refusal::AlreadyReviewed)) => {}
            (Act::Review(_) | Act::Take, Err(Refusal::ApprovalState(state))) => {
                over = Some(*state).filter(|state| !matches!(state, ApprovalState::Pending | ApprovalState::Approved));
            }
            (Act::Review(verdict), Ok(Success::Approval(_))) if called.over.is_none() => {
                over = (verdict == ReviewVerdict::Deny).then_some(ApprovalState::Denied);
            }
            (Act::Take, Ok(Success::Approval(_))) => {
                if !record.granted_by_another {
                    return broken(NOT_ONES_OWN, told);
                }
                if called.over.is_some() || record.taken_by.is_some_and(|by| by != ask) {
                    return broken(ONCE, told);
                }
                record.taken_by = Some(ask);
                over = Some(ApprovalState::Consumed);
            }
            _ => return broken(STAYS, told),
        }
        if over.is_some() && record.known.over.is_some_and(|known| Some(known) != over) {
            return broken(STAYS, told);
        }
        record.known = Known { there: true, over: record.known.over.or(over) };
        Ok(())
    }

    /// At the end: what clients were told is what the log gives.
    ///
    /// # Errors
    /// When it is not.
    pub fn at_the_end(&self, state: &State) -> Result<(), Violation> {
        for (number, record) in &self.records {
            let Some(approval) = state.approval(id(*number)) else {
                if record.known.there {
                    return broken("what is acknowledged is there", format!("approval {number} is gone"));
                }
                continue;
            };
            if record.known.over.is_some_and(|over| over != approval.state) {
                return broken(
                    STAYS,
                    format!("approval {number} is {:?} in the end; told: {record:?}", approval.state),
                );
            }
            if approval.reviews.iter().any(|review| review.reviewer.id == approval.requester.id) {
                return broken(NOT_ONES_OWN, format!("approval {number} has a review of who asked for it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Outcome = Ok(Success::Approval(ApprovalId::from_bytes([0; 16])));

    fn asked(approvals: &mut Approvals, client: u64, act: Act) -> Ask {
        let record = approvals.records.entry(1).or_insert_with(|| Record { requester: client, ..Record::default() });
        record.granted_by_another |= act == Act::Review(ReviewVerdict::Approve) && record.requester != client;
        approvals.asks += 1;
        Ask { number: 1, act, client, ask: approvals.asks, called: record.known }
    }

    #[test]
    fn to_take_it_twice_is_found() {
        let mut approvals = Approvals::default();
        for (client, act) in [(1, Act::Request), (2, Act::Review(ReviewVerdict::Approve))] {
            let ask = asked(&mut approvals, client, act);
            approvals.answered(ask, &DONE).unwrap();
        }
        let (one, other) = (asked(&mut approvals, 1, Act::Take), asked(&mut approvals, 3, Act::Take));
        approvals.answered(one, &DONE).unwrap();
        assert_eq!(approvals.answered(other, &DONE).unwrap_err().law, ONCE);
        let late = asked(&mut approvals, 3, Act::Take);
        let consumed = Err(Refusal::ApprovalState(ApprovalState::Consumed));
        approvals.answered(late, &consumed).unwrap();
        let lapsed = Err(Refusal::ApprovalState(ApprovalState::Expired));
        assert_eq!(approvals.answered(late, &lapsed).unwrap_err().law, STAYS);
    }

    #[test]
    fn to_grant_ones_own_is_found() {
        let mut approvals = Approvals::default();
        let request = asked(&mut approvals, 1, Act::Request);
        approvals.answered(request, &DONE).unwrap();
        let own = asked(&mut approvals, 1, Act::Review(ReviewVerdict::Approve));
        assert_eq!(approvals.answered(own, &DONE).unwrap_err().law, NOT_ONES_OWN);
        approvals.answered(own, &Err(Refusal::SelfReview)).unwrap();
        let take = asked(&mut approvals, 2, Act::Take);
        assert_eq!(approvals.answered(take, &DONE).unwrap_err().law, NOT_ONES_OWN);
    }
}
