//! Closes sessions whose gateway is gone, where this member leads (ADR 0059): the index says that they were interrupted, and a leaf of the
//! log how far their recordings came.
//!
//! ```text
//! open -- its gateway is not in the directory, or is another process by now, and nothing of it comes --> orphaned
//! orphaned -- its gateway was only cut off, or more of it is there than was known --> open
//! either -- its gateway seals the recording --> ended
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use postern_core::session::Session;
use postern_core::time::Timestamp;
use postern_core::{Name, SessionId};
use postern_runtime::clock;
use postern_state::{CLOSES_ORPHANS, Command, State, commands};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::copies::{Copies, Furthest};
use crate::cluster::members::Members;
use crate::fleet::Reporter;

/// Between looks.
const EVERY: Duration = Duration::from_secs(5);
/// How long a gateway must be out of the directory, which keeps one for some seconds when its stream ends: it may have turned to another leader.
const GONE: Duration = Duration::from_secs(5);
/// How long one that was started anew has time to say how the sessions of its former life ended.
const RECOVERY: Duration = Duration::from_secs(30);
/// How long nothing of a session may have come: a gateway that does not reach the leader may reach other members.
const STILL: Duration = Duration::from_secs(8);
/// The same where a member does not answer, which may have more.
const STILL_UNCERTAIN: Duration = Duration::from_secs(15);
/// Sessions that are looked at together.
const AT_ONCE: usize = 16;
/// Sessions in one look.
const MOST: usize = 4_096;
/// Orphans in one look, whose copies may have grown.
const ORPHANS: usize = 64;

/// What there is to be done about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// Open, and its gateway may be gone.
    Suspect,
    /// Orphaned, and its gateway is there again, as it was.
    Back,
    /// Orphaned after so many events.
    Orphan(u64),
}

/// What is looked at in one look.
struct Look {
    present: BTreeMap<String, Reporter>,
    /// Gateways that have been gone for long enough.
    gone: Vec<String>,
    now: Timestamp,
    after: Option<SessionId>,
}

/// What was seen in former looks of this leader's.
#[derive(Default)]
struct Memory {
    term: u64,
    /// Since when gateways are not there.
    gone: BTreeMap<String, Instant>,
    /// How far suspects had come, and since when.
    still: BTreeMap<SessionId, (u64, Instant)>,
    /// The last of the orphans that were looked at.
    after: Option<SessionId>,
}

impl Memory {
    /// Notes which gateways are missing; those that have been for long enough.
    fn missing(&mut self, missing: impl Iterator<Item = String>, now: Instant) -> Vec<String> {
        let before = std::mem::take(&mut self.gone);
        self.gone = missing
            .map(|name| (before.get(&name).copied().unwrap_or(now), name))
            .map(|(at, name)| (name, at))
            .collect();
        let long = self.gone.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= GONE);
        long.map(|(name, _)| name.clone()).collect()
    }

    /// Whether nothing has come of a suspect for long enough.
    fn is_still(&mut self, id: SessionId, furthest: &Furthest, now: Instant) -> bool {
        let (events, since) = self.still.entry(id).or_insert((furthest.events, now));
        if *events != furthest.events {
            (*events, *since) = (furthest.events, now);
        }
        let limit = if furthest.certain { STILL } else { STILL_UNCERTAIN };
        now.saturating_duration_since(*since) >= limit
    }
}

impl Look {
    fn case(&self, session: &Session) -> Option<Case> {
        let reporting = self.present.get(&session.gateway);
        // By the gateway's own clock, both.
        let same = reporting.is_some_and(|it| it.started_at <= session.started_at);
        match (&session.end, reporting) {
            (None, None) => self.gone.contains(&session.gateway).then_some(Case::Suspect),
            (None, Some(it)) => {
                let settled = self.now.since(it.since) >= RECOVERY;
                (!same && settled).then_some(Case::Suspect)
            }
            (Some(end), _) if end.ending.is_sealed() => None,
            (Some(_), Some(_)) if same => Some(Case::Back),
            (Some(end), _) => Some(Case::Orphan(end.events)),
        }
    }

    /// Sessions about which something may be to be done.
    fn found(&self, state: &State) -> Vec<(SessionId, String, Case)> {
        let mut orphans = Vec::new();
        let mut found = Vec::new();
        for session in state.sessions() {
            match self.case(session) {
                Some(case @ Case::Orphan(_)) => orphans.push((session.id, session.gateway.clone(), case)),
                Some(case) if found.len() < MOST => found.push((session.id, session.gateway.clone(), case)),
                _ => {}
            }
        }
        // In turns: there may be many, for long.
        orphans.sort_unstable_by_key(|(id, ..)| *id);
        let first = orphans.partition_point(|(id, ..)| Some(*id) <= self.after);
        orphans.rotate_left(first);
        orphans.truncate(ORPHANS);
        found.extend(orphans);
        found
    }
}

