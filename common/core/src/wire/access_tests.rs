use super::*;
use crate::access::Grants;
use crate::delta::Delta;
use crate::id::AccessId;
use crate::name::Name;
use crate::policy::{Effect, Policy};
use crate::principal::Principal;
use crate::resource::{Kind, Resource, Spec};
use crate::snapshot::Snapshot;
use crate::time::Timestamp;
use crate::wire::resource::{from_proto, to_proto};
use crate::wire::snapshot;
use postern_proto::gateway::v1 as gateway_pb;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn spec(effect: pb::Effect, on_request: Option<pb::OnRequest>) -> pb::Resource {
    let spec = pb::PolicySpec {
        effect: effect.into(),
        principals: Some(pb::PrincipalSelector { groups: vec!["dev".into()], ..Default::default() }),
        targets: Some(pb::TargetSelector { names: vec!["shop".into()], ..Default::default() }),
        actions: vec!["sql:*".into()],
        on_request,
        ..Default::default()
    };
    let metadata = pb::Metadata { name: "p".into(), ..Default::default() };
    pb::Resource { metadata: Some(metadata), spec: Some(pb::resource::Spec::Policy(spec)) }
}

fn asked() -> pb::OnRequest {
    pb::OnRequest {
        review: vec![pb::Reviewers { groups: vec!["dba".into()], count: 0 }],
        auto_approve: vec![pb::AutoApprove {
            name: "office".into(),
            groups: vec!["sre".into()],
            labels: [("env".to_owned(), "test".to_owned())].into(),
            hours: Some(pb::Hours { from: "08:00".into(), to: "24:00".into(), days: vec!["mon".into(), "fri".into()] }),
            max_duration_seconds: 600,
            max_per_day: 3,
        }],
        ..Default::default()
    }
}

fn policy() -> Resource {
    from_proto(spec(pb::Effect::PermitOnRequest, Some(asked()))).unwrap()
}

fn grant() -> Grant {
    Grant {
        id: AccessId::new(Timestamp::from_millis(5), 5),
        principal: PrincipalId { issuer: name("corp"), subject: "a/b".into() },
        chain: vec!["t1".into()],
        target: name("shop"),
        policy: name("p"),
        ends_at: Timestamp::from_millis(9_000),
        reason: "INC-7: orders stand still".into(),
    }
}

#[test]
fn what_is_asked_for_comes_back_as_it_went() {
    let resource = policy();
    let Spec::Policy(Policy { effect: Effect::Permit, on_request: Some(read), .. }) = &resource.spec else { panic!() };
    assert_eq!((read.max_duration, read.expires, read.min_reason), (Ttl(3_600), Ttl(3_600), 1));
    let rule = &read.auto_approve[0];
    assert_eq!(rule.hours, Some(Hours { from: 480, to: 1_440, days: 0b001_0001 }));
    assert_eq!(from_proto(to_proto(&resource)), Ok(resource));
}

#[test]
fn faults_are_told_by_field() {
    let mut bad = asked();
    bad.review = vec![pb::Reviewers { groups: Vec::new(), count: 17 }];
    bad.max_duration_seconds = MAX_SECONDS + 1;
    bad.min_reason = 1_001;
    bad.auto_approve[0].name.clear();
    bad.auto_approve[0].hours = Some(pb::Hours { from: "8:00".into(), to: "24:01".into(), days: vec!["mo".into()] });
    let faults = from_proto(spec(pb::Effect::PermitOnRequest, Some(bad))).unwrap_err();
    let paths: Vec<&str> = faults.iter().map(|fault| fault.path.strip_prefix("spec.onRequest.").unwrap()).collect();
    let rule = ["name", "hours.from", "hours.to", "hours.days[0]"].map(|field| format!("autoApprove[0].{field}"));
    let mut expected = vec!["review", "review[0].groups", "maxDuration", "minReason"];
    expected.extend(rule.iter().map(String::as_str));
    assert_eq!(paths, expected);
    for (effect, asked) in [
        // Nobody could agree.
        (pb::Effect::PermitOnRequest, Some(pb::OnRequest::default())),
        (pb::Effect::PermitOnRequest, None),
        // Who does not know requests would permit it to all.
        (pb::Effect::Permit, Some(asked())),
        (pb::Effect::Deny, Some(asked())),
    ] {
        assert_eq!(from_proto(spec(effect, asked)).unwrap_err().len(), 1, "{effect:?}");
    }
}

