//! Envoy's messages, lowered to immutable, ready-to-run types.
//!
//! In: messages and a [`nuncio_filter_api::LowerCx`]. Out: typed config, or refusals by path. Pure: no sockets, tasks
//! or clock. Start reading at [`bootstrap`].

// Deprecated fields are configuration too: users still write them, and Envoy still reads them.
#![allow(deprecated)]

pub mod access_log;
pub mod address;
pub mod bootstrap;
pub mod cluster;
pub mod control_plane;
pub mod discovery;
pub mod extension;
pub mod filter_state_value;
mod fingerprint;
pub mod followed;
pub mod format;
pub mod grpc;
pub mod header_rules;
pub mod http_chain;
pub mod listener;
pub mod load;
pub mod matcher;
pub(crate) mod matching;
pub mod metadata;
pub mod protocol;
pub mod proxy_tlv;
pub mod rbac;
pub mod route;
pub mod secret;
pub mod socket;
pub mod tap;
pub mod tls;
pub mod transport_socket;
pub mod udp_route;
pub mod value;
pub mod xdstp;

pub use matching::{KeepMatching, RequestMatcher};

#[cfg(test)]
mod testing;

/// Refuses by name each of the given fields that is set, in variables of the same names. All are looked at, so that
/// the reader of the errors sees all of them at once.
#[macro_export]
macro_rules! refuse_set {
    ($cx:expr; $($field:ident),+ $(,)?) => {{
        let mut all = Ok(());
        $(all = $cx.unsupported(stringify!($field), &$field).and(all);)+
        all
    }};
}
