use super::*;
use crate::allowance::Allowance;
use crate::approval::ApprovalRequirement;
use crate::policy::testing::slice;
use crate::policy::{Authentication, Pattern, PrincipalSelector, Staleness};
use crate::target::TargetSelector;
use crate::time::Ttl;

fn everything() -> Policy {
    Policy {
        effect: Effect::Permit,
        principals: PrincipalSelector { groups: vec!["*".into()], ..Default::default() },
        targets: TargetSelector { names: vec!["shop".into()], ..Default::default() },
        actions: vec![ActionPattern::Any],
        resources: Vec::new(),
        when: Conditions::default(),
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

fn grants(policies: Vec<Policy>) -> bool {
    slice(policies).grants_everything(Freshness::CONFIRMED)
}

#[test]
fn everything_is_everything() {
    assert!(!grants(Vec::new()));
    assert!(grants(vec![everything()]));
    let said = |actions: &str, resources: &str| Policy {
        actions: vec![ActionPattern::parse(actions).unwrap()],
        resources: vec![Pattern::parse(resources).unwrap()],
        ..everything()
    };
    assert!(grants(vec![said("sql:*", "*")]));
    assert!(!grants(vec![said("*", "*.*")]));
    let cedar = |text: &str| Policy {
        actions: Vec::new(),
        principals: PrincipalSelector::default(),
        targets: TargetSelector::default(),
        cedar: Some(std::sync::Arc::new(crate::policy::cedar::Rule::parse(text).unwrap())),
        ..everything()
    };
    assert!(grants(vec![cedar("permit (principal, action, resource);")]));
    assert!(!grants(vec![cedar("permit (principal, action == Action::\"sql:select\", resource);")]));
    let forbid = cedar("forbid (principal, action == Action::\"sql:delete\", resource);");
    assert!(!grants(vec![everything(), Policy { effect: Effect::Deny, ..forbid }]));
    let narrow = |change: &dyn Fn(&mut Policy)| {
        let mut policy = everything();
        change(&mut policy);
        policy
    };
    let approval = ApprovalRequirement { groups: vec!["r".into()], count: 1, expires: Ttl(60) };
    let less = [
        narrow(&|policy| policy.actions = vec![ActionPattern::parse("sql:select").unwrap()]),
        narrow(&|policy| policy.resources = vec![Pattern::parse("public.*").unwrap()]),
        narrow(&|policy| policy.when.bounded = Some(true)),
        narrow(&|policy| policy.approval = Some(approval.clone())),
        narrow(&|policy| policy.obligations.read_only = true),
        narrow(&|policy| policy.obligations.row_limit = std::num::NonZeroU64::new(5)),
        narrow(&|policy| {
            policy.when.authentication = Some(Authentication { acr: vec!["gold".into()], ..Authentication::default() });
        }),
    ];
    for policy in less {
        assert!(!grants(vec![policy.clone()]), "{policy:?}");
        // Beside one that grants everything, only what holds, denies or binds takes from it.
        let takes = policy.approval.is_some() || !policy.obligations.is_empty();
        assert_eq!(grants(vec![everything(), policy.clone()]), !takes, "{policy:?}");
    }
    // However little is denied: what is in doubt may be that.
    let deny = narrow(&|policy| {
        policy.effect = Effect::Deny;
        policy.resources = vec![Pattern::parse("public.payroll").unwrap()];
    });
    assert!(!grants(vec![everything(), deny]));
}
