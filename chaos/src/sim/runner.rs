//! Runs seeds, on as many threads as there are cores, and tells of those that fail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::plan::Plan;
use super::world::World;
use super::{Time, Violation};

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The law that was broken, if any.
    pub violation: Option<Violation>,
    /// The last lines of the trace.
    pub tail: String,
    /// Over the whole trace: the same for the same seed.
    pub hash: u64,
    /// Lines of the trace.
    pub lines: u64,
    /// Virtual time.
    pub took: Time,
    /// Operations of clients that were answered.
    pub answers: usize,
    /// Entries of the state machine.
    pub entries: usize,
    /// Lives of nodes.
    pub lives: u64,
    /// Changes of members that came to pass.
    pub changes: u64,
}

impl Report {
    /// Everything that somebody needs who looks into it.
    #[must_use]
    pub fn text(&self) -> String {
        let how = self.violation.as_ref().map(ToString::to_string).unwrap_or_default();
        let seed = self.seed;
        format!(
            "{}seed {seed} breaks a law: {how}\nreplay it: make chaos SEED={seed} (TRACE=1: every line)\n",
            self.tail
        )
    }
}

/// Runs `plan` to its end, or to the first violation.
#[must_use]
pub fn run(plan: Plan, loud: bool) -> Report {
    let seed = plan.seed;
    let mut report = Report {
        seed,
        violation: None,
        tail: String::new(),
        hash: 0,
        lines: 0,
        took: 0,
        answers: 0,
        entries: 0,
        lives: 0,
        changes: 0,
    };
    let mut world = match World::new(plan, loud) {
        Ok(world) => world,
        Err(violation) => {
            report.violation = Some(violation);
            return report;
        }
    };
    // What is broken by a panic is not looked at, but for the trace.
    report.violation = match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(outcome) => outcome.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(Violation { law: "nothing panics", how: text.unwrap_or_default() })
        }
    };
    report.tail = world.trace.tail();
    (report.hash, report.lines, report.took) = (world.trace.hash(), world.trace.lines(), world.now);
    (report.answers, report.entries) = (world.history.answers(), world.laws.entries());
    (report.lives, report.changes) = (world.lives, world.admin.done);
    report
}

/// Runs `plans` on `threads` threads until one fails, or to the end; in the order in which they ended.
#[must_use]
pub fn run_all(plans: &[Plan], threads: usize) -> Vec<Report> {
    let (next, reports) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let lock = || reports.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let place = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                    let Some(plan) = plans.get(place) else { return };
                    let report = run(plan.clone(), false);
                    let failed = report.violation.is_some();
                    lock().push(report);
                    if failed {
                        // The others end what they are at.
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    reports.into_inner().unwrap_or_else(PoisonError::into_inner)
}
