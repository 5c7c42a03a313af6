//! What the whole-system loads share: the machine they ran on, medians and percentiles, and where their tables go.

pub mod bouncer;
pub mod client;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const REPORT: &str = "docs/benchmarks.md";
/// How the report begins when there is none yet.
const PREFACE: &str = "# Benchmarks\n\nWritten by `make bench`; not by hand. Each part says when and where it ran; `make bench ONLY=part` renews one of them.\n";

/// One line of progress, on standard error.
pub fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A setting of a load: the environment's, or `default`.
///
/// # Errors
/// When it is no number.
pub fn number<T: std::str::FromStr>(name: &str, default: T) -> Result<T> {
    match std::env::var(name) {
        Ok(text) => text.parse().ok().with_context(|| format!("{name} is a number")),
        Err(_) => Ok(default),
    }
}

/// The middle one.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values, 0.5)
}

/// The value that `part` of all (0 to 1) are not above.
#[must_use]
pub fn percentile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a place in a list
    let place = (values.len() as f64 * part) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// What a program prints, on one line; empty when it is not there.
#[must_use]
pub fn output_of(program: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).output();
    run.ok().and_then(|run| String::from_utf8(run.stdout).ok()).unwrap_or_default().trim().to_owned()
}

/// This machine in one line.
#[must_use]
pub fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    format!("{cores} cores ({model}), {} GiB, Linux {}", total / (1 << 20), output_of("uname", &["-r"]))
}

/// Date, machine and commit, as the first lines of a part.
#[must_use]
pub fn where_and_when() -> String {
    let mut out = String::new();
    let _ = writeln!(out, "- Date: {}", output_of("date", &["-u", "+%Y-%m-%d %H:%M UTC"]));
    let _ = writeln!(out, "- Machine: {}", machine());
    let _ = writeln!(out, "- Commit: {}", output_of("git", &["describe", "--always", "--dirty"]));
    out
}

/// The median time of an append of `size` bytes and `fdatasync` in the folder for temporary files, where all data lies.
///
/// # Errors
/// When nothing can be written there.
pub fn sync_time(size: usize) -> Result<Duration> {
    let mut file = tempfile::tempfile()?;
    let bytes = vec![0; size];
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(Duration::from_secs_f64(median(times)))
}

/// User and system time of a process so far, in seconds (proc(5): fields 14 and 15 of `stat`, in hundredths).
///
/// # Errors
/// When there is no such process.
pub fn processor_seconds(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, field 2, may have blanks; it ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = |place: usize| -> Result<f64> { Ok(fields.get(place).context("too few fields")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Resident memory of a process, in kilobytes.
///
/// # Errors
/// When there is no such process.
pub fn memory_kb(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no figure")?.parse()?)
}

/// Puts `text` in the place of the part `name` of the report, or at its end; other parts stay as they are. `OUTPUT` names another file.
///
/// # Errors
/// When the report cannot be written.
pub fn write_part(name: &str, text: &str) -> Result<()> {
    let path = std::env::var("OUTPUT").unwrap_or_else(|_| REPORT.to_owned());
    // Standard output is no file that could be read.
    let old =
        if fs::metadata(&path).is_ok_and(|known| known.is_file()) { fs::read_to_string(&path)? } else { String::new() };
    let new = with_part(if old.contains("<!-- part: ") { &old } else { PREFACE }, name, text);
    fs::write(&path, new).with_context(|| format!("cannot write {path}"))
}

fn with_part(report: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- part: {name} -->\n"), format!("<!-- end: {name} -->\n"));
    let part = format!("{begin}\n{}\n\n{end}", text.trim());
    let old = report.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    match old {
        Some((before, after)) => format!("{before}{part}{after}"),
        None => format!("{}\n\n{part}", report.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_renewed_in_its_place() {
        let one = with_part("# Benchmarks\n", "one", "first");
        let both = with_part(&one, "two", "second");
        assert_eq!(
            with_part(&both, "one", "third"),
            "# Benchmarks\n\n<!-- part: one -->\n\nthird\n\n<!-- end: one -->\n\n<!-- part: two -->\n\nsecond\n\n<!-- end: two -->\n"
        );
    }

    #[test]
    fn percentiles() {
        let values = || (1..=100).map(f64::from);
        assert_eq!((median(values()), percentile(values(), 0.99), percentile(values(), 1.0)), (51.0, 100.0, 100.0));
        assert!(median([]).is_nan());
    }
}
