use bytes::Bytes;

use super::*;
use crate::action::{Action, Object, ObjectKind, Verb};
use crate::id::{DecisionId, OperationId};
use crate::operation::{Digest, Operation};
use crate::policy::testing::slice;
use crate::policy::{
    ActionPattern, Circumstances, Effect, Freshness, Obligations, Pattern, Policy, PrincipalSelector, Verdict,
};
use crate::principal::{Principal, PrincipalId};
use crate::target::TargetSelector;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn asks(groups: &[&str], within: u32) -> ReviewAfterwards {
    ReviewAfterwards { groups: groups.iter().map(|group| (*group).to_owned()).collect(), within: Ttl(within) }
}

fn permits(resources: &[&str], reviews: &[ReviewAfterwards]) -> Policy {
    Policy {
        principals: PrincipalSelector { groups: vec!["*".into()], ..Default::default() },
        targets: TargetSelector { names: vec!["shop".into()], ..Default::default() },
        actions: vec![ActionPattern::Any],
        resources: resources.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        obligations: Obligations { reviews: reviews.iter().cloned().collect(), ..Obligations::default() },
        ..Policy::new(Effect::Permit)
    }
}

fn permit(policies: Vec<Policy>, of: &[&str]) -> Permit {
    let object = |of: &&str| Object::new(ObjectKind::Relation, ["shop", "public", *of]);
    let actions = of.iter().map(|of| Action::new(Verb::SqlDelete, object(of))).collect();
    let operation = Operation::new(OperationId::new(NOW, 2), session(1), Bytes::from_static(b"x"), vec![], actions);
    let circumstances = Circumstances::new(NOW, Freshness::CONFIRMED);
    match slice(policies).decide(&operation, DecisionId::new(NOW, 3), &circumstances) {
        Verdict::Permit(permit, record) => {
            assert_eq!(permit.obliged(), &record.obliged);
            permit
        }
        other => panic!("{other:?}"),
    }
}

fn session(n: u128) -> SessionId {
    SessionId::new(NOW, n)
}

fn item(asked: &ReviewAsked) -> ReviewItem {
    ReviewItem {
        id: ReviewId::new(NOW, 9),
        principal: Principal {
            id: PrincipalId { issuer: "corp".parse().unwrap(), subject: "olga".into() },
            groups: Default::default(),
            token_id: None,
            expires_at: None,
            chain: Vec::new(),
            claims: Default::default(),
        },
        target: "shop".parse().unwrap(),
        session: session(1),
        gateway: "g1".into(),
        operation: OperationId::new(NOW, 2),
        digest: Digest([7; 32]),
        text: "x".into(),
        text_cut: false,
        parameters: Vec::new(),
        actions: Vec::new(),
        policies: asked.policies.iter().map(ToString::to_string).collect(),
        policy_revision: 1,
        reason: String::new(),
        groups: asked.groups.iter().cloned().collect(),
        opened_at: NOW,
        due_at: NOW,
        overdue: false,
        session_over: false,
        closed: None,
        revision: 1,
        relations: Vec::new(),
        values: Vec::new(),
    }
}

fn told(policies: Vec<Policy>, of: &[&str]) -> String {
    permit(policies, of).obliged().to_string()
}

