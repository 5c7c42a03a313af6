//! Puts calls that wrote nothing themselves into the audit log: reads, and what was refused before it came to the state machine.
//!
//! The guard -> bounded mailbox -> one task -> one entry of the log for all that came meanwhile. The supervisor owns the task; it lives as
//! long as the node serves. A full mailbox refuses the call: what cannot be recorded is not done.
//!
//! Nobody can fill the log: what one caller repeats is counted after a few, and told as one record with its number at the end of a
//! window. Of callers that show no identity only few are told apart. The first of each kind is durable before its answer leaves; what is
//! counted is lost with a node that is killed.

use std::collections::BTreeMap;
use std::time::Duration;

use postern_core::audit::AuditRecord;
use postern_runtime::supervisor::{OnEnd, Supervisor};
use postern_state::commands::RecordAudit;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{error, warn};

use super::status;
use crate::raft::RaftHandle;

/// Records that wait; more are refused.
const MAILBOX: usize = 4_096;
/// Records of one entry.
const BATCH: usize = 500;
/// After this the counted are told.
const WINDOW: Duration = Duration::from_secs(10);
const OPEN_WINDOW: Duration = Duration::from_secs(60);
/// How often windows are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Alike calls of one caller in a window that are told one by one.
const BURST: u32 = 8;
/// Refusals of callers without identity that are told apart at once.
const OPEN_KEYS: usize = 16;
/// Callers and calls that are counted at once.
const KEYS: usize = 10_000;

/// Takes records. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AuditLog {
    mailbox: mpsc::Sender<Msg>,
}

struct Msg {
    record: AuditRecord,
    done: oneshot::Sender<Result<(), Status>>,
}

impl AuditLog {
    /// Starts the task.
    pub(crate) fn start(raft: RaftHandle, supervisor: &Supervisor) -> Self {
        let (mailbox, inbox) = mpsc::channel(MAILBOX);
        let stop = supervisor.sessions_ended_token();
        supervisor.spawn("audit-log", OnEnd::StopNode, run(raft, inbox, stop));
        Self { mailbox }
    }

    /// Returns once the record, or the count that it is part of, is sure to be told.
    pub(crate) async fn record(&self, record: AuditRecord) -> Result<(), Status> {
        let (done, answer) = oneshot::channel();
        self.mailbox.try_send(Msg { record, done }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                metrics::counter!("postern_control_audit_shed_total").increment(1);
                let status = Status::resource_exhausted("too many calls wait for the audit log: try again");
                status::with_reason(status, "OVERLOADED")
            }
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> Status {
    Status::unavailable("the node stops")
}

async fn run(raft: RaftHandle, mut inbox: mpsc::Receiver<Msg>, stop: CancellationToken) {
    let mut counts = Counts::default();
    loop {
        let next = counts.next_sweep();
        let first = tokio::select! {
            () = stop.cancelled() => break,
            message = inbox.recv() => match message {
                Some(message) => Some(message),
                None => break,
            },
            () = tokio::time::sleep_until(next.unwrap_or_else(far)), if next.is_some() => None,
        };
        let mut messages: Vec<Msg> = first.into_iter().collect();
        if !messages.is_empty() {
            gather(&mut inbox, &mut messages);
        }
        let (mut records, mut waiting) = (counts.over(Instant::now()), Vec::new());
        for Msg { record, done } in messages {
            match counts.take(record, Instant::now()) {
                Some(record) => {
                    records.push(record);
                    waiting.push(done);
                }
                None => drop(done.send(Ok(()))),
            }
        }
        let written = write(&raft, records).await;
        for done in waiting {
            let _ = done.send(written.clone());
        }
    }
    // Whoever still waits is answered by the mailbox's end.
    if let Err(status) = write(&raft, counts.rest()).await {
        warn!(%status, "some counts of the audit log were lost at the end");
    }
}

fn far() -> Instant {
    Instant::now() + WINDOW
}

/// What came while the last entry was under way shares the next.
fn gather(inbox: &mut mpsc::Receiver<Msg>, messages: &mut Vec<Msg>) {
    while messages.len() < BATCH
        && let Ok(message) = inbox.try_recv()
    {
        messages.push(message);
    }
}

async fn write(raft: &RaftHandle, mut records: Vec<AuditRecord>) -> Result<(), Status> {
    while !records.is_empty() {
        let rest = records.split_off(records.len().min(BATCH));
        let outcome = raft.propose(RecordAudit { records }, None).await.map_err(status::propose)?;
        if let Err(refusal) = outcome {
            error!(%refusal, "the audit log refused records");
            return Err(Status::internal("the audit log refused the record"));
        }
        records = rest;
    }
    Ok(())
}

/// Calls that are alike: by one caller, for one thing, with one end. Of what is refused the objects do not count: a caller could go
/// through names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    caller: String,
    method: String,
    code: String,
    objects: Vec<String>,
}

#[derive(Debug)]
struct Count {
    ends: Instant,
    told: u32,
    /// The last one, with how many it stands for.
    counted: Option<AuditRecord>,
}

/// Counts what repeats. Bounded by [`KEYS`].
#[derive(Debug, Default)]
struct Counts {
    counts: BTreeMap<Key, Count>,
    open: usize,
    sweep_at: Option<Instant>,
}

impl Counts {
    /// The record, if it is to be told now; else it is counted.
    fn take(&mut self, record: AuditRecord, now: Instant) -> Option<AuditRecord> {
        let open = record.principal.is_none() && record.certificate.is_empty();
        let mut key = key(&record, open);
        let known = self.counts.contains_key(&key);
        if !known && (self.counts.len() >= KEYS || (open && self.open >= OPEN_KEYS)) {
            if !open {
                return Some(record);
            }
            key = Key { caller: String::new(), method: String::new(), code: String::new(), objects: Vec::new() };
        }
        let known = self.counts.contains_key(&key);
        if open && !known {
            self.open = self.open.saturating_add(1);
        }
        let ends = now + if open { OPEN_WINDOW } else { WINDOW };
        let elsewhere = key.method.is_empty();
        self.sweep_at.get_or_insert(now + SWEEP);
        let count = self.counts.entry(key).or_insert(Count { ends, told: 0, counted: None });
        let burst = if open { 1 } else { BURST };
        if count.told < burst {
            count.told = count.told.saturating_add(1);
            return Some(record);
        }
        let counted = count.counted.as_ref().map_or(0, |counted| counted.count).saturating_add(1);
        let mut record = AuditRecord { count: counted, ..record };
        if elsewhere {
            record.client_address = "many".to_owned();
        }
        count.counted = Some(record);
        None
    }

