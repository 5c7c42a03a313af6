//! Members that come back on other addresses.

use postern_chaos::live::cluster::LiveCluster;

use super::cluster;

fn writes_through_each(cluster: &LiveCluster) {
    cluster.wait_healthy().unwrap();
    for number in 0..3 {
        let arguments = ["cluster", "token", "create", "--role", "gateway"];
        cluster.cli_of(number).unwrap().cli(arguments).unwrap().ok().unwrap();
    }
    cluster.wait_same_state().unwrap();
}

/// Whoever stays tells the others where they are; again and again, each time another stays.
#[test]
fn two_of_three_move() {
    let mut cluster = cluster();
    for stays in 0..3 {
        let moving: Vec<usize> = (0..3).filter(|number| *number != stays).collect();
        for number in &moving {
            let member = cluster.member(*number).unwrap();
            member.kill9().unwrap();
            member.move_away().unwrap();
        }
        for number in &moving {
            cluster.member(*number).unwrap().start().unwrap();
        }
        writes_through_each(&cluster);
    }
}

/// Nobody is where the others think; one of them is told by its configuration. The same list may stand in all of them, and stay there.
#[test]
fn all_move_and_one_is_told() {
    let mut cluster = cluster();
    for everybody in [false, true] {
        for number in 0..3 {
            cluster.member(number).unwrap().kill9().unwrap();
            cluster.member(number).unwrap().move_away().unwrap();
        }
        let mut addresses = Vec::new();
        for number in 0..3 {
            addresses.push(cluster.member(number).unwrap().peer());
        }
        for number in 0..3 {
            if everybody || number == 1 {
                cluster.member(number).unwrap().look_at(&addresses).unwrap();
            }
            cluster.member(number).unwrap().start().unwrap();
        }
        writes_through_each(&cluster);
    }
}
