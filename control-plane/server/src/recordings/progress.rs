//! What the events of a recording say so far.

use std::sync::Arc;

use postern_core::operation::Digest;
use postern_core::recording::{Chain, Entry, Event, RawFrame, Started};
use postern_core::session::{Ending, Session, SessionEnd};
use postern_core::{SessionId, Timestamp};

/// The longest text of the gateway's that the index keeps, in bytes.
const MAX_TEXT: usize = 1_000;

/// What the events so far say.
#[derive(Clone)]
pub(super) struct Progress {
    pub(super) chain: Chain,
    pub(super) session: Option<Arc<Session>>,
    /// From `Ended`: at, reason, interrupted.
    ended: Option<(Timestamp, String, bool)>,
    pub(super) sealed: bool,
}

impl Progress {
    pub(super) fn start(id: SessionId) -> Self {
        Self { chain: Chain::start(id), session: None, ended: None, sealed: false }
    }

    /// Of a recording that is whole, and is not here any more.
    pub(super) fn ended(session: Session) -> Self {
        let (events, head) = session.end.as_ref().map_or((0, Digest([0; 32])), |end| (end.events, end.head));
        let chain = Chain::resume(session.id, events, head);
        Self { chain, session: Some(Arc::new(session)), ended: None, sealed: true }
    }

    pub(super) fn accept(&mut self, frame: &RawFrame<'_>) -> Result<(), String> {
        if self.sealed {
            return Err("it is sealed already".to_owned());
        }
        let before = (self.chain.next_seq(), self.chain.head());
        let Entry { at, event, .. } = self.chain.accept(frame).map_err(|fault| fault.to_string())?;
        match (before.0, event) {
            (0, Event::Started(started)) => {
                if started.session != self.chain.session() {
                    return Err("it opens another session".to_owned());
                }
                self.session = Some(Arc::new(opened(at, *started)));
            }
            (0, _) => return Err("it does not begin with the opening of a session".to_owned()),
            (_, Event::Started(_)) => return Err("it opens a session twice".to_owned()),
            (_, Event::Ended { reason, interrupted, .. }) => self.ended = Some((at, shortened(reason), interrupted)),
            (_, Event::Sealed { events, head, .. }) => {
                if (events, head) != before {
                    return Err("its seal speaks of other events".to_owned());
                }
                self.sealed = true;
                let (at, reason, interrupted) = self.ended.clone().unwrap_or((at, String::new(), false));
                if let Some(session) = &self.session {
                    let mut session = Session::clone(session);
                    let (events, head) = (self.chain.next_seq(), self.chain.head());
                    session.end = Some(SessionEnd { ending: Ending::sealed(interrupted), at, reason, events, head });
                    self.session = Some(Arc::new(session));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn opened(at: Timestamp, started: Started) -> Session {
    Session {
        id: started.session,
        principal: started.principal,
        target: started.target,
        gateway: started.gateway,
        client_address: shortened(started.client_address),
        database: shortened(started.database),
        started_at: at,
        end: None,
        revision: 0,
    }
}

/// The index bounds its texts; the recording has them whole.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
