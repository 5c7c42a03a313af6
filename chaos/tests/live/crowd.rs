//! Two hundred agents and five gateways, real ones in this process, before three members of the control plane; then storms.

use std::collections::BTreeSet;
use std::time::Duration;

use postern_chaos::live::crowd::{Crowd, CrowdOptions};
use postern_chaos::live::wait_until;

const AGENTS: usize = 200;
const GATEWAYS: usize = 5;
const LIMIT: Duration = Duration::from_secs(90);

/// What the leader's directory says, page by page: agent and gateway of each tunnel.
fn listed(crowd: &Crowd) -> BTreeSet<(String, String)> {
    let json = crowd.cluster.cli().cli(["fleet", "agents", "-o", "json"]).unwrap().ok().unwrap();
    let agents: serde_json::Value = serde_json::from_str(&json).unwrap();
    let agents = agents.as_array().cloned().or_else(|| agents["agents"].as_array().cloned()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let tunnels = |agent: &serde_json::Value| {
        let name = text(&agent["agent"]);
        let gateways = agent["tunnels"].as_array().unwrap().iter().map(|tunnel| text(&tunnel["gateway"]));
        gateways.map(|gateway| (name.clone(), gateway)).collect::<Vec<_>>()
    };
    agents.iter().flat_map(tunnels).collect()
}

/// A tunnel may move between two looks.
fn same_as_listed(crowd: &Crowd) {
    let mut last = String::new();
    let same = wait_until(LIMIT, "the directory to list what there is", || {
        let (listed, pairs) = (listed(crowd), crowd.pairs());
        last = format!("{:?}", listed.symmetric_difference(&pairs).take(10).collect::<Vec<_>>());
        Ok(listed == pairs)
    });
    same.unwrap_or_else(|error| panic!("{error:#}: {last}"));
}

#[test]
fn storms_settle_and_the_directory_is_true() {
    let mut crowd = Crowd::start(CrowdOptions { gateways: GATEWAYS, ..Default::default() }).unwrap();
    crowd.start_agents(AGENTS).unwrap();
    let steady = crowd.steady(0, LIMIT).unwrap();
    // 120 each on average; so far off is less than one in a million.
    let (least, most) = steady.spread();
    assert!(least >= 80 && most <= 160, "{steady:?}");
    same_as_listed(&crowd);
    let start = crowd.storm();
    eprintln!("start: {start:?} {:?}", steady.after);

    // A gateway is gone for good, and with it the leader: the next one knows nothing of it, and neither does any gateway.
    let leader = crowd.cluster.leader().unwrap();
    crowd.cluster.member(leader).unwrap().kill9().unwrap();
    crowd.gateway(0).unwrap().kill().unwrap();
    let after = crowd.steady(steady.term, LIMIT).unwrap();
    assert_eq!(after.agents.len(), GATEWAYS - 1);
    same_as_listed(&crowd);
    // Those that had a tunnel to it needed another one; nobody else moved.
    let moved = crowd.storm().since(&start);
    eprintln!("one gone: {moved:?} {:?}", after.after);
    assert!(moved.up <= 1.5 * most_f64(most), "{moved:?}");

    // All gateways at once. UDP passes: no tunnel has to go over TCP because they are busy.
    let before = crowd.storm();
    crowd.kill_gateways().unwrap();
    crowd.start_gateways().unwrap();
    let again = crowd.steady(0, LIMIT).unwrap();
    assert_eq!(again.agents.len(), GATEWAYS);
    let storm = crowd.storm().since(&before);
    eprintln!("all killed: {storm:?} {:?}", again.after);
    // Three of an agent were lost, and had to come up again; some more were in the way of gateways that came later.
    assert!(storm.up + storm.failed <= most_f64(u64::try_from(AGENTS).unwrap()) * 3.0 * 4.0, "{storm:?}");
}

fn most_f64(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
