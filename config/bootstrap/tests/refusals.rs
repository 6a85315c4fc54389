use super::*;

const ECHO: &str =
    "{ name: e, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } }";
const SNI: &str = "{ name: s, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster } }";
const LOOPBACK: &str = "address: { socket_address: { address: 127.0.0.1, port_value: 80 } }";

#[track_caller]
fn listener_refused(fields: &str, expected: &[&str]) {
    let yaml = format!("static_resources: {{ listeners: [{{ {fields} }}] }}");
    let expected: Vec<String> = expected.iter().map(|e| format!("static_resources.listeners[0].{e}")).collect();
    refused(&yaml, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[track_caller]
fn chains_refused(chains: &str, expected: &[&str]) {
    listener_refused(&format!("{LOOPBACK}, filter_chains: [{chains}]"), expected);
}

#[test]
fn tags_that_cannot_be_found_are_refused() {
    refused(
        "{ stats_config: { stats_tags: [{ tag_name: a }, { tag_name: b, regex: '(' }, { regex: '(a)' }, { fixed_value: v }, \
         { tag_name: c, regex: '' }] } }",
        &[
            "stats_config.stats_tags[0].tag_name: no regex is given, and no default tag has the name \"a\"",
            "stats_config.stats_tags[1].regex: invalid regex: Parsing error at position 1: Opening parenthesis without closing parenthesis",
            "stats_config.stats_tags[2].tag_name: is required",
            "stats_config.stats_tags[3].tag_name: is required",
            "stats_config.stats_tags[4].tag_name: no regex is given, and no default tag has the name \"c\"",
        ],
    );
}

#[test]
fn what_is_not_implemented_is_refused_by_name_and_all_at_once() {
    refused(
        "{ header_prefix: x-mine, watchdogs: {}, \
         layered_runtime: { layers: [{ name: s, static_layer: { upstream: { b: 1 }, a: [1] } }, { name: s, admin_layer: {} }, { name: t, admin_layer: {} }, { name: u, admin_layer: {} }] }, \
         static_resources: { secrets: [{ name: s }] } }",
        &[
            "watchdogs: not implemented yet",
            "header_prefix: \"x-mine\", other than \"x-envoy\", is not implemented yet",
            "static_resources.secrets[0]: one of tls_certificate, session_ticket_keys, validation_context and generic_secret is required",
            "layered_runtime.layers[0].static_layer[\"a\"]: is not a text, number or boolean",
            "layered_runtime.layers[1].name: duplicate layer name \"s\"",
            "layered_runtime.layers[3].admin_layer: there may be at most one",
        ],
    );
}

#[test]
fn who_speaks_for_an_authority_is_an_aggregated_server() {
    let cluster = "static_resources: { clusters: [{ name: x }] }";
    let api = |kind: &str| {
        format!("api_config_source: {{ api_type: {kind}, grpc_services: [{{ envoy_grpc: {{ cluster_name: x }} }}] }}")
    };
    let good = api("AGGREGATED_GRPC");
    refused(
        &format!(
            "{{ {cluster}, config_sources: [{{ {good} }}, {{ authorities: [{{ name: a }}], {good} }}, \
             {{ authorities: [{{ name: b }}, {{ name: a }}], {good} }}, {{ authorities: [{{ name: c }}], {} }}, \
             {{ authorities: [{{ name: d }}], ads: {{}} }}], default_config_source: {{ {} }} }}",
            api("DELTA_GRPC"),
            api("GRPC")
        ),
        &[
            "config_sources[0].authorities: xdstp-based non-default config source must have at least one authority.",
            "config_sources[2].authorities: xdstp-based config source authority a is configured more than once in an \
             xdstp-based config source.",
            "config_sources[3].api_config_source.api_type: xdstp-based config source authority only supports \
             AGGREGATED_GRPC and AGGREGATED_DELTA_GRPC types.",
            "config_sources[4]: Only api_config_source type is currently supported for xdstp-based config sources.",
            "default_config_source.api_config_source.api_type: xdstp-based config source authority only supports \
             AGGREGATED_GRPC and AGGREGATED_DELTA_GRPC types.",
        ],
    );
}

#[test]
fn a_locator_is_a_collection_of_a_source_that_can_be_asked_for_it() {
    let clusters = "static_resources: { clusters: [{ name: x }] }";
    let api = |kind: &str| {
        format!(
            "{{ api_config_source: {{ api_type: {kind}, grpc_services: [{{ envoy_grpc: {{ cluster_name: x }} }}] }} }}"
        )
    };
    let collection = "xdstp://a/envoy.config.cluster.v3.Cluster/*";
    let check = |cds: &str, locator: &str, reason: &str| {
        let dynamic = format!("dynamic_resources: {{ {cds} cds_resources_locator: '{locator}' }}");
        let reason = format!("dynamic_resources.cds_resources_locator: {reason}");
        refused(&format!("{{ {clusters}, {dynamic} }}"), &[&reason]);
    };
    check("", collection, "needs a config source beside it");
    let only = "only ADS and gRPC that tell changes (DELTA_GRPC) can be asked for collections";
    check(&format!("cds_config: {},", api("GRPC")), collection, only);
    let delta = format!("cds_config: {},", api("DELTA_GRPC"));
    check(&delta, "xdstp://a/T/*", "xdstp:// type does not match envoy.config.cluster.v3.Cluster in xdstp://a/T/*");
    check(&delta, "foo", "foo does not have a xdstp:, http: or file: scheme");
}

#[test]
fn the_local_cluster_is_one_of_the_static_ones() {
    let local = "cluster_manager: { local_cluster_name: c }";
    refused(&format!("{{ {local} }}"), &["cluster_manager.local_cluster_name: local cluster 'c' must be defined"]);
    let endpoint = "{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }";
    refused(
        &format!(
            "{{ {local}, static_resources: {{ clusters: [{{ name: c, load_assignment: {{ cluster_name: c, \
             endpoints: [{{ priority: 1, lb_endpoints: [{endpoint}] }}] }} }}] }} }}"
        ),
        &["cluster_manager.local_cluster_name: unexpected non-zero priority for local cluster 'c'"],
    );
}

#[test]
fn a_listener_needs_an_address_and_a_filter_chain() {
    listener_refused("name: l", &["address: an address is required", "filter_chains: no filter chains specified"]);
}

#[test]
fn addresses_that_cannot_be_bound_are_refused() {
    let chain = format!("filter_chains: [{{ filters: [{ECHO}] }}]");
    let check =
        |address: &str, expected: &str| listener_refused(&format!("{chain}, address: {{ {address} }}"), &[expected]);
    check(
        "socket_address: { address: localhost, port_value: 1 }",
        "address.socket_address.address: malformed IP address \"localhost\"; host names work in STRICT_DNS and \
         LOGICAL_DNS clusters",
    );
    check(
        "socket_address: { address: 127.0.0.1, named_port: http }",
        "address.socket_address.named_port: an IP address takes a port_value, not a named port",
    );
    check(
        "socket_address: { address: 127.0.0.1, port_value: 1, protocol: UDP }",
        "filter_chains: 1 filter chain(s) specified for connection-less UDP listener",
    );
    check(
        "socket_address: { address: 127.0.0.1, port_value: 1, protocol: UDP } }, udp_listener_config: { quic_options: {}",
        "udp_listener_config.quic_options: not implemented yet",
    );
    check(
        "socket_address: { address: 127.0.0.1, port_value: 1, ipv4_compat: true }",
        "address.socket_address.ipv4_compat: only `::` and IPv4 addresses that are mapped into IPv6 can be open to IPv4",
    );
    check("pipe: { path: '@a', mode: 1 }", "address.pipe.mode: an abstract socket has no file, so no mode");
    check(
        "envoy_internal_address: { server_listener_name: x }",
        "address.envoy_internal_address: an internal address is not implemented yet",
    );
}

#[test]
fn several_paths_are_for_tcp_at_ip_addresses() {
    let expected = ["enable_mptcp: is for TCP at IP addresses alone"];
    let udp = "address: { socket_address: { protocol: UDP, address: 127.0.0.1, port_value: 80 } }";
    listener_refused(&format!("{udp}, enable_mptcp: true"), &expected);
    let chain = format!("filter_chains: [{{ filters: [{ECHO}] }}]");
    let pipe = "address: { pipe: { path: '@a' } }";
    listener_refused(&format!("{pipe}, {chain}, enable_mptcp: true"), &expected);
    listener_refused(
        &format!("{LOOPBACK}, {chain}, additional_addresses: [{{ {pipe} }}], enable_mptcp: true"),
        &expected,
    );
}

#[test]
fn a_listener_of_datagrams_opens_no_connection_fast() {
    listener_refused(
        "address: { socket_address: { protocol: UDP, address: 127.0.0.1, port_value: 0 } }, tcp_fast_open_queue_length: 1",
        &["tcp_fast_open_queue_length: is for TCP, and this listener takes datagrams"],
    );
}

#[test]
fn an_internal_listener_asks_nothing_of_a_socket() {
    let fields = "additional_addresses: [{ address: { pipe: { path: '@a' } } }], transparent: true, freebind: true, \
                  socket_options: [{ level: 1, name: 2, int_value: 3 }], tcp_fast_open_queue_length: 0, \
                  tcp_backlog_size: 1, enable_mptcp: true, enable_reuse_port: true, \
                  connection_balance_config: { exact_balance: {} }";
    let yaml = format!(
        "bootstrap_extensions: [{{ name: i, typed_config: {{ '@type': \
         type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener }} }}]\n\
         static_resources: {{ listeners: [{{ name: l, internal_listener: {{}}, {fields}, \
         filter_chains: [{{ filters: [{ECHO}] }}] }}] }}"
    );
    let fields = [
        "additional_addresses",
        "transparent",
        "freebind",
        "socket_options",
        "tcp_fast_open_queue_length",
        "tcp_backlog_size",
        "enable_mptcp",
        "enable_reuse_port",
        "connection_balance_config",
    ];
    let expected = fields.map(|field| {
        format!("static_resources.listeners[0].{field}: is not for an internal listener, which has no socket")
    });
    refused(&yaml, &expected.each_ref().map(String::as_str));
}

#[test]
fn chains_that_take_the_same_connections_are_refused() {
    let chain = |name: &str, criteria: &str| {
        format!("{{ name: {name}, filters: [{ECHO}], filter_chain_match: {{ {criteria} }} }}")
    };
    let same = ["filter_chains[1]: filter chain 'b' has the same matching rules defined as 'a' (filter_chains[0])"];
    chains_refused(&format!("{}, {}", chain("a", ""), chain("b", "")), &same);
    let (one, other) = (chain("a", "server_names: [p, q]"), chain("b", "server_names: [Q, r]"));
    chains_refused(&format!("{one}, {other}"), &same);
    chains_refused(
        &chain("a", "server_names: ['a*.test']"),
        &["filter_chains[0].filter_chain_match.server_names[0]: \"a*.test\": partial wildcards are not supported in \
           \"server_names\""],
    );
    chains_refused(
        &chain("a", "address_suffix: x"),
        &["filter_chains[0].filter_chain_match.address_suffix: not implemented yet"],
    );
}

#[test]
fn exactly_the_last_filter_of_a_chain_is_terminal() {
    chains_refused(
        &format!("{{ filters: [{ECHO}, {SNI}] }}"),
        &[
            "filter_chains[0].filters[0]: terminal filter \"e\" must be the last of its filter chain",
            "filter_chains[0].filters[1]: non-terminal filter \"s\" is the last of its filter chain",
        ],
    );
}

#[test]
fn a_filter_that_nuncio_lacks_differs_from_one_that_nobody_has() {
    chains_refused(
        "{ filters: [{ name: r, typed_config: { '@type': \
         type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: x } }] }",
        &[
            "filter_chains[0].filters[0].typed_config: envoy.extensions.filters.network.rbac.v3.RBAC as a network filter \
           is not implemented yet",
        ],
    );
    chains_refused("{ filters: [{ name: r }] }", &["filter_chains[0].filters[0]: filter \"r\" has no typed_config"]);
}

#[test]
fn a_tap_around_nothing_is_refused() {
    chains_refused(
        &format!(
            "{{ filters: [{ECHO}], transport_socket: {{ name: t, typed_config: {{ '@type': \
             type.googleapis.com/envoy.extensions.transport_sockets.tap.v3.Tap, common_config: {{ admin_config: \
             {{ config_id: x }} }}, transport_socket: {{ name: r }} }} }} }}"
        ),
        &["filter_chains[0].transport_socket.typed_config.transport_socket: a typed_config is required"],
    );
}

#[test]
fn names_and_addresses_are_given_once() {
    let listener = |name: &str| format!("{{ name: {name}, {LOOPBACK}, filter_chains: [{{ filters: [{ECHO}] }}] }}");
    let yaml = format!("static_resources: {{ listeners: [{}, {}] }}", listener("a"), listener("a"));
    refused(&yaml, &["static_resources.listeners[1].name: duplicate name \"a\", which listeners[0] has too"]);
    let yaml = format!("static_resources: {{ listeners: [{}, {}] }}", listener("a"), listener("b"));
    refused(
        &yaml,
        &["static_resources.listeners[1].address: duplicate address 127.0.0.1:80, which listener \"a\" has too"],
    );
    let additional = format!(
        "{{ name: b, address: {{ pipe: {{ path: '@b' }} }}, additional_addresses: [{{ {LOOPBACK} }}], filter_chains: [{{ filters: [{ECHO}] }}] }}"
    );
    refused(
        &format!("static_resources: {{ listeners: [{}, {additional}] }}", listener("a")),
        &["static_resources.listeners[1].additional_addresses[0].address: duplicate address 127.0.0.1:80, which \
           listener \"a\" has too"],
    );
    refused(
        "static_resources: { clusters: [{ name: c }, { name: c }] }",
        &["static_resources.clusters[1].name: duplicate name \"c\", which clusters[0] has too"],
    );
}

#[test]
fn the_admin_interface_logs_to_nowhere() {
    let admin = |path: &str| {
        let log = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
        format!("admin: {{ access_log: [{{ name: l, typed_config: {{ '@type': {log}, path: {path} }} }}] }}")
    };
    good(&admin("/dev/null"));
    let reason = "a log of the admin interface other than to /dev/null is not implemented yet";
    refused(&admin("/dev/stdout"), &[&format!("admin.access_log[0]: {reason}")]);
    refused(
        &admin("/dev/null, format: '%FOO%'"),
        &["admin.access_log[0].typed_config.format: format string, byte 0: unknown operator FOO"],
    );
}

#[test]
fn services_that_name_nobody_are_done_without() {
    let config = good("{ hds_config: { api_type: GRPC }, cluster_manager: { load_stats_config: { api_type: GRPC } } }");
    assert!(config.hds.is_none() && config.load_stats.is_none());
}

#[test]
fn an_address_is_taken_once_in_each_network_namespace() {
    let listener = |name: &str, more: &str| {
        let address = "socket_address: { address: 127.0.0.1, port_value: 80, network_namespace_filepath: /run/netns/";
        format!(
            "{{ name: {name}, address: {{ {address}{name} }} }}, {more} filter_chains: [{{ filters: [{ECHO}] }}] }}"
        )
    };
    let twice = format!("additional_addresses: [{{ {LOOPBACK} }}, {{ {LOOPBACK} }}],");
    let config =
        good(&format!("static_resources: {{ listeners: [{}, {}] }}", listener("a", &twice), listener("b", "")));
    // Envoy: so many sockets share the connections of an address that one listener has several times.
    assert_eq!(config.listeners[0].sockets.len(), 3);
}
