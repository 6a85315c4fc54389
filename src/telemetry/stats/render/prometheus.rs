//! The Prometheus exposition format, with Envoy's names and labels.

use super::entries::{Entry, Recorded, Snapshot};
use super::{BOUNDS, Buckets, QUANTILES, Query};
use crate::stats::memory::lock;
use crate::stats::tags::{Prefix, Suffix};
use crate::stats::{Kind, Store};
use std::collections::HashMap;
use std::fmt::Write;

/// Counters, then gauges, text readouts where asked for, then histograms; grouped by name without tags.
pub(super) fn render(store: &Store, query: &Query, out: &mut String) {
    let snapshot = Snapshot::new(store);
    for (kind, name) in [(Kind::Counter, "counter"), (Kind::Gauge, "gauge")] {
        let entries = match kind {
            Kind::Counter => snapshot.entries(query, |kind| kind == Kind::Counter),
            _ => snapshot.entries(query, |kind| kind == Kind::Gauge),
        };
        groups(&entries, name, out, |series, entry, out| {
            series.line("", "", out);
            let _ = writeln!(out, "{}", snapshot.value(entry));
        });
    }
    if query.text_readouts {
        text_readouts(&snapshot, query, out);
    }
    let histograms = snapshot.entries(query, |kind| matches!(kind, Kind::Histogram(_)));
    if query.buckets == Buckets::Summary {
        groups(&histograms, "summary", out, |series, entry, out| summary(&snapshot.histogram(entry), series, out));
    } else {
        groups(&histograms, "histogram", out, |series, entry, out| histogram(&snapshot.histogram(entry), series, out));
    }
}

/// What is the same in all lines of one metric.
struct Series {
    name: String,
    /// Without braces.
    labels: String,
}

/// Writes each group's type and, with `write`, each of its metrics.
fn groups(entries: &[Entry<'_>], kind: &str, out: &mut String, write: impl Fn(&Series, &Entry<'_>, &mut String)) {
    // The entries come by full name, so that those of one prefix are neighbours and it is split once.
    let mut prefixes = Vec::new();
    let mut known = HashMap::new();
    let mut tagged: Vec<_> = entries
        .iter()
        .map(|entry| {
            let (prefix, name) = split(entry);
            let index = *known.entry(prefix).or_insert_with(|| {
                prefixes.push(Prefix::new(prefix));
                prefixes.len() - 1
            });
            (index, Suffix::new(name), entry)
        })
        .collect();
    tagged.sort_by(|(a, x, _), (b, y, _)| name_bytes(&prefixes[*a], x).cmp(name_bytes(&prefixes[*b], y)));

    let mut series = Series { name: String::new(), labels: String::new() };
    for (position, (index, suffix, entry)) in tagged.iter().enumerate() {
        let prefix = &prefixes[*index];
        let first = position.checked_sub(1).is_none_or(|before| {
            let (index, before, _) = &tagged[before];
            !name_bytes(&prefixes[*index], before).eq(name_bytes(prefix, suffix))
        });
        if first {
            series.rename(name_bytes(prefix, suffix));
            let _ = writeln!(out, "# TYPE {} {kind}", series.name);
        }
        series.label(suffix.tag.iter().chain(&prefix.tags));
        write(&series, entry, out);
    }
}

/// A metric's name as prefix and last part, also where the prefix is the whole name.
fn split<'a>(entry: &Entry<'a>) -> (&'a str, &'a str) {
    match entry.parts() {
        [whole, _, ""] => whole.rsplit_once('.').unwrap_or(("", whole)),
        [prefix, _, name] => (prefix, name),
    }
}

fn name_bytes<'a>(prefix: &'a Prefix<'_>, suffix: &'a Suffix<'_>) -> impl Iterator<Item = u8> + 'a {
    let dot = if prefix.name.is_empty() { "" } else { "." };
    [&*prefix.name, dot, suffix.name[0], suffix.name[1]].into_iter().flat_map(str::bytes)
}

