//! `/stats?format=json`.

use super::entries::{Entry, Recorded, Snapshot};
use super::{Buckets, QUANTILES, Query};
use crate::stats::memory::lock;
use crate::stats::{Kind, Merged, Store};
use std::fmt::Write;

/// One array in the order of the plain text; all histograms are its last element.
pub(super) fn render(store: &Store, query: &Query, out: &mut String) {
    let snapshot = Snapshot::new(store);
    let mut name = String::new();
    let mut separator = "";
    out.push_str("{\"stats\":[");
    for text in snapshot.texts(query) {
        let _ = write!(out, "{separator}{{\"name\":");
        string(&text.name, out);
        out.push_str(",\"value\":");
        string(&lock(&text.value), out);
        out.push('}');
        separator = ",";
    }
    for entry in snapshot.entries(query, |kind| matches!(kind, Kind::Counter | Kind::Gauge)) {
        let _ = write!(out, "{separator}{{\"name\":");
        string(entry.name(&mut name), out);
        let _ = write!(out, ",\"value\":{}}}", snapshot.value(&entry));
        separator = ",";
    }
    let histograms = snapshot.entries(query, |kind| matches!(kind, Kind::Histogram(_)));
    if !histograms.is_empty() {
        let _ = write!(out, "{separator}{{\"histograms\":");
        match query.buckets {
            Buckets::Unset | Buckets::Summary => summaries(&snapshot, &histograms, out),
            Buckets::Detailed => details(&snapshot, &histograms, out),
            Buckets::Cumulative => all_counts(&snapshot, &histograms, Merged::cumulative, out),
            Buckets::Disjoint => all_counts(&snapshot, &histograms, Merged::disjoint, out),
        }
        out.push('}');
    }
    out.push_str("]}");
}

fn summaries(snapshot: &Snapshot<'_>, histograms: &[Entry<'_>], out: &mut String) {
    supported("supported_quantiles", out);
    out.push_str(",\"computed_quantiles\":[");
    each(snapshot, histograms, out, |_, recorded, out| {
        out.push_str("\"values\":");
        quantiles(recorded, out);
    });
    out.push_str("]}");
}

fn details(snapshot: &Snapshot<'_>, histograms: &[Entry<'_>], out: &mut String) {
    supported("supported_percentiles", out);
    out.push_str(",\"details\":[");
    each(snapshot, histograms, out, |_, recorded, out| {
        out.push_str("\"totals\":");
        bins(&recorded.total, out);
        out.push_str(",\"intervals\":");
        bins(&recorded.interval, out);
        out.push_str(",\"percentiles\":");
        quantiles(recorded, out);
    });
    out.push_str("]}");
}

fn all_counts(
    snapshot: &Snapshot<'_>,
    histograms: &[Entry<'_>],
    count: fn(&Merged, &[f64]) -> Vec<u64>,
    out: &mut String,
) {
    out.push('[');
    each(snapshot, histograms, out, |entry, recorded, out| {
        let bounds = snapshot.bounds(entry);
        let counts = bounds.iter().zip(count(&recorded.interval, bounds)).zip(count(&recorded.total, bounds));
        out.push_str("\"buckets\":");
        list(counts, out, |((bound, interval), total), out| {
            out.push_str("{\"upper_bound\":");
            number(*bound, out);
            let _ = write!(out, ",\"interval\":{interval},\"cumulative\":{total}}}");
        });
    });
    out.push(']');
}

/// Opens an object with the list of quantiles.
fn supported(name: &str, out: &mut String) {
    let _ = write!(out, "{{\"{name}\":");
    list(QUANTILES, out, |quantile, out| number(quantile * 1000.0 / 10.0, out));
}

/// An object for each histogram, with its name and what `write` puts in.
fn each(
    snapshot: &Snapshot<'_>,
    histograms: &[Entry<'_>],
    out: &mut String,
    write: impl Fn(&Entry<'_>, &Recorded, &mut String),
) {
    let mut name = String::new();
    let mut separator = "{\"name\":";
    for entry in histograms {
        out.push_str(separator);
        string(entry.name(&mut name), out);
        out.push(',');
        write(entry, &snapshot.histogram(entry), out);
        out.push('}');
        separator = ",{\"name\":";
    }
}

fn quantiles(recorded: &Recorded, out: &mut String) {
    let nothing = || vec![f64::NAN; QUANTILES.len()];
    let interval = recorded.interval.quantiles(&QUANTILES).unwrap_or_else(nothing);
    let total = recorded.total.quantiles(&QUANTILES).unwrap_or_else(nothing);
    list(total.into_iter().zip(interval), out, |(total, interval), out| {
        out.push_str("{\"cumulative\":");
        number(total, out);
        out.push_str(",\"interval\":");
        number(interval, out);
        out.push('}');
    });
}

fn bins(histogram: &Merged, out: &mut String) {
    list(histogram.used(), out, |bin, out| {
        out.push_str("{\"lower_bound\":");
        number(bin.lower, out);
        out.push_str(",\"width\":");
        number(bin.width, out);
        let _ = write!(out, ",\"count\":{}}}", bin.count);
    });
}

fn list<T>(items: impl IntoIterator<Item = T>, out: &mut String, mut write: impl FnMut(T, &mut String)) {
    out.push('[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(']');
}

/// A number as Envoy writes it: the shorter of plain and with an exponent; not a number is null.
fn number(value: f64, out: &mut String) {
    if value.is_nan() {
        return out.push_str("null");
    }
    let plain = format!("{value}");
    let scientific = format!("{value:e}");
    match scientific.split_once('e') {
        // The exponent is written with a sign and two digits.
        Some((digits, exponent)) if digits.len() + "e+00".len() < plain.len() && !exponent.starts_with('-') => {
            let _ = write!(out, "{digits}e+{exponent:0>2}");
        }
        _ => out.push_str(&plain),
    }
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_the_shorter_way() {
        let written = |value| {
            let mut out = String::new();
            number(value, &mut out);
            out
        };
        for (value, expected) in [
            (0.1, "0.1"),
            (60_000.0, "60000"),
            (300_000.0, "3e+05"),
            (1_800_000.0, "1800000"),
            (2.033333333333333, "2.033333333333333"),
            (f64::NAN, "null"),
        ] {
            assert_eq!(written(value), expected);
        }
    }
}
