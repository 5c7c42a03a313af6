use postern_core::SessionId;
use postern_core::operation::Digest;
use postern_core::resource::FieldFault;
use postern_core::session::{Ending, Session, SessionEnd};
use postern_core::transparency::Leaf;
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// What sessions of a gateway that is gone have for a reason.
const REASON: &str = "its gateway is gone";

/// Closes a session whose gateway is gone: what there is of its recording is a leaf of the log, without a seal. With more of it than before, when
/// another member's copy went further. The gateway's own word, if it is ever back, comes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseSession {
    /// Which session.
    pub id: SessionId,
    /// Events of it that members have.
    pub events: u64,
    /// The chain's hash after them.
    pub head: Digest,
}

impl CloseSession {
    pub(crate) fn to_proto(&self) -> pb::CloseSession {
        pb::CloseSession { id: self.id.to_string(), events: self.events, head: self.head.0.to_vec() }
    }

    pub(crate) fn from_proto(proto: pb::CloseSession) -> Result<Self, Vec<FieldFault>> {
        let head = Digest::from_slice(&proto.head).ok_or_else(|| vec![FieldFault::new("head", "has not 32 bytes")])?;
        Ok(Self { id: parse("id", &proto.id)?, events: proto.events, head })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.session(self.id) else {
            return Err(Refusal::not_found(format!("session {}", self.id)));
        };
        match &known.end {
            Some(end) if end.ending.is_sealed() => {
                return Err(Refusal::InvalidState(format!("session {} has ended", self.id)));
            }
            Some(end) if end.events >= self.events => return Ok(Success::Session(self.id)),
            _ => {}
        }
        let mut session = Session::clone(known);
        let (at, reason) = (cx.state.now, REASON.to_owned());
        let end = SessionEnd { ending: Ending::Orphaned, at, reason, events: self.events, head: self.head };
        cx.state.recording_log.append(Leaf::of_session(self.id, &end, at))?;
        session.end = Some(end);
        session.revision = cx.state.index;
        cx.state.put_session(session, cx.effects);
        Ok(Success::Session(self.id))
    }
}

#[cfg(test)]
mod tests {
    use postern_core::Timestamp;
    use postern_core::transparency::LeafKind;

    use super::super::testing::*;
    use super::super::{OpenSession, RaiseFeatureLevel, ReopenSession, SealSession};
    use super::*;
    use crate::State;

    fn close(events: u8) -> CloseSession {
        CloseSession { id: session(1).id, events: events.into(), head: Digest([events; 32]) }
    }

    fn seal(events: u8) -> SealSession {
        let (at, reason) = (Timestamp::from_millis(9), "closed".into());
        let end =
            SessionEnd { ending: Ending::Interrupted, at, reason, events: events.into(), head: Digest([events; 32]) };
        SealSession { id: session(1).id, end }
    }

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.run(RaiseFeatureLevel { level: 7 }).unwrap();
        assert!(matches!(fixture.run(close(3)), Err(Refusal::NotFound { .. })));
        fixture.run(OpenSession { session: session(1) }).unwrap();
        fixture
    }

    /// Kind and events of each.
    fn leaves(state: &State) -> Vec<(LeafKind, u64)> {
        state.recording_log.leaves_from(0).map(|(_, leaf)| (leaf.kind, leaf.events)).collect()
    }

    fn end(state: &State) -> Option<(Ending, u64)> {
        state.session(session(1).id).unwrap().end.as_ref().map(|end| (end.ending, end.events))
    }

    #[test]
    fn an_orphan_is_closed_once_for_each_more_of_it_until_its_gateway_says_how_it_ended() {
        let mut fixture = fixture();
        fixture.run(close(3)).unwrap();
        assert_eq!(end(&fixture.state), Some((Ending::Orphaned, 3)));
        for less in [3, 2] {
            fixture.run(close(less)).unwrap();
        }
        fixture.run(close(4)).unwrap();
        let restored = State::restore(&fixture.state.snapshot()).unwrap();
        assert_eq!(restored.hash(), fixture.state.hash());
        assert_eq!(end(&restored), Some((Ending::Orphaned, 4)));
        // It cannot have had less than what came from it.
        for less in [3, 4] {
            let refused =
                fixture.run(SealSession { end: SessionEnd { head: Digest([9; 32]), ..seal(less).end }, ..seal(less) });
            assert!(matches!(refused, Err(Refusal::InvalidState(_))));
        }
        fixture.run(seal(6)).unwrap();
        assert_eq!(end(&fixture.state), Some((Ending::Interrupted, 6)));
        fixture.run(seal(6)).unwrap();
        assert!(matches!(fixture.run(close(9)), Err(Refusal::InvalidState(_))));
        let all = [(LeafKind::Orphan, 3), (LeafKind::Orphan, 4), (LeafKind::Session, 6)];
        assert_eq!(leaves(&fixture.state), all);
        assert_eq!(fixture.state.ended.len(), 1);
    }

    #[test]
    fn one_that_goes_on_after_all_is_open_again() {
        let mut fixture = fixture();
        let reopen = ReopenSession { id: session(1).id };
        fixture.run(reopen.clone()).unwrap();
        assert_eq!((end(&fixture.state), fixture.effects.len()), (None, 0));
        fixture.run(close(3)).unwrap();
        fixture.run(reopen.clone()).unwrap();
        assert_eq!((end(&fixture.state), fixture.state.ended.len()), (None, 0));
        // Cut off once more.
        fixture.run(close(5)).unwrap();
        fixture.run(reopen.clone()).unwrap();
        fixture.run(seal(8)).unwrap();
        assert!(matches!(fixture.run(reopen), Err(Refusal::InvalidState(_))));
        assert_eq!(leaves(&fixture.state), [(LeafKind::Orphan, 3), (LeafKind::Orphan, 5), (LeafKind::Session, 8)]);
    }

    /// Verifiers take two leaves that say the same for one.
    #[test]
    fn one_may_be_cut_off_twice_at_the_same_place() {
        let mut fixture = fixture();
        fixture.run(close(3)).unwrap();
        fixture.run(ReopenSession { id: session(1).id }).unwrap();
        fixture.run(close(3)).unwrap();
        assert_eq!(leaves(&fixture.state), [(LeafKind::Orphan, 3); 2]);
    }
}
