//! Envoy's messages, lowered to immutable, ready-to-run types.
//!
//! In: messages and a [`nuncio_filter_api::LowerCx`]. Out: typed config, or refusals by path. Pure: no sockets, tasks
//! or clock.

// Deprecated fields are configuration too: users still write them, and Envoy still reads them.
#![allow(deprecated)]

pub mod cluster;
pub mod header_rules;
pub mod load;
pub mod matcher;
mod metadata;
pub mod protocol;
pub mod route;
pub mod socket;
mod value;

#[cfg(test)]
mod testing;
