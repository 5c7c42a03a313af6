//! What an idle session costs the gateway (I11). The bench of five thousand is `idle` in benches/; this only shows when it gets much worse.

use std::time::Duration;

use postern_chaos::live::idle::{IdleClient, IdleSessions, ListenerCertificate};
use postern_chaos::live::{Postgres, PostgresOptions, RoleOptions, ThreeProcesses, wait_until};

/// Resident memory of a process, in KiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn an_idle_session_costs_little() {
    const MORE: usize = 150;
    let postgres = Postgres::start(PostgresOptions { connections: Some(300), ..Default::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let certificate = ListenerCertificate::make(folder.path()).unwrap();
    let lines = format!(
        "listener.certificate_file = \"{}\"\nlistener.key_file = \"{}\"\n",
        certificate.certificate_file, certificate.key_file
    );
    // The allocator gives back at once what it has no use for, so that what is measured is in use.
    let environment = vec![("MIMALLOC_PURGE_DELAY".to_owned(), "0".to_owned())];
    let mut three =
        ThreeProcesses::start(&postgres, RoleOptions { gateway: lines, environment, ..Default::default() }).unwrap();
    let mut sessions = IdleSessions::new(IdleClient {
        address: three.postgres_address(),
        trusted: certificate.der,
        user: "shop-direct".to_owned(),
        database: "shop".to_owned(),
        password: three.issuer().token("dora", &["dba"]).unwrap(),
    })
    .unwrap();
    // What the first ones cost is not theirs: code, catalogs, pools of memory.
    sessions.open(50).unwrap();
    let gateway = three.gateway().unwrap().id();
    let before = resident(gateway);
    sessions.open(MORE).unwrap();
    let mut each = 0;
    let settled = wait_until(Duration::from_secs(30), "memory to be given back", || {
        each = resident(gateway).saturating_sub(before) / MORE as u64;
        Ok(each < 64)
    });
    settled.unwrap_or_else(|error| panic!("{each} KiB for each session: {error}"));
    // They are alive.
    sessions.ask_all().unwrap();
}
