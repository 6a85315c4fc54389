//! Network filters: one file each, one row each in [`FILTERS`].
//!
//! In: encoded configuration when lowered, a connection when run. Out: the connection for the next filter, or nothing
//! where the filter served it to its end.
//! Start reading at [`FILTERS`]. The HTTP connection manager and whatever needs clusters have their rows in the crates
//! that implement them.

mod direct_response;
mod echo;

use nuncio_filter_api::NetworkFilterRow;

/// The network filters of this crate.
pub static FILTERS: &[NetworkFilterRow] = &[direct_response::ROW, echo::ROW];
