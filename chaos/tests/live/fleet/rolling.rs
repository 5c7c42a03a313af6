//! A rolling restart under load: every gateway, then every agent, one after the other, while clients write and keep books of their own.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern_chaos::live::fleet::{Fleet, FleetOptions};
use postern_chaos::live::wire::Wire;
use postern_chaos::live::{Postgres, PostgresOptions, Role, run};

const LONG: Duration = Duration::from_secs(120);
/// Transactions of one session; a pool's connections have a lifetime too.
const EACH: u32 = 20;

/// What one client saw.
#[derive(Debug, Default)]
struct Book {
    /// Whose COMMIT was answered.
    committed: Vec<u32>,
    /// Broken off between BEGIN's answer and COMMIT's, and where.
    broken: Vec<String>,
    sessions: u32,
}

/// Writes numbers until it is told to stop, at whichever gateway lets it in.
fn write(client: u32, gateways: &[String], token: &str, stop: &AtomicBool) -> Book {
    let (mut book, mut next, mut turn) = (Book::default(), 0, usize::try_from(client).unwrap());
    while !stop.load(Ordering::Relaxed) {
        let gateway = &gateways[turn % gateways.len()];
        turn += 1;
        let Ok(mut wire) = Wire::connect(gateway) else { continue };
        if wire.login("shop", "shop", token).is_err() {
            continue;
        }
        book.sessions += 1;
        for _ in 0..EACH {
            next += 1;
            // Ended between two transactions: nothing was begun.
            if !answered(&mut wire, "BEGIN") {
                break;
            }
            let insert = format!("INSERT INTO ledger VALUES ({client}, {next})");
            if !answered(&mut wire, &insert) || !answered(&mut wire, "COMMIT") {
                book.broken.push(format!("{next} at {gateway}"));
                break;
            }
            book.committed.push(next);
        }
    }
    book
}

/// Whether the statement was done, and its answer came to its end.
fn answered(wire: &mut Wire, sql: &str) -> bool {
    wire.query(sql).is_ok_and(|answer| answer.iter().any(|message| message.kind == 'C'))
}

#[test]
fn a_rolling_restart_loses_no_commit_and_breaks_no_transaction() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    postgres
        .sql("shop", "CREATE TABLE ledger (client int, n int, PRIMARY KEY (client, n)); GRANT ALL ON ledger TO PUBLIC")
        .unwrap();
    // Before the fleet is there: what is made through one gateway, another's catalog learns of seconds later.
    let mut initialise = postgres.connection(Role::Scram).client("pgbench");
    initialise.args(["-i", "-q", "-s", "1", "--no-vacuum"]);
    run(initialise, "", LONG).unwrap().ok().unwrap();
    let drains = "drain_limit = \"60s\"\ndrain_idle_grace = \"0s\"\ndrain_notice = \"1s\"\n";
    let options = FleetOptions { gateways: 3, agents: 3, gateway: drains.to_owned(), ..Default::default() };
    let mut fleet = Fleet::start(&postgres, options).unwrap();
    let gateways: Vec<String> = (0..3).map(|number| fleet.gateway(number).unwrap().postgres()).collect();
    let token = fleet.issuer().token("writer", &["dba"]).unwrap();

    // libpq's own way to another gateway: a list of hosts, of which the next is taken when one says 57P03 or nothing.
    let connection = fleet.connection(0, "shop", "bench", &["dba"]).unwrap();
    let ports: Vec<_> = gateways.iter().filter_map(|gateway| gateway.rsplit_once(':')).map(|(_, port)| port).collect();
    let mut pgbench = connection.client("pgbench");
    pgbench.env("PGPORT", ports.join(",")).env("PGHOST", "127.0.0.1,127.0.0.1,127.0.0.1");

    let stop = AtomicBool::new(false);
    let (books, transactions) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|client| {
                scope.spawn({
                    let (gateways, token, stop) = (&gateways, &token, &stop);
                    move || write(client, gateways, token, stop)
                })
            })
            .collect();
        let benched = scope.spawn(|| transactions(pgbench, &postgres, &stop));
        for number in 0..3 {
            let gateway = fleet.gateway(number).unwrap();
            gateway.stop().unwrap();
            gateway.start().unwrap();
            gateway.wait_ready().unwrap();
            fleet.wait_for_login(number).unwrap();
        }
        for number in 0..3 {
            let agent = fleet.agent(number).unwrap();
            agent.stop().unwrap();
            agent.start().unwrap();
            agent.wait_ready().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let books: Vec<Book> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        (books, benched.join().unwrap())
    });

    let logs = || fleet.logs();
    for (client, book) in books.iter().enumerate() {
        assert!(book.committed.len() > 20 && book.sessions > 3, "hardly any load: {book:?}");
        assert!(book.broken.is_empty(), "client {client}: {:?}\n{}", book.broken, logs());
        let kept = postgres.sql("shop", &format!("SELECT n FROM ledger WHERE client = {client}")).unwrap();
        let kept: std::collections::BTreeSet<u32> = kept.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let lost: Vec<_> = book.committed.iter().filter(|n| !kept.contains(n)).collect();
        assert!(lost.is_empty(), "client {client} was told that these were committed: {lost:?}");
    }
    let kept = postgres.sql("shop", "SELECT count(*) FROM pgbench_history").unwrap();
    assert_eq!(kept.trim().parse::<u64>().unwrap(), transactions, "pgbench was told of each of its transactions");
    assert!(transactions > 20, "{transactions}");
}

/// Runs pgbench again and again until told to stop: each transaction on a connection of its own, and none of them may fail. How many it was
/// told were done.
fn transactions(template: Command, postgres: &Postgres, stop: &AtomicBool) -> u64 {
    let mut all = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut pgbench = Command::new(Path::new(template.get_program()));
        pgbench.envs(template.get_envs().filter_map(|(key, value)| Some((key, value?))));
        pgbench.args(["-n", "-C", "-c", "2", "-t", "10", "--max-tries", "10"]);
        let said = run(pgbench, "", LONG).unwrap().ok();
        let said = said.unwrap_or_else(|error| {
            panic!("{error}; branches: {:?}", postgres.sql("shop", "SELECT count(*) FROM pgbench_branches"))
        });
        let done = said.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        all += done.unwrap().split('/').next().unwrap().trim().parse::<u64>().unwrap();
    }
    all
}
