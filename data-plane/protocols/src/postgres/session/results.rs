//! Results on their way to the client: masked, counted, and noted for the recording up to a limit.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{BufMut as _, Bytes, BytesMut};
use postern_core::Code;
use postern_core::id::OperationId;
use postern_core::operation::Digest;
use postern_core::policy::Obliged;
use postern_core::recording::{ColumnInfo, Completed, OperationOutcome, Value};

use super::names::Columns;
use super::oblige::Ending;
use super::{Limits, ProtocolError, ResultEvent};
use crate::postgres::analyze::Statement;
use crate::postgres::codec::{CodecError, HEADER, backend, write};
use crate::postgres::mask::{CopyMask, Field, Masking, RowPlan};

/// in_failed_sql_transaction: what a message that was skipped is recorded as.
pub(super) const NOT_RUN: &str = "25P02";
pub(super) const NOT_RUN_MESSAGE: &str = "not run: an earlier message of its group failed";

/// syntax_error, as the server says it.
const SYNTAX_ERROR: &str = "42601";

/// Command tags that are kept of one operation: a text may hold a hundred thousand statements.
const MAX_TAGS: usize = 100;

/// A permitted operation that is not over.
pub(super) struct Running {
    pub(super) statement: Arc<Statement>,
    /// Its text, only where the session needs it later: of PREPARE.
    pub(super) text: Bytes,
    tags: Vec<String>,
    rows: u64,
    bytes: u64,
    rows_omitted: u64,
    /// Over the messages with them. A context is large, and few operations have one.
    omitted: Option<Box<Context>>,
    rows_in: u64,
    recorded: u64,
    recorded_bytes: u64,
    pub(super) columns_told: bool,
    pub(super) is_function_call: bool,
    pub(super) failed: Option<(String, String)>,
    /// How it may run only.
    pub(super) obliged: Obliged,
    /// Rows that count for its limit.
    pub(super) spent: u64,
    /// It was ended early.
    pub(super) ending: Option<Ending>,
    /// And the client was told so.
    pub(super) told: bool,
}

/// The result that the server is sending.
pub(super) struct ResultSet {
    pub(super) operation: OperationId,
    pub(super) columns: Columns,
    /// None: nothing is masked.
    plan: Option<RowPlan>,
}

/// The rows of a COPY TO STDOUT.
pub(super) struct CopyOut {
    pub(super) operation: OperationId,
    pub(super) mask: Option<CopyMask>,
    pub(super) binary: bool,
    /// Nothing of it has come yet.
    pub(super) first: bool,
}

impl Running {
    pub(super) fn new(statement: Arc<Statement>, text: Bytes) -> Self {
        let keeps_text = !statement.effects.is_empty();
        Self {
            statement,
            text: if keeps_text { Bytes::copy_from_slice(&text) } else { Bytes::new() },
            tags: Vec::new(),
            rows: 0,
            bytes: 0,
            rows_omitted: 0,
            omitted: None,
            rows_in: 0,
            recorded: 0,
            recorded_bytes: 0,
            columns_told: false,
            is_function_call: false,
            failed: None,
            obliged: Obliged::default(),
            spent: 0,
            ending: None,
            told: false,
        }
    }

    /// Notes a command's tag (section "Message Formats", CommandComplete). `copied_in`: its count is of rows that came in.
    pub(super) fn tag(&mut self, tag: &[u8], copied_in: bool) {
        let tag = tag.escape_ascii().to_string();
        if let Some(count) = tag.strip_prefix("COPY ").and_then(|count| count.parse().ok())
            && copied_in
        {
            self.rows_in = self.rows_in.saturating_add(count);
        }
        match self.tags.len() {
            len if len < MAX_TAGS => self.tags.push(tag),
            MAX_TAGS => self.tags.push("...".into()),
            _ => {}
        }
    }

    /// Counts rows that leave for the client and are not recorded.
    pub(super) fn count(&mut self, rows: u64, bytes: u64) {
        self.rows = self.rows.saturating_add(rows);
        self.bytes = self.bytes.saturating_add(bytes);
        self.rows_omitted = self.rows_omitted.saturating_add(rows);
    }

    /// Notes what the recording leaves out: whole messages as they leave for the client, or their pieces.
    pub(super) fn omit(&mut self, bytes: &[u8], limits: &Limits) {
        if limits.digest_omitted {
            self.omitted.get_or_insert_with(|| Box::new(Context::new(&SHA256))).update(bytes);
        }
    }

