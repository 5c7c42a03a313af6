//! What happened, in order: its hash tells whether two runs are the same, its end is shown when one fails.

use std::collections::VecDeque;
use std::io::Write as _;

/// Lines that are kept.
const KEPT: usize = 50;

/// The trace of one run.
pub struct Trace {
    hash: u64,
    lines: u64,
    last: VecDeque<String>,
    /// Every line goes to the standard error too.
    loud: bool,
}

impl Trace {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(loud: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: 0, last: VecDeque::with_capacity(KEPT), loud }
    }

    /// At `at` (virtual microseconds): `what`.
    pub fn add(&mut self, at: u64, what: &str) {
        let line = format!("{:>10}.{:03} {what}", at / 1_000, at % 1_000);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.lines = self.lines.saturating_add(1);
        if self.loud {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Over every line so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self) -> String {
        let mut out = String::new();
        for line in &self.last {
            out.push_str(line);
            out.push('\n');
        }
        out
    }
}
