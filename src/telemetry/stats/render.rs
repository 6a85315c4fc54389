//! The store as text, in the formats of Envoy's admin.

mod entries;
mod html;
mod json;
mod prometheus;
mod query;
mod text;

pub use html::escape_html;
pub use query::{Buckets, Format, Query, QueryError, Types};

use super::Store;

/// Appends the metrics that `query` selects, in its format.
pub fn render(store: &Store, query: &Query, out: &mut String) {
    match query.format {
        Format::Text => text::render(store, query, out),
        Format::Json => json::render(store, query, out),
        Format::Prometheus => prometheus::render(store, query, out),
        Format::Html => html::render(store, query, out),
    }
}

/// The quantiles that Envoy prints.
const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

#[cfg(test)]
mod tests;
