//! Rules that approve a request in place of people.

use std::collections::BTreeMap;

use crate::principal::Principal;
use crate::time::{Timestamp, Ttl};

/// Approves a request that is all of this. What it does not speak of it does not ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoApprove {
    /// How the audit log names it.
    pub name: String,
    /// The requester is of any of these; empty: anybody who may ask.
    pub groups: Vec<String>,
    /// The target has all of these labels.
    pub labels: BTreeMap<String, String>,
    /// It is asked at such a time.
    pub hours: Option<Hours>,
    /// It is asked for no longer than this.
    pub max_duration: Option<Ttl>,
    /// It approves so often for one principal in a [day]; none: any number of times.
    pub max_per_day: Option<u32>,
}

/// Days since 1970-01-01, in UTC: what [`AutoApprove::max_per_day`] counts by.
#[must_use]
pub const fn day(at: Timestamp) -> u64 {
    at.secs() / 86_400
}

/// A time of the day, on some days of the week, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// From this minute of the day on.
    pub from: u16,
    /// Up to this one, exclusive. Not after `from`: over midnight, and the day is that on which it began.
    pub to: u16,
    /// Bits of the days, Monday the lowest.
    pub days: u8,
}

/// Minutes of a day.
pub(crate) const DAY: u16 = 1_440;
/// Every day of the week.
pub(crate) const EVERY_DAY: u8 = 0b111_1111;

impl AutoApprove {
    /// Whether it approves, as far as it goes by the request alone.
    #[must_use]
    pub fn approves(
        &self,
        requester: &Principal,
        labels: &BTreeMap<String, String>,
        duration: Ttl,
        now: Timestamp,
    ) -> bool {
        (self.groups.is_empty() || requester.in_any(&self.groups))
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.hours.is_none_or(|hours| hours.contain(now))
            && self.max_duration.is_none_or(|most| duration <= most)
    }
}

impl Hours {
    /// Whether `at` is in them.
    #[must_use]
    pub fn contain(self, at: Timestamp) -> bool {
        let minutes = at.secs() / 60;
        let (days, minute) = (minutes / u64::from(DAY), minutes % u64::from(DAY));
        let on = |day: u64| self.days >> (day % 7) & 1 == 1;
        // 1970-01-01 was a Thursday.
        let today = days.saturating_add(3);
        let (from, to) = (u64::from(self.from), u64::from(self.to));
        if from < to {
            return on(today) && (from..to).contains(&minute);
        }
        (minute >= from && on(today)) || (minute < to && on(today.saturating_add(6)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20 is a Friday.
    fn at(day: u64, hour: u64, minute: u64) -> Timestamp {
        Timestamp::from_secs(1_795_132_800 + (day - 20) * 86_400 + hour * 3_600 + minute * 60)
    }

    #[test]
    fn hours_of_the_week() {
        assert_eq!(at(20, 0, 0).to_string(), "2026-11-20T00:00:00.000Z");
        let office = Hours { from: 8 * 60, to: 18 * 60, days: 0b001_1111 };
        assert!(office.contain(at(20, 8, 0)) && office.contain(at(20, 17, 59)) && office.contain(at(23, 9, 0)));
        for no in [at(20, 7, 59), at(20, 18, 0), at(21, 9, 0), at(22, 9, 0)] {
            assert!(!office.contain(no), "{no}");
        }
        // Friday night lasts until Saturday morning.
        let night = Hours { from: 22 * 60, to: 6 * 60, days: 0b001_0000 };
        assert!(night.contain(at(20, 23, 0)) && night.contain(at(21, 5, 59)));
        assert!(!night.contain(at(20, 5, 0)) && !night.contain(at(21, 22, 0)) && !night.contain(at(21, 6, 0)));
        let always = Hours { from: 0, to: 0, days: EVERY_DAY };
        assert!((20..27).all(|day| always.contain(at(day, 12, 30)) && always.contain(at(day, 0, 0))));
    }
}
