pub(crate) mod http_inspector;
pub(crate) mod local_ratelimit;
pub(crate) mod original_dst;
pub(crate) mod original_src;
pub(crate) mod proxy_protocol;
pub(crate) mod set_filter_state;
pub(crate) mod tls_inspector;
