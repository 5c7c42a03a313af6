//! `postern get -w`: every change once and in order, also when the member that tells of them goes away.

use std::collections::BTreeMap;
use std::time::Duration;

use postern_core::resource::Kind;
use postern_core::wire::resource::kind_to_proto;
use postern_proto::admin::v1::{WatchEvent, WatchRequest, WatchResponse};
use postern_runtime::backoff::Backoff;
use serde_json::json;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::summary;
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, Settings, refused};
use crate::failure::Failure;
use crate::manifest::render;
use crate::output;

/// How long no member may tell anything before the command gives up.
const GIVE_UP: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(3);

/// What was told so far: a stream that is begun again goes on after it.
#[derive(Debug, Default)]
struct Told {
    /// All changes up to here were told; 0: what stands there is still being told.
    complete: u64,
    /// The revision of the last change.
    at: u64,
    /// What was told at that revision, or of what stands there: names and revisions.
    names: BTreeMap<String, u64>,
}

impl Told {
    /// Takes in that all up to `revision` was told.
    fn bookmark(&mut self, revision: u64) {
        (self.complete, self.at) = (revision, revision);
        self.names.clear();
    }

    /// Takes in a change. Whether it is to be told: after a stream that broke off in the middle of a revision, that comes again.
    fn take(&mut self, name: &str, revision: u64) -> bool {
        if self.complete > 0 && revision > self.at {
            (self.complete, self.at) = (self.at, revision);
            self.names.clear();
        }
        self.names.insert(name.to_owned(), revision) != Some(revision)
    }
}

/// One line, or one document, for each change.
pub(super) async fn watch(
    connection: &ConnectionArgs,
    kind: Kind,
    name: &str,
    selector: &str,
    format: Format,
) -> Result<(), Failure> {
    let settings = Settings::acting(connection).await?;
    let servers = settings.servers().len();
    let (mut told, mut backoff) = (Told::default(), Backoff::new(FIRST_RETRY, LAST_RETRY));
    let (mut server, mut compacted, mut failed) = (0_usize, 0_usize, 0_usize);
    let mut heard = Instant::now();
    loop {
        let request = WatchRequest {
            kind: kind_to_proto(kind).into(),
            name: name.to_owned(),
            label_selector: selector.to_owned(),
            from_revision: told.complete,
        };
        let end = match Client::connect_to(&settings, server).await {
            Ok(client) => stream(&client, request, kind, format, &mut told, &mut heard).await,
            Err(failure) => Err(End::Lost(failure)),
        };
        let why = match end {
            Ok(()) => "the stream ended".to_owned(),
            Err(End::Failed(failure)) => return Err(failure),
            Err(End::Compacted(failure)) => {
                compacted = compacted.saturating_add(1);
                if told.complete == 0 {
                    return Err(failure);
                }
                // Another member may still know what this one has forgotten.
                if compacted >= servers {
                    output::note("what changed since is no longer known: beginning anew with everything that is there");
                    (told, compacted) = (Told::default(), 0);
                }
                server = server.saturating_add(1);
                continue;
            }
            Err(End::Lost(failure)) => {
                failed = failed.saturating_add(1);
                let nothing_yet = told.complete == 0 && told.names.is_empty();
                if heard.elapsed() > GIVE_UP || (nothing_yet && failed >= servers) {
                    return Err(failure);
                }
                failure.to_string()
            }
        };
        compacted = 0;
        if heard.elapsed() < FIRST_RETRY {
            backoff.reset();
            output::note(format!("{why}; going on at another member, if there is one"));
        }
        tokio::time::sleep(backoff.next_delay()).await;
        server = server.saturating_add(1);
    }
}

/// Why a stream is over.
enum End {
    /// Begin it again elsewhere.
    Lost(Failure),
    /// What it was to go on from is no longer known there.
    Compacted(Failure),
    /// It would end so everywhere.
    Failed(Failure),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::OutOfRange => Self::Compacted(refused(status)),
            // A member that stops, that knows no leader or has too much to do; a connection that broke.
            Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
            | Code::DeadlineExceeded
            | Code::ResourceExhausted => Self::Lost(refused(status)),
            _ => Self::Failed(refused(status)),
        }
    }
}

async fn stream(
    client: &Client,
    request: WatchRequest,
    kind: Kind,
    format: Format,
    told: &mut Told,
    heard: &mut Instant,
) -> Result<(), End> {
    let mut changes = client.resources().watch(request).await?.into_inner();
    while let Some(change) = changes.message().await? {
        *heard = Instant::now();
        let event = match change.event() {
            WatchEvent::Added => "added",
            WatchEvent::Modified => "modified",
            WatchEvent::Deleted => "deleted",
            WatchEvent::Bookmark => {
                told.bookmark(change.revision);
                continue;
            }
            WatchEvent::Unspecified => continue,
        };
        show(told, kind, event, change, format).map_err(End::Failed)?;
    }
    Ok(())
}

fn show(told: &mut Told, kind: Kind, event: &str, change: WatchResponse, format: Format) -> Result<(), Failure> {
    let object = change.resource.unwrap_or_default();
    let name = object.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    if !told.take(&name, change.revision) {
        return Ok(());
    }
    let shown = match event {
        "deleted" => json!({"kind": kind.as_str(), "metadata": {"name": name}}),
        _ => render(&object),
    };
    match format {
        Format::Table => {
            let cells = output::printable(&summary::cells(&object).join("  "));
            let cells = if event == "deleted" { "" } else { &cells };
            output::line(format!("{:<10} {event:<9} {name:<24} {cells}", change.revision).trim_end())
        }
        // One line each, for programs.
        Format::Json => output::line(json!({"event": event, "revision": change.revision, "object": shown}).to_string()),
        Format::Yaml => {
            output::line("---")?;
            output::yaml(&[json!({"event": event, "revision": change.revision, "object": shown})])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once_over_streams_that_break_off_anywhere() {
        let mut told = Told::default();
        // What stands there, broken off before its bookmark, and told again: one has changed meanwhile.
        assert!(told.take("a", 3) && told.take("b", 5));
        assert_eq!(told.complete, 0);
        assert!(!told.take("a", 3) && told.take("b", 9) && told.take("c", 7));
        told.bookmark(9);
        // One revision of two objects, broken off between them.
        assert!(told.take("a", 12));
        assert_eq!(told.complete, 9);
        assert!(!told.take("a", 12) && told.take("b", 12));
        assert!(told.take("a", 13));
        assert_eq!(told.complete, 12);
        told.bookmark(20);
        assert_eq!(told.complete, 20);
    }
}
