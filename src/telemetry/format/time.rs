//! `%START_TIME(...)%` and its kin: strftime formats compiled at load, with Envoy's `%s`, `%f`, `%3f` and the `%E...`
//! extensions of the library that Envoy formats with.

pub(crate) mod civil;
mod fields;

use std::cell::Cell;
use std::time::SystemTime;

use super::escape::push_int;
use civil::Civil;

/// The time zone a format is printed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    Utc,
    /// That of the process (`TZ`, /etc/localtime).
    Local,
}

/// A compiled time format.
#[derive(Debug)]
pub(super) struct TimeFormat {
    zone: Zone,
    /// `None`: the default, `2026-11-21T01:18:12.533Z`, in local time with `+0100` for `Z`.
    items: Option<Box<[Item]>>,
}

#[derive(Debug, PartialEq)]
enum Item {
    Literal(Box<str>),
    /// A strftime conversion: its letter, a glibc flag (`-_0^#`) and a least width.
    Field {
        letter: u8,
        flag: Option<u8>,
        width: usize,
    },
    /// `%s`: seconds since the epoch.
    Epoch,
    /// `%f`, `%3f`, `%E3f`: so many digits of the fraction of the second.
    Fraction(usize),
    /// `%E*f`: the fraction without trailing zeros.
    FractionShortest,
    /// `%E3S`: seconds with so many digits of fraction.
    Seconds(usize),
    /// `%E*S`: seconds and the fraction without trailing zeros.
    SecondsShortest,
    /// `%Ez`, `%:z` (1) and so on: the offset with colons.
    Offset {
        colons: usize,
    },
}

/// Digits of `%f` without a number: nanoseconds.
const NANO_DIGITS: usize = 9;

/// Bound of a field's width, as nobody needs more and a log line must not be made long by it.
const MAX_WIDTH: usize = 64;

impl TimeFormat {
    /// Compiles `format`; an empty one is the default. A conversion that prints a newline is refused, because the
    /// result may go into a header.
    pub(super) fn parse(format: &str, zone: Zone) -> Result<Self, String> {
        if format.is_empty() {
            return Ok(Self { zone, items: None });
        }
        let mut items = Vec::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            literal(&mut items, &rest[..at]);
            rest = &rest[at..];
            let taken = match item(rest)? {
                Some((item, length)) => {
                    items.push(item);
                    length
                }
                None if rest.starts_with("%%") => {
                    literal(&mut items, "%");
                    2
                }
                // An unknown conversion prints as it is written.
                None => {
                    literal(&mut items, "%");
                    1
                }
            };
            rest = &rest[taken..];
        }
        literal(&mut items, rest);
        Ok(Self { zone, items: Some(items.into()) })
    }

    /// Appends `time` to `out`.
    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let (epoch, nanos) = Civil::split(time);
        match &self.items {
            None => write_default(epoch, nanos, self.zone, out),
            Some(items) => {
                let t = Civil::new(epoch, nanos, self.zone);
                items.iter().for_each(|item| item.write(&t, out));
            }
        }
    }
}

fn literal(items: &mut Vec<Item>, text: &str) {
    if text.is_empty() {
        return;
    }
    match items.last_mut() {
        Some(Item::Literal(last)) => *last = format!("{last}{text}").into(),
        _ => items.push(Item::Literal(text.into())),
    }
}

