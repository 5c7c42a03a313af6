//! `postern policy diff`: what was recorded, decided by other policies.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use postern_core::operation::Operation;
use postern_core::policy::{Circumstances, Freshness, Obliged, Outcome, PolicySlice};
use postern_core::recording::{Event, OperationEvent, Started, Value};
use postern_core::wire::timestamp_to_proto;
use postern_core::{Name, SessionId, Timestamp};
use postern_proto::admin::v1::ListSessionsRequest;
use postern_proto::resource::v1 as pb;
use postern_runtime::clock;
use serde_json::json;

use super::world::{self, World};
use crate::args::{ConnectionArgs, Format};
use crate::client::{Client, connect, every_page};
use crate::commands::sessions::Source;
use crate::commands::when_exactly;
use crate::failure::Failure;
use crate::manifest;
use crate::output;
use crate::policy_args::DiffArgs;
use crate::recording::{self, EntryReader, ReadFault};

/// One operation that would be decided otherwise.
struct Changed {
    session: SessionId,
    at: Timestamp,
    principal: String,
    target: Name,
    text: String,
    was: String,
    would: String,
    because: String,
}

#[derive(Default)]
struct Counts {
    sessions: usize,
    operations: usize,
    /// Recordings that could not be read to their end.
    unreadable: usize,
}

pub(super) async fn run(args: &DiffArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let draft = World::of(&manifest::load(&args.files)?);
    let client = connect(connection).await?;
    let world = World::of_cluster(&client).await?.changed_by(draft, args.replace_all);
    let (mut counts, mut found) = (Counts::default(), Vec::new());
    for session in sessions(&client, args).await? {
        counts.sessions = counts.sessions.saturating_add(1);
        let mut replayed = Replayed { world: &world, begun: None, counts: &mut counts, found: &mut found };
        if replay(&client, &session.id, &mut replayed).await.is_err() {
            counts.unreadable = counts.unreadable.saturating_add(1);
        }
    }
    show(&found, &counts, args.output.format)
}

async fn sessions(client: &Client, args: &DiffArgs) -> Result<Vec<pb::Session>, Failure> {
    let age = u64::try_from(args.against_sessions.as_millis()).unwrap_or(u64::MAX);
    let after = Timestamp::from_millis(clock::now().millis().saturating_sub(age));
    let request = ListSessionsRequest {
        page_size: 1_000,
        target: args.target.clone().unwrap_or_default(),
        started_after: Some(timestamp_to_proto(after)),
        ..ListSessionsRequest::default()
    };
    let all = every_page(async |page_token| {
        let request = ListSessionsRequest { page_token, ..request.clone() };
        let page = client.sessions().list_sessions(request).await?.into_inner();
        Ok((page.sessions, page.next_page_token))
    });
    all.await
}

/// A recording while it is decided anew.
struct Replayed<'a> {
    world: &'a World,
    begun: Option<(Started, PolicySlice)>,
    counts: &'a mut Counts,
    found: &'a mut Vec<Changed>,
}

async fn replay(client: &Client, id: &str, replayed: &mut Replayed<'_>) -> Result<(), Failure> {
    let fault = |fault: ReadFault| Failure::failed(fault.to_string());
    let (mut source, mut reader) = (Source::remote(client, id).await?, EntryReader::new(id.parse().ok(), None));
    while let Some(piece) = source.next().await? {
        let entry = |entry: postern_core::recording::Entry| -> Result<(), ReadFault> {
            replayed.event(entry.event);
            Ok(())
        };
        reader.push(&piece, entry).map_err(fault)?;
    }
    Ok(())
}

