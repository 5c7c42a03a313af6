//! Decisions as they are recorded, shown and told.

use serde::{Deserialize, Serialize};

use crate::code::Code;
use crate::id::{AccessId, DecisionId};
use crate::name::Name;
use crate::time::Timestamp;

use super::obligations::Obliged;

/// A denial, and what the client is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why, as a stable code.
    pub code: Code,
    /// What was decided.
    pub decision: DecisionRecord,
}

/// A decision as it is recorded and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Its id; a client that was denied is told it.
    pub id: DecisionId,
    /// The outcome.
    pub outcome: Outcome,
    /// The policy revision that it was taken at.
    pub revision: u64,
    /// The policies that brought it about; none when nothing permits.
    pub policies: Vec<Name>,
    /// For people.
    pub reason: String,
    /// When, by the gateway's clock.
    pub at: Timestamp,
    /// How long ago the control plane had confirmed the policy, in milliseconds (I9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_age_ms: Option<u64>,
    /// The access on request by which those policies permit: who approved it stands there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<AccessId>,
    /// How many rows the target expected, where policy asked and it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_rows: Option<u64>,
    /// How it may run only, where it is permitted or held.
    #[serde(default, skip_serializing_if = "Obliged::is_empty")]
    pub obliged: Obliged,
}

/// The outcome of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Permitted.
    Permit,
    /// Held for reviewers.
    Hold,
    /// Denied.
    Deny,
}

impl Outcome {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Hold => "hold",
            Self::Deny => "deny",
        }
    }
}

impl Denial {
    /// What the client is told: the reason and the decision's id.
    #[must_use]
    pub fn client_message(&self) -> String {
        format!("denied by Postern: {} (decision {})", self.decision.reason, self.decision.id)
    }
}