/// Reads one conversion at the `%` that `text` starts with; `None` if there is no conversion of that form.
fn item(text: &str) -> Result<Option<(Item, usize)>, String> {
    let bytes = &text.as_bytes()[1..];
    if let Some(found) = extension(bytes) {
        return Ok(Some((found.0, found.1 + 1)));
    }
    let flags = bytes.iter().take_while(|b| b"-_0^#".contains(b)).count();
    let digits = bytes[flags..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = flags + digits;
    // The locale modifiers change nothing in the C locale.
    if matches!(bytes.get(end), Some(b'E' | b'O')) {
        end += 1;
    }
    let Some(&letter) = bytes.get(end) else { return Ok(None) };
    let width = text[1 + flags..1 + flags + digits].parse().unwrap_or(0);
    match letter {
        b'n' => Err("a conversion that prints a newline is not allowed".to_owned()),
        b'f' if flags == 0 && end == digits && digits == 0 => Ok(Some((Item::Fraction(NANO_DIGITS), 2))),
        b'f' if flags == 0 && digits == 1 && (1..=9).contains(&width) => Ok(Some((Item::Fraction(width), 3))),
        b's' => Ok(Some((Item::Epoch, end + 2))),
        _ if fields::is_known(letter) => {
            let flag = bytes[..flags].last().copied();
            Ok(Some((Item::Field { letter, flag, width: width.min(MAX_WIDTH) }, end + 2)))
        }
        _ => Ok(None),
    }
}

/// Reads `Ez`, `E*S`, `E3f`, `E4Y`, `:z` and so on; gives the item and its length.
fn extension(bytes: &[u8]) -> Option<(Item, usize)> {
    let colons = bytes.iter().take_while(|b| **b == b':').count();
    if (1..=3).contains(&colons) && bytes.get(colons) == Some(&b'z') {
        return Some((Item::Offset { colons }, colons + 1));
    }
    match bytes {
        [b'E', b'T', ..] => Some((Item::Literal("T".into()), 2)),
        [b'E', b'z', ..] => Some((Item::Offset { colons: 1 }, 2)),
        [b'E', b'*', b'z', ..] => Some((Item::Offset { colons: 2 }, 3)),
        [b'E', b'*', b'S', ..] => Some((Item::SecondsShortest, 3)),
        [b'E', b'*', b'f', ..] => Some((Item::FractionShortest, 3)),
        [b'E', b'4', b'Y', ..] => Some((Item::Field { letter: b'Y', flag: Some(b'0'), width: 4 }, 3)),
        [b'E', rest @ ..] => {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let count = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok().filter(|n: &usize| *n <= 15)?;
            match rest.get(digits)? {
                b'S' => Some((Item::Seconds(count), digits + 2)),
                b'f' => Some((Item::Fraction(count), digits + 2)),
                _ => None,
            }
        }
        _ => None,
    }
}

impl Item {
    fn write(&self, t: &Civil, out: &mut Vec<u8>) {
        match self {
            Self::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Self::Field { letter, flag, width } => fields::write(t, *letter, *flag, *width, out),
            Self::Epoch => push_int(out, t.epoch),
            Self::Fraction(digits) => push_fraction(t, *digits, out),
            Self::FractionShortest => {
                let from = out.len();
                push_fraction(t, NANO_DIGITS, out);
                trim_zeros(out, from + 1);
            }
            Self::Seconds(digits) => {
                push_padded(out, t.second.into(), 2);
                if *digits > 0 {
                    out.push(b'.');
                    push_fraction(t, *digits, out);
                }
            }
            Self::SecondsShortest => {
                push_padded(out, t.second.into(), 2);
                if t.nanos > 0 {
                    out.push(b'.');
                    let from = out.len();
                    push_fraction(t, NANO_DIGITS, out);
                    trim_zeros(out, from);
                }
            }
            Self::Offset { colons } => push_offset(t, *colons, out),
        }
    }
}

thread_local! {
    /// The last second written in the default form, in UTC: nearly every line of an access log has it, and a worker
    /// prints the same second for thousands of requests. A cache of a pure function, hence no hidden state; of each
    /// thread, because compiled formats are shared by all.
    static LAST: Cell<(i64, [u8; 19])> = const { Cell::new((i64::MIN, [0; 19])) };
}

/// `2026-11-21T01:18:12.533Z`, in local time with `+0100` for `Z`.
fn write_default(epoch: i64, nanos: u32, zone: Zone, out: &mut Vec<u8>) {
    let millis = nanos / 1_000_000;
    let digit = |n: u32| b'0' + (n % 10) as u8;
    let fraction = [b'.', digit(millis / 100), digit(millis / 10), digit(millis)];
    if zone == Zone::Local {
        let t = Civil::new(epoch, nanos, zone);
        out.extend_from_slice(&to_the_second(&t));
        out.extend_from_slice(&fraction);
        return push_offset(&t, 0, out);
    }
    let (last, mut text) = LAST.get();
    if last != epoch {
        text = to_the_second(&Civil::new(epoch, nanos, zone));
        LAST.set((epoch, text));
    }
    out.extend_from_slice(&text);
    out.extend_from_slice(&fraction);
    out.push(b'Z');
}

/// `2026-11-21 01:18:12.533` in local time: the application log's.
pub(crate) fn log_time(time: SystemTime, out: &mut Vec<u8>) {
    let (epoch, nanos) = Civil::split(time);
    let t = Civil::new(epoch, nanos, Zone::Local);
    let mut text = to_the_second(&t);
    text[10] = b' ';
    out.extend_from_slice(&text);
    out.push(b'.');
    push_fraction(&t, 3, out);
}

/// `2026-11-21T01:18:12`; years beyond 9999 are not written out.
fn to_the_second(t: &Civil) -> [u8; 19] {
    let year = u32::try_from(t.year).unwrap_or(0).min(9999);
    let pair = |n: u32| [b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
    let ([y0, y1], [y2, y3]) = (pair(year / 100), pair(year % 100));
    let ([o0, o1], [d0, d1]) = (pair(t.month), pair(t.day));
    let ([h0, h1], [m0, m1], [s0, s1]) = (pair(t.hour), pair(t.minute), pair(t.second));
    [y0, y1, y2, y3, b'-', o0, o1, b'-', d0, d1, b'T', h0, h1, b':', m0, m1, b':', s0, s1]
}

fn push_padded(out: &mut Vec<u8>, n: i64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(n);
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(text.len())));
    out.extend_from_slice(text.as_bytes());
}

