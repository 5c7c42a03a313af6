use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::action::{Action, Object, ObjectKind, Verb};
use crate::allowance::Allowance;
use crate::approval::ApprovalRequirement;
use crate::id::{DecisionId, OperationId, SessionId};
use crate::operation::Operation;
use crate::policy::testing::slice_with as slice;
use crate::policy::{ActionPattern, Circumstances, Conditions, Freshness, PrincipalSelector, Staleness, Verdict};
use crate::target::TargetSelector;
use crate::time::{Timestamp, Ttl};

const NOW: Timestamp = Timestamp::from_millis(1_000);

fn asked(acr: &[&str], amr: &[&str]) -> Authentication {
    let texts = |of: &[&str]| of.iter().map(|&text| text.to_owned()).collect();
    Authentication { acr: texts(acr), amr: texts(amr), max_token_ttl: None }
}

fn claims(acr: &[&str], amr: &[&str]) -> KeptClaims {
    let mut kept = KeptClaims::default();
    for (name, values) in [("acr", acr), ("amr", amr)] {
        assert!(kept.keep(name, values.iter().map(|&value| value.into()).collect()));
    }
    kept
}

fn policy(effect: Effect, authentication: Option<Authentication>) -> Policy {
    Policy {
        effect,
        principals: PrincipalSelector { groups: vec!["*".into()], ..Default::default() },
        targets: TargetSelector { names: vec!["shop".into()], ..Default::default() },
        actions: vec![ActionPattern::Any],
        resources: Vec::new(),
        when: Conditions { bounded: None, authentication },
        on_request: None,
        approval: None,
        waits: false,
        staleness: Staleness::default(),
        limits: Allowance::default(),
        reason: None,
        cedar: None,
        obligations: crate::policy::Obligations::default(),
    }
}

fn select() -> Action {
    let object = Object::new(ObjectKind::Relation, ["shop", "public", "orders"]);
    Action::new(Verb::SqlSelect, object)
}

/// 0: denied; 1: held, by whom and by how many; 2: permitted.
fn outcome(slice: &PolicySlice) -> (u8, Vec<String>, u32, String) {
    let session = SessionId::new(NOW, 1);
    let operation = Operation::new(OperationId::new(NOW, 2), session, Bytes::from_static(b"x"), vec![], vec![select()]);
    match slice.clone().decide(&operation, DecisionId::new(NOW, 3), &Circumstances::new(NOW, Freshness::CONFIRMED)) {
        Verdict::Permit(..) => (2, Vec::new(), 0, String::new()),
        Verdict::Hold(held) => (1, held.requirement.groups.clone(), held.requirement.count, String::new()),
        Verdict::Deny(denial) => (0, Vec::new(), 0, denial.decision.reason),
    }
}

#[test]
fn one_acr_and_every_amr() {
    let gold = asked(&["gold", "platinum"], &["otp", "pwd"]);
    assert!(gold.is_met(&claims(&["gold"], &["pwd", "otp", "hwk"])));
    assert!(gold.is_met(&claims(&["platinum"], &["pwd", "otp"])));
    assert!(!gold.is_met(&claims(&["gold"], &["pwd"])));
    assert!(!gold.is_met(&claims(&["silver"], &["pwd", "otp"])));
    // What is not said is not so.
    assert!(!gold.is_met(&KeptClaims::default()));
    assert!(!asked(&["gold"], &[]).is_met(&claims(&[], &["gold"])));
    assert!(!asked(&[], &["otp"]).is_met(&claims(&["otp"], &[])));
    // Letter by letter.
    assert!(!asked(&["gold"], &[]).is_met(&claims(&["Gold"], &[])));
    assert_eq!(gold.to_string(), "acr gold or platinum, amr otp and pwd");
    assert_eq!(asked(&[], &["otp"]).to_string(), "amr otp");
}

