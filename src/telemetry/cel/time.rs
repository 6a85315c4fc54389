//! Timestamps and durations of expressions.

use crate::format::time::civil::date;

/// Nanoseconds of a second.
pub(super) const SECOND: i128 = 1_000_000_000;

/// Date and time of day, and nanoseconds of the second.
pub(super) fn civil(nanos: i128) -> (String, u32) {
    let seconds = i64::try_from(nanos.div_euclid(SECOND)).unwrap_or(i64::MAX);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let Date { year, month, day, .. } = Date::of(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    (text, u32::try_from(nanos.rem_euclid(SECOND)).unwrap_or_default())
}

/// What may be asked of a timestamp or duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    Month,
    /// From 1.
    Date,
    /// From 0.
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    /// From 1.
    pub(super) month: i64,
    /// From 1.
    pub(super) day: i64,
    /// From 0.
    pub(super) day_of_year: i64,
}

impl Part {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "getFullYear" => Self::FullYear,
            "getMonth" => Self::Month,
            "getDate" => Self::Date,
            "getDayOfMonth" => Self::DayOfMonth,
            "getDayOfWeek" => Self::DayOfWeek,
            "getDayOfYear" => Self::DayOfYear,
            "getHours" => Self::Hours,
            "getMinutes" => Self::Minutes,
            "getSeconds" => Self::Seconds,
            "getMilliseconds" => Self::Milliseconds,
            _ => return None,
        })
    }
}

impl Date {
    /// The day that is so many days after 1 January 1970.
    pub(super) fn of(days: i64) -> Self {
        // As far from the last of all numbers as `date` shifts it.
        let days = days.min(i64::MAX - 719_468);
        let (year, month, day) = date(days);
        let (month, day) = (i64::from(month), i64::from(day));
        let from_january = days - days_before(year, 1, 1);
        Self { year, month, day, day_of_year: from_january }
    }
}

/// Days from 1 January 1970 to this one.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// RFC 3339.
pub(super) fn parse_timestamp(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (date, rest) = text.split_once(['T', 't'])?;
    let mut date = date.splitn(3, '-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone_at);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(digits);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Envoy takes a leap second for the one that follows.
    let is_date = (1..=12).contains(&month) && day >= 1 && Date::of(days_before(year, month, day)).day == day;
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let zone = if zone.eq_ignore_ascii_case("z") { 0 } else { parse_zone(zone.as_bytes())? };
    let seconds = days_before(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - zone;
    Some(i128::from(seconds) * SECOND + fraction_of(fraction)?)
}

/// `UTC` or an offset such as `+01:30`, in seconds. Names of other zones are not known.
pub(super) fn parse_zone(zone: &[u8]) -> Option<i64> {
    let zone = std::str::from_utf8(zone).ok()?;
    if zone == "UTC" {
        return Some(0);
    }
    let (sign, rest) = match zone.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, zone.strip_prefix('+').unwrap_or(zone)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    Some(sign * (digits(hours)? * 3600 + digits(minutes)? * 60))
}

/// Numbers with units, such as `1h30m` or `-1.5s`.
pub(super) fn parse_duration(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0_i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit = match unit {
            "h" => 3600 * SECOND,
            "m" => 60 * SECOND,
            "s" => SECOND,
            "ms" => SECOND / 1000,
            "us" => SECOND / 1_000_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let whole = if whole.is_empty() { 0 } else { digits(whole)? };
        let part =
            i128::from(whole).checked_mul(unit)?.checked_add(fraction_of(fraction)?.checked_mul(unit)? / SECOND)?;
        sum = sum.checked_add(part)?;
        rest = tail;
    }
    Some(sign * sum)
}

/// The digits after a point, in billionths.
fn fraction_of(digits_after_point: &str) -> Option<i128> {
    let nine = format!("{digits_after_point:0<9}");
    digits(nine.get(..9)?).map(i128::from)
}

fn digits(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}
