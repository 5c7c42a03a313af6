//! Messages longer than what is held of one: rows, and the rows of COPY, pass as they come, in pieces, where nothing has to be done with them (I11).

use bytes::{BufMut as _, BytesMut};

use super::flight::Expected;
use super::{ClientStep, ProtocolError, ResultEvent, ServerProgress, Session};
use crate::postgres::codec::{self, HEADER, Limits, Origin, backend, frontend};

/// Of any length that the protocol can tell.
pub(super) const ANY_LENGTH: Limits = Limits { statement: usize::MAX, frame: usize::MAX };

/// Longer ones pass in pieces, in bytes. It is no less than what may be recorded of one, or else they would be missing there.
const HELD: usize = 1 << 20;

/// What is left of messages that pass in pieces, in bytes.
#[derive(Debug, Default)]
pub(super) struct Through {
    from_server: usize,
    /// Whose it is, for the digest of what the recording leaves out.
    operation: Option<postern_core::OperationId>,
    /// What is left of the server's message does not leave.
    dropped: bool,
    from_client: usize,
}

/// What became of the server's bytes.
pub(super) enum Passing {
    /// Nothing: they are a whole message's, or will be.
    No,
    /// They went to the client.
    Some,
    /// More must come, or go, first.
    Waits(ServerProgress),
}

impl Session {
    /// A message of the server's has begun to pass to the client, and is not over.
    #[must_use]
    pub const fn is_amid(&self) -> bool {
        self.through.from_server > 0 && !self.through.dropped
    }

    /// Passes on what is there of a long message from the server.
    pub(super) fn pass_through(
        &mut self,
        from_server: &mut BytesMut,
        to_client: &mut BytesMut,
        out: &mut Vec<ResultEvent>,
    ) -> Result<Passing, ProtocolError> {
        if self.through.from_server > 0 {
            let room = self.limits.high_water.saturating_sub(to_client.len());
            let room = if self.through.dropped { usize::MAX } else { room };
            let count = self.through.from_server.min(from_server.len()).min(room);
            if count == 0 {
                return Ok(Passing::Waits(ServerProgress::NeedMore));
            }
            let bytes = from_server.split_to(count);
            if !self.through.dropped {
                if let Some(running) = self.through.operation.and_then(|operation| self.running.get_mut(&operation)) {
                    running.omit(&bytes, &self.limits);
                }
                to_client.put_slice(&bytes);
            }
            self.through.from_server = self.through.from_server.saturating_sub(count);
            return Ok(Passing::Some);
        }
        let long = match codec::peek(from_server, Origin::Backend, &ANY_LENGTH).map_err(ProtocolError::Server)? {
            Some((tag @ (backend::DATA_ROW | backend::COPY_DATA), whole)) if self.is_long(whole) => (tag, whole),
            _ => return Ok(Passing::No),
        };
        let (tag, whole) = long;
        self.through.dropped = false;
        if self.past_limit() {
            self.through = Through { from_server: whole, dropped: true, ..std::mem::take(&mut self.through) };
            return Ok(Passing::Some);
        }
        let Some(operation) = self.passes(tag, out)? else {
            return Ok(Passing::No);
        };
        if self.deciding {
            // What is decided may have something to say to the client meanwhile.
            let fits = whole <= self.limits.frames.frame;
            return Ok(if fits { Passing::No } else { Passing::Waits(ServerProgress::Full) });
        }
        if let Some(running) = self.running.get_mut(&operation) {
            let admitted = running.admits();
            debug_assert!(admitted, "it was looked at before");
            let size = whole.saturating_sub(HEADER);
            // Too long to be recorded: counted, and the recording of rows ends.
            let recorded = running.takes(size, &self.limits);
            debug_assert!(!recorded, "a row that is recorded is held");
        }
        (self.through.from_server, self.through.operation) = (whole, Some(operation));
        Ok(Passing::Some)
    }

    fn is_long(&self, whole: usize) -> bool {
        let recorded = usize::try_from(self.limits.recorded_bytes).unwrap_or(usize::MAX);
        whole > HELD.max(recorded.saturating_add(HEADER))
    }

    /// Whether messages of this kind pass as they are now, and whose they are.
    fn passes(
        &mut self,
        tag: u8,
        out: &mut Vec<ResultEvent>,
    ) -> Result<Option<postern_core::OperationId>, ProtocolError> {
        if tag == backend::COPY_DATA {
            return Ok(self.copy_out.as_ref().filter(|copy| copy.mask.is_none()).map(|copy| copy.operation));
        }
        if self.result.is_none() && matches!(self.flight.head(), Some(Expected::Execute { .. })) {
            self.open_portal_result(tag, out)?;
        }
        Ok(self.result.as_ref().filter(|result| result.is_plain()).map(|result| result.operation))
    }

    /// Passes on what is there of the rest of a long CopyData from the client.
    pub(super) fn pass_rest(&mut self, from_client: &mut BytesMut) -> Option<ClientStep> {
        if self.through.from_client == 0 {
            return None;
        }
        let count = self.through.from_client.min(from_client.len());
        if count == 0 {
            return Some(ClientStep::NeedMore);
        }
        self.through.from_client = self.through.from_client.saturating_sub(count);
        Some(ClientStep::Forward(from_client.split_to(count).freeze()))
    }

    /// Begins to pass a long CopyData on before all of it is there. The server reads all of it, even when the COPY has failed meanwhile.
    pub(super) fn pass_begun(&mut self, from_client: &mut BytesMut) -> Result<Option<ClientStep>, ProtocolError> {
        match codec::peek(from_client, Origin::Frontend, &ANY_LENGTH).map_err(ProtocolError::Client)? {
            Some((frontend::COPY_DATA, whole)) if whole > self.limits.high_water => {
                self.through.from_client = whole;
                Ok(self.pass_rest(from_client))
            }
            _ => Ok(None),
        }
    }
}
