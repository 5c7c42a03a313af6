//! Dates and timestamps, cut down to a period.
//!
//! A timestamp with time zone is cut in UTC, never in the session's zone: who may move the zone, and with it the edges of the periods, could find the value
//! by where it changes sides.

use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};
use postern_core::masking::DateUnit;

const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;
/// Days from 0000-03-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH: i64 = 730_425;

/// Which of the types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Date,
    Timestamp,
    TimestampTz,
}

impl Moment {
    pub(super) const fn of(type_oid: u32) -> Option<Self> {
        Some(match type_oid {
            1_082 => Self::Date,
            1_114 => Self::Timestamp,
            1_184 => Self::TimestampTz,
            _ => return None,
        })
    }

    /// Writes the beginning of the value's period; `None` for NULL, also where the unit would leave the value as it is.
    pub(super) fn truncate(self, unit: DateUnit, value: &[u8], binary: bool, out: &mut BytesMut) -> Option<()> {
        if self == Self::Date && matches!(unit, DateUnit::Day | DateUnit::Hour) {
            return None;
        }
        let (day, micros) = if binary { self.read_binary(value)? } else { self.read_text(value)? };
        let (day, micros) = begin(unit, day, micros)?;
        match (self, binary) {
            (Self::Date, true) => out.put_i32(i32::try_from(day).ok()?),
            (_, true) => out.put_i64(day.checked_mul(DAY)?.checked_add(micros)?),
            (_, false) => self.write_text(day, micros, out)?,
        }
        Some(())
    }

    /// Days since 2000-01-01, and microseconds of the day. The greatest and the least number mean infinity.
    fn read_binary(self, value: &[u8]) -> Option<(i64, i64)> {
        if self == Self::Date {
            let days = i32::from_be_bytes(value.try_into().ok()?);
            return (days != i32::MIN && days != i32::MAX).then_some((days.into(), 0));
        }
        let micros = i64::from_be_bytes(value.try_into().ok()?);
        (micros != i64::MIN && micros != i64::MAX).then_some((micros.div_euclid(DAY), micros.rem_euclid(DAY)))
    }

    /// In the ISO form alone (`DateStyle`): of the others, some cannot be told apart.
    fn read_text(self, value: &[u8]) -> Option<(i64, i64)> {
        let text = std::str::from_utf8(value).ok()?;
        let (text, bc) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
        let (date, time) = match (self, text.split_once(' ')) {
            (Self::Date, None) => (text, None),
            (Self::Timestamp | Self::TimestampTz, Some((date, time))) => (date, Some(time)),
            _ => return None,
        };
        let mut parts = date.split('-');
        let (year, month, day) =
            (number(parts.next()?, 4..=6)?, number(parts.next()?, 2..=2)?, number(parts.next()?, 2..=2)?);
        if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let days = days_of(if bc { 1_i64.checked_sub(year)? } else { year }, month, day)?;
        let Some(time) = time else { return Some((days, 0)) };
        let (time, zone) = match (self, time.find(['+', '-'])) {
            (Self::TimestampTz, Some(at)) => time.split_at_checked(at)?,
            (Self::Timestamp, None) => (time, ""),
            _ => return None,
        };
        let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let fraction = format!("{fraction:0<6}");
        let micros = clock_of(clock)?.checked_mul(1_000_000)?.checked_add(number(&fraction, 6..=6)?)?;
        let east = match zone.as_bytes().first() {
            None => 0,
            Some(sign) => {
                let seconds = clock_of(zone.get(1..)?)?.checked_mul(1_000_000)?;
                if *sign == b'+' { seconds } else { seconds.checked_neg()? }
            }
        };
        let utc = days.checked_mul(DAY)?.checked_add(micros)?.checked_sub(east)?;
        Some((utc.div_euclid(DAY), utc.rem_euclid(DAY)))
    }

    fn write_text(self, day: i64, micros: i64, out: &mut BytesMut) -> Option<()> {
        let (year, month, of_month) = civil(day)?;
        let (year, bc) = if year > 0 { (year, "") } else { (1_i64.checked_sub(year)?, " BC") };
        write!(out, "{year:04}-{month:02}-{of_month:02}").ok()?;
        if self != Self::Date {
            write!(out, " {:02}:00:00", micros.checked_div(HOUR)?).ok()?;
        }
        if self == Self::TimestampTz {
            out.put_slice(b"+00");
        }
        out.put_slice(bc.as_bytes());
        Some(())
    }
}

fn begin(unit: DateUnit, day: i64, micros: i64) -> Option<(i64, i64)> {
    let (year, month, _) = civil(day)?;
    let day = match unit {
        DateUnit::Year => days_of(year, 1, 1)?,
        DateUnit::Quarter => days_of(year, month.checked_sub(1)?.checked_div(3)?.checked_mul(3)?.checked_add(1)?, 1)?,
        DateUnit::Month => days_of(year, month, 1)?,
        DateUnit::Day => day,
        DateUnit::Hour => return Some((day, micros.checked_sub(micros.checked_rem(HOUR)?)?)),
    };
    Some((day, 0))
}