    /// When windows are to be looked at.
    const fn next_sweep(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// The counts of windows that are over.
    fn over(&mut self, now: Instant) -> Vec<AuditRecord> {
        let mut told = Vec::new();
        if self.sweep_at.is_none_or(|at| at > now) {
            return told;
        }
        let mut open = 0_usize;
        self.counts.retain(|key, count| {
            if count.ends <= now {
                told.extend(count.counted.take());
                return false;
            }
            open = open.saturating_add(usize::from(key.caller.starts_with('@') || key.caller.is_empty()));
            true
        });
        self.open = open;
        self.sweep_at = (!self.counts.is_empty()).then_some(now + SWEEP);
        told
    }

    fn rest(&mut self) -> Vec<AuditRecord> {
        std::mem::take(&mut self.counts).into_values().filter_map(|count| count.counted).collect()
    }
}

fn key(record: &AuditRecord, open: bool) -> Key {
    let caller = match &record.principal {
        Some(principal) => principal.id.to_string(),
        None if open => format!("@{}", record.client_address),
        None => format!("#{}", record.certificate),
    };
    let objects = if record.code == "OK" { record.objects.clone() } else { Vec::new() };
    Key { caller, method: record.method.clone(), code: record.code.clone(), objects }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(caller: Option<&str>, address: &str, object: &str, code: &str) -> AuditRecord {
        AuditRecord {
            sequence: 0,
            at: postern_core::Timestamp::default(),
            principal: None,
            certificate: caller.map(str::to_owned).unwrap_or_default(),
            client_address: address.to_owned(),
            node: "n".to_owned(),
            method: "m".to_owned(),
            objects: vec![object.to_owned()],
            code: code.to_owned(),
            reason: String::new(),
            request_id: String::new(),
            dry_run: false,
            count: 1,
            hash: [0; 32],
        }
    }

    #[tokio::test]
    async fn what_repeats_is_counted_and_told_at_the_end() {
        let (mut counts, now) = (Counts::default(), Instant::now());
        for n in 0..BURST {
            let taken = counts.take(record(Some("a"), "", "x", "OK"), now);
            assert!(taken.is_some(), "{n}");
        }
        for _ in 0..5 {
            assert_eq!(counts.take(record(Some("a"), "", "x", "OK"), now), None);
        }
        // Another object is another read; another caller another one's.
        assert!(counts.take(record(Some("a"), "", "y", "OK"), now).is_some());
        assert!(counts.take(record(Some("b"), "", "x", "OK"), now).is_some());
        assert!(counts.over(now).is_empty());
        let told = counts.over(now + WINDOW);
        assert_eq!(told.iter().map(|record| record.count).collect::<Vec<_>>(), [5]);
        assert_eq!(counts.next_sweep(), None);
    }

    #[tokio::test]
    async fn a_flood_of_refusals_is_a_handful_of_records() {
        let (mut counts, now) = (Counts::default(), Instant::now());
        let mut told = 0;
        for n in 0..100_000_u32 {
            let flood = record(None, &format!("10.0.{}.{}", n % 250, n % 199), &n.to_string(), "UNAUTHENTICATED");
            told += u32::from(counts.take(flood, now).is_some());
        }
        let later = counts.over(now + OPEN_WINDOW);
        let counted: u32 = later.iter().map(|record| record.count).sum();
        assert_eq!(told + counted, 100_000);
        assert!(usize::try_from(told).unwrap() + later.len() <= 2 * (OPEN_KEYS + 1), "{told} {}", later.len());
        // A known caller that goes through names is counted too.
        let told = (0..1_000_u32)
            .filter(|n| counts.take(record(Some("a"), "", &n.to_string(), "PERMISSION_DENIED"), now).is_some());
        assert_eq!(u32::try_from(told.count()).unwrap(), BURST);
    }
}
