//! Whether enough different people have agreed.

use crate::approval::{Review, ReviewVerdict};
use crate::principal::Principal;

/// So many people of these groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewers {
    /// Members of any of these.
    pub groups: Vec<String>,
    /// How many; at least 1.
    pub count: u32,
}

/// Whether `reviewer` is of a group that any of `asked` names.
#[must_use]
pub fn may_review(asked: &[Reviewers], reviewer: &Principal) -> bool {
    asked.iter().any(|of| reviewer.in_any(&of.groups))
}

/// Whether every one of `asked` has as many people as it wants among those who approved, nobody being counted for two of them (I7). One who is of the
/// groups of several counts where they are needed: a matching, so that the order in which people answer makes no difference.
#[must_use]
pub fn agreed(asked: &[Reviewers], reviews: &[Review]) -> bool {
    let mut people: Vec<&Principal> = Vec::new();
    for review in reviews.iter().filter(|review| review.verdict == ReviewVerdict::Approve) {
        if !people.iter().any(|known| known.shares_identity_with(&review.reviewer)) {
            people.push(&review.reviewer);
        }
    }
    // With nobody asked nobody has agreed. Counted before room is made for them.
    let wanted = |of: &Reviewers| usize::try_from(of.count.max(1)).unwrap_or(usize::MAX);
    if asked.is_empty() || asked.iter().map(wanted).fold(0, usize::saturating_add) > people.len() {
        return false;
    }
    let places: Vec<&Reviewers> = asked.iter().flat_map(|of| std::iter::repeat_n(of, wanted(of))).collect();
    let mut taken: Vec<Option<usize>> = vec![None; people.len()];
    (0..places.len()).all(|place| fill(place, &places, &people, &mut taken, &mut vec![false; people.len()]))
}

/// Finds somebody for `place`, moving others along if need be (Kuhn's algorithm). As deep as there are places.
fn fill(
    place: usize,
    places: &[&Reviewers],
    people: &[&Principal],
    taken: &mut [Option<usize>],
    asked: &mut [bool],
) -> bool {
    let Some(wanted) = places.get(place) else { return false };
    for (person, who) in people.iter().enumerate() {
        if !who.in_any(&wanted.groups) {
            continue;
        }
        match asked.get_mut(person) {
            Some(asked) if !*asked => *asked = true,
            _ => continue,
        }
        let free = match taken.get(person).copied().flatten() {
            None => true,
            Some(other) => fill(other, places, people, taken, asked),
        };
        if free {
            if let Some(taken) = taken.get_mut(person) {
                *taken = Some(place);
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::principal::PrincipalId;
    use crate::time::Timestamp;

    fn of(groups: &[&str], count: u32) -> Reviewers {
        Reviewers { groups: groups.iter().map(|group| (*group).to_owned()).collect(), count }
    }

    fn review(who: &str, groups: &[&str], verdict: ReviewVerdict) -> Review {
        let reviewer = Principal {
            id: PrincipalId { issuer: "corp".parse().unwrap(), subject: who.into() },
            groups: groups.iter().map(|group| (*group).into()).collect(),
            token_id: None,
            expires_at: None,
            chain: Vec::new(),
            claims: Default::default(),
        };
        Review { reviewer, verdict, comment: String::new(), at: Timestamp::default() }
    }

    fn yes(who: &str, groups: &[&str]) -> Review {
        review(who, groups, ReviewVerdict::Approve)
    }

    #[test]
    fn one_person_counts_once_over_all_that_is_asked() {
        let asked = [of(&["dba"], 1), of(&["security"], 1)];
        let both = yes("ann", &["dba", "security"]);
        assert!(!agreed(&asked, std::slice::from_ref(&both)));
        assert!(!agreed(&asked, &[both.clone(), both.clone()]));
        assert!(agreed(&asked, &[both.clone(), yes("sue", &["security"])]));
        // Counted first come, ann would stand for the dba, and dan for nothing.
        assert!(agreed(&asked, &[both, yes("dan", &["dba"])]));
        assert!(!agreed(&asked, &[yes("dan", &["dba"]), yes("dora", &["dba"])]));
    }

    #[test]
    fn nothing_asked_is_nothing_agreed() {
        assert!(!agreed(&[], &[]) && !agreed(&[], &[yes("ann", &["dba"])]));
        assert!(!agreed(&[of(&["dba"], 1)], &[review("ann", &["dba"], ReviewVerdict::Deny)]));
        assert!(!agreed(&[of(&["dba"], u32::MAX)], &[]));
    }

    const GROUPS: [&str; 3] = ["a", "b", "c"];

    /// By trying every way.
    fn by_trying(places: &[&Reviewers], people: &[Review]) -> bool {
        let Some((place, rest)) = places.split_first() else { return true };
        (0..people.len()).any(|one| {
            let mut others = people.to_vec();
            let who = others.remove(one);
            who.reviewer.in_any(&place.groups) && by_trying(rest, &others)
        })
    }

    proptest! {
        #[test]
        fn agrees_when_there_is_a_way_and_only_then(
            asked in prop::collection::vec((1_u8..8, 1_u32..3), 1..4),
            reviews in prop::collection::vec((0_u8..5, 0_u8..8, any::<bool>()), 0..7),
        ) {
            let groups = |bits: u8| (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| GROUPS[bit]).collect::<Vec<_>>();
            let asked: Vec<Reviewers> = asked.into_iter().map(|(bits, count)| of(&groups(bits), count)).collect();
            let mut people: Vec<Review> = Vec::new();
            for (who, bits, approves) in reviews {
                let verdict = if approves { ReviewVerdict::Approve } else { ReviewVerdict::Deny };
                people.push(review(&who.to_string(), &groups(bits), verdict));
            }
            let mut once: Vec<Review> = Vec::new();
            for review in people.iter().filter(|review| review.verdict == ReviewVerdict::Approve) {
                if !once.iter().any(|known| known.reviewer.id == review.reviewer.id) {
                    once.push(review.clone());
                }
            }
            let places: Vec<&Reviewers> =
                asked.iter().flat_map(|of| std::iter::repeat_n(of, of.count.try_into().unwrap())).collect();
            prop_assert_eq!(agreed(&asked, &people), by_trying(&places, &once));
            // Fewer people than are asked for never agree.
            if once.len() < places.len() {
                prop_assert!(!agreed(&asked, &people));
            }
        }
    }
}
