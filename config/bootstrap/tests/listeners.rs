use super::*;
use crate::listener::ListenerConfig;

const CHAIN: &str = "filter_chains: [{ filters: [{ name: e, typed_config: \
    { '@type': type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } }] }]";

/// A listener with an echo filter and the given fields more.
fn listener(fields: &str) -> Arc<ListenerConfig> {
    let yaml = format!("static_resources: {{ listeners: [{{ {CHAIN}, {fields} }}] }}");
    good(&yaml).listeners.remove(0)
}

const LOOPBACK: &str = "address: { socket_address: { address: 127.0.0.1, port_value: 80 } }";

#[test]
fn a_plain_listener_has_envoys_defaults() {
    let listener = listener(LOOPBACK);
    assert_eq!((&*listener.name, listener.scope.prefix()), ("127.0.0.1:80", "listener.127.0.0.1_80"));
    assert_eq!(listener.buffer_limit, 1024 * 1024);
    assert_eq!((listener.balance, listener.reuse_port), (ConnectionBalance::Kernel, true));
    assert_eq!((listener.drain_type, listener.direction), (DrainType::Default, TrafficDirection::Unspecified));
    let socket = &listener.sockets[0];
    assert!(socket.options.is_empty() && socket.keepalive.is_none() && socket.backlog.is_none());
    assert_eq!(listener.filter_chains.all()[0].filters.len(), 1);
}

#[test]
fn what_is_configured_is_kept() {
    let listener = listener(&format!(
        "{LOOPBACK}, name: l, stat_prefix: s, per_connection_buffer_limit_bytes: 5, drain_type: MODIFY_ONLY, \
         traffic_direction: INBOUND, connection_balance_config: {{ exact_balance: {{}} }}, enable_reuse_port: false, \
         tcp_backlog_size: 7, max_connections_to_accept_per_socket_event: 2, enable_mptcp: true"
    ));
    assert_eq!((&*listener.name, listener.scope.prefix(), listener.buffer_limit), ("l", "listener.s", 5));
    assert_eq!((listener.drain_type, listener.direction), (DrainType::ModifyOnly, TrafficDirection::Inbound));
    assert_eq!((listener.balance, listener.reuse_port), (ConnectionBalance::Exact, false));
    assert_eq!(
        (listener.sockets[0].backlog, listener.accept_batch, listener.sockets[0].mptcp),
        (Some(7), Some(2), true)
    );
}

#[test]
fn additional_addresses_take_over_what_they_do_not_say_themselves() {
    let other = LOOPBACK.replace("127.0.0.1", "127.0.0.2");
    let listener = listener(&format!(
        "{LOOPBACK}, tcp_keepalive: {{ keepalive_time: 9 }}, socket_options: [{{ level: 1, name: 2, int_value: 3 }}], \
         additional_addresses: [{{ {other} }}, {{ address: {{ pipe: {{ path: '@a' }} }}, socket_options: {{}}, \
         tcp_keepalive: {{ keepalive_time: 0 }} }}]"
    ));
    let [first, second, third] = &listener.sockets[..] else { panic!("{:?}", listener.sockets) };
    assert_eq!(second.address.address.to_string(), "127.0.0.2:80");
    assert_eq!(first.options, second.options);
    assert_eq!(first.options[0].value, SocketValue::Int(3));
    assert_eq!(second.keepalive.unwrap().time, Some(9));
    assert!(third.options.is_empty() && third.keepalive.is_none());
}

#[test]
fn transparent_freebind_and_fast_open_become_socket_options() {
    let options = &listener(&format!("{LOOPBACK}, transparent: true, freebind: true, tcp_fast_open_queue_length: 9"))
        .sockets[0]
        .options;
    let names: Vec<_> = options.iter().map(|o| (o.level, o.name, o.ipv4, o.ipv6, o.phase)).collect();
    let before = SocketPhase::PreBind;
    assert_eq!(
        names,
        [
            (libc::SOL_IP, libc::IP_TRANSPARENT, true, false, before),
            (libc::SOL_IPV6, libc::IPV6_TRANSPARENT, false, true, before),
            (libc::SOL_IP, libc::IP_FREEBIND, true, false, before),
            (libc::SOL_IPV6, libc::IPV6_FREEBIND, false, true, before),
            (libc::SOL_TCP, libc::TCP_FASTOPEN, true, true, SocketPhase::Listening),
        ]
    );
}

#[test]
fn options_for_datagram_sockets_are_left_out() {
    let listener = listener(&format!(
        "{LOOPBACK}, socket_options: [{{ level: 1, name: 2, int_value: 3, type: {{ datagram: {{}} }} }}]"
    ));
    assert!(listener.sockets[0].options.is_empty());
}

#[test]
fn a_listener_that_does_not_bind_has_no_sockets() {
    assert!(listener(&format!("{LOOPBACK}, bind_to_port: false")).sockets.is_empty());
    assert!(listener(&format!("{LOOPBACK}, deprecated_v1: {{ bind_to_port: false }}")).sockets.is_empty());
}

#[test]
fn a_pipe_has_a_mode_and_may_be_abstract() {
    let pipe = listener("address: { pipe: { path: /run/x, mode: 384 } }");
    assert_eq!(pipe.sockets[0].address.mode, Some(0o600));
    assert_eq!(listener("address: { pipe: { path: '@x' } }").scope.prefix(), "listener.@x");
}

#[test]
fn the_default_filter_chain_serves_where_there_is_no_other() {
    let yaml = format!("static_resources: {{ listeners: [{{ {LOOPBACK}, default_filter_chain: {{ name: d }} }}] }}");
    let listener = good(&yaml).listeners.remove(0);
    assert_eq!(&*listener.filter_chains.all()[0].name, "d");
    assert!(listener.filter_chains.all()[0].filters.is_empty());
}

#[test]
fn listeners_of_port_0_do_not_collide() {
    let yaml = format!("static_resources: {{ listeners: [{{ {LOOPBACK}, {CHAIN} }}, {{ {LOOPBACK}, {CHAIN} }}] }}");
    assert_eq!(good(&yaml.replace("port_value: 80", "port_value: 0")).listeners.len(), 2);
}
