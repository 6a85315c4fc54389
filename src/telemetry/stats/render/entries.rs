//! The metrics that a query selects, in the order of their names.

use super::Query;
use super::query::{Format, Types};
use crate::stats::block::{Block, Counter, Gauge, Histogram};
use crate::stats::memory::Shards;
use crate::stats::schema::{Kind, Metric, Schema, Unit};
use crate::stats::scope::Text;
use crate::stats::{Merged, Store};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;

/// Blocks and shards held while a rendering lasts.
pub(super) struct Snapshot<'a> {
    store: &'a Store,
    blocks: Vec<Arc<Block>>,
    shards: Shards,
}

/// What a histogram holds.
pub(super) struct Recorded {
    /// Of the last whole interval.
    pub(super) interval: Merged,
    /// Since the start.
    pub(super) total: Merged,
}

/// One metric of a snapshot.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) block: &'a Block,
    pub(super) metric: &'static Metric,
    position: u32,
}

// === impl Snapshot ===

impl<'s> Snapshot<'s> {
    pub(super) fn new(store: &'s Store) -> Self {
        let mut blocks = store.blocks();
        blocks.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix));
        Self { store, blocks, shards: store.shards() }
    }

    /// The selected metrics for which `kinds` holds, by name.
    pub(super) fn entries(&self, query: &Query, kinds: fn(Kind) -> bool) -> Vec<Entry<'_>> {
        let mut name = String::new();
        // Blocks by prefix and metrics by name give long sorted runs, which the sort below only has to merge.
        let mut schemas = HashMap::new();
        for block in &self.blocks {
            schemas.entry(ptr::from_ref(block.schema)).or_insert_with(|| by_name(block.schema));
        }
        let mut entries: Vec<_> = self
            .blocks
            .iter()
            .flat_map(|block| {
                let metrics = &schemas[&ptr::from_ref(block.schema)];
                metrics.iter().map(move |(metric, position)| Entry { block, metric, position: *position })
            })
            .filter(|entry| kinds(entry.metric.kind))
            .filter(|entry| query.format == Format::Prometheus || query.types.include(entry.metric.kind))
            .filter(|entry| !(query.used_only || entry.metric.when_used) || entry.used(&self.shards))
            .filter(|entry| self.selects(query, || entry.name(&mut name)))
            .collect();
        entries.sort_by(Entry::by_name);
        entries
    }

    /// Whether a metric is there, and asked for.
    fn selects<'n>(&self, query: &Query, name: impl FnOnce() -> &'n str) -> bool {
        let included = &self.store.rules().included;
        if included.is_none() && query.selects_all() {
            return true;
        }
        let name = name();
        included.as_ref().is_none_or(|included| included(name)) && query.selects(name)
    }

    pub(super) fn value(&self, entry: &Entry<'_>) -> u64 {
        entry.value(&self.shards).unwrap_or(0)
    }

    pub(super) fn histogram(&self, entry: &Entry<'_>) -> Recorded {
        let slot = entry.histogram_slot();
        let interval = slot.map(|slot| self.store.interval(slot)).unwrap_or_default();
        let total = Histogram::new(entry.block, entry.position).read(&self.shards);
        match entry.metric.kind {
            Kind::Histogram(Unit::Percent) => {
                Recorded { interval: interval.in_millionths(), total: total.in_millionths() }
            }
            _ => Recorded { interval, total },
        }
    }

    /// The upper bounds of the buckets of a histogram.
    pub(super) fn bounds(&self, entry: &Entry<'_>) -> &[f64] {
        self.store.rules().bounds(entry.name(&mut String::new()))
    }

    /// The selected text readouts, by name.
    pub(super) fn texts(&self, query: &Query) -> Vec<Arc<Text>> {
        if !matches!(query.types, Types::All | Types::TextReadouts) && query.format != Format::Prometheus {
            return Vec::new();
        }
        let mut texts = self.store.texts();
        texts.retain(|text| self.selects(query, || &text.name));
        texts.sort_by(|a, b| a.name.cmp(&b.name));
        texts
    }
}

fn by_name(schema: &Schema) -> Vec<(&'static Metric, u32)> {
    let mut metrics: Vec<_> = schema.metrics().collect();
    metrics.sort_unstable_by_key(|(metric, _)| metric.name);
    metrics
}

// === impl Entry ===

impl<'a> Entry<'a> {
    /// The full name, written into `buffer`.
    pub(super) fn name<'b>(&self, buffer: &'b mut String) -> &'b str {
        buffer.clear();
        self.parts().into_iter().for_each(|part| buffer.push_str(part));
        buffer
    }

    /// The full name in pieces.
    pub(super) fn parts(&self) -> [&'a str; 3] {
        let dot = if self.block.prefix.is_empty() || self.metric.name.is_empty() { "" } else { "." };
        [&self.block.prefix, dot, self.metric.name]
    }

    /// The slot of a histogram, if it has one.
    fn histogram_slot(&self) -> Option<u32> {
        self.block.histogram_slots().nth(self.position as usize)
    }

    fn by_name(a: &Self, b: &Self) -> Ordering {
        // Mostly the prefixes alone decide.
        let both = a.block.prefix.len().min(b.block.prefix.len());
        let prefixes = a.block.prefix.as_bytes()[..both].cmp(&b.block.prefix.as_bytes()[..both]);
        if prefixes.is_ne() {
            return prefixes;
        }
        if ptr::eq(a.block, b.block) {
            return a.metric.name.cmp(b.metric.name);
        }
        let bytes = |entry: &Self| entry.parts().into_iter().flat_map(str::bytes);
        bytes(a).cmp(bytes(b))
    }

    fn value(&self, shards: &Shards) -> Option<u64> {
        match self.metric.kind {
            Kind::Counter => Counter::new(self.block, self.position).read(shards),
            Kind::Gauge => Gauge::new(self.block, self.position).read(shards),
            Kind::Histogram(_) => None,
        }
    }

    fn used(&self, shards: &Shards) -> bool {
        match self.metric.kind {
            Kind::Counter | Kind::Gauge => self.value(shards).is_some(),
            Kind::Histogram(_) => self.histogram_slot().is_some_and(|slot| shards.bins(slot).any(|b| b.count() != 0)),
        }
    }
}
