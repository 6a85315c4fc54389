//! The one integration binary: every end-to-end test of nuncio, and the tests that hold the shape of the repository.
//!
//! `support` has the builders (`proxy(yaml)`, scripted upstreams, clients), `parity` runs the same requests against
//! nuncio and the real Envoy, the other modules are named by their subject.

mod admin;
mod bad_hosts;
mod bad_routes;
mod balance;
mod chaos;
mod dns;
mod drain;
mod ecds;
mod explain;
mod faults;
mod h2spec;
mod half_closed;
mod haproxy;
mod health;
mod health_discovery;
mod hostile_hosts;
mod http2_hostile;
mod http2_settings;
mod layers;
mod leaving;
mod limits;
mod listener_resets;
mod listeners;
mod load_reports;
mod mutations;
mod on_demand;
mod on_demand_tcp;
mod panics;
mod parity;
mod process;
mod reload;
mod route_check;
mod rtds;
mod runtime;
mod scopes;
mod sds;
mod soak;
mod socket_options;
mod srds;
mod stalled;
#[allow(dead_code, reason = "each subject uses its own part of the builders")]
mod support;
mod tap;
mod tcp_resets;
mod tidy;
mod timeouts;
mod tls_bundles;
mod tls_envoy;
mod tls_hostile;
mod tls_later;
mod tls_openssl;
mod tools;
mod tunnels;
mod udp;
mod udp_flood;
mod upstreams;
mod xds;
