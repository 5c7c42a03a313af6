//! The end of a text before which the session has said something of its own.
//!
//! What is said so is a pipeline without Sync. Since PostgreSQL 18 that makes an implicit transaction block of what follows, and the text does not end it: its
//! client would find itself in a transaction that it has not begun, and what it wrote later would never be committed. Then the session ends it by a
//! pipeline of its own, and the client sees the end of that alone.

use super::Session;
use super::flight::Expected;
use crate::postgres::codec::backend::{self, TransactionStatus};
use crate::postgres::codec::write;

impl Session {
    /// What the session calls statements of its own.
    pub(super) fn own_name(&self) -> String {
        format!("postern_read_only_{:032x}", self.nonce)
    }

    /// The server is ready, and holds a transaction open that no client has begun: ends it. True when the client waits for that.
    pub(super) fn end_lingering(&mut self, status: TransactionStatus) -> bool {
        self.oblige.ends = std::mem::take(&mut self.oblige.lingers) && status == TransactionStatus::Open;
        if !self.oblige.ends {
            return false;
        }
        // Sync ends a transaction only where something came since: without, PostgreSQL 18.4 calls it ended and keeps it.
        let name = self.own_name();
        write::parse(&mut self.oblige.to_server, name.as_bytes(), b"", b"");
        write::close(&mut self.oblige.to_server, b'S', name.as_bytes());
        write::sync(&mut self.oblige.to_server);
        // Nothing came behind the text: its end is now that of the pipeline.
        let text = self.flight.pop();
        let own = [Expected::Own(backend::PARSE_COMPLETE), Expected::Own(backend::CLOSE_COMPLETE)];
        own.into_iter().chain(text).for_each(|expected| self.flight.push(expected));
        true
    }

    /// What the session sent itself has failed, which it does only where the connection is cancelled or the transaction has failed. A text after it was
    /// skipped, and the server waits for Sync.
    pub(super) fn own_failed(&mut self, failure: (String, String)) {
        while matches!(self.flight.head(), Some(Expected::Own(_))) {
            self.flight.pop();
        }
        let Some(Expected::Query { operation, .. }) = self.flight.head() else {
            self.skip_group();
            return;
        };
        let operation = *operation;
        if let Some(running) = self.running.get_mut(&operation) {
            running.failed = Some(failure);
        }
        if !self.oblige.ends {
            write::sync(&mut self.oblige.to_server);
        }
    }
}
