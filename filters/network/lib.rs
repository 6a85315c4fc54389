//! Network filters: one file each, one row each in [`FILTERS`]. Listener filters, in `listener/`, likewise in
//! [`LISTENER_FILTERS`].
//!
//! In: encoded configuration when lowered, a connection when run. Out: the connection for the next filter, or nothing
//! where the filter served it to its end.
//! Start reading at [`FILTERS`]. The HTTP connection manager and whatever needs clusters have their rows in the crates
//! that implement them.

mod connection_limit;
mod direct_response;
mod echo;
mod ext_authz;
mod grpc_call;
mod listener;
mod local_ratelimit;
mod ratelimit;
mod rbac;
mod set_filter_state;
mod sni_cluster;

use nuncio_filter_api::{ListenerFilterRow, LowerCx, NetworkFilterRow, RuntimeKey};
use nuncio_proto::envoy::config::core::v3::RuntimeFeatureFlag;

/// The network filters of this crate.
pub static FILTERS: &[NetworkFilterRow] = &[
    connection_limit::ROW,
    direct_response::ROW,
    echo::ROW,
    ext_authz::ROW,
    local_ratelimit::ROW,
    ratelimit::ROW,
    rbac::ROW,
    set_filter_state::ROW,
    sni_cluster::ROW,
];

/// The listener filters of this crate.
pub static LISTENER_FILTERS: &[ListenerFilterRow] = &[
    listener::http_inspector::ROW,
    listener::local_ratelimit::ROW,
    listener::original_dst::ROW,
    listener::original_src::ROW,
    listener::proxy_protocol::ROW,
    listener::set_filter_state::ROW,
    listener::tls_inspector::ROW,
];

/// A boolean of the runtime.
struct RuntimeFlag {
    key: RuntimeKey,
    /// What it is where the runtime says nothing.
    default: bool,
}

// === impl RuntimeFlag ===

impl RuntimeFlag {
    fn lower(flag: Option<RuntimeFeatureFlag>, cx: &LowerCx<'_>) -> Self {
        let RuntimeFeatureFlag { default_value, runtime_key } = flag.unwrap_or_default();
        Self { key: cx.runtime(&runtime_key), default: default_value.is_none_or(|default| default.value) }
    }

    fn is_set(&self) -> bool {
        self.key.flag(self.default)
    }
}
