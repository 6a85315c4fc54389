//! The conversions of strftime in the C locale.

use super::civil::Civil;
use super::{push_offset, push_padded};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Whether `letter` is a conversion that [`write`] knows.
pub(super) fn is_known(letter: u8) -> bool {
    b"aAbBcCdDeFgGhHIjklmMpPrRStTuUVwWxXyYzZ".contains(&letter)
}

/// Appends one conversion, with a glibc flag and a least width.
pub(super) fn write(t: &Civil, letter: u8, flag: Option<u8>, width: usize, out: &mut Vec<u8>) {
    let from = out.len();
    match number(t, letter) {
        Some((n, usual, pad)) => push_number(out, n, (usual, pad), flag, width),
        None => {
            text(t, letter, out);
            let pad = if flag == Some(b'0') { b'0' } else { b' ' };
            let missing = width.saturating_sub(out.len() - from);
            out.splice(from..from, std::iter::repeat_n(pad, missing));
        }
    }
    match flag {
        Some(b'^') => out[from..].make_ascii_uppercase(),
        // `#` swaps the case: names and the zone are written in capitals or small letters, whichever is unusual.
        Some(b'#') if matches!(letter, b'Z' | b'p') => out[from..].make_ascii_lowercase(),
        Some(b'#') => out[from..].make_ascii_uppercase(),
        _ => {}
    }
}

/// The numeric conversions: value, usual width, usual padding.
fn number(t: &Civil, letter: u8) -> Option<(i64, usize, u8)> {
    let twelve = i64::from((t.hour + 11) % 12 + 1);
    Some(match letter {
        b'C' => (t.year.div_euclid(100), 2, b'0'),
        b'd' => (t.day.into(), 2, b'0'),
        b'e' => (t.day.into(), 2, b' '),
        b'g' => (t.iso_week().0.rem_euclid(100), 2, b'0'),
        b'G' => (t.iso_week().0, 1, b'0'),
        b'H' => (t.hour.into(), 2, b'0'),
        b'I' => (twelve, 2, b'0'),
        b'j' => (i64::from(t.yearday) + 1, 3, b'0'),
        b'k' => (t.hour.into(), 2, b' '),
        b'l' => (twelve, 2, b' '),
        b'm' => (t.month.into(), 2, b'0'),
        b'M' => (t.minute.into(), 2, b'0'),
        b'S' => (t.second.into(), 2, b'0'),
        b'u' => (i64::from((t.weekday + 6) % 7) + 1, 1, b'0'),
        b'U' => (i64::from((t.yearday + 7 - t.weekday) / 7), 2, b'0'),
        b'V' => (t.iso_week().1.into(), 2, b'0'),
        b'w' => (t.weekday.into(), 1, b'0'),
        b'W' => (i64::from((t.yearday + 7 - (t.weekday + 6) % 7) / 7), 2, b'0'),
        b'y' => (t.year.rem_euclid(100), 2, b'0'),
        b'Y' => (t.year, 1, b'0'),
        _ => return None,
    })
}

fn push_number(out: &mut Vec<u8>, n: i64, usual: (usize, u8), flag: Option<u8>, width: usize) {
    let pad = match flag {
        Some(b'_') => b' ',
        Some(b'0') => b'0',
        _ => usual.1,
    };
    let width = match flag {
        Some(b'-') => 0,
        _ => width.max(usual.0),
    };
    if pad == b'0' {
        return push_padded(out, n, width);
    }
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(n);
    out.extend(std::iter::repeat_n(pad, width.saturating_sub(text.len())));
    out.extend_from_slice(text.as_bytes());
}

/// The conversions that are names or made of others.
fn text(t: &Civil, letter: u8, out: &mut Vec<u8>) {
    let day = DAYS[t.weekday as usize % 7];
    let month = MONTHS[(t.month as usize + 11) % 12];
    let half = if t.hour < 12 { "AM" } else { "PM" };
    match letter {
        b'a' => out.extend_from_slice(&day.as_bytes()[..3]),
        b'A' => out.extend_from_slice(day.as_bytes()),
        b'b' | b'h' => out.extend_from_slice(&month.as_bytes()[..3]),
        b'B' => out.extend_from_slice(month.as_bytes()),
        b'c' => sequence(t, b"a b e H:M:S Y", out),
        b'D' | b'x' => sequence(t, b"m/d/y", out),
        b'F' => sequence(t, b"Y-m-d", out),
        b'p' => out.extend_from_slice(half.as_bytes()),
        b'P' => out.extend_from_slice(half.to_ascii_lowercase().as_bytes()),
        b'r' => sequence(t, b"I:M:S p", out),
        b'R' => sequence(t, b"H:M", out),
        b't' => out.push(b'\t'),
        b'T' | b'X' => sequence(t, b"H:M:S", out),
        b'z' => push_offset(t, 0, out),
        b'Z' => out.extend_from_slice(t.zone()),
        _ => {}
    }
}

/// Writes the conversions named by the letters of `form`, and what stands between them.
fn sequence(t: &Civil, form: &[u8], out: &mut Vec<u8>) {
    for &c in form {
        match c.is_ascii_alphabetic() {
            true => write(t, c, None, 0, out),
            false => out.push(c),
        }
    }
}
