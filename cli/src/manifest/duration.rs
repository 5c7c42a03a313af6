//! Durations as people write them: `90s`, `15m`, `1h30m`.

use std::time::Duration;

/// Whole seconds from parts of days, hours, minutes and seconds, each at most once and in that order.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a duration such as 90s, 15m or 1h30m, not {text:?}");
    let (mut total, mut rest, mut smallest) = (0_u64, text, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let mut tail_chars = tail.chars();
        let unit = match tail_chars.next() {
            Some('d') => 86_400,
            Some('h') => 3_600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(wrong()),
        };
        if unit >= smallest {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        (rest, smallest) = (tail_chars.as_str(), unit);
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(total)) }
}

/// The shortest text that [`parse_duration`] reads as `secs`.
pub(crate) fn show_duration(secs: u64) -> String {
    let mut out = String::new();
    let mut rest = secs;
    for (unit, letter) in [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')] {
        let number = rest / unit;
        rest %= unit;
        if number > 0 {
            out.push_str(&format!("{number}{letter}"));
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows() {
        for (text, secs) in [("0s", 0), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("1d1s", 86_401)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(secs)), "{text}");
            assert_eq!(parse_duration(&show_duration(secs)), Ok(Duration::from_secs(secs)));
        }
        for bad in ["", "5", "m", "5x", "5m1h", "1m1m", "-1s", "1.5h", " 1s", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