#[test]
fn each_set_of_groups_reviews_once_within_the_shortest_time() {
    let all = || {
        vec![
            permits(&[], &[asks(&["dba"], 86_400)]),
            permits(&["public.orders"], &[asks(&["dba"], 3_600), asks(&["security", "audit"], 90)]),
            permits(&["public.other"], &[asks(&["dba", "security"], 60)]),
        ]
    };
    assert_eq!(told(all(), &["notes"]), "reviewed afterwards by dba within 24 h (p0)");
    assert_eq!(
        told(all(), &["orders"]),
        "reviewed afterwards by audit or security within 90 s (p1), reviewed afterwards by dba within 1 h (p0, p1)"
    );
    // A permit without one takes no other's back; what is done together is reviewed together; groups that overlap are not the same.
    let mut more = all();
    more.push(permits(&[], &[]));
    assert_eq!(
        told(more, &["other", "orders"]),
        "reviewed afterwards by audit or security within 90 s (p1), reviewed afterwards by dba within 1 h (p0, p1), \
         reviewed afterwards by dba or security within 1 min (p2)"
    );
    let (one, other) = (permit(all(), &["orders"]).into_obliged(), permit(all(), &["other"]).into_obliged());
    assert_eq!(one.clone().and(other.clone()), other.and(one.clone()));
    let text = serde_json::to_string(&one).unwrap();
    assert_eq!(serde_json::from_str::<Obliged>(&text).unwrap(), one);
    // They bind what follows, not how it runs; and what is bound is not everything.
    let asked = slice(all());
    assert!(!asked.may_oblige() && !asked.grants_everything(Freshness::CONFIRMED));
}

#[test]
fn nothing_runs_without_its_item() {
    let both = || permit(vec![permits(&[], &[asks(&["dba"], 3_600), asks(&["security"], 60)])], &["orders"]);
    let mut opened = OpenedReviews::default();
    assert_eq!(opened.cover(both()).unwrap_err(), Uncovered);
    let missing = opened.missing(both().obliged());
    assert_eq!(missing.len(), 2);
    for (asked, left) in missing.iter().zip([1, 0]) {
        opened.add(OpenedReview::from_answer(&item(asked), asked, session(1)).unwrap());
        assert_eq!(opened.missing(both().obliged()).len(), left);
    }
    let mut obliged = both().into_obliged();
    opened.name(&mut obliged);
    assert!(obliged.reviews.iter().all(|asked| asked.review == Some(ReviewId::new(NOW, 9))));
    assert_eq!(opened.cover(both()).unwrap().permit().operation(), OperationId::new(NOW, 2));
    // What asks for more, or sooner, or by another policy, is not covered by it.
    let other = |policies| opened.cover(permit(policies, &["orders"])).is_err();
    assert!(other(vec![permits(&[], &[asks(&["dba"], 3_599)])]));
    assert!(other(vec![permits(&[], &[asks(&["dba", "security"], 3_600)])]));
    assert!(other(vec![permits(&[], &[]), permits(&[], &[asks(&["dba"], 3_600)])]));
    assert!(!other(vec![permits(&[], &[asks(&["dba"], 7_200)])]));
    // And where nothing is asked, nothing is needed.
    assert!(OpenedReviews::default().cover(permit(vec![permits(&[], &[])], &["orders"])).is_ok());
}

#[test]
fn an_answer_that_is_no_item_of_it_counts_for_nothing() {
    let asked = permit(vec![permits(&[], &[asks(&["dba"], 60)])], &["orders"]).into_obliged().reviews.remove(0);
    let refused = |change: &dyn Fn(&mut ReviewItem)| {
        let mut item = item(&asked);
        change(&mut item);
        OpenedReview::from_answer(&item, &asked, session(1)).is_none()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|item| item.session = session(2)));
    assert!(refused(&|item| item.groups = vec!["dev".into()]));
    assert!(refused(&|item| item.policies.clear()));
    let by = item(&asked).principal;
    assert!(refused(&|item| {
        let closing = crate::review::Closing {
            by: by.clone(),
            finding: crate::review::Finding::Ok,
            comment: String::new(),
            at: NOW,
        };
        item.closed = Some(closing);
    }));
}

#[test]
fn a_session_remembers_so_many() {
    let mut opened = OpenedReviews::default();
    for place in 0..MAX_OPENED * 2 {
        let groups = [format!("g{place}")];
        let asked = ReviewAsked {
            groups: groups.into_iter().collect(),
            within: Ttl(60),
            policies: Default::default(),
            review: None,
        };
        opened.add(OpenedReview::from_answer(&item(&asked), &asked, session(1)).unwrap());
    }
    assert_eq!(opened.0.len(), MAX_OPENED);
}
