//! Why something is decided as it is, for people who write policies.

use super::cedar::Cache;
use super::{Circumstances, Policy, PolicySlice};
use crate::action::Action;
use crate::name::Name;

impl PolicySlice {
    /// The policies that apply to each of `actions`, of one operation; where one in Cedar forbids, of those in Cedar only what forbids.
    #[must_use]
    pub fn applying(&self, actions: &[Action], at: &Circumstances) -> Vec<Vec<(&Name, &Policy)>> {
        let answers = self.answers(&mut Cache::default(), actions, at);
        let of =
            |(place, action): (usize, _)| self.matching(action, answers.get(place).map(|answer| &**answer)).collect();
        actions.iter().enumerate().map(of).collect()
    }

    /// The policies that speak of the principal on the target, whether they apply to what it does or not.
    pub fn speaking(&self) -> impl Iterator<Item = (&Name, &Policy)> {
        self.policies.iter().map(|(name, policy)| (name, &**policy))
    }
}
