//! HTTP filters: a file for each, and a row in [`TABLE`].
//!
//! In: a filter's configuration message; requests and responses. Out: verdicts. A filter sees nothing but the filter
//! API. Start reading at [`TABLE`].

// Deprecated fields are configuration too.
#![allow(deprecated)]

use nuncio_filter_api::{HttpFilterRow, LowerCx, Refused};

mod buffer;
mod cors;
mod header_mutation;
mod noop;
mod on_demand;
mod set_filter_state;
mod upstream_codec;

#[cfg(test)]
mod tests;

/// The HTTP filters of this crate. The router's row is in the upstream crate, next to what it routes to.
pub static TABLE: &[HttpFilterRow] =
    &[buffer::ROW, cors::ROW, header_mutation::ROW, on_demand::ROW, set_filter_state::ROW, upstream_codec::ROW];

/// Decodes a filter's configuration message.
fn decode<T: prost::Message + Default>(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<T, Refused> {
    T::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))
}
