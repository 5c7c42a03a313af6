//! The harness itself: what the other tests stand on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postern_chaos::live::cluster::{Cut, Network};
use postern_chaos::live::net::{Host, Weather};
use postern_chaos::live::{Connection, Postgres, PostgresOptions, Process, Role, run, wait_until};

#[test]
fn the_sample_server_takes_each_role_as_it_should() {
    let mut postgres = Postgres::start(PostgresOptions { tls: true, ..Default::default() }).unwrap();
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

/// The weather on a wire is as it is told, and from a private network one gets out and not in.
#[test]
fn a_wire_has_its_weather() {
    let network = Network::new(1).unwrap();
    let (host, private) = (network.host().unwrap(), network.private().unwrap());
    let inside = private.host().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = host.place().address.clone();
    let _server = Process::start(
        "server",
        Path::new("ip"),
        &[
            "netns",
            "exec",
            &host.place().namespace,
            "/usr/bin/python3",
            "-m",
            "http.server",
            "7480",
            "--bind",
            &address,
        ]
        .map(str::to_owned),
        &[],
        None,
        folder.path(),
    )
    .unwrap();
    let reach = format!("exec 3<>/dev/tcp/{address}/7480");
    let reaches = || inside.run(&["timeout", "2", "bash", "-c", &reach]).unwrap().status.success();
    wait_until(Duration::from_secs(10), "the server", || Ok(reaches())).unwrap();
    // Nobody gets in, not even by a route of their own.
    let within = inside.place().clone();
    let serve = ["netns", "exec", &within.namespace, "/usr/bin/python3", "-m", "http.server", "7480", "--bind"];
    let serve: Vec<String> = serve.iter().map(|&word| word.to_owned()).chain([within.address.clone()]).collect();
    let _within = Process::start("within", Path::new("ip"), &serve, &[], None, folder.path()).unwrap();
    let reach_in = format!("exec 3<>/dev/tcp/{}/7480", within.address);
    let neighbour = private.host().unwrap();
    let from = |host: &Host| host.run(&["timeout", "1", "bash", "-c", &reach_in]).unwrap().status.success();
    wait_until(Duration::from_secs(10), "a neighbour to get in", || Ok(from(&neighbour))).unwrap();
    host.run(&["ip", "route", "add", "192.168.77.0/24", "via", &private.router().address]).unwrap().ok().unwrap();
    assert!(!from(&host));
    // Datagrams that are echoed.
    let echo = format!(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('{address}', 7481))\nwhile True: s.sendto(*s.recvfrom(99))"
    );
    let space = host.place().namespace.clone();
    let echo = ["netns", "exec", &space, "/usr/bin/python3", "-c", &echo].map(str::to_owned);
    let _echo = Process::start("echo", Path::new("ip"), &echo, &[], None, folder.path()).unwrap();
    let ask = format!(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5); n = 0\nfor i in range(100): s.sendto(b'x', ('{address}', 7481))\n\
         try:\n  while n < 100: s.recv(9); n += 1\nexcept TimeoutError: pass\nprint(n)"
    );
    let come_back =
        || -> usize { inside.run(&["/usr/bin/python3", "-c", &ask]).unwrap().ok().unwrap().trim().parse().unwrap() };
    wait_until(Duration::from_secs(10), "all of a hundred", || Ok(come_back() == 100)).unwrap();
    private.weather(Weather { loss: 0.5, ..Default::default() }).unwrap();
    let left = come_back();
    assert!((5..60).contains(&left), "{left} of 100 come back where each way loses half");
    private.weather(Weather::cut()).unwrap();
    assert!(!reaches());
    private.weather(Weather { no_udp: true, ..Default::default() }).unwrap();
    wait_until(Duration::from_secs(10), "TCP, where UDP is blocked", || Ok(reaches())).unwrap();
    assert_eq!(come_back(), 0);
}
