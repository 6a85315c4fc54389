//! The store as text, in the formats of Envoy's admin.

mod entries;
mod text;

pub use text::render_text;

use regex::Regex;

/// Which metrics to print.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only metrics that were ever written.
    pub used_only: bool,
    /// Only metrics whose full name this finds.
    pub filter: Option<Regex>,
    pub types: Types,
}

/// Which kinds of metrics to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Types {
    #[default]
    All,
    Counters,
    Gauges,
    Histograms,
    TextReadouts,
}