fn histogram(recorded: &Recorded, series: &Series, out: &mut String) {
    let total = &recorded.total;
    for (bound, count) in BOUNDS.into_iter().zip(total.cumulative(&BOUNDS)) {
        series.line("_bucket", &format!("le=\"{bound}\""), out);
        let _ = writeln!(out, "{count}");
    }
    let count = total.count();
    series.line("_bucket", "le=\"+Inf\"", out);
    let _ = writeln!(out, "{count}");
    series.line("_sum", "", out);
    let _ = writeln!(out, "{}", digits(total.sum()));
    series.line("_count", "", out);
    let _ = writeln!(out, "{count}");
}

/// Envoy's summaries are those of the last interval.
fn summary(recorded: &Recorded, series: &Series, out: &mut String) {
    let interval = &recorded.interval;
    let values = interval.quantiles(&QUANTILES).unwrap_or_else(|| vec![f64::NAN; QUANTILES.len()]);
    for (quantile, value) in QUANTILES.into_iter().zip(values) {
        series.line("", &format!("quantile=\"{quantile}\""), out);
        let _ = writeln!(out, "{}", digits(value));
    }
    series.line("_sum", "", out);
    let _ = writeln!(out, "{}", digits(interval.sum()));
    series.line("_count", "", out);
    let _ = writeln!(out, "{}", interval.count());
}

/// 32 significant digits, as far as the binary number has them.
fn digits(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    let before_point = if value < 1.0 { 1 } else { value.log10() as usize + 1 };
    let written = format!("{value:.*}", 32_usize.saturating_sub(before_point));
    if written.contains('.') { written.trim_end_matches('0').trim_end_matches('.').into() } else { written }
}

/// A text is the label of a gauge that is always zero.
fn text_readouts(snapshot: &Snapshot<'_>, query: &Query, out: &mut String) {
    let texts = snapshot.texts(query);
    let mut last = String::new();
    for text in &texts {
        let (prefix, name) = text.name.rsplit_once('.').unwrap_or(("", &text.name));
        let (prefix, suffix) = (Prefix::new(prefix), Suffix::new(name));
        let mut series = Series { name: String::new(), labels: String::new() };
        series.rename(name_bytes(&prefix, &suffix));
        let value = lock(&text.value);
        series.label(suffix.tag.iter().chain(&prefix.tags).chain(&[("text_value", &**value)]));
        if series.name != last {
            let _ = writeln!(out, "# TYPE {} gauge", series.name);
            last.clone_from(&series.name);
        }
        series.line("", "", out);
        out.push_str("0\n");
    }
}

// === impl Series ===

impl Series {
    fn rename(&mut self, name: impl Iterator<Item = u8>) {
        self.name.clear();
        self.name.push_str("envoy_");
        self.name.extend(name.map(allowed));
    }

    fn label<'a>(&mut self, tags: impl Iterator<Item = &'a (&'static str, &'a str)>) {
        self.labels.clear();
        for (tag, value) in tags {
            if !self.labels.is_empty() {
                self.labels.push(',');
            }
            self.labels.extend(tag.bytes().map(allowed));
            self.labels.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.labels.push_str("\\\\"),
                    '"' => self.labels.push_str("\\\""),
                    '\n' => self.labels.push_str("\\n"),
                    other => self.labels.push(other),
                }
            }
            self.labels.push('"');
        }
    }

    /// Name and labels, up to and with the space before the value.
    fn line(&self, suffix: &str, label: &str, out: &mut String) {
        let comma = if self.labels.is_empty() || label.is_empty() { "" } else { "," };
        let _ = write!(out, "{}{suffix}{{{}{comma}{label}}} ", self.name, self.labels);
    }
}

/// A byte of a name, where Prometheus allows it.
fn allowed(byte: u8) -> char {
    if byte.is_ascii_alphanumeric() { byte.into() } else { '_' }
}
