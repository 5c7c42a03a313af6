//! Which policies speak of an action: sessions do the same again and again, and to look through all policies costs most of a decision.

use std::sync::Arc;

use super::Policy;
use crate::action::{Action, Object, Verb};
use crate::name::Name;

/// Policies by name, as a slice has them.
pub(super) type Policies = Arc<Vec<(Name, Arc<Policy>)>>;

/// What one session has asked about. A copy begins empty: it is of another session.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    /// Of which policies it is remembered: held, so that no others can be in their place.
    of: Option<Policies>,
    known: Vec<Known>,
    /// Which makes room for the next.
    oldest: usize,
}

#[derive(Debug)]
struct Known {
    verb: Verb,
    object: Object,
    bounded: Option<bool>,
    places: Arc<[usize]>,
}

impl Spoken {
    /// Actions that are remembered (I11).
    const MOST: usize = 16;

    /// The places of those of `policies` that speak of `action`, in order, and of those in Cedar, which are asked by themselves.
    pub(super) fn places(&mut self, policies: &Policies, action: &Action) -> Arc<[usize]> {
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, policies)) {
            (self.of, self.oldest) = (Some(Arc::clone(policies)), 0);
            self.known.clear();
        }
        let same = |known: &&Known| {
            (known.verb, known.bounded) == (action.verb, action.bounded) && known.object == action.object
        };
        if let Some(known) = self.known.iter().find(same) {
            return Arc::clone(&known.places);
        }
        let speaks = |policy: &Policy| policy.cedar.is_some() || policy.matches(action);
        let places = policies.iter().enumerate().filter(|(_, (_, policy))| speaks(policy));
        let places: Arc<[usize]> = places.map(|(place, _)| place).collect();
        let Action { verb, bounded, .. } = *action;
        let known = Known { verb, object: action.object.clone(), bounded, places: Arc::clone(&places) };
        if self.known.len() < Self::MOST {
            self.known.push(known);
        } else if let Some(oldest) = self.known.get_mut(self.oldest) {
            *oldest = known;
            self.oldest = self.oldest.wrapping_add(1) % Self::MOST;
        }
        places
    }
}

impl Clone for Spoken {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::ObjectKind;
    use crate::policy::{ActionPattern, Effect};

    fn policies(verbs: &[Verb]) -> Policies {
        let policy =
            |verb: &Verb| Policy { actions: vec![ActionPattern::Exactly(*verb)], ..Policy::new(Effect::Permit) };
        let named =
            verbs.iter().enumerate().map(|(n, verb)| (format!("p{n}").parse().unwrap(), Arc::new(policy(verb))));
        Arc::new(named.collect())
    }

    fn action(verb: Verb, table: usize) -> Action {
        Action::new(verb, Object::new(ObjectKind::Relation, ["app", "public", &format!("t{table}")]))
    }

    #[test]
    fn remembers_what_it_found_of_the_policies_at_hand_only() {
        let (one, other) = (policies(&[Verb::SqlSelect, Verb::SqlDrop]), policies(&[Verb::SqlDrop, Verb::SqlSelect]));
        let mut spoken = Spoken::default();
        for _ in 0..2 {
            assert_eq!(*spoken.places(&one, &action(Verb::SqlSelect, 1)), [0]);
            assert_eq!(*spoken.places(&one, &action(Verb::SqlDrop, 1)), [1]);
            assert_eq!(*spoken.places(&one, &action(Verb::SqlLock, 1)), [0; 0]);
        }
        let first = spoken.places(&one, &action(Verb::SqlSelect, 1));
        assert!(Arc::ptr_eq(&first, &spoken.places(&one, &action(Verb::SqlSelect, 1))));
        assert_eq!(*spoken.places(&other, &action(Verb::SqlSelect, 1)), [1]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_right() {
        let all = policies(&[Verb::SqlSelect, Verb::SqlUpdate]);
        let mut spoken = Spoken::default();
        for round in 0..100 {
            for bounded in [None, Some(true), Some(false)] {
                let update = action(Verb::SqlUpdate, round % 40).bounded(bounded);
                assert_eq!(*spoken.places(&all, &update), [1]);
            }
            assert_eq!(*spoken.places(&all, &action(Verb::SqlSelect, round % 40)), [0]);
            assert!(spoken.known.len() <= Spoken::MOST);
        }
    }
}
