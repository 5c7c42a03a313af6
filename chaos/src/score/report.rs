//! The score, by file and by kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::judge::{Class, Judgement};

/// Counts of each class.
type Counts = BTreeMap<Class, usize>;

/// The score of many statements.
#[derive(Clone, Debug, Default)]
pub struct Score {
    files: BTreeMap<String, Counts>,
    kinds: BTreeMap<String, Counts>,
    /// Every wrong one: the file, the statement, and what was wrong.
    pub wrong: Vec<(String, String, Vec<String>)>,
    refusals: BTreeMap<String, usize>,
    volatile: BTreeSet<String>,
}

impl Score {
    /// Adds what came of `statement`.
    pub fn add(&mut self, file: &str, statement: &str, judgement: &Judgement) {
        *self.files.entry(file.to_owned()).or_default().entry(judgement.class).or_default() += 1;
        *self.kinds.entry(judgement.kind.clone()).or_default().entry(judgement.class).or_default() += 1;
        self.volatile.extend(judgement.volatile.iter().cloned());
        match judgement.class {
            Class::Wrong => self.wrong.push((file.to_owned(), statement.to_owned(), judgement.why.clone())),
            Class::Refused => {
                for why in &judgement.why {
                    *self.refusals.entry(why.clone()).or_default() += 1;
                }
            }
            Class::Exact | Class::Cautious | Class::Unjudged => {}
        }
    }

    /// How many of a class.
    #[must_use]
    pub fn count(&self, class: Class) -> usize {
        self.files.values().filter_map(|counts| counts.get(&class)).sum()
    }

    /// How many in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.files.values().flat_map(BTreeMap::values).sum()
    }

    /// docs/classification-score.md, without its head.
    #[must_use]
    pub fn document(&self) -> String {
        let mut out = String::new();
        let head = "| exact | cautious | refused | wrong | not judged |\n| --- | --- | --- | --- | --- | --- |\n";
        let line = |out: &mut String, name: &str, counts: &Counts| {
            let of = |class| counts.get(&class).copied().unwrap_or_default();
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {} | {} | {} |",
                of(Class::Exact),
                of(Class::Cautious),
                of(Class::Refused),
                of(Class::Wrong),
                of(Class::Unjudged)
            );
        };
        let mut all = Counts::new();
        for (class, count) in self.files.values().flatten() {
            *all.entry(*class).or_default() += count;
        }
        let _ = write!(out, "\n## By kind\n\n| kind {head}");
        for (kind, counts) in &self.kinds {
            line(&mut out, kind, counts);
        }
        line(&mut out, "**all**", &all);
        let _ = write!(out, "\n## By file\n\n| file {head}");
        for (file, counts) in &self.files {
            line(&mut out, file, counts);
        }
        let _ = write!(out, "\n## Why statements are refused\n\n| reason | statements |\n| --- | --- |\n");
        for (why, count) in &self.refusals {
            let _ = writeln!(out, "| {why} | {count} |");
        }
        let volatile: Vec<&str> = self.volatile.iter().map(String::as_str).collect();
        let _ = writeln!(
            out,
            "\n## Volatile functions of the system that are taken as harmless\n\n{}",
            if volatile.is_empty() { "none".to_owned() } else { volatile.join(", ") }
        );
        out
    }
}
