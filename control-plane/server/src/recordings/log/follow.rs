//! Keeps the leaves on this disk as they are in the state, and signs heads where this member leads.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use postern_core::transparency::{Checkpoint, Leaf, NoteSigner, SignedCheckpoint};
use postern_proto::peer::v1::ReadLeavesRequest;
use postern_proto::peer::v1::recording_service_client::RecordingServiceClient;
use postern_runtime::clock;
use postern_state::commands::{SealedOf, SetLogKey, SignLogHead};
use postern_state::{LOGS_RECORDINGS, LogKey, RecordingLog};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::leaves::{Leaves, LeavesError};
use super::{LogBook, LogError, agrees, former, life, unpacked};
use crate::cluster::members::Members;
use crate::keys::Kek;

/// Between two heads: recordings that are sealed meanwhile share one.
const EVERY: Duration = Duration::from_secs(1);
/// How long leaves gather.
const GATHER: Duration = Duration::from_millis(50);
/// Between looks when nothing has changed.
const IDLE: Duration = Duration::from_secs(5);
/// How long another member may be silent.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How far the disk is.
enum Reached {
    /// All that the state has.
    All,
    /// The log is being applied again after a start: the disk is ahead of it.
    Ahead,
    /// Leaves are missing that the state has no more.
    Behind {
        /// How many there are.
        have: u64,
    },
}

/// What it needs.
pub(crate) struct Keeper {
    pub(crate) book: LogBook,
    pub(crate) members: Members,
    pub(crate) kek: Arc<Kek>,
}

/// Follows the log, until `stop`, or until the disk can no longer be trusted.
pub(crate) async fn keep(keeper: Keeper, stop: CancellationToken) {
    let mut state = keeper.book.state.clone();
    let mut signer = None;
    let mut signed_at: Option<Instant> = None;
    let (mut told, mut checked) = (false, false);
    loop {
        let log = state.borrow_and_update().clone();
        measure(&log);
        let step = async {
            let known = log.clone();
            match keeper.book.with(move |leaves| Ok(catch_up(leaves, &known, checked)?)).await? {
                Reached::All => {
                    checked = true;
                    told = false;
                    if signed_at.is_none_or(|at| at.elapsed() >= EVERY) && keeper.sign(&log, &mut signer).await {
                        signed_at = Some(Instant::now());
                    }
                }
                Reached::Ahead => {}
                Reached::Behind { have } => {
                    if !keeper.fetch(&log, have).await? && !std::mem::replace(&mut told, true) {
                        error!(
                            have,
                            needed = log.base().size(),
                            "no other member has the leaves of the log of recordings that this one lacks: it signs no heads, and proves nothing"
                        );
                    }
                }
            }
            Ok::<_, LogError>(())
        };
        tokio::select! {
            () = stop.cancelled() => return,
            done = step => if let Err(error) = done {
                metrics::counter!("postern_control_log_failures_total").increment(1);
                if matches!(error, LogError::Flush) {
                    error!(%error, "the node stops");
                    return;
                }
                error!(%error, "the log of recordings cannot be kept: this member proves nothing until it can");
            }
        }
        let unsigned = log.signed() < log.size() || log.head().is_none();
        let wait = if unsigned { EVERY } else { IDLE };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            changed = state.changed(), if signed_at.is_none_or(|at| at.elapsed() >= EVERY) => {
                if changed.is_err() {
                    return;
                }
                // What comes together shares a write.
                tokio::time::sleep(GATHER).await;
            }
        }
    }
}

#[allow(clippy::cast_precision_loss)] // of numbers that people look at
fn measure(log: &RecordingLog) {
    metrics::gauge!("postern_control_log_leaves").set(log.size() as f64);
    metrics::gauge!("postern_control_log_unsigned_leaves").set(log.size().saturating_sub(log.signed()) as f64);
}

