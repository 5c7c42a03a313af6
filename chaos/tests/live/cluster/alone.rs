//! A control plane of one node: the same clients, the same check.

use std::time::Duration;

use postern_chaos::live::cluster::{ClientOptions, ClusterClient, Load, LoadOptions};
use postern_chaos::live::{Postern, PosternOptions};

/// I8 on one node: what was acknowledged is there after SIGKILL, and no read is stale.
#[test]
fn killed_under_load() {
    let mut postern = Postern::dev(PosternOptions::default()).unwrap();
    let address = postern.endpoint("admin").unwrap();
    let admin = postern.data_dir().join("control/admin");
    let connect = || ClusterClient::new(std::slice::from_ref(&address), &admin, ClientOptions::default());
    let load = Load::start(LoadOptions::default(), connect).unwrap();
    for _ in 0..2 {
        load.wait_for(100, Duration::from_secs(20)).unwrap();
        postern.kill9().unwrap();
        postern.start().unwrap();
        assert_eq!(postern.endpoint("admin").unwrap(), address, "it takes its ports again");
    }
    load.wait_for(50, Duration::from_secs(20)).unwrap();
    let summary = load.finish().unwrap();
    assert!(summary.acknowledged >= 250 && summary.reads >= 50, "{summary:?}");
}
