//! A recording as text for people, entry by entry.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use postern_core::approval::{ApprovalRequirement, ApprovalState, Review, ReviewVerdict};
use postern_core::policy::Outcome;
use postern_core::recording::{ColumnInfo, Completed, Entry, Event, OperationEvent, OperationOutcome, Started, Value};
use postern_core::{ApprovalId, OperationId, Timestamp};

use crate::output::{Paint, paint, printable};

/// The widest cell of a result that is shown whole.
const MAX_CELL: usize = 60;

/// Renders the entries of one recording in order.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    color: bool,
    start: Option<Timestamp>,
    /// Operations that have not completed.
    open: BTreeMap<OperationId, Open>,
    count: u64,
    /// The operation that the last lines were about: what follows without a number is of it.
    current: Option<OperationId>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    at: Timestamp,
    columns: Vec<ColumnInfo>,
    widths: Vec<usize>,
}

impl Replay {
    pub(crate) fn new(color: bool) -> Self {
        Self { color, ..Self::default() }
    }

    /// The lines of one entry.
    pub(crate) fn entry(&mut self, entry: &Entry) -> String {
        let mut out = String::new();
        match &entry.event {
            Event::Started(started) => self.started(entry.at, started, &mut out),
            Event::Operation(operation) => self.operation(entry.at, operation, &mut out),
            Event::Approval { operation, approval, state, requirement, reviews } => {
                self.turn_to(*operation, &mut out);
                self.approval(entry.at, *approval, *state, requirement.as_ref(), reviews, &mut out);
            }
            Event::Columns { operation, columns } => {
                if let Some(open) = self.open.get_mut(operation) {
                    open.columns.clone_from(columns);
                    open.widths.clear();
                }
            }
            Event::Rows { operation, rows } => {
                self.turn_to(*operation, &mut out);
                if let Some(open) = self.open.get_mut(operation) {
                    open.rows(rows, &mut out);
                }
            }
            Event::Completed(completed) => self.completed(entry.at, completed, &mut out),
            Event::CancelRequested { client_address } => {
                let text = format!("{} cancel requested from {}", self.since(entry.at), printable(client_address));
                say(&mut out, &self.paint(&text, Paint::Yellow));
            }
            Event::Ended { code, reason, interrupted, gap } => {
                if let Some(gap) = gap {
                    say(&mut out, &self.paint(&format!("{} gap: {gap}", self.since(entry.at)), Paint::Yellow));
                }
                let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
                let how = if *interrupted { "interrupted" } else { "ended" };
                say(&mut out, &format!("{how} {}: {}{code}", self.since(entry.at), printable(reason)));
            }
            Event::Sealed { events, head, .. } => {
                let text = format!("sealed: {events} events, head {head}");
                say(&mut out, &self.paint(&text, Paint::Dim));
            }
        }
        out
    }

    fn started(&mut self, at: Timestamp, started: &Started, out: &mut String) {
        self.start = Some(at);
        say(out, &self.paint(&format!("session {}", started.session), Paint::Bold));
        let groups: Vec<&str> = started.principal.groups.iter().map(|group| &**group).collect();
        let groups = if groups.is_empty() { String::new() } else { format!(" ({})", groups.join(", ")) };
        say(out, &format!("  principal  {}", printable(&format!("{}{groups}", started.principal))));
        for link in &started.principal.chain {
            let actor = link.actor.as_ref().map(|actor| format!(" of {actor}")).unwrap_or_default();
            let scope = if link.scope.is_open() { String::new() } else { format!(", good for {}", link.scope) };
            say(out, &format!("  token      {}", printable(&format!("{}{actor}{scope}", link.token))));
        }
        say(out, &format!("  target     {}, database {}", started.target, printable(&started.database)));
        let application = if started.application.is_empty() {
            String::new()
        } else {
            format!(", calling itself {}", started.application)
        };
        let through = format!("{} from {}{application}", started.gateway, started.client_address);
        say(out, &format!("  through    {}", printable(&through)));
        say(out, &format!("  started    {at}, policy revision {}", started.revision));
    }

    fn operation(&mut self, at: Timestamp, event: &OperationEvent, out: &mut String) {
        self.count = self.count.saturating_add(1);
        let number = self.count;
        self.current = Some(event.operation);
        self.open.insert(event.operation, Open { number, at, columns: Vec::new(), widths: Vec::new() });
        let decision = &event.decision;
        let (word, color) = match decision.outcome {
            Outcome::Permit => ("PERMIT", Paint::Green),
            Outcome::Hold => ("HOLD", Paint::Yellow),
            Outcome::Deny => ("DENY", Paint::Red),
        };
        let policies: Vec<&str> = decision.policies.iter().map(postern_core::Name::as_str).collect();
        let by = if policies.is_empty() { String::new() } else { format!(" by {}", policies.join(", ")) };
        let word = self.paint(word, color);
        let dim = self.paint(&format!("revision {}, decision {}", decision.revision, decision.id), Paint::Dim);
        say(out, &format!("\n[{number}] {} {word}{by}, {dim}", self.since(at)));
        for line in text(&event.text).lines() {
            say(out, &format!("    {}", self.paint(line, Paint::Bold)));
        }
        for (place, parameter) in event.parameters.iter().enumerate() {
            say(out, &format!("    ${} = {}", place.saturating_add(1), text(parameter).replace('\n', "\\n")));
        }
        for action in &event.actions {
            say(out, &format!("    does {}", printable(&action.to_string())));
        }
        if !decision.reason.is_empty() {
            say(out, &format!("    {}", printable(&decision.reason)));
        }
    }