fn number(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let plain = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Seconds of `HH`, `HH:MM` or `HH:MM:SS`.
fn clock_of(text: &str) -> Option<i64> {
    let mut seconds = 0_i64;
    let mut unit = 3_600_i64;
    for part in text.split(':') {
        let part = number(part, 2..=2)?;
        seconds = seconds.checked_add(part.checked_mul(unit)?)?;
        unit = unit.checked_div(60)?;
    }
    Some(seconds)
}

/// Days since 2000-01-01 of the proleptic Gregorian calendar, in which years begin in March so that leap days come last.
fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let shifted = if month > 2 { year } else { year.checked_sub(1)? };
    let from_march = if month > 2 { month.checked_sub(3)? } else { month.checked_add(9)? };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = from_march.checked_mul(153)?.checked_add(2)?.checked_div(5)?.checked_add(day)?.checked_sub(1)?;
    let leap = of_era.checked_div(4)?.checked_sub(of_era.checked_div(100)?)?;
    let of_era = of_era.checked_mul(365)?.checked_add(leap)?.checked_add(of_year)?;
    era.checked_mul(146_097)?.checked_add(of_era)?.checked_sub(EPOCH)
}

/// The reverse of [`days_of`]: year, month, day.
fn civil(days: i64) -> Option<(i64, i64, i64)> {
    let days = days.checked_add(EPOCH)?;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = of_era
        .checked_sub(of_era.checked_div(1_460)?)?
        .checked_add(of_era.checked_div(36_524)?)?
        .checked_sub(of_era.checked_div(146_096)?)?
        .checked_div(365)?;
    let leap = year.checked_div(4)?.checked_sub(year.checked_div(100)?)?;
    let of_year = of_era.checked_sub(year.checked_mul(365)?.checked_add(leap)?)?;
    let from_march = of_year.checked_mul(5)?.checked_add(2)?.checked_div(153)?;
    let day = of_year.checked_sub(from_march.checked_mul(153)?.checked_add(2)?.checked_div(5)?)?.checked_add(1)?;
    let month = if from_march < 10 { from_march.checked_add(3)? } else { from_march.checked_sub(9)? };
    let year = year.checked_add(era.checked_mul(400)?)?;
    Some((if month > 2 { year } else { year.checked_add(1)? }, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: Moment, unit: DateUnit, value: &str) -> Option<String> {
        let mut out = BytesMut::new();
        of.truncate(unit, value.as_bytes(), false, &mut out)?;
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn calendars_agree() {
        assert_eq!((days_of(2000, 1, 1), days_of(1970, 1, 1)), (Some(0), Some(-10_957)));
        for days in (-2_500_000..2_500_000).step_by(97) {
            let (year, month, day) = civil(days).unwrap();
            assert_eq!(days_of(year, month, day), Some(days));
        }
        assert_eq!(civil(8_825), Some((2024, 2, 29)));
    }

    #[test]
    fn texts_are_cut() {
        let date = |unit, value| text(Moment::Date, unit, value);
        assert_eq!(date(DateUnit::Year, "1815-12-10").as_deref(), Some("1815-01-01"));
        assert_eq!(date(DateUnit::Quarter, "2024-06-30").as_deref(), Some("2024-04-01"));
        assert_eq!(date(DateUnit::Month, "0044-03-15 BC").as_deref(), Some("0044-03-01 BC"));
        assert_eq!(date(DateUnit::Day, "2024-06-30"), None, "it would show the value");
        assert_eq!(date(DateUnit::Year, "infinity"), None);
        let stamp = |unit, value| text(Moment::Timestamp, unit, value);
        assert_eq!(stamp(DateUnit::Day, "2024-06-30 23:59:59.5").as_deref(), Some("2024-06-30 00:00:00"));
        assert_eq!(stamp(DateUnit::Hour, "2024-06-30 23:59:59").as_deref(), Some("2024-06-30 23:00:00"));
        let zoned = |unit, value| text(Moment::TimestampTz, unit, value);
        assert_eq!(zoned(DateUnit::Day, "2024-07-01 01:30:00+02").as_deref(), Some("2024-06-30 00:00:00+00"));
        assert_eq!(zoned(DateUnit::Hour, "2024-07-01 01:30:00-03:30").as_deref(), Some("2024-07-01 05:00:00+00"));
        // Other styles are not guessed at.
        for other in
            ["30.06.2024", "06/30/2024", "06-30-2024", "Sun Jun 30 01:00:00 2024", "2024-13-01", "2024-1-1", ""]
        {
            assert_eq!(date(DateUnit::Year, other), None, "{other}");
            assert_eq!(zoned(DateUnit::Year, other), None, "{other}");
        }
    }

    #[test]
    fn binary_values_are_cut_alike() {
        let mut out = BytesMut::new();
        Moment::Date.truncate(DateUnit::Month, &8_825_i32.to_be_bytes(), true, &mut out).unwrap();
        assert_eq!(out.as_ref(), 8_797_i32.to_be_bytes());
        for moment in [Moment::Timestamp, Moment::TimestampTz] {
            out.clear();
            moment.truncate(DateUnit::Hour, &(-1_i64).to_be_bytes(), true, &mut out).unwrap();
            assert_eq!(out.as_ref(), (-HOUR).to_be_bytes());
        }
        for bad in [&i64::MAX.to_be_bytes()[..], &i64::MIN.to_be_bytes(), &[0; 4], &[]] {
            assert_eq!(Moment::Timestamp.truncate(DateUnit::Year, bad, true, &mut out), None);
        }
    }
}