/// Writes what the state has and the disk has not. What is there is `checked` once.
fn catch_up(leaves: &mut Leaves, log: &RecordingLog, checked: bool) -> Result<Reached, LeavesError> {
    leaves.trusted()?;
    let (base, have) = (log.base().size(), leaves.size());
    if have < base {
        return Ok(Reached::Behind { have });
    }
    if have > log.size() {
        return Ok(Reached::Ahead);
    }
    if !checked && !agrees(leaves, log)? {
        error!(
            "the leaves of the log of recordings on this disk are damaged: they are put beside, and got from other members"
        );
        leaves.set_aside()?;
        return Ok(Reached::Behind { have: 0 });
    }
    if let Some(index) = differing(leaves, log)? {
        warn!(index, "leaves of the log of recordings on this disk are not the cluster's: they are replaced");
        leaves.cut(index)?;
        return catch_up(leaves, log, true);
    }
    let new: Vec<Leaf> = log.leaves_from(have).map(|(_, leaf)| *leaf).collect();
    if !new.is_empty() {
        leaves.append(&new)?;
        leaves.sync()?;
    }
    Ok(Reached::All)
}

/// The first of the leaves that the state has, too, and has otherwise.
fn differing(leaves: &Leaves, log: &RecordingLog) -> Result<Option<u64>, LeavesError> {
    let mut from = log.base().size();
    let mut known = log.leaves_from(from);
    while from < leaves.size() {
        let some = leaves.read(from, leaves.size())?;
        for (leaf, (index, right)) in some.iter().zip(&mut known) {
            if leaf != right {
                return Ok(Some(index));
            }
        }
        from = from.saturating_add(u64::try_from(some.len()).unwrap_or(u64::MAX).max(1));
    }
    Ok(None)
}

/// Takes leaves from a file of a former life of the cluster, where they are the right ones.
fn adopt(leaves: &mut Leaves, log: &RecordingLog, file: &Path) -> Result<bool, LeavesError> {
    let (base, before) = (log.base().size(), leaves.size());
    let other = Leaves::open(file)?;
    if other.size() < base {
        return Ok(false);
    }
    let mut copied = Ok(());
    while leaves.size() < base && copied.is_ok() {
        copied = other.read(leaves.size(), base).and_then(|some| leaves.append(&some));
    }
    let settled = settle(leaves, log, before)?;
    copied.and(Ok(settled))
}

/// Keeps the leaves that were added if they lead to the root that the state knows.
fn settle(leaves: &mut Leaves, log: &RecordingLog, before: u64) -> Result<bool, LeavesError> {
    if leaves.size() < log.base().size() {
        leaves.cut(before)?;
        return Ok(false);
    }
    if !agrees(leaves, log)? {
        // Nobody can tell which are wrong: those that came, or those that were there, which a kill may have left unverified.
        if before > 0 {
            leaves.set_aside()?;
        } else {
            leaves.cut(0)?;
        }
        return Ok(false);
    }
    leaves.sync()?;
    Ok(true)
}

