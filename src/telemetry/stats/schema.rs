//! What a block of metrics contains, known at compile time, and the macro that writes it down.

/// The metrics of one kind of block; its address is the kind's identity.
#[derive(Debug)]
pub struct Schema {
    pub(super) metrics: &'static [Metric],
    pub(super) values: u32,
    pub(super) histograms: u32,
}

/// One metric of a schema.
#[derive(Debug)]
pub struct Metric {
    /// Name below the block's prefix; empty where the prefix is the whole name.
    pub name: &'static str,
    pub kind: Kind,
    /// Envoy creates some metrics only when they are first written; such a metric is not rendered before that.
    pub when_used: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram(Unit),
}

/// What a histogram's whole numbers measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Unspecified,
    Bytes,
    Microseconds,
    Milliseconds,
    /// Recorded in millionths of the whole.
    Percent,
}

impl Schema {
    pub const fn new(metrics: &'static [Metric]) -> Self {
        let (values, histograms) = count(metrics, metrics.len());
        Self { metrics, values, histograms }
    }

    /// The metrics and their positions.
    pub(super) fn metrics(&self) -> impl Iterator<Item = (&'static Metric, u32)> {
        let (mut values, mut histograms) = (0, 0);
        self.metrics.iter().map(move |metric| {
            let position = if matches!(metric.kind, Kind::Histogram(_)) { histograms } else { values };
            let slots = metric.kind.slots();
            values += slots.0;
            histograms += slots.1;
            (metric, position)
        })
    }
}

impl Kind {
    /// Words and histograms that a metric of this kind takes in a shard.
    const fn slots(self) -> (u32, u32) {
        match self {
            Kind::Counter => (1, 0),
            // A gauge that is back at zero must differ from one that was never written.
            Kind::Gauge => (2, 0),
            Kind::Histogram(_) => (0, 1),
        }
    }
}

/// First slot of a metric among those of its class: counters and gauges share one, histograms have the other.
pub const fn position(metrics: &[Metric], index: usize) -> u32 {
    let (values, histograms) = count(metrics, index);
    if matches!(metrics[index].kind, Kind::Histogram(_)) { histograms } else { values }
}

const fn count(metrics: &[Metric], end: usize) -> (u32, u32) {
    let (mut values, mut histograms, mut i) = (0, 0, 0);
    while i < end {
        let slots = metrics[i].kind.slots();
        values += slots.0;
        histograms += slots.1;
        i += 1;
    }
    (values, histograms)
}

/// Declares a block of metrics as a struct with one method for each.
///
/// A field is `name: Kind`, where the kind is `Counter`, `Gauge` or `Histogram(Unit)`. `when used` hides the metric
/// until its first write; `= "some.name"` gives a name that is no identifier.
///
/// ```
/// nuncio_telemetry::stats! {
///     /// What the router counts.
///     pub struct RouterStats {
///         rq_retry: Counter,
///         cx_open: Gauge = "circuit_breakers.default.cx_open",
///         rq_time: Histogram(Milliseconds) when used,
///     }
/// }
/// let store = nuncio_telemetry::stats::Store::new();
/// let stats = RouterStats::new(&store.scope("cluster.c"));
/// stats.rq_retry().inc();
/// assert_eq!(stats.rq_retry().value(), 1);
/// ```
#[macro_export]
macro_rules! stats {
    ($(
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$doc:meta])* $field:ident : $kind:ident $(($unit:ident))? $(when $used:ident)? $(= $stat:literal)? ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $name(::std::sync::Arc<$crate::stats::Block>);

        const _: () = {
            use $crate::stats::{Kind, Metric, Schema};

            // A metric is there to be seen, also while nothing counts it.
            #[allow(dead_code, non_camel_case_types, clippy::enum_variant_names)]
            enum Index { $($field),* }

            const METRICS: &[Metric] = &[$(Metric {
                name: $crate::stats!(@name $field $($stat)?),
                kind: Kind::$kind $(($crate::stats::Unit::$unit))?,
                when_used: $crate::stats!(@used $($used)?),
            }),*];

            static SCHEMA: Schema = Schema::new(METRICS);

            #[allow(dead_code)]
            impl $name {
                /// The block of these metrics under `scope`: the living one, if there is one.
                $vis fn new(scope: &$crate::stats::Scope) -> Self {
                    Self(scope.block(&SCHEMA))
                }

                $(
                    $(#[$doc])*
                    #[inline]
                    $vis fn $field(&self) -> $crate::stats::$kind<'_> {
                        const POSITION: u32 = $crate::stats::position(METRICS, Index::$field as usize);
                        $crate::stats::$kind::new(&self.0, POSITION)
                    }
                )*
            }
        };
    )*};
    (@name $field:ident $stat:literal) => { $stat };
    (@name $field:ident) => { stringify!($field) };
    (@used used) => { true };
    (@used) => { false };
}
