//! Seconds since the epoch to a calendar date.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Zone;

/// A point in time as a calendar and a clock show it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Civil {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub(super) epoch: i64,
    pub(super) nanos: u32,
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u32,
    /// 1 to 31.
    pub(super) day: u32,
    pub(super) hour: u32,
    pub(super) minute: u32,
    pub(super) second: u32,
    /// 0 is Sunday.
    pub(super) weekday: u32,
    /// 0 is the first of January.
    pub(super) yearday: u32,
    /// Seconds east of UTC.
    pub(super) offset: i32,
    zone: [u8; Self::ZONE_BYTES],
}

const UTC: [u8; Civil::ZONE_BYTES] = *b"UTC\0\0\0\0\0\0\0";

thread_local! {
    /// The last second converted: a worker prints the same one for thousands of requests. A cache of a pure function,
    /// hence no hidden state; of each thread, because compiled formats are shared by all.
    static LAST_UTC: Cell<Civil> = const { Cell::new(Civil::unset()) };
    static LAST_LOCAL: Cell<Civil> = const { Cell::new(Civil::unset()) };
}

impl Civil {
    /// Longest abbreviation of a zone kept; POSIX asks for six characters.
    const ZONE_BYTES: usize = 10;

    /// Seconds since the epoch, and nanoseconds of the second, of a time before or after it.
    pub(super) fn split(time: SystemTime) -> (i64, u32) {
        match time.duration_since(UNIX_EPOCH) {
            Ok(d) => (i64::try_from(d.as_secs()).unwrap_or(i64::MAX), d.subsec_nanos()),
            Err(e) => {
                let before = e.duration();
                let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => (seconds, 0),
                    n => (seconds - 1, 1_000_000_000 - n),
                }
            }
        }
    }

    pub(super) fn new(epoch: i64, nanos: u32, zone: Zone) -> Self {
        let cache = match zone {
            Zone::Utc => &LAST_UTC,
            Zone::Local => &LAST_LOCAL,
        };
        let mut civil = cache.get();
        if civil.epoch != epoch {
            let (offset, zone) = match zone {
                Zone::Utc => (0, UTC),
                Zone::Local => local_offset(epoch),
            };
            civil = Self::from_seconds(epoch, 0, offset, zone);
            cache.set(civil);
        }
        Self { nanos, ..civil }
    }

    /// What no point in time is equal to: the cache before its first use.
    const fn unset() -> Self {
        Self {
            epoch: i64::MIN,
            nanos: 0,
            year: 0,
            month: 1,
            day: 1,
            hour: 0,
            minute: 0,
            second: 0,
            weekday: 0,
            yearday: 0,
            offset: 0,
            zone: UTC,
        }
    }

    fn from_seconds(epoch: i64, nanos: u32, offset: i32, zone: [u8; Self::ZONE_BYTES]) -> Self {
        let local = epoch.saturating_add(offset.into());
        let (days, clock) = (local.div_euclid(86_400), local.rem_euclid(86_400) as u32);
        let (year, month, day) = date(days);
        let first = days_of_year_start(year);
        Self {
            epoch,
            nanos,
            year,
            month,
            day,
            hour: clock / 3600,
            minute: clock / 60 % 60,
            second: clock % 60,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4).rem_euclid(7) as u32,
            yearday: (days - first) as u32,
            offset,
            zone,
        }
    }

    /// The abbreviation of the zone, such as `UTC`.
    pub(super) fn zone(&self) -> &[u8] {
        let end = self.zone.iter().position(|b| *b == 0).unwrap_or(self.zone.len());
        &self.zone[..end]
    }

    /// The year and week of ISO 8601: weeks start on Monday, and week 1 holds the year's first Thursday.
    pub(super) fn iso_week(&self) -> (i64, u32) {
        let monday_based = (self.weekday + 6) % 7;
        let thursday = i64::from(self.yearday) - i64::from(monday_based) + 3;
        let length = |year| days_of_year_start(year + 1) - days_of_year_start(year);
        let (year, day) = if thursday < 0 {
            (self.year - 1, thursday + length(self.year - 1))
        } else if thursday >= length(self.year) {
            (self.year + 1, thursday - length(self.year))
        } else {
            (self.year, thursday)
        };
        (year, (day / 7 + 1) as u32)
    }
}

/// The date of a day counted from 1970-01-01. Years are taken to start in March, so that the leap day is the last of
/// its year; 719468 days lie between 0000-03-01 and the epoch, 146097 days are in 400 years.
pub(crate) fn date(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March to July and August to December have the same lengths in the same order: 153 days for five months.
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

/// The first of January of `year`, in days from the epoch.
fn days_of_year_start(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 477
}

/// The offset and abbreviation of the process's zone at `epoch`.
fn local_offset(epoch: i64) -> (i32, [u8; Civil::ZONE_BYTES]) {
    let mut name = [0; Civil::ZONE_BYTES];
    let time = epoch as libc::time_t;
    // SAFETY: `tm` is plain data, for which zeroes are valid; localtime_r writes it whole or returns null, and
    // `tm_zone` then points to a string that the C library keeps for the life of the process.
    let (offset, zone) = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const time, &raw mut tm).is_null() || tm.tm_zone.is_null() {
            return (0, UTC);
        }
        (tm.tm_gmtoff, std::ffi::CStr::from_ptr(tm.tm_zone).to_bytes())
    };
    let length = zone.len().min(name.len());
    name[..length].copy_from_slice(&zone[..length]);
    (i32::try_from(offset).unwrap_or(0), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: i64) -> Civil {
        Civil::from_seconds(epoch, 0, 0, [0; Civil::ZONE_BYTES])
    }

    #[test]
    fn every_day_of_eight_centuries_follows_the_one_before() {
        let mut last = at(-86_400 * 146_097 - 86_400);
        for day in -146_097..146_097 {
            let now = at(day * 86_400);
            assert_eq!(now.weekday, (last.weekday + 1) % 7);
            if now.day == 1 {
                assert!(last.day >= 28);
            } else {
                assert_eq!((now.year, now.month, now.day), (last.year, last.month, last.day + 1));
            }
            assert_eq!(now.yearday, if (now.month, now.day) == (1, 1) { 0 } else { last.yearday + 1 });
            last = now;
        }
    }

    #[test]
    fn iso_weeks_belong_to_the_year_of_their_thursday() {
        // 2027-01-01 is a Friday, 2024-12-30 a Monday, 2020-12-31 a Thursday.
        assert_eq!(at(1_798_761_600).iso_week(), (2026, 53));
        assert_eq!(at(1_735_516_800).iso_week(), (2025, 1));
        assert_eq!(at(1_609_372_800).iso_week(), (2020, 53));
    }
}