/// Closes orphans while this member leads, until `stop`.
pub(crate) async fn close(members: Members, copies: Copies, stop: CancellationToken) {
    let mut memory = Memory::default();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let (leading, term) = {
            let status = members.raft.status();
            let status = status.borrow();
            (status.leading, status.term)
        };
        if !leading || members.view().feature_level < CLOSES_ORPHANS {
            continue;
        }
        if memory.term != term {
            memory = Memory { term, ..Memory::default() };
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = look(&members, &copies, &mut memory) => {}
        }
    }
}

async fn look(members: &Members, copies: &Copies, memory: &mut Memory) {
    let Some(present) = members.fleet.reporting() else { return };
    let state = match members.raft.read(State::clone).await {
        Ok(state) => state,
        Err(error) => return debug!(%error, "orphans are not looked for now"),
    };
    // A copy shares all of it; there may be a hundred thousand sessions, which are not to be walked through on Raft's thread.
    let here = present.clone();
    let missing = tokio::task::spawn_blocking(move || (missing(&state, &here), state));
    let Ok((missing, state)) = missing.await else { return };
    let gone = memory.missing(missing.into_iter(), Instant::now());
    let look = Look { present, gone, now: clock::now(), after: memory.after };
    let Ok(found) = tokio::task::spawn_blocking(move || look.found(&state)).await else { return };
    memory.after = found.iter().rev().find(|(.., case)| matches!(case, Case::Orphan(_))).map(|(id, ..)| *id);
    let suspects: Vec<SessionId> =
        found.iter().filter(|(.., case)| *case == Case::Suspect).map(|(id, ..)| *id).collect();
    memory.still.retain(|id, _| suspects.binary_search(id).is_ok());
    let mut told = stream::iter(found)
        .map(|(id, gateway, case)| async move {
            let furthest = if case == Case::Back { None } else { Some(copies.furthest(id).await) };
            (id, gateway, case, furthest)
        })
        .buffer_unordered(AT_ONCE);
    let mut closed = BTreeMap::new();
    while let Some((id, gateway, case, furthest)) = told.next().await {
        let command = match (case, furthest) {
            (_, Some(Err(error))) => {
                debug!(session = %id, %error, "it cannot be told how far a recording goes");
                continue;
            }
            (Case::Suspect | Case::Orphan(_), Some(Ok(furthest))) if furthest.sealed => {
                seal(members, copies, &gateway, id, furthest.events).await;
                continue;
            }
            (Case::Suspect, Some(Ok(furthest))) if memory.is_still(id, &furthest, Instant::now()) => {
                *closed.entry(gateway).or_insert(0_u64) += 1;
                commands::CloseSession { id, events: furthest.events, head: furthest.head }.into()
            }
            (Case::Orphan(events), Some(Ok(furthest))) if furthest.events > events => {
                commands::ReopenSession { id }.into()
            }
            (Case::Back, _) => commands::ReopenSession { id }.into(),
            _ => continue,
        };
        propose(members, id, command).await;
    }
    for (gateway, sessions) in closed {
        warn!(gateway, sessions, "sessions are closed: their gateway is gone");
        metrics::counter!("postern_control_sessions_orphaned_total").increment(sessions);
    }
}

/// Gateways that have open sessions, and do not report.
fn missing(state: &State, present: &BTreeMap<String, Reporter>) -> BTreeSet<String> {
    let open = state.sessions().filter(|session| session.end.is_none());
    open.map(|session| &session.gateway).filter(|gateway| !present.contains_key(*gateway)).cloned().collect()
}

async fn propose(members: &Members, id: SessionId, command: Command) {
    let what = command.name();
    match members.raft.propose(command, None).await {
        Ok(Ok(_)) => debug!(session = %id, what, "done"),
        // It has ended meanwhile, or the log of recordings has no room: looked at again.
        Ok(Err(refusal)) => info!(session = %id, what, %refusal, "refused"),
        Err(error) => debug!(session = %id, what, %error, "not done"),
    }
}

/// The seal is there, and the index was never told: the member died with that word.
async fn seal(members: &Members, copies: &Copies, gateway: &str, id: SessionId, events: u64) {
    let Ok(gateway) = gateway.parse::<Name>() else { return };
    match copies.told(&gateway, id, events).await {
        Ok(Some(session)) => {
            let Some(end) = session.end.clone() else { return };
            info!(session = %id, events = end.events, "the seal of a recording is there, and the index was not told");
            propose(members, id, commands::SealSession { id, end }.into()).await;
        }
        Ok(None) => {}
        Err(error) => debug!(session = %id, %error, "a sealed recording cannot be had"),
    }
}

#[cfg(test)]
#[path = "orphans_tests.rs"]
mod tests;
