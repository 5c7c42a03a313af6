//! What the recording says of results: rows gathered into events of a fair size.

use postern_core::OperationId;
use postern_core::recording::{Event, Value};
use postern_protocols::postgres::session::ResultEvent;

use crate::recorder::{RecordError, SessionRecorder};

/// Rows and bytes of one event.
const ROWS: usize = 256;
const BYTES: usize = 64 << 10;

/// Rows of one operation that wait for their event.
#[derive(Debug, Default)]
pub(super) struct Rows {
    operation: Option<OperationId>,
    rows: Vec<Vec<Value>>,
    bytes: usize,
}

impl Rows {
    /// Takes what happened to operations into the recording, in order. It becomes durable with the next operation's permit, or when the
    /// session is quiet.
    pub(super) async fn record(
        &mut self,
        recorder: &mut SessionRecorder,
        events: &mut Vec<ResultEvent>,
    ) -> Result<(), RecordError> {
        for event in events.drain(..) {
            match event {
                ResultEvent::Row { operation, values } => {
                    if self.operation != Some(operation) {
                        self.flush(recorder).await?;
                        self.operation = Some(operation);
                    }
                    self.bytes = self.bytes.saturating_add(values.iter().map(size).sum());
                    self.rows.push(values);
                    if self.rows.len() >= ROWS || self.bytes >= BYTES {
                        self.flush(recorder).await?;
                    }
                }
                ResultEvent::Columns { operation, columns } => {
                    self.flush(recorder).await?;
                    recorder.enqueue(&Event::Columns { operation, columns }).await?;
                }
                ResultEvent::Completed(ended) => {
                    self.flush(recorder).await?;
                    recorder.enqueue(&Event::Completed(ended)).await?;
                }
            }
        }
        Ok(())
    }

    async fn flush(&mut self, recorder: &mut SessionRecorder) -> Result<(), RecordError> {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        match self.operation {
            Some(operation) if !rows.is_empty() => recorder.enqueue(&Event::Rows { operation, rows }).await,
            _ => Ok(()),
        }
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Null => 4,
        Value::Text(text) => text.len(),
        Value::Binary { base64 } => base64.len(),
    }
}
