//! The Prometheus exposition format, with Envoy's names and labels.

use super::entries::{Entry, Recorded, Snapshot};
use super::{Buckets, QUANTILES, Query};
use crate::stats::memory::lock;
use crate::stats::tags::{AllFound, Prefix, Suffix, TagRules, split};
use crate::stats::{Kind, Store};
use std::collections::HashMap;
use std::fmt::Write;

/// Counters, then gauges, text readouts where asked for, then histograms; grouped by name without tags.
pub(super) fn render(store: &Store, query: &Query, out: &mut String) {
    let snapshot = Snapshot::new(store);
    let tags = &store.rules().tags;
    for (kind, name) in [(Kind::Counter, "counter"), (Kind::Gauge, "gauge")] {
        let entries = match kind {
            Kind::Counter => snapshot.entries(query, |kind| kind == Kind::Counter),
            _ => snapshot.entries(query, |kind| kind == Kind::Gauge),
        };
        groups(&entries, tags, name, out, |series, entry, out| {
            series.line("", "", out);
            let _ = writeln!(out, "{}", snapshot.value(entry));
        });
    }
    if query.text_readouts {
        text_readouts(&snapshot, query, tags, out);
    }
    let histograms = snapshot.entries(query, |kind| matches!(kind, Kind::Histogram(_)));
    if query.buckets == Buckets::Summary {
        groups(&histograms, tags, "summary", out, |series, entry, out| {
            summary(&snapshot.histogram(entry), series, out);
        });
    } else {
        groups(&histograms, tags, "histogram", out, |series, entry, out| {
            histogram(&snapshot.histogram(entry), snapshot.bounds(entry), series, out);
        });
    }
}

/// What is the same in all lines of one metric.
struct Series {
    name: String,
    /// Without braces.
    labels: String,
}

/// Metrics of one name without tags.
struct Group<'a> {
    name: String,
    series: Vec<Tagged<'a>>,
}

struct Tagged<'a> {
    entry: &'a Entry<'a>,
    /// Position of its prefix among all.
    prefix: usize,
    suffix: Suffix<'a>,
    found: AllFound<'a>,
}

/// Writes each group's type and, with `write`, each of its metrics.
fn groups(
    entries: &[Entry<'_>],
    rules: &TagRules,
    kind: &str,
    out: &mut String,
    write: impl Fn(&Series, &Entry<'_>, &mut String),
) {
    let (prefixes, tagged) = tag(entries, rules);
    let mut series = Series { name: String::new(), labels: String::new() };
    let mut name = String::new();
    for group in grouped(&prefixes, tagged) {
        series.rename(&group.name);
        let _ = writeln!(out, "# TYPE {} {kind}", series.name);
        for Tagged { entry, prefix, suffix, found } in &group.series {
            series.label(rules.tags(entry.name(&mut name), &prefixes[*prefix], suffix, found));
            write(&series, entry, out);
        }
    }
}

/// Finds the tags, the default ones once for each prefix.
fn tag<'a>(entries: &'a [Entry<'a>], rules: &'a TagRules) -> (Vec<Prefix<'a>>, Vec<Tagged<'a>>) {
    let mut prefixes = Vec::new();
    let mut known = HashMap::new();
    let mut buffer = String::new();
    let tagged = entries.iter().map(|entry| {
        let (prefix_text, name) = match entry.parts() {
            [whole, _, ""] => split(whole),
            [prefix, _, name] => (prefix, name),
        };
        let prefix = *known.entry(prefix_text).or_insert_with(|| {
            prefixes.push(Prefix::new(prefix_text, rules));
            prefixes.len() - 1
        });
        let suffix = Suffix::new(prefix_text, name, rules);
        let found = rules.find(entry.name(&mut buffer), &prefixes[prefix], &suffix);
        Tagged { entry, prefix, suffix, found }
    });
    let tagged = tagged.collect();
    (prefixes, tagged)
}

/// Groups by name; in each the order of the full names stays.
fn grouped<'a>(prefixes: &[Prefix<'a>], tagged: Vec<Tagged<'a>>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut by_name = HashMap::new();
    // Thousands of metrics differ in nothing but tags: their name is put together once.
    let mut by_parts = HashMap::new();
    let mut buffer = String::new();
    for metric in tagged {
        let Tagged { entry, prefix, suffix, found } = &metric;
        let prefix = &prefixes[*prefix];
        let mut group_of = || {
            let name = prefix.name(entry.name(&mut buffer), suffix, found);
            *by_name.entry(name).or_insert_with_key(|name| {
                groups.push(Group { name: name.clone(), series: Vec::new() });
                groups.len() - 1
            })
        };
        let group = match found {
            None => *by_parts.entry((&*prefix.name, suffix.name)).or_insert_with(group_of),
            Some(_) => group_of(),
        };
        groups[group].series.push(metric);
    }
    groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    groups
}

fn histogram(recorded: &Recorded, bounds: &[f64], series: &Series, out: &mut String) {
    let total = &recorded.total;
    for (bound, count) in bounds.iter().zip(total.cumulative(bounds)) {
        series.line("_bucket", &format!("le=\"{}\"", digits(*bound)), out);
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
    let before_point = if value == 0.0 { 1 } else { value.log10().floor() as i32 + 1 };
    let written = format!("{value:.*}", usize::try_from(32 - before_point).unwrap_or(0));
    if written.contains('.') { written.trim_end_matches('0').trim_end_matches('.').into() } else { written }
}

/// A text is the label of a gauge that is always zero.
fn text_readouts(snapshot: &Snapshot<'_>, query: &Query, rules: &TagRules, out: &mut String) {
    let texts = snapshot.texts(query);
    let mut last = String::new();
    for text in &texts {
        let (prefix_text, name) = split(&text.name);
        let (prefix, suffix) = (Prefix::new(prefix_text, rules), Suffix::new(prefix_text, name, rules));
        let found = rules.find(&text.name, &prefix, &suffix);
        let mut series = Series { name: String::new(), labels: String::new() };
        series.rename(&prefix.name(&text.name, &suffix, &found));
        let value = lock(&text.value);
        let tags = rules.tags(&text.name, &prefix, &suffix, &found);
        series.label(tags.into_iter().chain([("text_value", &**value)]));
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
    fn rename(&mut self, name: &str) {
        self.name.clear();
        self.name.push_str("envoy_");
        self.name.extend(name.bytes().map(allowed));
    }

    fn label<'a>(&mut self, tags: impl IntoIterator<Item = (&'a str, &'a str)>) {
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