    /// Whether the recording takes no more rows of it.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.recorded >= limits.recorded_rows || self.recorded_bytes >= limits.recorded_bytes
    }

    /// Counts a row of `bytes` that leaves; whether it is to be recorded. One that is not is to be [`Self::omit`]ted.
    pub(super) fn takes(&mut self, bytes: usize, limits: &Limits) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.is_full(limits) || self.recorded_bytes.saturating_add(bytes) > limits.recorded_bytes {
            self.count(1, bytes);
            // A row past the limit ends the recording of rows: what is kept is a prefix.
            self.recorded = limits.recorded_rows;
            return false;
        }
        self.rows = self.rows.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        self.recorded = self.recorded.saturating_add(1);
        self.recorded_bytes = self.recorded_bytes.saturating_add(bytes);
        true
    }

    /// The server could not read it either, so that nothing of it was done.
    pub(super) fn was_no_statement(&self) -> bool {
        let unread = self.statement.unfollowed.as_ref().is_some_and(|why| why.code == Code::SyntaxError);
        unread && self.tags.is_empty() && self.failed.as_ref().is_some_and(|(sqlstate, _)| sqlstate == SYNTAX_ERROR)
    }

    /// It is over; `known` unless the connection was lost while it ran.
    pub(super) fn over(self, operation: OperationId, known: bool) -> ResultEvent {
        let outcome = match self.failed {
            Some((sqlstate, message)) => OperationOutcome::Failed { sqlstate, message },
            None if known => OperationOutcome::Done { tags: self.tags },
            None => OperationOutcome::Unknown,
        };
        ResultEvent::Completed(Box::new(Completed {
            operation,
            outcome,
            rows: self.rows,
            bytes: self.bytes,
            rows_omitted: self.rows_omitted,
            omitted_digest: self.omitted.and_then(|context| Digest::from_slice(context.finish().as_ref())),
            rows_in: self.rows_in,
        }))
    }
}

impl ResultSet {
    pub(super) fn new(operation: OperationId, columns: Columns, statement: &Statement, masking: &Masking) -> Self {
        let plan = if masking.is_empty() {
            None
        } else {
            let fields: Vec<Field> = columns
                .iter()
                .map(|column| Field {
                    table: column.table,
                    column: column.column,
                    type_oid: column.type_oid,
                    binary: column.binary,
                })
                .collect();
            Some(RowPlan::for_result(&fields, statement, masking)).filter(|plan| !plan.is_plain())
        };
        Self { operation, columns, plan }
    }

    /// Rows pass as they are.
    pub(super) fn is_plain(&self) -> bool {
        self.plan.is_none()
    }

    pub(super) fn told(&self) -> ResultEvent {
        let columns = self.columns.iter().enumerate().map(|(index, column)| ColumnInfo {
            name: readable(&column.name),
            mask: self.plan.as_ref().and_then(|plan| plan.mask(index)).map(Into::into),
        });
        ResultEvent::Columns { operation: self.operation, columns: columns.collect() }
    }

    /// Appends the row, masked, to `to_client` as a frame; returns where its body begins there.
    pub(super) fn write(&self, raw: &Bytes, to_client: &mut BytesMut) -> Result<usize, ProtocolError> {
        let body_at = to_client.len().saturating_add(HEADER);
        match &self.plan {
            None => to_client.put_slice(raw),
            Some(plan) => {
                let mut result = Ok(());
                let body = raw.get(HEADER..).unwrap_or_default();
                write::frame(to_client, backend::DATA_ROW, |out| result = plan.mask_row(body, out));
                result?;
            }
        }
        Ok(body_at)
    }

    /// The values of a row's body, for the recording.
    pub(super) fn values(&self, mut body: &[u8]) -> Result<Vec<Value>, CodecError> {
        let fault = |what| CodecError::Malformed { tag: backend::DATA_ROW, what };
        let short = || fault("it ends early");
        let (count, rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
        body = rest;
        let count = usize::from(u16::from_be_bytes(*count));
        if count != self.columns.len() {
            return Err(fault("it has another number of values than its result has columns"));
        }
        let mut values = Vec::with_capacity(count);
        for column in self.columns.iter() {
            let (length, rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
            body = rest;
            let value = match i32::from_be_bytes(*length) {
                -1 => None,
                length => {
                    let length = usize::try_from(length).map_err(|_| short())?;
                    let (value, rest) = body.split_at_checked(length).ok_or_else(short)?;
                    body = rest;
                    Some(value)
                }
            };
            values.push(Value::from_wire(value, column.binary && !is_text(column.type_oid)));
        }
        Ok(values)
    }
}

/// Types whose binary format is their text: char, name, text, json, xml, bpchar, varchar, unknown.
fn is_text(type_oid: u32) -> bool {
    matches!(type_oid, 18 | 19 | 25 | 114 | 142 | 705 | 1042 | 1043)
}

fn readable(name: &[u8]) -> Arc<str> {
    std::str::from_utf8(name).map_or_else(|_| name.escape_ascii().to_string().into(), Into::into)
}