impl Replayed<'_> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Started(started) => {
                // What was granted on request held when it was used: that is not decided anew.
                let slice = self.world.slice(&started.principal, &started.target, None);
                let on_request: Vec<Name> = slice.on_request().cloned().collect();
                let slice = world::granted(slice, (&on_request, ""), &started.principal, &started.target);
                self.begun = Some((*started, slice));
            }
            Event::Operation(operation) => self.operation(&operation),
            _ => {}
        }
    }

    fn operation(&mut self, event: &OperationEvent) {
        let Some((started, slice)) = &mut self.begun else { return };
        // What was denied because nobody could tell what it does is so under any policy.
        if event.actions.is_empty() {
            return;
        }
        self.counts.operations = self.counts.operations.saturating_add(1);
        let mut at = Circumstances::new(event.decision.at, Freshness::CONFIRMED);
        at.source = started.client_address.parse::<SocketAddr>().ok().map(|address| address.ip());
        let actions = event.actions.clone();
        let operation = Operation::new(event.operation, started.session, Bytes::new(), Vec::new(), actions);
        // Whether a transaction was open is not recorded: what may be decided as it was is no difference.
        let open = [None, Some(true), Some(false)];
        // Nor what the target expected, where nobody asked then.
        let asks = slice.asks_for_estimate(&operation.actions) && event.decision.estimated_rows.is_none();
        let rows: &[Option<u64>] =
            if asks { &[None, Some(0), Some(u64::MAX)] } else { &[event.decision.estimated_rows] };
        let states = open.into_iter().flat_map(|open| rows.iter().map(move |rows| (open, *rows)));
        let mut all =
            states.map(|(open, rows)| world::decide(slice, &operation, &at.in_transaction(open).estimated(rows)));
        let Some(decided) = all.next() else { return };
        let (outcome, bound) = (event.decision.outcome, event.decision.obliged.asked());
        let same = |decided: &world::Decided| decided.outcome == outcome && decided.obliged.asked() == bound;
        if !same(&decided) && !all.any(|other| same(&other)) {
            let because = if decided.reason.is_empty() { super::by(&decided.policies) } else { decided.reason };
            self.found.push(Changed {
                session: started.session,
                at: event.decision.at,
                principal: started.principal.to_string(),
                target: started.target.clone(),
                text: text(&event.text),
                was: shown(outcome, &event.decision.obliged),
                would: shown(decided.outcome, &decided.obliged),
                because,
            });
        }
    }
}

/// `permit`, or `permit, at most 10 rows (analysts)`.
fn shown(outcome: Outcome, obliged: &Obliged) -> String {
    if obliged.is_empty() { outcome.as_str().to_owned() } else { format!("{}, {obliged}", outcome.as_str()) }
}

fn text(value: &Value) -> String {
    let shown = recording::text(value);
    let line: String = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(80).collect()
}

fn show(found: &[Changed], counts: &Counts, format: Option<Format>) -> Result<(), Failure> {
    if let Some(Format::Json | Format::Yaml) = format {
        let values = found.iter().map(|changed| {
            json!({
                "session": changed.session.to_string(),
                "at": changed.at.to_string(),
                "principal": changed.principal,
                "target": changed.target,
                "text": changed.text,
                "was": changed.was,
                "would": changed.would,
                "because": changed.because,
            })
        });
        let all = json!({
            "sessions": counts.sessions,
            "operations": counts.operations,
            "unreadable": counts.unreadable,
            "changed": values.collect::<Vec<_>>(),
        });
        return output::json(&all);
    }
    let row = |changed: &Changed| {
        vec![
            when_exactly(changed.at),
            changed.session.to_string(),
            changed.principal.clone(),
            changed.target.to_string(),
            changed.was.clone(),
            changed.would.clone(),
            changed.because.clone(),
            changed.text.clone(),
        ]
    };
    if !found.is_empty() {
        let heading = ["AT", "SESSION", "PRINCIPAL", "TARGET", "WAS", "WOULD", "BECAUSE", "STATEMENT"];
        output::table(&heading, &found.iter().map(row).collect::<Vec<_>>())?;
    }
    let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for changed in found {
        let count = kinds.entry((changed.was.as_str(), changed.would.as_str())).or_default();
        *count = count.saturating_add(1);
    }
    let (changed, operations, sessions) = (found.len(), counts.operations, counts.sessions);
    output::line(format!("{changed} of {operations} operations in {sessions} sessions would be decided otherwise"))?;
    for ((was, would), count) in kinds {
        output::line(format!("  {count} from {was} to {would}"))?;
    }
    if counts.unreadable > 0 {
        output::note(format!("{} recordings could not be read to their end", counts.unreadable));
    }
    Ok(())
}
