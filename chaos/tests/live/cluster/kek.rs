//! The key-encryption key is replaced while the cluster works, and the leader dies in the middle of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use postern_chaos::live::cluster::{Gateway, LiveCluster, channels, tls_of};
use postern_chaos::live::{Postgres, PostgresOptions};
use postern_proto::admin::v1::secret_service_client::SecretServiceClient;
use postern_proto::admin::v1::{RotateKekRequest, RotateKekResponse};
use tokio::runtime::Runtime;
use tonic::Streaming;

use super::{agree, cluster, load, writes};
use crate::assert_has;

/// Many batches, so that there is a middle.
const SECRETS: usize = 2_000;

#[test]
fn the_key_is_replaced_and_the_leader_dies_meanwhile() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut cluster = cluster();
    let mut gateway = Gateway::start(&cluster, &postgres).unwrap();
    seal(&cluster);
    let load = load(&cluster);
    let (old, new) = (cluster.kek(), cluster.folder().join("kek-2"));
    fs::write(&new, "fedcba9876543210".repeat(4)).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();

    // One member seals under the new key before the others know it: the rotation is refused, with their names.
    configure(&mut cluster, 0, &new, Some(&old));
    let said = cluster.cli_of(0).unwrap().cli(["secrets", "rotate-kek"]).unwrap().fails().unwrap();
    assert_has(&said, &["control-2", "control-3", "previous"]);
    for number in [1, 2] {
        configure(&mut cluster, number, &old, Some(&new));
        writes(&cluster, &load);
    }
    for number in [1, 2] {
        configure(&mut cluster, number, &new, Some(&old));
        writes(&cluster, &load);
    }

    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower().unwrap());
    let runtime = Runtime::new().unwrap();
    let mut rotation = Rotation::begin(&runtime, &mut cluster, follower);
    let middle = loop {
        let told = rotation.next(&runtime).expect("the rotation goes on");
        if told.changed > 0 {
            break told;
        }
    };
    assert!(middle.left > 0 && !middle.done, "{middle:?}");
    cluster.member(leader).unwrap().kill9().unwrap();
    let mut last = middle.clone();
    while let Some(told) = rotation.next(&runtime) {
        last = told;
    }
    assert!(last.done && last.left == 0 && last.faults.is_empty(), "{last:?} after {middle:?}\n{}", cluster.logs());
    writes(&cluster, &load);
    cluster.member(leader).unwrap().start().unwrap();
    cluster.wait_healthy().unwrap();

    // Nobody needs the old key any more: each member starts without it.
    for number in 0..3 {
        let status = cluster.cli_of(number).unwrap().json(["secrets", "rotate-kek", "--status", "-o", "json"]).unwrap();
        assert_eq!(status["left"], 0, "{status}");
        let uses = status["uses"].as_array().unwrap();
        let sealed = uses[0]["sealed"].as_u64().unwrap();
        assert!(uses.len() == 1 && uses[0]["key"] == status["current"] && sealed > SECRETS as u64, "{status}");
    }
    fs::remove_file(&old).unwrap();
    for number in 0..3 {
        configure(&mut cluster, number, &new, None);
        writes(&cluster, &load);
    }
    // The credential that lies sealed under it opens the target, for a gateway that has nothing in memory.
    gateway.restart().unwrap();
    let again = cluster.cli().cli(["secrets", "rotate-kek"]).unwrap().ok().unwrap();
    assert_has(&again, &["0 put under", "0 left"]);
    agree(&cluster, load);
}

/// Secrets that no target needs, in as few writes as may be.
fn seal(cluster: &LiveCluster) {
    for first in (0..SECRETS).step_by(1_000) {
        let one = |number| {
            format!(
                "apiVersion: postern/v1\nkind: Secret\nmetadata: {{name: s{number}}}\nspec: {{value: \"v{number}\"}}\n---\n"
            )
        };
        let all: String = (first..first + 1_000).map(one).collect();
        cluster.cli().apply(&all).unwrap();
    }
}

/// Restarts a member with these keys.
fn configure(cluster: &mut LiveCluster, number: usize, current: &Path, previous: Option<&Path>) {
    let previous = previous.map(|path| format!(", previous = [{{ source = \"file\", path = {path:?} }}]"));
    let line = format!("kek = {{ source = \"file\", path = {current:?}{} }}", previous.unwrap_or_default());
    let member = cluster.member(number).unwrap();
    member.stop().unwrap();
    let other = |config: &str| {
        let lines = config.lines().map(|was| if was.starts_with("kek") { line.as_str() } else { was });
        lines.map(|line| format!("{line}\n")).collect()
    };
    member.reconfigure(other).unwrap();
    member.start().unwrap();
    cluster.wait_healthy().unwrap();
}

/// A rotation that runs, as it tells of itself.
struct Rotation(Streaming<RotateKekResponse>);

impl Rotation {
    fn begin(runtime: &Runtime, cluster: &mut LiveCluster, number: usize) -> Self {
        let _guard = runtime.enter();
        let tls = tls_of(&cluster.admin()).unwrap();
        let api = cluster.member(number).unwrap().api();
        let channel = channels(&api, Some(&tls), 1).unwrap().remove(0);
        let mut service = SecretServiceClient::new(channel);
        Self(runtime.block_on(service.rotate_kek(RotateKekRequest {})).unwrap().into_inner())
    }

    fn next(&mut self, runtime: &Runtime) -> Option<RotateKekResponse> {
        runtime.block_on(self.0.message()).unwrap()
    }
}
