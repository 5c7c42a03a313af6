//! I9: gateways go on without the control plane, over restarts too, for as long as policy says and no longer.

use std::time::{Duration, SystemTime};

use postern_chaos::live::cluster::faked_clock;
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, wait_until};

use crate::assert_has;

/// Long enough for a restart on a busy machine.
const LIMIT: Duration = Duration::from_secs(45);
const SOON: Duration = Duration::from_secs(90);

const POLICIES: &str = "
apiVersion: postern/v1
kind: Policy
metadata: {name: careful}
spec:
  effect: permit
  principals: {groups: [careful]}
  targets: {names: [shop-direct]}
  actions: [\"sql:select\"]
  maxStaleness: 0s
---
apiVersion: postern/v1
kind: Policy
metadata: {name: stubborn}
spec:
  effect: permit
  principals: {groups: [stubborn]}
  targets: {names: [shop-direct]}
  actions: [\"sql:select\"]
  onStale: keep
---
apiVersion: postern/v1
kind: Policy
metadata: {name: patient}
spec:
  effect: permit
  principals: {groups: [patient]}
  targets: {names: [shop-direct]}
  actions: [\"sql:delete\", \"sql:select\"]
  resources: [public.orders]
  approval: {groups: [reviewers], whenAway: wait}
";

fn start(postgres: &Postgres, further: &str) -> Fleet {
    let gateway = format!("staleness_limit = \"{}s\"\n{further}\n", LIMIT.as_secs());
    let options = FleetOptions { gateways: 1, agents: 0, gateway, ..Default::default() };
    let fleet = Fleet::start(postgres, options).unwrap();
    fleet.cluster.cli().apply(POLICIES).unwrap();
    let connection = fleet.connection(0, "shop-direct", "sue", &["stubborn"]).unwrap();
    wait_until(SOON, "the policies", || Ok(connection.run("SELECT 1")?.status.success())).unwrap();
    let mut fleet = fleet;
    kept(&mut fleet);
    fleet
}

/// Until the disk has what the gateway decides by, confirmed since now.
fn kept(fleet: &mut Fleet) {
    let (gateway, now) = (fleet.gateway(0).unwrap(), SystemTime::now());
    let mark = gateway.folder().join("spool/policy/policy.mark");
    let revision = |name| gateway.metric(name, "");
    let same = || Ok(revision("postern_gateway_policy_kept_revision")? >= revision("postern_gateway_policy_revision")?);
    wait_until(SOON, "the policy to be kept", same).unwrap();
    let since = || Ok(std::fs::metadata(&mark)?.modified()? > now);
    wait_until(SOON, "the confirmation to be kept", since).unwrap();
}

fn session(fleet: &mut Fleet, subject: &str, group: &str) -> Wire {
    let token = fleet.issuer().token(subject, &[group]).unwrap();
    let mut wire = Wire::connect(&fleet.gateway(0).unwrap().postgres()).unwrap();
    wire.login("shop-direct", "shop", &token).unwrap();
    wire
}

/// What a client of the group is told, when it is not let in.
fn refusal(fleet: &Fleet, group: &str) -> Option<String> {
    let run = fleet.connection(0, "shop-direct", "new", &[group]).unwrap().run("SELECT 1").unwrap();
    (!run.status.success()).then_some(run.stderr)
}

fn selects(wire: &mut Wire) -> bool {
    wire.query("SELECT count(*) FROM orders").unwrap().iter().any(|message| message.kind == 'D')
}

/// Waits for a session's end that nobody asks for; the SQLSTATE that it was given.
fn end_of(mut wire: Wire) -> Option<String> {
    let told = wire.read().unwrap();
    assert_eq!(told.kind, 'E', "{told:?}");
    assert!(wire.closes().unwrap());
    told.field('C')
}

#[test]
fn without_the_control_plane_until_the_limit_and_over_a_restart() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = start(&postgres, "kept_policy = { credentials = true }");
    let (careful, plain) = (session(&mut fleet, "cara", "careful"), session(&mut fleet, "alice", "analysts"));
    let mut stubborn = session(&mut fleet, "sue", "stubborn");
    fleet.cluster.member(0).unwrap().kill9().unwrap();

    // What must be confirmed all the time ends first, though nothing else wakes it.
    assert_eq!(end_of(careful).as_deref(), Some("57P03"));
    assert_has(&refusal(&fleet, "careful").unwrap(), &["FATAL"]);
    assert_eq!(refusal(&fleet, "analysts"), None, "the gateway's own limit is longer");
    assert!(selects(&mut stubborn));
    assert!(fleet.gateway(0).unwrap().metric("postern_gateway_policy_age_seconds", "").unwrap() >= 5.0);
    assert_eq!(end_of(plain).as_deref(), Some("57P03"));
    assert_has(&refusal(&fleet, "analysts").unwrap(), &["FATAL", "no current policy"]);
    assert_has(&refusal(&fleet, "stubborn").unwrap(), &["FATAL", "no current policy"]);
    assert!(selects(&mut stubborn), "it goes on by what it had, as policy says");
    let gateway = fleet.gateway(0).unwrap();
    wait_until(SOON, "it to say so", || Ok(!gateway.is_ready())).unwrap();

    fleet.cluster.member(0).unwrap().start().unwrap();
    wait_until(SOON, "the policy to be confirmed", || Ok(refusal(&fleet, "analysts").is_none())).unwrap();
    assert!(selects(&mut stubborn));
    drop(stubborn);
    // Each decision says how old the policy was.
    let session = fleet.cluster.cli().last_ended_session().unwrap();
    let replay = fleet.cluster.cli().cli(["sessions", "replay", &session, "-o", "json"]).unwrap().ok().unwrap();
    assert_has(&replay, &["policy_age_ms"]);

    // A gateway that starts while it is away again.
    kept(&mut fleet);
    fleet.cluster.member(0).unwrap().kill9().unwrap();
    fleet.gateway(0).unwrap().kill9().unwrap();
    fleet.gateway(0).unwrap().start().unwrap();
    assert_eq!(refusal(&fleet, "analysts"), None, "{}", fleet.logs());
    let gateway = fleet.gateway(0).unwrap();
    assert!(gateway.is_ready());
    assert!(gateway.metric("postern_gateway_policy_kept_total", "served").unwrap() >= 1.0);
    let open = self::session(&mut fleet, "alice", "analysts");
    assert_eq!(end_of(open).as_deref(), Some("57P03"), "the limit goes on over the restart");
    fleet.gateway(0).unwrap().stop().unwrap();
    fleet.gateway(0).unwrap().start().unwrap();
    assert_has(&refusal(&fleet, "analysts").unwrap(), &["FATAL", "no current policy"]);
    let gateway = fleet.gateway(0).unwrap();
    assert!(!gateway.is_ready());
    assert!(gateway.metric("postern_gateway_policy_kept_total", "too-old").unwrap() >= 1.0);
    fleet.cluster.member(0).unwrap().start().unwrap();
    fleet.wait_for_login(0).unwrap();
}

#[test]
fn a_clock_that_was_set_makes_nothing_fresher() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = start(&postgres, "");
    fleet.cluster.member(0).unwrap().kill9().unwrap();
    for (offset, outcome) in [("-10m", "clock"), ("+1h", "too-old")] {
        let gateway = fleet.gateway(0).unwrap();
        gateway.kill9().unwrap();
        gateway.set_environment(faked_clock(offset).unwrap());
        gateway.start().unwrap();
        assert!(!gateway.is_ready(), "{offset}");
        let told = gateway.metric("postern_gateway_policy_kept_total", outcome).unwrap();
        assert!(told >= 1.0, "{offset}: {}", gateway.log());
    }
    // Without its credential kept, the target cannot be reached, and the rest works.
    let gateway = fleet.gateway(0).unwrap();
    gateway.kill9().unwrap();
    gateway.set_environment(Vec::new());
    gateway.start().unwrap();
    assert!(gateway.is_ready(), "{}", gateway.log());
    assert_has(&refusal(&fleet, "analysts").unwrap(), &["FATAL", "credential"]);
    // The disk of another node, and one that was written to.
    let gateway = fleet.gateway(0).unwrap();
    gateway.kill9().unwrap();
    let mark = gateway.folder().join("spool/policy/policy.mark");
    let mut bytes = std::fs::read(&mark).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&mark, bytes).unwrap();
    gateway.start().unwrap();
    assert!(!gateway.is_ready());
    assert!(gateway.metric("postern_gateway_policy_kept_total", "key").unwrap() >= 1.0);
    fleet.cluster.member(0).unwrap().start().unwrap();
    fleet.wait_for_login(0).unwrap();
}