fn push_fraction(t: &Civil, digits: usize, out: &mut Vec<u8>) {
    let from = out.len();
    push_padded(out, t.nanos.into(), NANO_DIGITS);
    out.resize(from + digits, b'0');
}

fn trim_zeros(out: &mut Vec<u8>, keep: usize) {
    while out.len() > keep && out.last() == Some(&b'0') {
        out.pop();
    }
}

fn push_offset(t: &Civil, colons: usize, out: &mut Vec<u8>) {
    out.push(if t.offset < 0 { b'-' } else { b'+' });
    let size = t.offset.unsigned_abs();
    let (hours, minutes, seconds) = (size / 3600, size / 60 % 60, size % 60);
    push_padded(out, hours.into(), 2);
    if colons == 3 && minutes == 0 && seconds == 0 {
        return;
    }
    if colons > 0 {
        out.push(b':');
    }
    push_padded(out, minutes.into(), 2);
    if colons == 2 || (colons == 3 && seconds > 0) {
        out.push(b':');
        push_padded(out, seconds.into(), 2);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn check(format: &str, expected: &str) {
        // 2026-11-21T01:18:12.533495Z, a Saturday.
        let time = UNIX_EPOCH + Duration::new(1_795_223_892, 533_495_000);
        let mut out = Vec::new();
        TimeFormat::parse(format, Zone::Utc).unwrap().write(time, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
    }

    // The expectations of this module were printed by Envoy 1.40, but for `%%f`, of which it makes the fraction.

    #[test]
    fn default_is_iso_8601_with_milliseconds() {
        check("", "2026-11-21T01:18:12.533Z");
    }

    #[test]
    fn every_strftime_conversion_prints_as_in_the_c_locale() {
        check(
            "%a_%A_%b_%B_%c_%C_%d_%D_%e_%F_%g_%G_%h_%H_%I_%j_%k_%l_%m_%M_%p_%r_%R_%S_%T_%u_%U_%V_%w_%W_%x_%X_%y_%Y_%z_%Z_%%",
            "Sat_Saturday_Nov_November_Sat Nov 21 01:18:12 2026_20_21_11/21/26_21_2026-11-21_26_2026_Nov_01_01_325_ 1_ 1_11_18_AM_01:18:12 AM_01:18_12_01:18:12_6_46_47_6_46_11/21/26_01:18:12_26_2026_+0000_UTC_%",
        );
    }

    #[test]
    fn fractions_have_as_many_digits_as_asked() {
        check("%s.%6f.%9f.%f.%1f.%2f", "1795223892.533495.533495000.533495000.5.53");
        check("%f%%f%%%f_%%3f", "533495000%f%533495000_%3f");
        check("%E3S_%E*S_%E3f_%E*f_%E9S_%E0S_%E15f", "12.533_12.533495_533_533495_12.533495000_12_533495000000000");
    }

    #[test]
    fn extensions_and_unknown_conversions_print_as_in_envoy() {
        check(
            "%E4Y_%Ez_%ET_%Ey_%Od_%:z_%::z_%P_%N_%t_%+_%Q_%i",
            "2026_+00:00_T_26_21_+00:00_+00:00:00_am_%N_\t_%+_%Q_%i",
        );
        check("%5Y_%-d_%_d_%^a_%#Z_%03f_%4s_%Ef", "02026_21_21_SAT_utc_%03f_1795223892_%Ef");
        check("a)b", "a)b");
    }

    #[test]
    fn newlines_are_refused() {
        for format in ["%n", "%9n", "%En", "a%-_0^#nb", "%3On"] {
            assert!(TimeFormat::parse(format, Zone::Utc).is_err(), "{format}");
        }
        assert!(TimeFormat::parse("%%n", Zone::Utc).is_ok());
    }

    #[test]
    fn times_before_the_epoch_and_far_after_it_are_printed() {
        for (time, expected) in [
            (UNIX_EPOCH - Duration::from_millis(1), "1969-12-31T23:59:59.999Z"),
            (UNIX_EPOCH + Duration::from_secs(951_782_400), "2000-02-29T00:00:00.000Z"),
            (UNIX_EPOCH + Duration::from_secs(4_102_444_799), "2099-12-31T23:59:59.000Z"),
        ] {
            let mut out = Vec::new();
            TimeFormat::parse("", Zone::Utc).unwrap().write(time, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
