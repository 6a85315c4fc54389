//! The stats store: counters, gauges, histograms and text readouts under Envoy's names.
//!
//! In: code declares its metrics with [`stats!`](crate::stats!) and asks a [`Scope`] for them when configuration is
//! lowered; from then on a metric is a number, and nothing on the data path sees a name. Out: [`render`] prints what
//! the store holds as Envoy's admin does.
//!
//! Invariants:
//! - a worker writes only its own shard, with plain loads and stores; every other thread writes the shared
//!   shard with atomic additions; a reader sums them all and never makes a writer wait;
//! - a block of metrics owns no slots until the first write to it, and gives them back when its last handle is gone;
//! - names exist only as prefix and `&'static str` until they are rendered.
//!
//! Start reading at `store.rs`, then `block.rs`.

mod block;
mod bucketed;
pub mod catalogue;
mod histogram;
mod memory;
pub mod render;
mod response_codes;
mod rules;
mod schema;
mod scope;
mod shard;
mod store;
mod tags;

pub use block::{Block, Counter, Gauge, GaugePart, Histogram};
pub use histogram::Merged;
pub use response_codes::ResponseCodes;
pub use rules::{NameMatcher, StatsRules};
pub use schema::{Kind, Metric, Schema, Unit, position};
pub use scope::{CounterHandle, GaugeHandle, HistogramHandle, Scope, TextReadout};
pub use shard::WorkerShard;
pub use store::Store;
pub use tags::{TagError, TagRules};

#[cfg(test)]
mod tests;
