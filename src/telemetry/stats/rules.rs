//! What an operator wants of the metrics: `envoy.config.metrics.v3.StatsConfig`.

use super::tags::TagRules;
use std::fmt;

/// Whether it matches the full name of a metric.
pub type NameMatcher = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// What is told of metrics, and how. By default all of it, with Envoy's tags and buckets.
#[derive(Default)]
pub struct StatsRules {
    /// `stats_tags` and `use_all_default_tags`
    pub tags: TagRules,
    /// `stats_matcher`: which metrics there are. The others are counted, but told nowhere.
    pub included: Option<NameMatcher>,
    /// `histogram_bucket_settings`: for which histograms, and the ascending upper bounds. The first that matches counts.
    pub buckets: Vec<(NameMatcher, Vec<f64>)>,
}

/// Envoy's default upper bounds.
const BOUNDS: [f64; 19] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

impl StatsRules {
    /// The upper bounds of the buckets of a histogram.
    pub(super) fn bounds(&self, name: &str) -> &[f64] {
        self.buckets.iter().find(|(matches, _)| matches(name)).map_or(&BOUNDS, |(_, bounds)| bounds)
    }
}

impl fmt::Debug for StatsRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatsRules").field("tags", &self.tags).finish_non_exhaustive()
    }
}
