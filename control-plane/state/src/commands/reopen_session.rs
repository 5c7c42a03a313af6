use postern_core::SessionId;
use postern_core::resource::FieldFault;
use postern_core::session::Session;
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// Has a session open again that was closed as an orphan: its gateway was only cut off, and says more of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReopenSession {
    /// Which session.
    pub id: SessionId,
}

impl ReopenSession {
    pub(crate) fn to_proto(&self) -> pb::ReopenSession {
        pb::ReopenSession { id: self.id.to_string() }
    }

    pub(crate) fn from_proto(proto: pb::ReopenSession) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { id: parse("id", &proto.id)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.session(self.id) else {
            return Err(Refusal::not_found(format!("session {}", self.id)));
        };
        if known.sealed().is_some() {
            return Err(Refusal::InvalidState(format!("session {} has ended", self.id)));
        }
        if known.end.is_some() {
            let session = Session { end: None, revision: cx.state.index, ..Session::clone(known) };
            cx.state.put_session(session, cx.effects);
        }
        Ok(Success::Session(self.id))
    }
}