impl Keeper {
    /// Gets the leaves that the state has no more; whether that could be done.
    async fn fetch(&self, log: &RecordingLog, have: u64) -> Result<bool, LogError> {
        let known = log.clone();
        let adopted = self
            .book
            .with(move |leaves| {
                for file in former(leaves.path()) {
                    if adopt(leaves, &known, &file).unwrap_or(false) {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await?;
        if adopted {
            return Ok(true);
        }
        let (view, own) = (self.members.view(), self.members.own_id());
        for node in view.nodes.iter().filter(|node| node.id != own) {
            match self.fetch_from(node.id, log).await {
                Ok(true) => {
                    info!(from = %node.name, leaves = log.base().size().saturating_sub(have), "got leaves of the log of recordings from another member");
                    return Ok(true);
                }
                Ok(false) => {
                    warn!(member = %node.name, "a member's leaves of the log of recordings are not the cluster's, or not all")
                }
                Err(error) => {
                    debug!(member = %node.name, error, "a member does not give leaves of the log of recordings")
                }
            }
        }
        Ok(false)
    }

    async fn fetch_from(&self, id: u64, log: &RecordingLog) -> Result<bool, String> {
        let until = log.base().size();
        // The one before may have shown that what is here is wrong.
        let have = self.book.with(|leaves| Ok(leaves.size())).await.map_err(|error| error.to_string())?;
        let connect = tokio::time::timeout(ANSWER_LIMIT, self.members.peers.connect(id)).await;
        let channel = connect.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        let mut client = RecordingServiceClient::new(channel);
        let request = ReadLeavesRequest { from: have, until };
        let answer = tokio::time::timeout(ANSWER_LIMIT, client.read_leaves(request)).await;
        let answer = answer.map_err(|_| "no answer".to_owned())?.map_err(|status| status.message().to_owned())?;
        let mut parts = answer.into_inner();
        let mut added = 0_u64;
        loop {
            let part = tokio::time::timeout(ANSWER_LIMIT, parts.message()).await.map_err(|_| "silence".to_owned());
            let part = part.and_then(|part| part.map_err(|status| status.message().to_owned()));
            let some = match part {
                Ok(Some(part)) => unpacked(&part.leaves).filter(|some| !some.is_empty()),
                _ => None,
            };
            let Some(some) = some else { break };
            added = added.saturating_add(u64::try_from(some.len()).unwrap_or(u64::MAX));
            if have.saturating_add(added) > until {
                break;
            }
            if let Err(error) = self.book.with(move |leaves| Ok(leaves.append(&some)?)).await {
                warn!(%error, "leaves from another member cannot be written");
                break;
            }
        }
        let log = log.clone();
        let settled = self.book.with(move |leaves| Ok(settle(leaves, &log, have)?)).await;
        settled.map_err(|error| error.to_string())
    }

    /// Signs a head, where this member leads and there is something to sign; whether it did.
    async fn sign(&self, log: &RecordingLog, signer: &mut Option<NoteSigner>) -> bool {
        let leading = self.members.raft.status().borrow().leading;
        if !leading || self.members.view().feature_level < LOGS_RECORDINGS {
            return false;
        }
        let Some(key) = log.key() else {
            self.make_key().await;
            return false;
        };
        if log.head().is_some() && log.signed() == log.size() {
            return false;
        }
        if signer.as_ref().is_none_or(|signer| signer.public() != key.public) {
            match self.open(key).await {
                Ok(opened) => *signer = Some(opened),
                Err(error) => {
                    warn!(error, "the key of the log of recordings cannot be opened");
                    return false;
                }
            }
        }
        let Some(signer) = signer else { return false };
        let head = Checkpoint { origin: key.origin.clone(), size: log.size(), root: log.root() };
        let checkpoint = SignedCheckpoint::sign(head, signer);
        match self.members.raft.propose(SignLogHead { checkpoint }, Some(clock::request_id())).await {
            Ok(Ok(_)) => {
                debug!(size = log.size(), "a head of the log of recordings was signed");
                true
            }
            Ok(Err(refusal)) => {
                warn!(%refusal, size = log.size(), "a head of the log of recordings was not taken");
                true
            }
            Err(error) => {
                debug!(%error, "a head of the log of recordings was not published");
                false
            }
        }
    }

    async fn open(&self, key: &LogKey) -> Result<NoteSigner, String> {
        let of = SealedOf::LogKey.to_string();
        let opened = self.kek.open(&of, &key.private).await.map_err(|error| error.to_string())?;
        NoteSigner::of_log(&key.origin, opened.expose()).map_err(|fault| fault.to_string())
    }

    async fn make_key(&self) {
        let view = self.members.view();
        let Some(cluster) = &view.cluster else { return };
        // Another life of a cluster is another log.
        let life = life(&cluster.incarnation);
        let origin = format!("{}.{life}.log.postern.internal", cluster.id);
        let made = async {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| "no key".to_owned())?;
            let public = NoteSigner::of_log(&origin, pkcs8.as_ref()).map_err(|fault| fault.to_string())?.public();
            let sealed = self.kek.seal(&SealedOf::LogKey.to_string(), pkcs8.as_ref()).await;
            Ok::<_, String>(LogKey { origin, public, private: sealed.map_err(|error| error.to_string())? })
        };
        let key = match made.await {
            Ok(key) => key,
            Err(error) => return warn!(error, "no key for the log of recordings can be made"),
        };
        let origin = key.origin.clone();
        match self.members.raft.propose(SetLogKey { key }, Some(clock::request_id())).await {
            Ok(Ok(_)) => info!(origin, "the log of recordings has a key"),
            Ok(Err(refusal)) => debug!(%refusal, "the key of the log of recordings was not taken"),
            Err(error) => debug!(%error, "the key of the log of recordings was not set"),
        }
    }
}
