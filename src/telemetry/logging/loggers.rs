//! The loggers: Envoy's names, so that its command lines and admin requests work, and which of them is whose.

/// Envoy 1.40's loggers in the order in which `/logging` lists them.
pub(super) const LOGGERS: &[&str] = &[
    "a2a",
    "admin",
    "ai_protocol_manager",
    "alternate_protocols_cache",
    "aws",
    "assert",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "client",
    "config",
    "connection",
    "conn_handler",
    "compression",
    "credential_injector",
    "decompression",
    "dns",
    "dubbo",
    "envoy_bug",
    "ext_authz",
    "ext_proc",
    "rocketmq",
    "file",
    "filter",
    "forward_proxy",
    "geolocation",
    "grpc",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "http",
    "http2",
    "hystrix",
    "init",
    "io",
    "jwt",
    "json_rpc",
    "kafka",
    "key_value_store",
    "lua",
    "local_rate_limit",
    "main",
    "matcher",
    "mcp",
    "misc",
    "mongo",
    "multi_connection",
    "notification",
    "oauth2",
    "quic",
    "quic_stream",
    "pool",
    "rate_limit_quota",
    "rbac",
    "rds",
    "redis",
    "router",
    "runtime",
    "stats",
    "secret",
    "sse",
    "tap",
    "testing",
    "thrift",
    "tracing",
    "upstream",
    "udp",
    "wasm",
    "websocket",
    "golang",
    "stats_sinks",
    "dynamic_modules",
    "ip_tagging",
];

/// The logger of the modules below a path; the first that fits counts.
const MODULES: &[(&str, &str)] = &[
    ("nuncio_config", "config"),
    ("nuncio_filters_http", "filter"),
    ("nuncio_filters_network", "filter"),
    ("nuncio_http::h2", "http2"),
    ("nuncio_http", "http"),
    ("nuncio_net::listener", "conn_handler"),
    ("nuncio_net", "connection"),
    ("nuncio_proto", "config"),
    ("nuncio_telemetry::stats", "stats"),
    ("nuncio_upstream::pool", "pool"),
    ("nuncio_upstream::router", "router"),
    ("nuncio_upstream", "upstream"),
    ("nuncio::admin", "admin"),
    ("nuncio", "main"),
    ("h2", "http2"),
    ("hickory", "dns"),
    ("hyper", "http"),
    ("rustls", "connection"),
    ("tonic", "grpc"),
];

/// Index of the logger of an event's target.
pub(super) fn logger_of(target: &str) -> usize {
    let index = |name: &str| LOGGERS.iter().position(|known| *known == name);
    let below = |module: &str| target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || !named(rest));
    let module = MODULES.iter().find(|(module, _)| below(module)).map_or("misc", |(_, logger)| logger);
    index(target).or_else(|| index(module)).unwrap_or(0)
}

/// Whether `rest` goes on with the name before it, as in `h2` and `h2load`; `hickory_resolver` is below `hickory`.
fn named(rest: &str) -> bool {
    rest.starts_with(|c: char| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_belong_to_loggers() {
        for (target, logger) in [
            ("admin", "admin"),
            ("nuncio_http::h2::codec", "http2"),
            ("nuncio_http::hcm", "http"),
            ("nuncio_upstream", "upstream"),
            ("nuncio::server", "main"),
            ("hickory_resolver::name_server", "dns"),
            ("h2::proto", "http2"),
            ("h2load", "misc"),
            ("someone_else", "misc"),
            ("", "misc"),
        ] {
            assert_eq!(LOGGERS[logger_of(target)], logger, "{target}");
        }
    }

    #[test]
    fn every_module_has_a_logger_that_exists() {
        assert!(MODULES.iter().all(|(_, logger)| LOGGERS.contains(logger)));
    }
}
