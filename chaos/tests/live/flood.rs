//! Two thousand connections that never come to the point, a byte a second each, and whoever is pushed out comes again (I12).

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postern_chaos::live::{Postgres, PostgresOptions, RoleOptions, ThreeProcesses, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CROWD: usize = 2_000;

/// Keeps the crowd up until `stop`.
fn crowd(address: &str, stop: &AtomicBool, made: &AtomicUsize) {
    let mut all: Vec<Option<TcpStream>> = (0..CROWD).map(|_| None).collect();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        for stream in &mut all {
            let alive = stream.as_mut().is_some_and(|stream| stream.write_all(&[0]).is_ok());
            if !alive {
                *stream = TcpStream::connect(address).ok();
                made.fetch_add(1, Ordering::Relaxed);
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
        // A byte a second.
        let _ = wait_until(Duration::from_secs(1), "the next second", || {
            Ok(began.elapsed() > Duration::from_secs(1) || stop.load(Ordering::Relaxed))
        });
    }
}

#[test]
fn a_crowd_of_slow_connections_starves_nobody() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut three = ThreeProcesses::start(&postgres, RoleOptions::default()).unwrap();
    let connection = three.connection("shop-direct", "alice", &["analysts"]).unwrap().sslmode("require");
    let (stop, made, address) = (AtomicBool::new(false), AtomicUsize::new(0), three.postgres_address());
    std::thread::scope(|scope| {
        scope.spawn(|| crowd(&address, &stop, &made));
        let crowded = wait_until(Duration::from_secs(60), "the crowd", || Ok(made.load(Ordering::Relaxed) >= CROWD));
        // All come from one address. On a busy machine a handshake may take longer than its turn: whoever comes again gets in, as a client would.
        let mut again = 0;
        let served = (0..15).try_for_each(|round| {
            for _ in 0..4 {
                let run = connection.run("SELECT count(*) FROM orders").unwrap();
                if run.stdout == "20\n" {
                    return Ok(());
                }
                again += 1;
                eprintln!("round {round}: {}", run.stderr);
            }
            Err(round)
        });
        // Before anything is judged: else the crowd would stay for ever.
        stop.store(true, Ordering::Relaxed);
        crowded.unwrap();
        assert_eq!(served, Ok(()));
        assert!(again <= 5, "{again} times in vain");
    });
    assert!(three.gateway_counter("postern_gateway_handshakes_pushed_out_total", "").unwrap() > 500.0);
    // They have room for 256, of one address, and those who have just been pushed out.
    let open = three.gateway_counter("postern_gateway_connections_open", "").unwrap();
    assert!(open < 400.0, "{open} at a time");
    three.stop().unwrap();
}
