//! Times as SAML writes them (SAML 2.0 core, section 1.3.3): `xs:dateTime` in UTC.

use postern_core::Timestamp;

/// The time that `text` says. One without a zone, or in another zone than UTC, is none.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?;
    let (date, time) = text.split_once('T')?;
    let mut date = date.split('-');
    let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':');
    let (hour, minute, second) = (number(time.next()?, 2)?, number(time.next()?, 2)?, number(time.next()?, 2)?);
    if date.next().is_some() || time.next().is_some() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if !(1970..=9999).contains(&year) || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let secs = days_before(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Timestamp::from_millis(secs * 1_000 + millis))
}

fn number(text: &str, digits: usize) -> Option<u64> {
    if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Days from 1970-01-01 (proleptic Gregorian calendar): years begin in March, so that the leap day is the last.
const fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_timestamps_print() {
        for millis in [0, 951_782_400_123, 1_795_255_200_000, 1_709_164_799_999, 4_102_444_800_001] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(instant(&time.to_string()), Some(time));
        }
        assert_eq!(instant("2026-11-21T10:00:00Z"), Some(Timestamp::from_secs(1_795_255_200)));
        assert_eq!(instant("2026-11-21T10:00:00+00:00"), Some(Timestamp::from_secs(1_795_255_200)));
        assert_eq!(instant("2026-11-21T10:00:00.1234567Z"), Some(Timestamp::from_millis(1_795_255_200_123)));
        for bad in [
            "",
            "Z",
            "2026-11-21",
            "2026-11-21T10:00:00",
            "2026-11-21T10:00:00+01:00",
            "2026-13-21T10:00:00Z",
            "2026-02-29T10:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T10:00:60Z",
            "2026-11-21T10:00:00.Z",
            "2026-11-21T10:00:00.-1Z",
            "1969-12-31T23:59:59Z",
            "12026-11-21T10:00:00Z",
            "2026-11-21T10:00:00.0000000000Z",
            "2026-11-00T10:00:00Z",
            "+026-11-21T10:00:00Z",
            "2026-11-21t10:00:00Z",
        ] {
            assert_eq!(instant(bad), None, "{bad}");
        }
    }
}
