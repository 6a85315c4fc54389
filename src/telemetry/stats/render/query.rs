//! What the admin's parameters ask for.

use crate::stats::Kind;
use regex::Regex;
use thiserror::Error;

/// Which metrics to print, and how.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub format: Format,
    /// Only metrics that were ever written.
    pub used_only: bool,
    /// Only metrics whose full name this finds.
    pub filter: Option<Regex>,
    /// Which kinds to print; Prometheus gets all.
    pub types: Types,
    pub buckets: Buckets,
    /// Text readouts for Prometheus too.
    pub text_readouts: bool,
    /// Only hidden metrics, of which there are none.
    pub hidden_only: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
    Prometheus,
    /// The text on a page, with a form for the parameters.
    Html,
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

/// What to print of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Buckets {
    /// Quantiles in text and JSON, cumulative buckets for Prometheus.
    #[default]
    Unset,
    /// Quantiles.
    Summary,
    Cumulative,
    Disjoint,
    /// The bins themselves, and quantiles.
    Detailed,
}

/// A parameter that asks for nothing we know; what it says is the body of a 400.
#[derive(Debug, Error)]
pub enum QueryError {
    #[error("usage: /stats?format=(html|json|prometheus|text)\n\n")]
    Format,
    #[error("invalid &type= param")]
    Type,
    #[error("usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary)\n")]
    Buckets,
    #[error("usage: /stats?hidden=(include|only|exclude)\n\n")]
    Hidden,
    #[error("unsupported prometheus histogram bucket mode")]
    PrometheusBuckets,
    #[error("Invalid regex: {0}")]
    Filter(#[from] regex::Error),
}

// === impl Query ===

impl Query {
    /// Reads the parameters of a request for `/stats`, already percent-decoded; those unknown are left alone, as Envoy
    /// does.
    pub fn parse<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, QueryError> {
        let mut query = Self::default();
        for (key, value) in parameters {
            match key {
                "format" => query.format = Format::parse(value)?,
                "usedonly" => query.used_only = true,
                "filter" => query.filter = Some(Regex::new(value)?),
                "type" => query.types = Types::parse(value)?,
                "histogram_buckets" => query.buckets = Buckets::parse(value)?,
                "text_readouts" => query.text_readouts = true,
                "hidden" => query.hidden_only = hidden_only(value)?,
                _ => {}
            }
        }
        if query.format == Format::Prometheus && matches!(query.buckets, Buckets::Disjoint | Buckets::Detailed) {
            return Err(QueryError::PrometheusBuckets);
        }
        Ok(query)
    }

    /// Whether names do not matter.
    pub(super) fn selects_all(&self) -> bool {
        !self.hidden_only && self.filter.is_none()
    }

    pub(super) fn selects(&self, name: &str) -> bool {
        !self.hidden_only && self.filter.as_ref().is_none_or(|filter| filter.is_match(name))
    }
}

fn hidden_only(value: &str) -> Result<bool, QueryError> {
    match value {
        "include" | "exclude" => Ok(false),
        "only" => Ok(true),
        _ => Err(QueryError::Hidden),
    }
}

// === impl Format ===

impl Format {
    fn parse(value: &str) -> Result<Self, QueryError> {
        match value {
            "" | "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            "prometheus" => Ok(Format::Prometheus),
            "html" => Ok(Format::Html),
            _ => Err(QueryError::Format),
        }
    }
}

// === impl Types ===

impl Types {
    fn parse(value: &str) -> Result<Self, QueryError> {
        match value {
            "" | "All" => Ok(Types::All),
            "Counters" => Ok(Types::Counters),
            "Gauges" => Ok(Types::Gauges),
            "Histograms" => Ok(Types::Histograms),
            "TextReadouts" => Ok(Types::TextReadouts),
            _ => Err(QueryError::Type),
        }
    }

    pub(super) fn include(self, kind: Kind) -> bool {
        match self {
            Types::All => true,
            Types::Counters => kind == Kind::Counter,
            Types::Gauges => kind == Kind::Gauge,
            Types::Histograms => matches!(kind, Kind::Histogram(_)),
            Types::TextReadouts => false,
        }
    }
}

// === impl Buckets ===

impl Buckets {
    fn parse(value: &str) -> Result<Self, QueryError> {
        match value {
            "" => Ok(Buckets::Unset),
            "none" | "summary" => Ok(Buckets::Summary),
            "cumulative" => Ok(Buckets::Cumulative),
            "disjoint" => Ok(Buckets::Disjoint),
            "detailed" => Ok(Buckets::Detailed),
            _ => Err(QueryError::Buckets),
        }
    }
}
