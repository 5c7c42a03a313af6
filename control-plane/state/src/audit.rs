//! The audit log: the newest records, numbered without gaps and chained by their hashes.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use postern_core::Timestamp;
use postern_core::audit::AuditRecord;
use postern_core::wire::cluster::audit_to_proto;
use prost::Message as _;

use crate::outcome::{Outcome, Success};
use crate::tree::Tree;

/// Records that are kept.
const MAX_RECORDS: usize = 50_000;
/// Bytes of them.
const MAX_BYTES: usize = 32 << 20;
/// The longest text in one.
const MAX_TEXT: usize = 1_024;

/// Part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditLog {
    /// By number.
    records: Tree<u64, Arc<AuditRecord>>,
    /// Of the last record, kept or not.
    sequence: u64,
    head: [u8; 32],
    bytes: usize,
}

impl AuditLog {
    /// At a record that need not be here; those that are follow ([`Self::keep`]).
    pub(crate) fn restored(sequence: u64, head: [u8; 32]) -> Self {
        Self { sequence, head, ..Self::default() }
    }

    /// Appends `record` with what came of the call.
    pub(crate) fn append_outcome(&mut self, mut record: AuditRecord, outcome: &Outcome, at: Timestamp) {
        match outcome {
            Ok(success) => {
                record.code = "OK".to_owned();
                if let Success::Access { automatic: Some(rule), .. } = success {
                    record.reason = format!("approved by rule {rule:?}, by nobody");
                }
            }
            Err(refusal) => {
                record.code = refusal.code().to_owned();
                record.reason = refusal.to_string();
            }
        }
        self.append(record, at);
    }

    pub(crate) fn append(&mut self, mut record: AuditRecord, at: Timestamp) {
        self.sequence = self.sequence.saturating_add(1);
        record.sequence = self.sequence;
        record.at = at;
        record.count = record.count.max(1);
        record.objects.truncate(AuditRecord::MAX_OBJECTS);
        let texts = [&mut record.certificate, &mut record.client_address, &mut record.node, &mut record.method];
        for text in texts.into_iter().chain([&mut record.code, &mut record.reason, &mut record.request_id]) {
            shorten(text);
        }
        record.objects.iter_mut().for_each(shorten);
        record.hash = chained(&self.head, &record);
        self.head = record.hash;
        self.keep(record);
        while self.records.len() > MAX_RECORDS || self.bytes > MAX_BYTES {
            let Some((_, gone)) = self.records.pop_first() else { break };
            self.bytes = self.bytes.saturating_sub(weight(&gone));
        }
    }

    /// Takes in what is in the chain already.
    pub(crate) fn keep(&mut self, record: AuditRecord) {
        self.bytes = self.bytes.saturating_add(weight(&record));
        if let Some(same) = self.records.insert(record.sequence, Arc::new(record)) {
            self.bytes = self.bytes.saturating_sub(weight(&same));
        }
    }

    pub(crate) fn records(&self) -> impl DoubleEndedIterator<Item = &Arc<AuditRecord>> + ExactSizeIterator {
        self.records.values()
    }

    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) const fn head(&self) -> [u8; 32] {
        self.head
    }
}

/// The hash that `record` has after one whose hash is `previous`: SHA-256 over `previous` and its protobuf form without a hash.
#[must_use]
pub fn chained(previous: &[u8; 32], record: &AuditRecord) -> [u8; 32] {
    let mut proto = audit_to_proto(record);
    proto.hash = Vec::new();
    let mut context = Context::new(&SHA256);
    context.update(previous);
    context.update(&proto.encode_to_vec());
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn shorten(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
}

fn weight(record: &AuditRecord) -> usize {
    let principal = record.principal.as_ref().map_or(0, |principal| {
        let groups = principal.groups.iter().map(|group| group.len());
        principal.id.subject.len().saturating_add(groups.fold(0, usize::saturating_add))
    });
    let texts = [&record.certificate, &record.client_address, &record.node, &record.method, &record.code];
    let texts = texts.into_iter().chain([&record.reason, &record.request_id]).chain(&record.objects);
    texts.map(String::len).fold(principal.saturating_add(256), usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::audit;

    #[test]
    fn chained_numbered_and_bounded() {
        let mut log = AuditLog::default();
        for n in 0..MAX_RECORDS + 10 {
            let mut record = audit("m");
            record.reason = "x".repeat(if n == 0 { 5_000 } else { 3 });
            log.append(record, Timestamp::from_millis(7));
        }
        assert_eq!((log.records().len(), log.sequence()), (MAX_RECORDS, 50_010));
        let mut previous = log.records().next().unwrap().hash;
        for record in log.records().skip(1) {
            assert_eq!(chained(&previous, record), record.hash);
            previous = record.hash;
        }
        assert_eq!(previous, log.head());
    }

    #[test]
    fn texts_end_at_a_character() {
        let mut log = AuditLog::default();
        let mut record = audit("m");
        record.reason = "é".repeat(600) + "x";
        log.append(record, Timestamp::default());
        assert_eq!(log.records().next().unwrap().reason.len(), 1_024);
        let mut record = audit("m");
        record.reason = "x".to_owned() + &"é".repeat(600);
        log.append(record, Timestamp::default());
        assert_eq!(log.records().next_back().unwrap().reason.len(), 1_023);
    }
}
