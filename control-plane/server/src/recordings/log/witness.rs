//! Has witnesses sign the heads of the log of recordings, where this member leads: C2SP's tlog-witness.
//!
//! A witness keeps the newest head that it has seen, and signs another only with the proof that the one goes on from the other. So nobody can be
//! shown a log in which something else stands, or from which something is gone, by a cluster that has been taken over, but by its witnesses as well.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use postern_core::transparency::{NoteKey, SignedCheckpoint};
use postern_runtime::clock;
use postern_runtime::http::{HttpClient, HttpError, check_url};
use postern_state::KEEPS_WITNESSES;
use postern_state::commands::CosignLogHead;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::LogBook;
use crate::cluster::members::Members;
use crate::config::WitnessConfig;

/// Between two heads that they are asked to sign.
const EVERY: Duration = Duration::from_secs(5);
/// Until one that did not sign is asked again.
const RETRY: Duration = Duration::from_secs(15);
/// For one witness to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is some lines of signatures.
const MAX_ANSWER: usize = 16 << 10;
/// As many as the members ask.
const MOST: usize = 16;
/// `409 Conflict`: it knows another head than was thought.
const CONFLICT: u16 = 409;

/// Why a witness has not signed.
#[derive(Debug, thiserror::Error)]
enum Unsigned {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("it answered {0}: {1}")]
    Status(u16, String),
    #[error("what it answered is not its signature: {0}")]
    Signature(postern_core::transparency::CheckpointFault),
    #[error("it has seen {seen} leaves, and the log has {size}: another log under this name, or one that was set back")]
    Ahead { seen: u64, size: u64 },
    #[error("{0}")]
    Proof(#[from] super::LogError),
}

/// One of those who sign.
struct Witness {
    key: NoteKey,
    url: String,
    http: HttpClient,
    /// How many leaves the head has that it has signed last, as far as is known.
    seen: u64,
    /// What was wrong when it was asked last.
    told: Option<String>,
}

/// What is wrong with what is configured.
pub(crate) fn faults(witnesses: &[WitnessConfig]) -> Option<String> {
    if witnesses.len() > MOST {
        return Some(format!("recordings.witnesses: at most {MOST}"));
    }
    witnesses.iter().find_map(|witness| {
        let fault = match witness.key.parse::<NoteKey>() {
            Ok(key) if key.is_witness() => check_url(&witness.url).err()?.to_string(),
            Ok(_) => "key: is a log's, not a witness'".to_owned(),
            Err(fault) => format!("key: {fault}"),
        };
        Some(format!("recordings.witnesses: {}: {fault}", witness.url))
    })
}

impl Witness {
    fn new(config: &WitnessConfig) -> Result<Self, String> {
        let key = config.key.parse().map_err(|fault: postern_core::transparency::CheckpointFault| fault.to_string())?;
        let ca = config.ca_file.as_ref().map(std::fs::read_to_string).transpose().map_err(|error| error.to_string())?;
        let http = HttpClient::new(ca.as_deref()).map_err(|error| error.to_string())?;
        let url = format!("{}/add-checkpoint", config.url.trim_end_matches('/'));
        Ok(Self { key, url, http, seen: 0, told: None })
    }

    /// Has it sign `head`, and puts its signature there.
    async fn sign(&mut self, book: &LogBook, head: &SignedCheckpoint) -> Result<SignedCheckpoint, Unsigned> {
        let size = head.head().size;
        let mut again = true;
        loop {
            if self.seen > size {
                return Err(Unsigned::Ahead { seen: self.seen, size });
            }
            let proof = book.proof(self.seen, size).await?;
            let proof: String = proof.iter().map(|hash| STANDARD.encode(hash.0) + "\n").collect();
            let request = format!("old {}\n{proof}\n{head}", self.seen);
            let (status, body) = self.http.post_text(&self.url, request, MAX_ANSWER, TIMEOUT).await?;
            match (status, body.strip_suffix('\n').and_then(|size| size.parse().ok())) {
                (200, _) => {
                    let mut signed = head.clone();
                    signed.add_witness(&self.key, &body).map_err(Unsigned::Signature)?;
                    self.seen = size;
                    return Ok(signed);
                }
                // It says what it knows: a start, or another leader, has not.
                (CONFLICT, Some(seen)) if again && seen != self.seen => (self.seen, again) = (seen, false),
                _ => {
                    self.seen = 0;
                    let said = body.lines().next().unwrap_or_default().chars().take(200).collect::<String>();
                    return Err(Unsigned::Status(status, said.escape_debug().to_string()));
                }
            }
        }
    }

