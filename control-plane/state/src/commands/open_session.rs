use postern_core::resource::FieldFault;
use postern_core::session::Session;
use postern_core::wire::identity::{session_from_proto, session_to_proto};
use postern_proto::state::v1 as pb;

use crate::entry::fault;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::{Context, Limits};

/// The longest text of the gateway's in a session, in bytes.
const MAX_TEXT: usize = 1_024;

/// Puts a session into the index: its recording has begun. The same id twice is one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// The session; its end and revision are set by commands.
    pub session: Session,
}

impl OpenSession {
    pub(crate) fn to_proto(&self) -> pb::OpenSession {
        pb::OpenSession { session: Some(session_to_proto(&self.session)) }
    }

    pub(crate) fn from_proto(proto: pb::OpenSession) -> Result<Self, Vec<FieldFault>> {
        let session = proto.session.ok_or_else(|| vec![FieldFault::new("session", "is missing")])?;
        Ok(Self { session: session_from_proto(session).map_err(fault)? })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let mut session = self.session;
        if let Some(known) = cx.state.session(session.id) {
            let same = known.gateway == session.gateway && known.principal.id == session.principal.id;
            return if same {
                Ok(Success::Session(session.id))
            } else {
                Err(Refusal::AlreadyExists { what: format!("session {}", session.id) })
            };
        }
        let texts = [
            ("gateway", &session.gateway),
            ("client_address", &session.client_address),
            ("database", &session.database),
        ];
        for (field, text) in texts {
            if text.len() > MAX_TEXT {
                return Err(Refusal::invalid(&format!("session.{field}"), format!("is longer than {MAX_TEXT} bytes")));
            }
        }
        if cx.state.sessions.len().saturating_sub(cx.state.ended.len()) >= Limits::STANDARD.open_sessions {
            return Err(Refusal::Limit(format!("{} open sessions", Limits::STANDARD.open_sessions)));
        }
        let id = session.id;
        session.end = None;
        session.revision = cx.state.index;
        cx.state.put_session(session, cx.effects);
        Ok(Success::Session(id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_same_session_twice_is_one() {
        let mut fixture = Fixture::new();
        let open = OpenSession { session: session(1) };
        let id = open.session.id;
        assert_eq!(fixture.run(open.clone()), Ok(Success::Session(id)));
        let revision = fixture.state.session(id).unwrap().revision;
        assert_eq!(fixture.run(open.clone()), Ok(Success::Session(id)));
        assert_eq!(fixture.state.session(id).unwrap().revision, revision);
        let mut other = open.clone();
        other.session.gateway = "g2".into();
        assert!(matches!(fixture.run(other), Err(Refusal::AlreadyExists { .. })));
        let mut long = OpenSession { session: session(2) };
        long.session.database = "x".repeat(MAX_TEXT + 1);
        assert!(matches!(fixture.run(long), Err(Refusal::Invalid(_))));
    }
}
