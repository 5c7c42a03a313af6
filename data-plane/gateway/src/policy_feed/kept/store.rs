//! What reads and writes the files.

use std::sync::Arc;
use std::time::Instant;

use postern_core::secret::SecretBytes;
use postern_core::snapshot::Snapshot;
use postern_core::{Name, Timestamp};
use postern_proto::gateway::v1::{self as pb, Kept, KeptHead, WatchResponse, kept, watch_response};
use postern_runtime::clock;

use super::file::{self, Log};
use super::mark::{self, Boot, Mark};
use super::revoked;
use super::seal::Root;
use super::{KeepError, KeptConfig, Loaded, Pending, Refused};
use crate::metrics;
use crate::policy_feed::Current;
use crate::policy_feed::assemble::Assembler;

/// The writer's own.
pub(super) struct Store {
    pub(super) config: KeptConfig,
    root: Root,
    log: Option<Log>,
    confirmed: Option<(Timestamp, Boot)>,
    seen: Timestamp,
    /// The file has credentials that are no longer to be kept.
    unwanted: bool,
    failed: bool,
}

impl Store {
    pub(super) fn new(config: KeptConfig, root: Root) -> Self {
        Self { config, root, log: None, confirmed: None, seen: clock::now(), unwanted: false, failed: false }
    }

    /// What is kept, as far as it may be served; and whether a new file should begin.
    pub(super) fn load(&mut self, authority: &[u8]) -> (Loaded, bool) {
        let (mut loaded, whole) = self.load_policy(authority);
        loaded.revoked_gateways = revoked::read(&self.config.dir, &loaded.assembler, clock::now());
        (loaded, whole)
    }

    fn load_policy(&mut self, authority: &[u8]) -> (Loaded, bool) {
        let nothing = || Loaded::nothing(authority.to_vec());
        let read = Mark::read(&self.config.dir, &self.root).and_then(|mark| match mark {
            None => Ok(None),
            Some(mark) => self.replay(&mark, authority).map(|(assembler, current)| Some((mark, assembler, current))),
        });
        match read {
            Ok(None) => (nothing(), true),
            Ok(Some((mark, assembler, current))) => {
                metrics::policy_kept_revision(current.snapshot.revision);
                let age = mark.age(clock::now(), &Boot::now());
                let age = age.and_then(|age| if age > self.config.limit { Err(Refused::TooOld(age)) } else { Ok(age) });
                let confirmed = match age {
                    Ok(age) => {
                        metrics::policy_kept("served");
                        tracing::info!(
                            revision = current.snapshot.revision,
                            age_s = age.as_secs(),
                            "deciding by the policy on the disk, until the control plane answers"
                        );
                        Instant::now().checked_sub(age)
                    }
                    // What it says of revisions and revoked certificates is true all the same.
                    Err(refused) => {
                        told(&refused);
                        None
                    }
                };
                self.confirmed = Some((mark.confirmed, mark.boot.clone()));
                self.seen = self.seen.max(mark.seen);
                (Loaded { assembler, policy: Some((current, confirmed)), revoked_gateways: None }, self.unwanted)
            }
            Err(refused) => {
                told(&refused);
                (nothing(), true)
            }
        }
    }

    fn replay(&mut self, mark: &Mark, authority: &[u8]) -> Result<(Assembler, Arc<Current>), Refused> {
        let mut assembler = Assembler::new(authority.to_vec());
        let mut newest = None;
        let (mut place, gateway) = (0_u64, self.config.gateway.to_string());
        let (with_credentials, mut without) = (self.config.credentials, false);
        let log = Log::read(&self.config.dir, &self.root, (mark.file, mark.records), |record| {
            let policy = match (place, record.what) {
                (0, Some(kept::What::Head(head))) => {
                    if head.gateway != gateway {
                        return Err(Refused::OtherGateway(head.gateway));
                    }
                    assembler.set_past(head.past_incarnations);
                    None
                }
                (1, Some(kept::What::Whole(signed))) => Some(WatchResponse {
                    policy: Some(watch_response::Policy::Whole(signed)),
                    credentials: Some(pb::Credentials { whole: true, ..Default::default() }),
                    ..Default::default()
                }),
                (2.., Some(kept::What::Delta(signed))) => {
                    Some(WatchResponse { policy: Some(watch_response::Policy::Delta(signed)), ..Default::default() })
                }
                (2.., Some(kept::What::Credentials(credentials))) => {
                    without |= !with_credentials;
                    with_credentials.then(|| WatchResponse { credentials: Some(credentials), ..Default::default() })
                }
                _ => return Err(Refused::Damaged),
            };
            place = place.saturating_add(1);
            if let Some(answer) = policy {
                let taken = assembler.take(answer, Timestamp::from_millis(record.taken_ms));
                newest = taken.map_err(|fault| Refused::Policy(fault.to_string()))?.or(newest.take());
                drop(assembler.taken());
            }
            Ok(())
        })?;
        let newest: Arc<Current> = newest.ok_or(Refused::Damaged)?;
        if log.is_signed_by_any(&newest.snapshot.revoked) {
            return Err(Refused::Revoked);
        }
        (self.log, self.unwanted) = (Some(log), without);
        Ok((assembler, newest))
    }

