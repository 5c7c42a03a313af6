//! The harness itself: what the other tests stand on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postern_chaos::live::cluster::{Cut, Network};
use postern_chaos::live::{Connection, Postgres, PostgresOptions, Process, Role, run, wait_until};

#[test]
fn the_sample_server_takes_each_role_as_it_should() {
    let mut postgres = Postgres::start(PostgresOptions { tls: true, tls_only: false }).unwrap();
    for role in [Role::Scram, Role::Md5, Role::Cleartext] {
        let connection = Connection {
            host: "127.0.0.1".into(),
            port: postgres.port(),
            user: role.name().into(),
            database: "shop".into(),
            password: role.password().into(),
            sslmode: "require",
        };
        assert_eq!(connection.run("SELECT count(*) FROM customers").unwrap().ok().unwrap(), "3\n", "{role:?}");
        let plain = connection.clone().sslmode("disable").run("SELECT 1").unwrap();
        assert_eq!(plain.status.success(), role != Role::Cleartext);
    }
    postgres.stop().unwrap();
    assert!(postgres.sql("shop", "SELECT 1").is_err());
    postgres.resume().unwrap();
    assert_eq!(postgres.sql("shop", "SELECT 1").unwrap(), "1");
    assert!(postgres.log().contains("ready to accept connections"));
}

/// Members on a network of their own hear each other until one is cut off, in the direction that was asked for, and again afterwards.
#[test]
fn a_network_is_cut_and_healed() {
    let network = Network::new(2).unwrap();
    let inside = |member: usize, program: &str, arguments: &[&str]| {
        let mut all = vec!["netns".to_owned(), "exec".to_owned(), network.namespace(member), program.to_owned()];
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        all
    };
    let folder = tempfile::tempdir().unwrap();
    let ip = Path::new("/usr/sbin/ip");
    let serve = inside(1, "/usr/bin/python3", &["-m", "http.server", "7480", "--bind", &network.address(1)]);
    let _server = Process::start("server", ip, &serve, &[], None, folder.path()).unwrap();
    let reach = format!("exec 3<>/dev/tcp/{}/7480", network.address(1));
    let reaches = || {
        let mut command = Command::new(ip);
        command.args(inside(0, "timeout", &["1", "bash", "-c", &reach]));
        run(command, "", Duration::from_secs(10)).unwrap().status.success()
    };
    let soon = |wanted: bool| wait_until(Duration::from_secs(10), "the network", || Ok(reaches() == wanted)).unwrap();
    soon(true);
    for how in [Cut::Both, Cut::Outgoing, Cut::Incoming] {
        network.cut(0, how).unwrap();
        assert!(!reaches(), "{how:?}");
        // Clients still get through.
        std::net::TcpStream::connect(format!("{}:7480", network.address(1))).unwrap();
        network.heal(0).unwrap();
        soon(true);
    }
}