#[test]
fn a_token_that_lives_too_long_is_told_to_be_shorter() {
    let short = |acr: &[&str]| Authentication { max_token_ttl: Some(Ttl(1_800)), ..asked(acr, &[]) };
    let living = |seconds: Option<u32>, acr: &[&str]| {
        let mut claims = claims(acr, &[]);
        seconds.into_iter().for_each(|seconds| claims.live(seconds));
        claims
    };
    assert!(short(&[]).is_met(&living(Some(1_800), &[])) && short(&["gold"]).is_met(&living(Some(60), &["gold"])));
    for (acr, claims) in [
        (&[][..], living(Some(1_801), &[])),
        // What is not known is not so.
        (&[], living(None, &[])),
        (&["gold"], living(Some(60), &[])),
        (&["gold"], living(Some(1_801), &["gold"])),
    ] {
        assert!(!short(acr).is_met(&claims), "{claims:?}");
    }
    assert_eq!(short(&["gold"]).to_string(), "acr gold, a token good for 1800 s at most");
    let told = |acr: &[&str], claims| slice(vec![policy(Effect::Permit, Some(short(acr)))], claims).asks().unwrap();
    assert!(
        told(&[], living(Some(9_000), &[])).ends_with("a token good for 1800 s at most (postern token --ttl 1800s)")
    );
    assert!(told(&["gold"], living(Some(9_000), &[])).ends_with("(postern login --acr gold)"));
    assert!(told(&["gold"], living(Some(9_000), &["gold"])).ends_with("(postern token --ttl 1800s)"));
}

#[test]
fn a_denial_says_what_to_do() {
    let weak = slice(vec![policy(Effect::Permit, Some(asked(&["gold"], &["otp"])))], claims(&["silver"], &[]));
    assert!(!weak.permits_anything() && !weak.keeps(Freshness::CONFIRMED));
    let (rank, .., reason) = outcome(&weak);
    assert_eq!(rank, 0);
    let what = "policy p0 permits it after a login with acr gold, amr otp (postern login --acr gold)";
    assert_eq!(reason, format!("sql:select on shop.public.orders: {what}"));
    assert_eq!(weak.asks().unwrap(), what);
    let strong = slice(vec![policy(Effect::Permit, Some(asked(&["gold"], &["otp"])))], claims(&["gold"], &["otp"]));
    assert!(strong.permits_anything());
    assert_eq!((outcome(&strong).0, strong.asks()), (2, None));
}

/// Who has proven less is held by whatever holds who has proven more.
#[test]
fn an_approval_is_asked_of_whoever_has_proven_less_too() {
    let approval = Some(ApprovalRequirement { groups: vec!["dba".into()], count: 1, expires: Ttl(60) });
    let held = Policy { approval, ..policy(Effect::Permit, Some(asked(&["gold"], &[]))) };
    let both = || vec![policy(Effect::Permit, None), held.clone()];
    assert_eq!(outcome(&slice(both(), claims(&["gold"], &[]))).0, 1);
    assert_eq!(outcome(&slice(both(), KeptClaims::default())).0, 1);
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let some = |of: &'static [&'static str]| proptest::sample::subsequence(of, 0..=of.len());
    let authentication = proptest::option::of((some(&["gold", "silver"]), some(&["otp", "pwd"])))
        .prop_map(|it| it.map(|(acr, amr)| asked(&acr, &amr)));
    let approval = proptest::option::of((some(&["dba", "lead"]), 1_u32..3)).prop_map(|it| {
        it.map(|(groups, count)| {
            let mut groups: Vec<String> = groups.into_iter().map(str::to_owned).collect();
            groups.push("all".to_owned());
            ApprovalRequirement { groups, count, expires: Ttl(60) }
        })
    });
    let one = (0..5_u8, authentication, approval).prop_map(|(kind, authentication, approval)| match kind {
        0 => policy(Effect::Deny, None),
        _ => Policy { approval, ..policy(Effect::Permit, authentication) },
    });
    proptest::collection::vec(one, 0..5)
}

proptest! {
    /// Asking how somebody logged in never permits more than not asking: not to whoever has proven nothing, nor to anybody else.
    #[test]
    fn asking_never_permits_more(
        policies in policies(),
        acr in proptest::option::of(proptest::sample::select(vec!["gold", "silver", "bronze"])),
        amr in proptest::sample::subsequence(vec!["otp", "pwd", "hwk"], 0..=3),
    ) {
        let without: Vec<Policy> =
            policies.iter().map(|policy| Policy { when: Conditions::default(), ..policy.clone() }).collect();
        let claims = claims(acr.as_slice(), &amr);
        let (with, without) = (slice(policies, claims.clone()), slice(without, claims));
        prop_assert!(!with.permits_anything() || without.permits_anything());
        let ((rank, groups, count, _), (most, among, at_least, _)) = (outcome(&with), outcome(&without));
        prop_assert!(rank <= most);
        if rank == 1 && most == 1 {
            prop_assert!(count >= at_least && groups.iter().all(|group| among.contains(group)));
        }
        prop_assert!(!with.denies(&[], &Circumstances::new(NOW, Freshness::CONFIRMED)) || !with.permits_anything());
    }
}