    fn approval(
        &self,
        at: Timestamp,
        id: ApprovalId,
        state: ApprovalState,
        requirement: Option<&ApprovalRequirement>,
        reviews: &[Review],
        out: &mut String,
    ) {
        let needed = requirement.map(|asked| {
            format!(": {} of {} within {} s", asked.count, printable(&asked.groups.join(", ")), asked.expires.0)
        });
        let text = format!("    {} approval {id} {}{}", self.since(at), state.as_str(), needed.unwrap_or_default());
        say(out, &self.paint(&text, Paint::Yellow));
        for review in reviews {
            let verdict = match review.verdict {
                ReviewVerdict::Approve => "approved",
                ReviewVerdict::Deny => "denied",
            };
            let comment = if review.comment.is_empty() { String::new() } else { format!(": {}", review.comment) };
            say(out, &format!("      {verdict} by {}", printable(&format!("{}{comment}", review.reviewer))));
        }
    }

    fn completed(&mut self, at: Timestamp, completed: &Completed, out: &mut String) {
        self.turn_to(completed.operation, out);
        let took = self.open.remove(&completed.operation).map(|open| at.since(open.at)).unwrap_or_default();
        if completed.rows_omitted > 0 {
            let digest = completed.omitted_digest.map_or_else(String::new, |digest| format!(", SHA-256 {digest}"));
            say(out, &format!("    ({} more rows, not recorded{digest})", completed.rows_omitted));
        }
        let line = match &completed.outcome {
            OperationOutcome::Done { tags } => {
                let tags = if tags.is_empty() { "done".to_owned() } else { printable(&tags.join("; ")) };
                self.paint(&tags, Paint::Green)
            }
            OperationOutcome::Failed { sqlstate, message } => {
                self.paint(&format!("failed: {} {}", printable(sqlstate), printable(message)), Paint::Red)
            }
            OperationOutcome::NotRun { code } => self.paint(&format!("not run: {code}"), Paint::Red),
            OperationOutcome::Unknown => self.paint("outcome unknown: the target was lost", Paint::Red),
        };
        let mut counts = String::new();
        if completed.rows > 0 {
            let _ = write!(counts, ", {} rows, {} bytes", completed.rows, completed.bytes);
        }
        if completed.rows_in > 0 {
            let _ = write!(counts, ", {} rows in", completed.rows_in);
        }
        say(out, &format!("    {line}{counts}, after {}", seconds(took)));
    }

    /// With operations in a pipeline, what follows may be of another operation than the lines before.
    fn turn_to(&mut self, operation: OperationId, out: &mut String) {
        if self.current != Some(operation) {
            self.current = Some(operation);
            if let Some(open) = self.open.get(&operation) {
                say(out, &format!("[{}]", open.number));
            }
        }
    }

    fn since(&self, at: Timestamp) -> String {
        format!("+{}", seconds(at.since(self.start.unwrap_or(at))))
    }

    fn paint(&self, text: &str, color: Paint) -> String {
        if self.color { paint(text, color) } else { text.to_owned() }
    }
}

impl Open {
    /// Columns keep the widths that the first rows gave them.
    fn rows(&mut self, rows: &[Vec<Value>], out: &mut String) {
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        let heading: Vec<String> = self
            .columns
            .iter()
            .map(|column| match &column.mask {
                Some(mask) => printable(&format!("{} [{mask}]", column.name)),
                None => printable(&column.name),
            })
            .collect();
        let first = self.widths.is_empty();
        if first {
            let columns = cells.iter().map(Vec::len).chain([heading.len()]).max().unwrap_or_default();
            let widest = |column: usize| {
                let all = cells.iter().chain([&heading]).filter_map(|row| row.get(column));
                all.map(|cell| cell.chars().count()).max().unwrap_or_default()
            };
            self.widths = (0..columns).map(widest).collect();
            if !heading.is_empty() {
                self.line(&heading, " | ", out);
                let rule: Vec<String> = self.widths.iter().map(|width| "-".repeat(*width)).collect();
                self.line(&rule, "-+-", out);
            }
        }
        for row in &cells {
            self.line(row, " | ", out);
        }
    }

    fn line(&self, cells: &[String], between: &str, out: &mut String) {
        let padded = cells.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}"));
        say(out, &format!("    {}", padded.collect::<Vec<_>>().join(between)));
    }
}

fn say(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

fn seconds(duration: Duration) -> String {
    format!("{}.{:03} s", duration.as_secs(), duration.subsec_millis())
}

/// On one line, as it may be shown.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Text(text) => printable(text),
        Value::Binary { base64 } => format!("base64:{base64}"),
    }
}

fn cell(value: &Value) -> String {
    let whole = text(value).replace('\n', "\\n").replace('\t', "\\t");
    match whole.char_indices().nth(MAX_CELL) {
        Some((cut, _)) => format!("{}...", whole.get(..cut).unwrap_or_default()),
        None => whole,
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
pub(crate) mod tests;