#[test]
fn what_is_held_waits_or_fails_as_policy_says() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut fleet = start(&postgres, "");
    let (mut fails, mut waits) = (session(&mut fleet, "robot", "robots"), session(&mut fleet, "pat", "patient"));
    fleet.cluster.member(0).unwrap().kill9().unwrap();
    waits.message('Q', b"DELETE FROM orders WHERE id = 2\0").unwrap();
    let answer = fails.query("DELETE FROM orders WHERE id = 1").unwrap();
    let error = answer.iter().find(|message| message.kind == 'E').unwrap();
    assert_eq!(error.field('C').as_deref(), Some("57P03"), "{:?}", error.fields());
    fleet.cluster.member(0).unwrap().start().unwrap();
    let id = fleet.cluster.cli().pending_approval().unwrap();
    let reviewer = fleet.issuer().token("rita", &["reviewers"]).unwrap();
    let approved = || Ok(fleet.cluster.cli().cli_as(&reviewer, ["approvals", "approve", &id])?.status.success());
    wait_until(SOON, "the review", approved).unwrap();
    let answer = waits.until_ready().unwrap();
    assert!(answer.iter().any(|message| message.kind == 'C'), "{answer:?}");
    assert_eq!(postgres.sql("shop", "SELECT count(*) FROM orders WHERE id IN (1, 2)").unwrap(), "1");
}