    /// Tells what has changed about it, once.
    fn tell(&mut self, outcome: Result<(), &Unsigned>) {
        let name = self.key.name();
        let why = outcome.err().map(ToString::to_string);
        if let Err(unsigned) = outcome {
            metrics::counter!("postern_control_log_witness_failures_total", "witness" => name.to_owned()).increment(1);
            if self.told != why {
                match unsigned {
                    Unsigned::Ahead { .. } => {
                        error!(witness = name, error = %unsigned, "a witness contradicts the log of recordings")
                    }
                    _ => {
                        warn!(witness = name, error = %unsigned, "a witness does not sign the head of the log of recordings")
                    }
                }
            }
        } else if self.told.is_some() {
            info!(witness = name, "a witness signs again");
        }
        self.told = why;
    }
}

/// Has heads signed while this member leads, until `stop`.
pub(crate) async fn witness(book: LogBook, members: Members, config: Vec<WitnessConfig>, stop: CancellationToken) {
    let mut witnesses = Vec::new();
    for config in &config {
        match Witness::new(config) {
            Ok(witness) => witnesses.push(witness),
            Err(error) => error!(url = config.url, error, "a witness of the log of recordings cannot be asked"),
        }
    }
    if witnesses.is_empty() {
        return stop.cancelled().await;
    }
    let mut state = book.state.clone();
    loop {
        let leading = members.raft.status().borrow().leading && members.view().feature_level >= KEEPS_WITNESSES;
        let log = state.borrow_and_update().clone();
        measure(log.signed(), log.witnessed().map_or(0, |head| head.checkpoint.head().size));
        let head = log.head().filter(|_| leading).map(|head| head.checkpoint.clone());
        let wait = match head {
            Some(head) => tokio::select! {
                () = stop.cancelled() => return,
                all = round(&mut witnesses, &book, &members, &log, &head) => if all { EVERY } else { RETRY },
            },
            None => EVERY,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Whether all have signed this head.
async fn round(
    witnesses: &mut [Witness],
    book: &LogBook,
    members: &Members,
    log: &postern_state::RecordingLog,
    head: &SignedCheckpoint,
) -> bool {
    let kept = log.witnessed().map(|kept| &kept.checkpoint).filter(|kept| kept.head() == head.head());
    let lacking = |witness: &&mut Witness| kept.is_none_or(|kept| kept.verify_witness(&witness.key).is_err());
    let asked = witnesses.iter_mut().filter(lacking).map(|witness| async move {
        let signed = witness.sign(book, head).await;
        witness.tell(signed.as_ref().map(drop));
        signed.ok()
    });
    let answers = join_all(asked).await;
    let mut all = true;
    let mut checkpoint = head.clone();
    for answer in &answers {
        match answer {
            Some(signed) => drop(checkpoint.absorb(signed)),
            None => all = false,
        }
    }
    if checkpoint.signature_count() > head.signature_count() {
        match members.raft.propose(CosignLogHead { checkpoint }, Some(clock::request_id())).await {
            Ok(Ok(_)) => debug!(size = head.head().size, "witnesses have signed a head of the log of recordings"),
            Ok(Err(refusal)) => warn!(%refusal, "what witnesses have signed was not taken"),
            Err(error) => debug!(%error, "what witnesses have signed is not kept"),
        }
    }
    all
}

#[allow(clippy::cast_precision_loss)] // of numbers that people look at
fn measure(signed: u64, witnessed: u64) {
    metrics::gauge!("postern_control_log_unwitnessed_leaves").set(signed.saturating_sub(witnessed) as f64);
}
