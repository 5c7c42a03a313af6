use postern_core::AccessId;
use postern_core::access::{AccessState, Ended};
use postern_core::resource::{FieldFault, Kind, Spec};
use postern_proto::state::v1 as pb;

use crate::entry::parse;
use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// The longest reason, in bytes.
const MAX_REASON: usize = 1_024;

/// Takes a request back, or ends a grant before its time. Twice is as good as once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndAccess {
    /// Which.
    pub id: AccessId,
    /// Who: the node that proposes this knows that they may.
    pub by: String,
    /// Why, in their words.
    pub because: String,
}

impl EndAccess {
    pub(crate) fn to_proto(&self) -> pb::EndAccess {
        pb::EndAccess { id: self.id.to_string(), by: self.by.clone(), because: self.because.clone() }
    }

    pub(crate) fn from_proto(proto: pb::EndAccess) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { id: parse("id", &proto.id)?, by: proto.by, because: proto.because })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        let Some(known) = cx.state.access(self.id).cloned() else {
            return Err(Refusal::not_found(format!("request {}", self.id)));
        };
        let done = Ok(Success::Access { id: self.id, automatic: None });
        match known.state {
            AccessState::Pending | AccessState::Active => {}
            AccessState::Withdrawn | AccessState::Ended => return done,
            state => return Err(Refusal::AccessState(state)),
        }
        if self.because.len() > MAX_REASON {
            return Err(Refusal::invalid("because", format!("is longer than {MAX_REASON} bytes")));
        }
        if self.by.is_empty() || self.by.len() > MAX_REASON {
            return Err(Refusal::invalid("by", format!("must have 1 to {MAX_REASON} bytes")));
        }
        cx.state.end_access(&known, Ended { by: self.by, because: self.because }, cx.effects);
        done
    }
}

impl Context<'_> {
    /// An object is new, another than before, or gone: of policies that permit on request there may be requests and grants.
    pub(crate) fn access_follows(&mut self, kind: Kind, name: &postern_core::Name) {
        if kind != Kind::Policy {
            return;
        }
        let resource = self.state.resource(kind, name).cloned();
        let policy = resource.as_deref().and_then(|resource| match &resource.spec {
            Spec::Policy(policy) => Some(policy),
            _ => None,
        });
        self.state.policy_of_access_changed(name, policy, self.effects);
    }
}

#[cfg(test)]
#[path = "end_access_tests.rs"]
mod tests;
