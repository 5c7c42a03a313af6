//! Review after the fact: what policies ask for, and what must be there before anything runs that they ask it of.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::obligations::Obliged;
use super::permit::Permit;
use crate::id::{ReviewId, SessionId};
use crate::name::Name;
use crate::review::ReviewItem;
use crate::time::Ttl;

/// How long a review may take when nothing is said, in seconds: a day.
pub(crate) const DEFAULT_REVIEW_WITHIN: u32 = 86_400;
/// And at most: 30 days.
pub(crate) const MAX_REVIEW_WITHIN: u32 = 2_592_000;

/// Items that a session remembers (I11). With more, the oldest is asked for again.
const MAX_OPENED: usize = 64;

/// What is done is to be reviewed afterwards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReviewAfterwards {
    /// By a member of any of these.
    pub groups: BTreeSet<String>,
    /// Until when it is due.
    pub within: Ttl,
}

/// What an operation must be reviewed afterwards by afterwards: one for each set of groups that policies ask for, within the shortest time that any of them gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewAsked {
    /// By a member of any of these.
    pub groups: BTreeSet<String>,
    /// Until when it is due, in seconds.
    pub within: Ttl,
    /// Who asks.
    pub policies: BTreeSet<Name>,
    /// The item of review that the operation belongs to, in what is recorded of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewId>,
}

/// The control plane has an item of review: from its answer alone.
#[derive(Clone, Debug)]
pub struct OpenedReview {
    id: ReviewId,
    asked: ReviewAsked,
}

/// The items that a session has.
#[derive(Clone, Debug, Default)]
pub struct OpenedReviews(Vec<OpenedReview>);

/// Leave to run an operation, all of whose reviews are sure to be asked for. Made by [`OpenedReviews::cover`] alone; the recorder takes nothing else.
#[derive(Debug)]
#[must_use = "an operation runs only with its permit"]
pub struct Covered(Permit);

/// The operation is to be reviewed, and the session has no item of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is to be reviewed afterwards has no item of review")]
pub struct Uncovered;

impl OpenedReview {
    /// Reads the control plane's answer for `session`; `None` unless it has what was asked for.
    #[must_use]
    pub fn from_answer(item: &ReviewItem, asked: &ReviewAsked, session: SessionId) -> Option<Self> {
        let by = |policy: &Name| item.policies.iter().any(|known| known == policy.as_str());
        let has = item.session == session
            && item.closed.is_none()
            && asked.groups.iter().eq(&item.groups)
            && asked.policies.iter().all(by);
        has.then(|| Self { id: item.id, asked: asked.clone() })
    }

    fn covers(&self, asked: &ReviewAsked) -> bool {
        self.asked.groups == asked.groups
            && self.asked.within <= asked.within
            && asked.policies.is_subset(&self.asked.policies)
    }
}

impl OpenedReviews {
    /// The session has this one, too.
    pub fn add(&mut self, opened: OpenedReview) {
        // What it covers need not be remembered.
        self.0.retain(|known| !opened.covers(&known.asked));
        if self.0.len() >= MAX_OPENED {
            self.0.remove(0);
        }
        self.0.push(opened);
    }

    fn of(&self, asked: &ReviewAsked) -> Option<ReviewId> {
        self.0.iter().find(|known| known.covers(asked)).map(|known| known.id)
    }

    /// What `obliged` asks for and the session does not have.
    #[must_use]
    pub fn missing(&self, obliged: &Obliged) -> Vec<ReviewAsked> {
        obliged.reviews.iter().filter(|asked| self.of(asked).is_none()).cloned().collect()
    }

    /// Names in `obliged` the items that it belongs to.
    pub fn name(&self, obliged: &mut Obliged) {
        for asked in &mut obliged.reviews {
            asked.review = self.of(asked);
        }
    }

    /// Lets the operation run.
    ///
    /// # Errors
    /// When one of its reviews is missing.
    pub fn cover(&self, permit: Permit) -> Result<Covered, Uncovered> {
        if self.missing(permit.obliged()).is_empty() { Ok(Covered(permit)) } else { Err(Uncovered) }
    }
}

impl Covered {
    /// The leave itself.
    pub const fn permit(&self) -> &Permit {
        &self.0
    }

    /// Likewise, where nothing else is asked of it any more.
    pub fn into_permit(self) -> Permit {
        self.0
    }
}

impl ReviewAsked {
    fn join(&mut self, other: Self) {
        self.within = self.within.min(other.within);
        self.policies.extend(other.policies);
    }

    /// What is asked, whoever asks.
    pub(super) fn asked(&self) -> ReviewAfterwards {
        ReviewAfterwards { groups: self.groups.clone(), within: self.within }
    }
}

/// Adds `asked`: the same groups review once, within the shorter time.
pub(super) fn join(all: &mut Vec<ReviewAsked>, asked: ReviewAsked) {
    match all.iter_mut().find(|known| known.groups == asked.groups) {
        Some(known) => known.join(asked),
        None => {
            let place = all.partition_point(|known| known.groups < asked.groups);
            all.insert(place, asked);
        }
    }
}

/// `reviewed afterwards by dba or security within 24 h (break-glass)`
impl std::fmt::Display for ReviewAsked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let policies: Vec<&str> = self.policies.iter().map(Name::as_str).collect();
        let within = match self.within.0 {
            secs if secs % 3_600 == 0 => format!("{} h", secs / 3_600),
            secs if secs % 60 == 0 => format!("{} min", secs / 60),
            secs => format!("{secs} s"),
        };
        write!(f, "reviewed afterwards by {} within {within} ({})", groups.join(" or "), policies.join(", "))
    }
}

#[cfg(test)]
#[path = "afterwards_tests.rs"]
mod tests;
