//! Seeds of the simulated cluster. `SEEDS=n` runs so many, `SEED=k` only that one, `TRACE=1` shows every line of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, missing_docs)]

use std::time::Instant;

use postern_chaos::sim::plan::Plan;
use postern_chaos::sim::runner::{Report, run, run_all};

/// Seeds that every change is tested with.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

fn all_hold(reports: &[Report]) {
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    println!(
        "{} seeds: {} virtual seconds, {} answers to clients, {} entries, {} lives of nodes, {} changes of members",
        reports.len(),
        sum(|report| report.took) / 1_000_000,
        sum(|report| report.answers as u64),
        sum(|report| report.entries as u64),
        sum(|report| report.lives),
        sum(|report| report.changes),
    );
    let failed: Vec<&Report> = reports.iter().filter(|report| report.violation.is_some()).collect();
    for report in &failed {
        println!("{}", report.text());
    }
    assert!(failed.is_empty(), "{} of {} seeds break a law", failed.len(), reports.len());
}

#[test]
fn every_law_holds_for_every_seed() {
    if let Some(seed) = number("SEED") {
        return all_hold(&[run(Plan::new(seed), number("TRACE").is_some())]);
    }
    let (from, count) = (number("FROM").unwrap_or(1), number("SEEDS").unwrap_or(SEEDS));
    let started = Instant::now();
    let plans: Vec<Plan> = (from..from + count).map(Plan::new).collect();
    let reports = run_all(&plans, threads());
    println!("{:?}", started.elapsed());
    all_hold(&reports);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 17] {
        let (one, two) = (run(Plan::new(seed), false), run(Plan::new(seed), false));
        assert_eq!((one.hash, one.lines, one.took), (two.hash, two.lines, two.took));
    }
    assert_ne!(run(Plan::new(3), false).hash, run(Plan::new(17), false).hash);
}

/// The real log on real files, which a killed process leaves as they are.
#[test]
fn every_law_holds_on_real_files() {
    let plans: Vec<Plan> = (1..=8).map(Plan::with_files).collect();
    all_hold(&run_all(&plans, threads()));
}

/// What is built in on purpose has to be found: `--features planted-bugs`.
#[cfg(feature = "planted-bugs")]
mod planted {
    use postern_chaos::sim::plan::{Plan, Planted};
    use postern_chaos::sim::runner::run;

    /// Seeds within which each has to be found.
    const WITHIN: u64 = 40;

    /// Runs so many seeds, tells which laws were broken, and demands that one of `by` is among them.
    fn is_found(planted: Planted, by: &[&str]) {
        let mut laws = std::collections::BTreeMap::<&str, (u64, u64)>::new();
        for seed in 1..=WITHIN {
            if let Some(violation) = run(Plan { planted, ..Plan::new(seed) }, false).violation {
                laws.entry(violation.law).or_insert((seed, 0)).1 += 1;
            }
        }
        for (law, (first, times)) in &laws {
            println!("{planted:?}: {times} of {WITHIN} seeds, the first is {first}: {law}");
        }
        assert!(by.iter().any(|law| laws.contains_key(law)), "{planted:?} is not found by {WITHIN} seeds");
    }

    #[test]
    fn to_acknowledge_before_the_flush_is_found() {
        let lost = ["acknowledged writes survive (I8)", "reads and writes are linearizable", "what is committed stays"];
        is_found(Planted::AckBeforeFlush, &lost);
    }

    #[test]
    fn to_read_without_asking_the_leader_is_found() {
        is_found(Planted::StaleRead, &["reads and writes are linearizable"]);
    }
}
