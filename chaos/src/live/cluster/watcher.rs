//! A watcher of the registers: it goes on where it was, at another member when one is lost, and must be told of every write once and in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use postern_proto::admin::v1 as pb;
use postern_proto::admin::v1::resource_service_client::ResourceServiceClient;
use postern_proto::resource::v1 as resource_pb;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::client::ClusterClient;
use super::history::{Answer, Asked, Operation};

/// A stream that says nothing for so long is one to a member that is lost: bookmarks come more often than that only at rest.
const SILENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// What a watcher was told.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Register, value, revision; in the order in which it came.
    told: Vec<(String, String, u64)>,
    /// Streams that were begun.
    streams: usize,
    /// How often no member knew the changes since any more, so that it began anew.
    began_anew: usize,
    /// What was overwritten by then it was not told of: it began with what stood.
    began_at: u64,
    revision: u64,
}

/// Watches until `stop`; `seen` is the revision up to which it was told.
pub(super) async fn watch(client: ClusterClient, stop: Arc<AtomicBool>, seen: Arc<AtomicU64>) -> Watched {
    let mut watched = Watched::default();
    let mut compacted = 0;
    let mut member = 0;
    while !stop.load(Ordering::Relaxed) {
        if compacted >= client.members() {
            (watched.revision, compacted) = (0, 0);
            watched.began_anew += 1;
        }
        watched.streams += 1;
        match stream(&client, member, &mut watched, &stop, &seen).await {
            Err(status) if status.code() == Code::OutOfRange => compacted += 1,
            Err(_) | Ok(()) => compacted = 0,
        }
        member += 1;
        sleep(PAUSE).await;
    }
    watched
}

/// At the end of a test nothing changes any more: it is not waited for.
async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        sleep(PAUSE).await;
    }
}

async fn stream(
    client: &ClusterClient,
    member: usize,
    watched: &mut Watched,
    stop: &AtomicBool,
    seen: &AtomicU64,
) -> Result<(), Status> {
    if watched.revision == 0 {
        watched.told.clear();
    }
    let late = |_| Status::deadline_exceeded("silence");
    let request = pb::WatchRequest {
        kind: resource_pb::Kind::Role.into(),
        from_revision: watched.revision,
        ..Default::default()
    };
    let mut service = ResourceServiceClient::new(client.channel(member));
    let mut answers = timeout(SILENCE, service.watch(request)).await.map_err(late)??.into_inner();
    while !stop.load(Ordering::Relaxed) {
        let answer = tokio::select! {
            answer = timeout(SILENCE, answers.message()) => answer.map_err(late)??,
            () = stopped(stop) => None,
        };
        let Some(answer) = answer else { return Ok(()) };
        if let (Some(resource), false) = (answer.resource, answer.event == i32::from(pb::WatchEvent::Bookmark)) {
            let metadata = resource.metadata.unwrap_or_default();
            if let Some(resource_pb::resource::Spec::Role(role)) = resource.spec {
                watched.told.push((metadata.name, role.description, metadata.revision));
            }
        }
        // What stands at the beginning comes in any order, and the bookmark after it says up to where.
        let bookmark = answer.event == i32::from(pb::WatchEvent::Bookmark);
        if watched.revision == 0 && bookmark {
            watched.told.sort_by_key(|(_, _, revision)| *revision);
            watched.began_at = answer.revision;
        }
        if watched.revision != 0 || bookmark {
            watched.revision = watched.revision.max(answer.revision);
            seen.store(watched.revision, Ordering::Relaxed);
        }
    }
    Ok(())
}

impl Watched {
    /// Holds what it was told against what clients were.
    pub(super) fn check(&self, history: &[Operation]) -> Result<()> {
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        let mut told: BTreeMap<(&str, u64), &str> = BTreeMap::new();
        let mut newest = 0;
        for (register, value, revision) in &self.told {
            let before = last.insert(register, *revision).unwrap_or_default();
            if self.began_anew == 0 {
                ensure!(before < *revision, "told of {register} at {revision} after {before}");
                ensure!(newest < *revision, "told of {register} at {revision} after something at {newest}");
                newest = *revision;
            }
            told.insert((register, *revision), value);
        }
        if self.began_anew > 0 {
            return Ok(());
        }
        for operation in history {
            if let (Asked::Write { .. }, Answer::Value(value, revision)) = (&operation.asked, &operation.answer)
                && *revision > self.began_at
            {
                let found = told.get(&(operation.register.as_str(), *revision));
                ensure!(
                    found == Some(&value.as_str()),
                    "acknowledged, and the watcher was told {found:?} over {} streams: {operation:?}",
                    self.streams
                );
            }
        }
        Ok(())
    }

    /// How often it began anew.
    pub(super) const fn began_anew(&self) -> usize {
        self.began_anew
    }
}
