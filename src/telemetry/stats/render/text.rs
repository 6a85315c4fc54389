//! `/stats` as plain text.

use super::entries::{Recorded, Snapshot};
use super::{Buckets, QUANTILES, Query};
use crate::stats::memory::lock;
use crate::stats::{Kind, Merged, Store};
use std::fmt::Write;

/// A line for each metric: text readouts, then counters and gauges, then histograms, each by name.
pub(super) fn render(store: &Store, query: &Query, out: &mut String) {
    let snapshot = Snapshot::new(store);
    for text in snapshot.texts(query) {
        let _ = writeln!(out, "{}: \"{}\"", text.name, lock(&text.value));
    }
    for entry in snapshot.entries(query, |kind| matches!(kind, Kind::Counter | Kind::Gauge)) {
        entry.parts().into_iter().for_each(|part| out.push_str(part));
        let _ = writeln!(out, ": {}", snapshot.value(&entry));
    }
    for entry in snapshot.entries(query, |kind| matches!(kind, Kind::Histogram(_))) {
        entry.parts().into_iter().for_each(|part| out.push_str(part));
        histogram(&snapshot.histogram(&entry), query.buckets, snapshot.bounds(&entry), out);
    }
}

fn histogram(recorded: &Recorded, buckets: Buckets, bounds: &[f64], out: &mut String) {
    let Recorded { interval, total } = recorded;
    if total.is_empty() {
        out.push_str(": No recorded values");
    } else {
        match buckets {
            Buckets::Unset | Buckets::Summary => quantiles(recorded, ": ", out),
            Buckets::Cumulative => counts(bounds, &interval.cumulative(bounds), &total.cumulative(bounds), out),
            Buckets::Disjoint => counts(bounds, &interval.disjoint(bounds), &total.disjoint(bounds), out),
            Buckets::Detailed => {
                out.push_str(":\n  totals=");
                bins(total, out);
                out.push_str("\n  intervals=");
                bins(interval, out);
                quantiles(recorded, "\n  summary=", out);
            }
        }
    }
    out.push('\n');
}

fn quantiles(recorded: &Recorded, mut separator: &str, out: &mut String) {
    let nothing = || vec![f64::NAN; QUANTILES.len()];
    let interval = recorded.interval.quantiles(&QUANTILES).unwrap_or_else(nothing);
    let total = recorded.total.quantiles(&QUANTILES).unwrap_or_else(nothing);
    for ((quantile, interval), total) in QUANTILES.into_iter().zip(interval).zip(total) {
        // 0.995 times 100 would be 99.5 and some more.
        let _ = write!(out, "{separator}P{}(", quantile * 1000.0 / 10.0);
        let _ = if interval.is_nan() { write!(out, "nan") } else { write!(out, "{interval}") };
        let _ = write!(out, ",{total})");
        separator = " ";
    }
}

fn counts(bounds: &[f64], interval: &[u64], total: &[u64], out: &mut String) {
    let mut separator = ": ";
    for ((bound, interval), total) in bounds.iter().zip(interval).zip(total) {
        let _ = write!(out, "{separator}B{}({interval},{total})", six_digits(*bound));
        separator = " ";
    }
}

/// As C's `%g` has it: six significant digits, and an exponent where the number is large or small.
fn six_digits(value: f64) -> String {
    let scientific = format!("{value:.5e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let Ok(exponent) = exponent.parse::<i32>() else { return scientific };
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match exponent {
        -4..6 => trimmed(&format!("{value:.*}", usize::try_from(5 - exponent).unwrap_or(0))),
        _ => format!("{}e{}{:02}", trimmed(digits), if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

fn bins(histogram: &Merged, out: &mut String) {
    let mut separator = "";
    for bin in histogram.used() {
        let _ = write!(out, "{separator}{},{}:{}", bin.lower, bin.width, bin.count);
        separator = ", ";
    }
}
