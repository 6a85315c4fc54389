//! Network filters: one file each, one row each in [`FILTERS`]. Listener filters, in `listener/`, likewise in
//! [`LISTENER_FILTERS`].
//!
//! In: encoded configuration when lowered, a connection when run. Out: the connection for the next filter, or nothing
//! where the filter served it to its end.
//! Start reading at [`FILTERS`]. The HTTP connection manager and whatever needs clusters have their rows in the crates
//! that implement them.

mod direct_response;
mod echo;
mod listener;

use nuncio_filter_api::{ListenerFilterRow, NetworkFilterRow};

/// The network filters of this crate.
pub static FILTERS: &[NetworkFilterRow] = &[direct_response::ROW, echo::ROW];

/// The listener filters of this crate.
pub static LISTENER_FILTERS: &[ListenerFilterRow] = &[listener::original_dst::ROW];
