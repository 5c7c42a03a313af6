//! The keys of session tokens are rotated under open sessions, over a leader's death; and one that leaked takes all that it signed along.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_chaos::live::cluster::{Caller, Gateway, LiveCluster};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};
use postern_proto::admin::v1::{ExchangeTokenRequest, SigningKeyStage};
use postern_runtime::jwt::{DelegationKey, NewLink};

use super::{SOON, cluster};
use crate::assert_has;

fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

fn open(gateway: &Gateway, token: &str) -> Wire {
    let mut wire = Wire::connect(&gateway.address()).unwrap();
    wire.login("shop-direct", "shop", token).unwrap_or_else(|error| panic!("{error:#}\n{}", gateway.log()));
    wire
}

#[track_caller]
fn goes_on(session: &mut Wire) {
    assert_eq!(session.query("SELECT count(*) FROM orders").unwrap()[0].kind, 'T');
}

#[track_caller]
fn ends(session: &mut Wire, since: Instant) {
    let said = session.read().unwrap();
    assert_eq!((said.kind, said.field('C').as_deref()), ('E', Some("28P01")), "{:?}", said.fields());
    assert_has(&said.field('M').unwrap_or_default(), &["its token was revoked"]);
    // What is promised is a second, on a machine that has nothing else to do.
    assert!(since.elapsed() < SOON / 2, "{:?}", since.elapsed());
}

#[track_caller]
fn refused(gateway: &Gateway, token: &str) {
    let mut connection = gateway.connection("nobody", &[]).unwrap();
    token.clone_into(&mut connection.password);
    let said = connection.run("SELECT 1").unwrap();
    assert!(!said.status.success());
    assert_has(&said.stderr, &["token"]);
}

/// The key that signs, as the cluster says.
fn current(cluster: &LiveCluster) -> Option<String> {
    let keys = cluster.status().ok()?.signing_keys;
    keys.into_iter().find(|key| key.stage() == SigningKeyStage::Current).map(|key| key.kid)
}

#[track_caller]
fn every_member_signs_by(caller: &Caller, proof: &str, wanted: &str) {
    for member in 0..3 {
        wait_until(SOON, "the member to sign by the key", || {
            Ok(caller.exchange(member, proof, 600).is_ok_and(|token| kid(&token) == wanted))
        })
        .unwrap_or_else(|error| panic!("member {member}: {error:#}"));
    }
}

#[test]
fn keys_are_rotated_under_open_sessions_and_a_leaked_one_ends_its_own() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut cluster = cluster();
    let gateway = Gateway::start(&cluster, &postgres).unwrap();
    let caller = Caller::new(&cluster).unwrap();
    let proof = gateway.token("dora", &["dba"]).unwrap();
    let first = caller.exchange(0, &proof, 3_600).unwrap();
    let k0 = kid(&first);
    assert_eq!(current(&cluster).as_deref(), Some(k0.as_str()));
    let key = DelegationKey::generate().unwrap();
    let request = ExchangeTokenRequest {
        subject_token: proof.clone(),
        ttl_seconds: 3_600,
        actor: "planner".into(),
        delegation_key: key.public().to_vec(),
        ..Default::default()
    };
    let parent = caller.exchange_as(1, request).unwrap();
    let link = |name: &str| {
        let end = postern_core::Timestamp::from_secs(u64::MAX / 1_000);
        let link = NewLink { name: Some(name.to_owned()), expires_at: end, ..NewLink::default() };
        key.hand_on(&parent, link, postern_runtime::clock::now()).unwrap()
    };
    let (mut by_first, mut by_link) = (open(&gateway, &first), open(&gateway, &link("executor")));

    // The leader dies between publishing and turning: the key takes its turn all the same.
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower().unwrap());
    let command = ["cluster", "rotate-signing-key", "--publish-for", "3s"];
    let said = cluster.cli_of(follower).unwrap().cli(command).unwrap().ok().unwrap();
    cluster.member(leader).unwrap().kill9().unwrap();
    assert_has(&said, &[&k0, "next", "current"]);
    assert_eq!(kid(&caller.exchange(follower, &proof, 600).unwrap_or_else(|_| first.clone())), k0);
    wait_until(SOON, "the key's turn", || Ok(current(&cluster).is_some_and(|kid| kid != k0)))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    let k1 = current(&cluster).unwrap();
    cluster.member(leader).unwrap().start().unwrap();
    cluster.wait_healthy().unwrap();
    every_member_signs_by(&caller, &proof, &k1);
    let second = caller.exchange(leader, &proof, 3_600).unwrap();
    let mut by_second = open(&gateway, &second);
    [&mut by_first, &mut by_link].into_iter().for_each(goes_on);

    // And again, at once. What is handed on from a token of the first key is signed by the third.
    let command = ["cluster", "rotate-signing-key", "--now", "--wait"];
    cluster.cli_of(leader).unwrap().cli(command).unwrap().ok().unwrap();
    let k2 = current(&cluster).unwrap();
    every_member_signs_by(&caller, &proof, &k2);
    let (third, child) = (caller.exchange(0, &proof, 600).unwrap(), caller.exchange(0, &first, 600).unwrap());
    assert_eq!((kid(&third), kid(&child)), (k2.clone(), k2.clone()));
    wait_until(SOON, "the gateway to know the newest key", || {
        let mut connection = gateway.connection("nobody", &[])?;
        third.clone_into(&mut connection.password);
        Ok(connection.run("SELECT 1")?.status.success())
    })
    .unwrap();
    let (mut by_third, mut by_child) = (open(&gateway, &third), open(&gateway, &child));
    for session in [&mut by_first, &mut by_link, &mut by_second] {
        goes_on(session);
    }
    goes_on(&mut open(&gateway, &first));

    // The first key leaked: its tokens, their links, and what was made of them by another key.
    let said = cluster.cli().cli(["cluster", "rotate-signing-key", "--revoke", &k0, "--reason", "leaked"]);
    let at = Instant::now();
    assert!(!said.unwrap().ok().unwrap().contains(&k0));
    for session in [&mut by_first, &mut by_link, &mut by_child] {
        ends(session, at);
    }
    for token in [&first, &link("another"), &child] {
        refused(&gateway, token);
    }
    [&mut by_second, &mut by_third].into_iter().for_each(goes_on);
    // The one that signs: another does at once.
    cluster.cli().cli(["cluster", "rotate-signing-key", "--revoke-current"]).unwrap().ok().unwrap();
    ends(&mut by_third, Instant::now());
    refused(&gateway, &third);
    goes_on(&mut by_second);
    let k3 = current(&cluster).unwrap();
    assert!(![&k0, &k1, &k2].contains(&&k3));
    every_member_signs_by(&caller, &proof, &k3);
    let listed = cluster.cli().cli(["revocations", "list"]).unwrap().ok().unwrap();
    assert_has(&listed, &[&format!("signing-key {k0}"), &format!("signing-key {k2}"), "leaked"]);
    let audit = cluster.cli().cli(["audit", "list"]).unwrap().ok().unwrap();
    assert_has(&audit, &["RotateSigningKey", "RevokeSigningKey", &format!("SigningKey/{k0}")]);
    cluster.wait_healthy().unwrap();
    cluster.wait_same_state().unwrap();
}
