//! `/stats` as plain text.

use super::entries::Snapshot;
use super::{Query, Types};
use crate::stats::memory::lock;
use crate::stats::{Kind, Merged, Store};
use std::fmt::Write;

/// The quantiles that Envoy prints, and how it names them.
const QUANTILES: [(f64, &str); 10] = [
    (0.0, "P0"),
    (0.25, "P25"),
    (0.5, "P50"),
    (0.75, "P75"),
    (0.9, "P90"),
    (0.95, "P95"),
    (0.99, "P99"),
    (0.995, "P99.5"),
    (0.999, "P99.9"),
    (1.0, "P100"),
];

/// Appends one line for each metric: text readouts, then counters and gauges, then histograms, each by name.
pub fn render_text(store: &Store, query: &Query, out: &mut String) {
    text_readouts(store, query, out);
    let snapshot = Snapshot::new(store);
    for entry in snapshot.entries(query, |kind| matches!(kind, Kind::Counter | Kind::Gauge)) {
        entry.parts().into_iter().for_each(|part| out.push_str(part));
        let _ = writeln!(out, ": {}", snapshot.value(&entry));
    }
    for entry in snapshot.entries(query, |kind| matches!(kind, Kind::Histogram(_))) {
        entry.parts().into_iter().for_each(|part| out.push_str(part));
        let interval = entry.histogram_slot().map(|slot| store.interval(slot)).unwrap_or_default();
        summary(&interval, &snapshot.histogram(&entry), out);
    }
}

fn text_readouts(store: &Store, query: &Query, out: &mut String) {
    if !matches!(query.types, Types::All | Types::TextReadouts) {
        return;
    }
    let mut texts = store.texts();
    texts.retain(|text| query.filter.as_ref().is_none_or(|filter| filter.is_match(&text.name)));
    texts.sort_by(|a, b| a.name.cmp(&b.name));
    for text in texts {
        let _ = writeln!(out, "{}: \"{}\"", text.name, lock(&text.value));
    }
}

fn summary(interval: &Merged, total: &Merged, out: &mut String) {
    let quantiles = QUANTILES.map(|(quantile, _)| quantile);
    let Some(total) = total.quantiles(&quantiles) else {
        out.push_str(": No recorded values\n");
        return;
    };
    let interval = interval.quantiles(&quantiles).unwrap_or_else(|| vec![f64::NAN; QUANTILES.len()]);
    let mut separator = ": ";
    for (((_, name), interval), total) in QUANTILES.into_iter().zip(interval).zip(total) {
        let _ = write!(out, "{separator}{name}(");
        let _ = if interval.is_nan() { write!(out, "nan") } else { write!(out, "{interval}") };
        let _ = write!(out, ",{total})");
        separator = " ";
    }
    out.push('\n');
}
