use postern_core::operation::Digest;
use postern_core::resource::FieldFault;
use postern_core::session::{Ending, Session, SessionEnd};
use postern_core::transparency::Leaf;
use postern_core::{SessionId, Timestamp};
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Outcome, Refusal, Success};
use crate::recording_log::LOGS_RECORDINGS;
use crate::state::Context;

/// The longest reason, in bytes.
const MAX_REASON: usize = 4_096;

/// Ends a session in the index: its recording is whole. From feature level 6 on it is a leaf of the log of recordings from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealSession {
    /// Which session.
    pub id: SessionId,
    /// How it ended.
    pub end: SessionEnd,
}

impl SealSession {
    pub(crate) fn to_proto(&self) -> pb::SealSession {
        pb::SealSession {
            id: self.id.to_string(),
            interrupted: self.end.ending.is_interrupted(),
            ended_at_ms: self.end.at.millis(),
            end_reason: self.end.reason.clone(),
            events: self.end.events,
            head: self.end.head.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(proto: pb::SealSession) -> Result<Self, Vec<FieldFault>> {
        let end = SessionEnd {
            ending: Ending::sealed(proto.interrupted),
            at: Timestamp::from_millis(proto.ended_at_ms),
            reason: proto.end_reason,
            events: proto.events,
            head: Digest::from_slice(&proto.head).ok_or_else(|| vec![FieldFault::new("head", "has not 32 bytes")])?,
        };
        Ok(Self { id: parse("id", &proto.id)?, end })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.session(self.id) else {
            return Err(Refusal::not_found(format!("session {}", self.id)));
        };
        // Of an orphan its gateway has more to say.
        if let Some(end) = known.end.as_ref().filter(|end| end.ending.is_sealed() || end.events >= self.end.events) {
            return if end.head == self.end.head && end.events == self.end.events {
                Ok(Success::Session(self.id))
            } else {
                Err(Refusal::InvalidState(format!("session {} has ended otherwise", self.id)))
            };
        }
        if self.end.reason.len() > MAX_REASON {
            return Err(Refusal::invalid("end_reason", format!("is longer than {MAX_REASON} bytes")));
        }
        let mut session = Session::clone(known);
        if cx.state.feature_level() >= LOGS_RECORDINGS {
            let leaf = Leaf::of_session(self.id, &self.end, cx.state.now);
            cx.state.recording_log.append(leaf)?;
        }
        session.end = Some(self.end);
        session.revision = cx.state.index;
        cx.state.put_session(session, cx.effects);
        Ok(Success::Session(self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::OpenSession;
    use super::super::testing::*;
    use super::*;
    use crate::state::Limits;

    fn seal(id: SessionId) -> SealSession {
        let end = SessionEnd {
            ending: Ending::Orderly,
            at: Timestamp::from_millis(9),
            reason: "closed".into(),
            events: 4,
            head: Digest([7; 32]),
        };
        SealSession { id, end }
    }

    #[test]
    fn seals_once() {
        let mut fixture = Fixture::new();
        let id = session(1).id;
        assert!(matches!(fixture.run(seal(id)), Err(Refusal::NotFound { .. })));
        fixture.run(OpenSession { session: session(1) }).unwrap();
        fixture.run(seal(id)).unwrap();
        fixture.run(seal(id)).unwrap();
        let mut other = seal(id);
        other.end.head = Digest([8; 32]);
        assert!(matches!(fixture.run(other), Err(Refusal::InvalidState(_))));
    }

    #[test]
    fn keeps_only_the_newest() {
        let mut fixture = Fixture::new();
        let keep = Limits::STANDARD.ended_sessions;
        for n in 0..=keep {
            let n = u128::try_from(n).unwrap();
            fixture.run(OpenSession { session: session(n) }).unwrap();
            fixture.run(seal(session(n).id)).unwrap();
        }
        assert_eq!(fixture.state.sessions().count(), keep);
        assert!(fixture.state.session(session(0).id).is_none());
        assert!(fixture.state.session(session(1).id).is_some());
    }
}