#[test]
fn requests_come_back_as_they_went() {
    let requester = Principal {
        id: grant().principal,
        groups: ["dev".into()].into(),
        token_id: None,
        expires_at: None,
        chain: Vec::new(),
        claims: Default::default(),
    };
    let review = crate::approval::Review {
        reviewer: requester.clone(),
        verdict: crate::approval::ReviewVerdict::Approve,
        comment: "fine".into(),
        at: Timestamp::from_millis(2),
    };
    let mut access = AccessRequest {
        id: grant().id,
        state: AccessState::Pending,
        requester,
        target: name("shop"),
        policy: name("p"),
        reason: "because".into(),
        duration: Ttl(60),
        review: vec![Reviewers { groups: vec!["dba".into()], count: 2 }],
        reviews: vec![review],
        requested_at: Timestamp::from_millis(1),
        expires_at: Timestamp::from_millis(3),
        granted_at: None,
        ends_at: None,
        automatic: None,
        ended: None,
        revision: 7,
    };
    assert_eq!(access_from_proto(access_to_proto(&access)), Ok(access.clone()));
    assert_eq!(access.grant(), None);
    access.state = AccessState::Active;
    (access.granted_at, access.ends_at) = (Some(Timestamp::from_millis(4)), Some(Timestamp::from_millis(64_000)));
    access.automatic = Some("office".into());
    access.ended = Some(Ended { by: "corp/rita".into(), because: String::new() });
    assert_eq!(access_from_proto(access_to_proto(&access)), Ok(access.clone()));
    assert_eq!(access.grant().unwrap().ends_at, Timestamp::from_millis(64_000));
}

/// A gateway of an earlier release passes over fields that it does not know.
fn as_the_earlier_release(mut proto: gateway_pb::Snapshot) -> gateway_pb::Snapshot {
    (proto.on_request, proto.grants) = (Vec::new(), Vec::new());
    proto
}

#[test]
fn an_earlier_gateway_permits_nothing_by_what_it_does_not_know() {
    let mut known = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    known.put(policy()).unwrap();
    known.grants = [grant()].into_iter().collect();
    let proto = snapshot::to_proto(&known);
    let back = snapshot::from_proto(proto.clone()).unwrap();
    assert_eq!((&back.policies, &back.grants), (&known.policies, &known.grants));
    let earlier = snapshot::from_proto(as_the_earlier_release(proto)).unwrap();
    assert_eq!((earlier.policies.len(), earlier.grants), (0, Grants::default()));
    // Wherever it should meet one it refuses it: 3 was no effect.
    let pb::resource::Spec::Policy(spec) = to_proto(&policy()).spec.unwrap() else { panic!() };
    assert_eq!(spec.effect, 3);
}

#[test]
fn an_earlier_gateway_forgets_what_permitted_without_being_asked() {
    let plain = from_proto(spec(pb::Effect::Permit, None)).unwrap();
    let mut before = Snapshot { revision: 4, ..Snapshot::empty("c", "i") };
    before.put(plain.clone()).unwrap();
    let step = |from: u64, upsert: Resource| Delta {
        incarnation: "i".into(),
        from_revision: from,
        revision: from + 1,
        upserts: vec![upsert],
        grants: vec![grant()],
        ..Delta::default()
    };
    let proto = snapshot::delta_to_proto(&step(4, policy()));
    let now = before.apply(snapshot::delta_from_proto(proto.clone()).unwrap()).unwrap();
    assert!(now.policies.get(&name("p")).unwrap().on_request.is_some());
    assert_eq!(now.grants.iter().collect::<Vec<_>>(), [&grant()]);
    let mut earlier = proto;
    (earlier.on_request, earlier.grants) = (Vec::new(), Vec::new());
    let earlier = before.apply(snapshot::delta_from_proto(earlier).unwrap()).unwrap();
    assert!(earlier.policies.is_empty());
    // And back: to both it permits again.
    let proto = snapshot::delta_to_proto(&Delta { ended_grants: vec![grant().id], grants: vec![], ..step(5, plain) });
    let now = now.apply(snapshot::delta_from_proto(proto.clone()).unwrap()).unwrap();
    assert_eq!((now.policies.len(), now.grants.iter().count()), (1, 0));
    let earlier = earlier.apply(snapshot::delta_from_proto(proto).unwrap()).unwrap();
    assert_eq!(earlier.policies, now.policies);
    assert!(earlier.object(Kind::Policy, &name("p")).is_some());
}

#[test]
fn a_grant_without_an_end_has_ended() {
    let proto = pb::AccessGrant { ends_at: None, ..grant_to_proto(&grant()) };
    assert_eq!(grant_from_proto(proto).unwrap().ends_at, Timestamp::default());
    assert_eq!(grant_from_proto(grant_to_proto(&grant())), Ok(grant()));
}
