//! Where names come from: prefixes, and the metrics that are only known by name at run time.

use super::block::{Block, Counter, Gauge, Histogram};
use super::memory::lock;
use super::schema::{Kind, Metric, Schema, Unit};
use super::store::Registry;
use std::sync::{Arc, Mutex};

/// A prefix of metric names.
///
/// Metrics asked for by name live as long as any clone of the scope they were asked of, or a handle to them.
#[derive(Clone)]
pub struct Scope {
    registry: Arc<Registry>,
    prefix: Arc<str>,
    dynamic: Arc<Mutex<Vec<Arc<Block>>>>,
}

/// A counter that was asked for by name.
#[derive(Clone, Debug)]
pub struct CounterHandle(Arc<Block>);

/// A gauge that was asked for by name.
#[derive(Clone, Debug)]
pub struct GaugeHandle(Arc<Block>);

/// A histogram that was asked for by name.
#[derive(Clone, Debug)]
pub struct HistogramHandle(Arc<Block>);

/// A short text among the metrics, such as a version.
#[derive(Clone, Debug)]
pub struct TextReadout(Arc<Text>);

#[derive(Debug)]
pub(super) struct Text {
    pub(super) name: Box<str>,
    pub(super) value: Mutex<String>,
}

const fn single(kind: Kind) -> [Metric; 1] {
    // A metric with its own block carries its whole name as the prefix.
    [Metric { name: "", kind, when_used: false }]
}

static COUNTER: Schema = Schema::new(&single(Kind::Counter));
static GAUGE: Schema = Schema::new(&single(Kind::Gauge));
static UNSPECIFIED: Schema = Schema::new(&single(Kind::Histogram(Unit::Unspecified)));
static BYTES: Schema = Schema::new(&single(Kind::Histogram(Unit::Bytes)));
static MICROSECONDS: Schema = Schema::new(&single(Kind::Histogram(Unit::Microseconds)));
static PERCENT: Schema = Schema::new(&single(Kind::Histogram(Unit::Percent)));
static MILLISECONDS: Schema = Schema::new(&single(Kind::Histogram(Unit::Milliseconds)));

// === impl Scope ===

impl Scope {
    pub(super) fn new(registry: Arc<Registry>, name: &str) -> Self {
        Self { registry, prefix: sanitised(name).into(), dynamic: Arc::default() }
    }

    /// The scope of `name` below this one.
    pub fn scope(&self, name: &str) -> Self {
        Self::new(self.registry.clone(), &self.name_of(name))
    }

    /// What all names here begin with, without the dot after it.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The counter of this name. Takes a lock: keep the handle.
    pub fn counter(&self, name: &str) -> CounterHandle {
        CounterHandle(self.dynamic(name, &COUNTER))
    }

    /// The gauge of this name. Takes a lock: keep the handle.
    pub fn gauge(&self, name: &str) -> GaugeHandle {
        GaugeHandle(self.dynamic(name, &GAUGE))
    }

    /// The histogram of this name. Takes a lock: keep the handle.
    pub fn histogram(&self, name: &str, unit: Unit) -> HistogramHandle {
        let schema = match unit {
            Unit::Unspecified => &UNSPECIFIED,
            Unit::Bytes => &BYTES,
            Unit::Microseconds => &MICROSECONDS,
            Unit::Milliseconds => &MILLISECONDS,
            Unit::Percent => &PERCENT,
        };
        HistogramHandle(self.dynamic(name, schema))
    }

    /// The text readout of this name, for as long as a handle to it lives.
    pub fn text_readout(&self, name: &str) -> TextReadout {
        TextReadout(self.registry.text(&self.name_of(name)))
    }

    #[doc(hidden)]
    pub fn block(&self, schema: &'static Schema) -> Arc<Block> {
        self.registry.block(&self.prefix, schema)
    }

    fn dynamic(&self, name: &str, schema: &'static Schema) -> Arc<Block> {
        let block = self.registry.block(&self.name_of(name).into(), schema);
        let mut dynamic = lock(&self.dynamic);
        if !dynamic.iter().any(|known| Arc::ptr_eq(known, &block)) {
            dynamic.push(block.clone());
        }
        block
    }

    fn name_of(&self, name: &str) -> String {
        let name = sanitised(name);
        if self.prefix.is_empty() { name } else { format!("{}.{name}", self.prefix) }
    }
}

/// Envoy: no dot at either end, and one underscore for `://`, `:/`, `:` or a NUL.
fn sanitised(name: &str) -> String {
    let name = name.strip_suffix('.').unwrap_or(name);
    let name = name.strip_prefix('.').unwrap_or(name);
    name.replace("://", "_").replace(":/", "_").replace([':', '\0'], "_")
}

// === impl handles ===

impl CounterHandle {
    #[inline]
    pub fn inc(&self) {
        self.counter().inc();
    }

    #[inline]
    pub fn add(&self, amount: u64) {
        self.counter().add(amount);
    }

    pub fn value(&self) -> u64 {
        self.counter().value()
    }

    #[inline]
    fn counter(&self) -> Counter<'_> {
        Counter::new(&self.0, 0)
    }
}

impl GaugeHandle {
    #[inline]
    pub fn inc(&self) {
        self.gauge().inc();
    }

    #[inline]
    pub fn dec(&self) {
        self.gauge().dec();
    }

    /// Replaces the value; see [`Gauge::set`].
    pub fn set(&self, value: u64) {
        self.gauge().set(value);
    }

    pub fn value(&self) -> u64 {
        self.gauge().value()
    }

    #[inline]
    fn gauge(&self) -> Gauge<'_> {
        Gauge::new(&self.0, 0)
    }
}

impl HistogramHandle {
    #[inline]
    pub fn record(&self, value: u64) {
        Histogram::new(&self.0, 0).record(value);
    }
}

impl TextReadout {
    pub fn set(&self, value: &str) {
        value.clone_into(&mut lock(&self.0.value));
    }
}
