use std::sync::Arc;

use postern_core::job::Job;
use postern_core::resource::FieldFault;
use postern_proto::state::v1 as pb;

use crate::outcome::{Outcome, Refusal, Success};
use crate::state::Context;

/// Jobs were heard of: many in one entry, so that a thousand that beat at once cost what one costs. Those that are over stay so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeatJobs {
    /// The tokens that they are tied to.
    pub tokens: Vec<Arc<str>>,
}

impl BeatJobs {
    /// In one command.
    pub const MOST: usize = 1_000;

    pub(crate) fn to_proto(&self) -> pb::BeatJobs {
        pb::BeatJobs { tokens: self.tokens.iter().map(ToString::to_string).collect() }
    }

    #[allow(clippy::unnecessary_wraps)] // as every command's
    pub(crate) fn from_proto(proto: pb::BeatJobs) -> Result<Self, Vec<FieldFault>> {
        Ok(Self { tokens: proto.tokens.into_iter().map(Into::into).collect() })
    }

    pub(crate) fn apply(self, cx: &mut Context<'_>) -> Outcome {
        if self.tokens.is_empty() || self.tokens.len() > Self::MOST {
            return Err(Refusal::invalid("tokens", format!("must be 1 to {}", Self::MOST)));
        }
        for token in &self.tokens {
            let Some(known) = cx.state.job(token) else { continue };
            let deadline = known.next_deadline(cx.state.now);
            if deadline > known.deadline {
                let job = Job { deadline, revision: cx.state.index, ..Job::clone(known) };
                cx.state.jobs.put(job);
            }
        }
        Ok(Success::Done)
    }
}