    /// Writes `pending`; whether a whole policy is needed to go on.
    pub(super) fn flush(&mut self, pending: Pending) -> bool {
        match pending.confirmed {
            // What is confirmed now is judged by the clock as it is now.
            Some(at) => {
                self.confirmed = Some(mark::clocks_at(at));
                self.seen = clock::now();
            }
            None => self.seen = self.seen.max(clock::now()),
        }
        if pending.lost {
            self.log = None;
        }
        let newest = pending.newest.clone();
        match self.write(pending) {
            Ok(()) => {
                if let Some(newest) = newest.as_ref().filter(|_| self.log.is_some()) {
                    metrics::policy_kept_revision(newest.snapshot.revision);
                }
                if std::mem::take(&mut self.failed) {
                    tracing::info!("the policy is kept on the disk again");
                }
            }
            Err(error) => {
                metrics::policy_keep_failed();
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(%error, "the policy cannot be kept on the disk: what is there ages");
                }
                self.log = None;
            }
        }
        let signed_by_revoked = |log: &Log| newest.is_some_and(|newest| log.is_signed_by_any(&newest.snapshot.revoked));
        self.log.as_ref().is_none_or(|log| log.is_long() || signed_by_revoked(log))
    }

    fn write(&mut self, pending: Pending) -> Result<(), KeepError> {
        if let Some(list) = &pending.revoked_gateways {
            revoked::write(&self.config.dir, list)?;
        }
        let mut records = Vec::new();
        let begins = pending.whole.is_some();
        if let Some((past_incarnations, whole, taken)) = pending.whole {
            let head = KeptHead { gateway: self.config.gateway.to_string(), past_incarnations };
            records.push(record(kept::What::Head(head), taken));
            records.push(record(kept::What::Whole(whole), taken));
        }
        records.extend(pending.changes.into_iter().map(|(signed, taken)| record(kept::What::Delta(signed), taken)));
        if pending.credentials
            && self.config.credentials
            && let Some(newest) = &pending.newest
        {
            records.push(record(kept::What::Credentials(credentials_of(&newest.snapshot)), clock::now()));
        }
        if begins {
            self.log = Some(Log::create(&self.config.dir, &self.root, records)?);
        } else if let Some(log) = &mut self.log
            && !records.is_empty()
        {
            if log.is_full() {
                self.log = None;
                return Ok(());
            }
            log.append(records)?;
        }
        // Without a file that has everything, what was confirmed is not what the file has.
        let (Some(log), Some((confirmed, boot))) = (&self.log, &self.confirmed) else { return Ok(()) };
        let mark = Mark {
            file: log.id(),
            records: log.records(),
            confirmed: *confirmed,
            // A confirmation is never of later than what was seen, whatever the clock does.
            seen: self.seen.max(*confirmed),
            boot: boot.clone(),
        };
        mark.write(&self.config.dir, &self.root)?;
        if begins {
            file::tidy(&self.config.dir, &mark.file);
        }
        Ok(())
    }
}

fn record(what: kept::What, taken: Timestamp) -> Kept {
    Kept { taken_ms: taken.millis(), what: Some(what) }
}

fn credentials_of(snapshot: &Snapshot) -> pb::Credentials {
    let credential = |(target, password): (&Name, &SecretBytes)| pb::Credential {
        target: target.to_string(),
        username: String::new(),
        password: password.expose().to_vec(),
    };
    pb::Credentials {
        whole: true,
        credentials: snapshot.credentials.iter().map(credential).collect(),
        removed: Vec::new(),
        mask_key: snapshot.mask_key.expose().to_vec(),
    }
}

fn told(refused: &Refused) {
    metrics::policy_kept(refused.label());
    tracing::warn!(reason = %refused, "the policy on the disk is not served");
}
