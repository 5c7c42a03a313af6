//! A client that waits for its reviewer behind a NAT that forgets silent connections.

use std::time::Duration;

use postern_chaos::live::cluster::ClusterOptions;
use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::wait_until;

use super::SOON;
use crate::assert_has;

/// The gateway probes a silent client after 60 s: without, the router has forgotten it here.
const FORGETS: Duration = Duration::from_secs(66);

const PATIENT: &str = "
apiVersion: postern/v1
kind: Policy
metadata: {name: patient}
spec:
  effect: permit
  principals: {groups: [patient]}
  targets: {labels: {kind: shop}}
  actions: ['sql:delete', 'sql:select']
  resources: [public.orders]
  approval: {groups: [reviewers], count: 1, expires: 24h}
";

#[test]
fn a_held_client_is_not_forgotten() {
    // Nothing is said to the client meanwhile: what keeps the connection is TCP's alone.
    let options = FleetOptions {
        cluster: ClusterOptions { members: 1, ..Default::default() },
        gateways: 1,
        gateway: "hold_keep_alive = \"0s\"\n".into(),
        ..Default::default()
    };
    let mut fleet = Fleet::on_hosts(options).unwrap();
    fleet.cluster.cli().apply(PATIENT).unwrap();
    let connection = fleet.connection(0, "shop", "pat", &["patient"]).unwrap();
    let reviewer = fleet.issuer().token("rita", &["reviewers"]).unwrap();
    let private = fleet.site().unwrap().private();
    private.forget_tcp_after(FORGETS.as_secs()).unwrap();
    let host = private.host().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut psql =
        connection.psql().at(host.place()).start("held", "DELETE FROM orders WHERE id = 7", folder.path()).unwrap();
    let id = fleet.cluster.cli().pending_approval().unwrap();
    wait_until(SOON, "the client's notice", || Ok(psql.stderr().contains(&id))).unwrap();
    std::thread::park_timeout(FORGETS + Duration::from_secs(8));
    assert!(psql.is_running(), "{}", psql.stderr());
    fleet.cluster.cli().cli_as(&reviewer, ["approvals", "approve", &id]).unwrap().ok().unwrap();
    psql.wait(Duration::from_secs(20)).unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    assert_has(&psql.stderr(), &[&id]);
    let left = fleet.site().unwrap().postgres().sql("shop", "SELECT count(*) FROM orders WHERE id = 7").unwrap();
    assert_eq!((left.as_str(), psql.stderr().contains("ERROR")), ("0", false), "{}", psql.stderr());
}
