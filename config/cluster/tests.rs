use nuncio_filter_api::{Invalid, LowerCx};
use nuncio_proto::envoy::config::cluster::v3::cluster::CustomClusterType;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::endpoint::v3 as endpoint;
use nuncio_proto::envoy::extensions::clusters::dns::v3::DnsCluster;
use nuncio_proto::envoy::extensions::network::dns_resolver::apple::v3::AppleDnsResolverConfig;
use nuncio_proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use nuncio_proto::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;
use nuncio_proto::envoy::extensions::network::dns_resolver::hickory::v3::HickoryDnsResolverConfig;
use nuncio_proto::envoy::extensions::upstreams::http::v3 as upstreams;
use nuncio_proto::envoy::r#type::v3::FractionalPercent;
use nuncio_proto::google::protobuf;
use prost::{Message, Name};

use super::*;

mod verdicts;

fn socket_address(host: &str, port: u32) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}

fn lb_endpoint(address: core::Address) -> endpoint::LbEndpoint {
    let endpoint = endpoint::Endpoint { address: Some(address), ..Default::default() };
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    }
}

fn assignment(hosts: &[&str]) -> endpoint::ClusterLoadAssignment {
    let lb_endpoints = hosts.iter().map(|h| lb_endpoint(socket_address(h, 80))).collect();
    endpoint::ClusterLoadAssignment {
        cluster_name: "c".to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints, ..Default::default() }],
        ..Default::default()
    }
}

fn cluster(hosts: &[&str]) -> pb::Cluster {
    pb::Cluster { name: "c".to_owned(), load_assignment: Some(assignment(hosts)), ..Default::default() }
}

fn lower(proto: pb::Cluster) -> Result<ClusterConfig, Vec<Invalid>> {
    let env = crate::testing::env();
    let mut cx = LowerCx::new(&env);
    let lowered = ClusterConfig::lower(proto, &mut cx);
    let invalid = cx.finish();
    assert_eq!(lowered.is_err(), !invalid.is_empty(), "a refusal is recorded exactly where lowering fails");
    lowered.map_err(|_| invalid)
}

fn refusals(proto: pb::Cluster) -> Vec<String> {
    lower(proto).expect_err("refused").iter().map(Invalid::to_string).collect()
}

#[test]
fn a_cluster_that_says_nothing_has_envoys_defaults() {
    let c = lower(cluster(&["127.0.0.1"])).unwrap();
    assert_eq!((&*c.name.name, &*c.observable_name), ("c", "c"));
    assert!(matches!(c.discovery, Discovery::Static));
    assert!(matches!(c.lb, LbPolicy::RoundRobin));
    assert_eq!(c.common_lb.panic_threshold, 50);
    assert_eq!((c.connect_timeout, c.buffer_limit), (Duration::from_secs(5), 1 << 20));
    let limits = c.circuit_breakers.thresholds(Priority::High);
    assert_eq!((limits.max_connections, limits.max_pending_requests), (1024, 1024));
    assert_eq!((limits.max_requests, limits.max_retries), (1024, 3));
    assert_eq!(c.http.protocol, UpstreamProtocol::Http1);
    assert_eq!(c.http.common.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(
        c.endpoints[0].address,
        EndpointAddress::Fixed("127.0.0.1:80".parse::<std::net::SocketAddr>().unwrap().into())
    );
    assert!(c.wait_for_warm);
}

#[test]
fn an_idle_cluster_and_its_host_stay_small() {
    let size = size_of::<ClusterConfig>() + size_of::<Endpoint>();
    assert!(size <= 552, "{size}");
    let share = |n: &str| lower(cluster(&[n])).unwrap().http;
    assert!(Arc::ptr_eq(&share("127.0.0.1"), &share("127.0.0.2")), "clusters without HTTP options share the defaults");
}

#[test]
fn a_share_of_requests_to_drop_is_one_and_no_more_than_all() {
    use endpoint::cluster_load_assignment::{Policy, policy::DropOverload};
    let with = |shares: &[u32]| {
        let share = |numerator: &u32| DropOverload {
            category: "c".to_owned(),
            drop_percentage: Some(FractionalPercent { numerator: *numerator, denominator: 0 }),
        };
        let mut proto = cluster(&["127.0.0.1"]);
        let drop_overloads = shares.iter().map(share).collect();
        proto.load_assignment.as_mut().unwrap().policy = Some(Policy { drop_overloads, ..Default::default() });
        proto
    };
    let dropped = lower(with(&[25])).unwrap().assignment.drop_overload.unwrap();
    assert_eq!((&*dropped.category, dropped.millionths), ("c", 250_000));
    let place = "load_assignment.policy.drop_overloads";
    assert_eq!(refusals(with(&[101])), [format!("{place}[0].drop_percentage: must be no more than all")]);
    assert_eq!(refusals(with(&[1, 1])), [format!("{place}: has 2 categories, of which only one is supported")]);
}

#[test]
fn a_static_cluster_refuses_a_name() {
    let said = refusals(cluster(&["example.com"]));
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with(
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP address: \
         example.com. Consider"
    ));
}

#[test]
fn a_logical_dns_cluster_has_one_endpoint() {
    let mut proto = cluster(&["a", "b"]);
    proto.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32));
    assert!(refusals(proto)[0].contains("LOGICAL_DNS clusters must have a single"));
}

#[test]
fn endpoints_discovered_one_by_one_are_a_collection_and_nothing_beside() {
    let refused = |hosts: &[&str], name: &str| {
        let mut proto = assignment(hosts);
        proto.cluster_name = "c".to_owned();
        let leds = endpoint::LedsClusterLocalityConfig { leds_collection_name: name.to_owned(), leds_config: None };
        proto.endpoints[0].lb_config = Some(endpoint::locality_lb_endpoints::LbConfig::LedsClusterLocalityConfig(leds));
        let env = crate::testing::env();
        let mut cx = LowerCx::new(&env);
        assert!(ClusterAssignment::lower(proto, &mut cx).is_err());
        cx.finish().iter().map(Invalid::to_string).collect::<Vec<_>>()
    };
    let both = "endpoints[0]: A ClusterLoadAssignment for cluster c cannot include both LEDS (resource: x) and a list of \
                endpoints.";
    assert_eq!(refused(&["127.0.0.1"], "x"), [both]);
    let path = "endpoints[0].leds_cluster_locality_config";
    assert_eq!(
        refused(&[], "x"),
        [
            format!("{path}.leds_collection_name: x does not have a xdstp:, http: or file: scheme"),
            format!("{path}.leds_config: is required")
        ]
    );
}

#[test]
fn hosts_are_counted_by_names_of_their_own_unless_found_by_dns() {
    let name = |kind: DiscoveryType| {
        let mut proto = cluster(&["127.0.0.1"]);
        let host =
            proto.load_assignment.as_mut().and_then(|all| all.endpoints[0].lb_endpoints[0].host_identifier.as_mut());
        let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = host else {
            panic!("it has an endpoint")
        };
        endpoint.observability_name = "one".to_owned();
        proto.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind.into()));
        lower(proto).unwrap().endpoints[0].observability_name.clone()
    };
    assert_eq!(name(DiscoveryType::Static).as_deref(), Some("one"));
    assert_eq!(name(DiscoveryType::StrictDns), None);
}

#[test]
fn what_is_not_implemented_is_refused_by_name_all_at_once() {
    let mut proto = cluster(&["127.0.0.1"]);
    proto.per_connection_buffer_high_watermark_timeout = Some(protobuf::Duration { seconds: 1, nanos: 0 });
    proto.queuing_policies = Some(Default::default());
    let said = refusals(proto);
    let refused = ["per_connection_buffer_high_watermark_timeout", "queuing_policies"];
    assert_eq!(said, refused.map(|field| format!("{field}: not implemented yet")));
}

#[test]
fn filters_of_listeners_are_none_of_clusters() {
    use nuncio_proto::envoy::extensions::filters::network::echo::v3::Echo;
    let any = protobuf::Any { type_url: Echo::type_url(), value: Vec::new() };
    let discovered = core::ExtensionConfigSource { type_urls: vec![Echo::type_url()], ..Default::default() };
    let filter = pb::Filter { name: "echo".to_owned(), ..Default::default() };
    let mut proto = cluster(&["127.0.0.1"]);
    proto.filters = vec![
        pb::Filter { typed_config: Some(any), ..filter.clone() },
        pb::Filter { config_discovery: Some(discovered), ..filter.clone() },
        filter,
    ];
    let echo = "envoy.extensions.filters.network.echo.v3.Echo is no network filter of clusters";
    let said = [
        format!("filters[0].typed_config: {echo}"),
        format!("filters[1].config_discovery.type_urls: {echo}"),
        "filters[2]: echo is no network filter of clusters".to_owned(),
    ];
    assert_eq!(refusals(proto), said);
}

#[test]
fn a_cluster_may_have_policies_of_its_own() {
    use nuncio_proto::envoy::config::route::v3 as route;
    let explicit = upstreams::http_protocol_options::ExplicitHttpConfig {
        protocol_config: Some(
            upstreams::http_protocol_options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(
                Default::default(),
            ),
        ),
    };
    let mut options = upstreams::HttpProtocolOptions {
        retry_policy: Some(route::RetryPolicy { retry_on: "5xx".to_owned(), ..Default::default() }),
        upstream_protocol_options: Some(upstreams::http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig(
            explicit,
        )),
        ..Default::default()
    };
    let with = |options: &upstreams::HttpProtocolOptions| {
        let any =
            protobuf::Any { type_url: upstreams::HttpProtocolOptions::type_url(), value: options.encode_to_vec() };
        let mut proto = cluster(&["127.0.0.1"]);
        proto.typed_extension_protocol_options = [(upstreams::HttpProtocolOptions::full_name(), any)].into();
        proto
    };
    let policies = lower(with(&options)).expect("it is sound").http.policies.clone().expect("there is one");
    assert_eq!(policies.retry.as_ref().map(|retry| retry.num_retries), Some(1));
    assert!(policies.mirrors.is_empty());
    options.retry_policy = None;
    assert!(lower(with(&options)).expect("it is sound").http.policies.is_none());
    options.request_mirror_policies = vec![Default::default()];
    options.header_validation_config = Some(core::TypedExtensionConfig { name: "v".to_owned(), typed_config: None });
    let said = refusals(with(&options)).join("\n");
    for part in ["header_validation_config: header validator extensions are not", "request_mirror_policies[0]: exactly"]
    {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

#[test]
fn typed_options_choose_http2_and_what_is_hashed() {
    use nuncio_proto::envoy::config::route::v3::route_action::HashPolicy;
    use nuncio_proto::envoy::config::route::v3::route_action::hash_policy::{ConnectionProperties, PolicySpecifier};
    use upstreams::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config};
    let http2 = core::Http2ProtocolOptions {
        max_concurrent_streams: Some(protobuf::UInt32Value { value: 100 }),
        ..Default::default()
    };
    let by_source = HashPolicy {
        policy_specifier: Some(PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })),
        terminal: false,
    };
    let typed = upstreams::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2)),
        })),
        hash_policy: vec![by_source],
        ..Default::default()
    };
    let name = upstreams::HttpProtocolOptions::full_name();
    let any = protobuf::Any { type_url: format!("type.googleapis.com/{name}"), value: typed.encode_to_vec() };
    let mut proto = cluster(&["127.0.0.1"]);
    proto.typed_extension_protocol_options.insert(name, any);
    let c = lower(proto).unwrap();
    assert_eq!((c.http.protocol, c.http.http2.max_concurrent_streams), (UpstreamProtocol::Http2, 100));
    assert!(c.http.hash.is_some());
}

#[test]
fn legacy_options_choose_the_protocol() {
    let mut proto = cluster(&["127.0.0.1"]);
    proto.http2_protocol_options = Some(Default::default());
    assert_eq!(lower(proto.clone()).unwrap().http.protocol, UpstreamProtocol::Http2);
    proto.protocol_selection = 1;
    assert_eq!(lower(proto.clone()).unwrap().http.protocol, UpstreamProtocol::Downstream);
    proto.protocol_selection = 0;
    proto.http_protocol_options = Some(Default::default());
    assert!(refusals(proto)[0].contains("both HTTP1 and HTTP2 options"));
}

#[test]
fn one_field_has_no_more_bytes_than_all_of_them() {
    let kilobytes = |value| Some(protobuf::UInt32Value { value });
    let mut proto = cluster(&["127.0.0.1"]);
    proto.http2_protocol_options =
        Some(core::Http2ProtocolOptions { max_header_field_size_kb: kilobytes(128), ..Default::default() });
    assert!(lower(proto.clone()).is_ok());
    proto.common_http_protocol_options =
        Some(core::HttpProtocolOptions { max_response_headers_kb: kilobytes(127), ..Default::default() });
    assert_eq!(refusals(proto), ["max_header_field_size_kb: must not exceed max_response_headers_kb"]);
}

#[test]
fn thresholds_are_found_by_priority() {
    let mut proto = cluster(&["127.0.0.1"]);
    let high = pb::circuit_breakers::Thresholds {
        priority: 1,
        max_requests: Some(protobuf::UInt32Value { value: 7 }),
        ..Default::default()
    };
    proto.circuit_breakers = Some(pb::CircuitBreakers { thresholds: vec![high], ..Default::default() });
    let breakers = lower(proto).unwrap().circuit_breakers;
    assert_eq!(breakers.thresholds(Priority::High).max_requests, 7);
    assert_eq!(breakers.thresholds(Priority::Default).max_requests, 1024);
}

#[test]
fn dns_settings_are_read_from_the_newest_message_that_is_there() {
    let mut proto = cluster(&["example.com"]);
    proto.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
    proto.use_tcp_for_dns_lookups = true;
    let dns = |proto: pb::Cluster| match lower(proto).unwrap().discovery {
        Discovery::StrictDns(dns) => dns,
        _ => panic!("a STRICT_DNS cluster"),
    };
    let lowered = dns(proto.clone());
    assert_eq!((lowered.refresh, lowered.family), (Duration::from_secs(5), DnsFamily::Auto));
    let resolver = lowered.resolver.unwrap();
    assert!(resolver.use_tcp && resolver.servers.is_empty());
    proto.dns_resolution_config =
        Some(core::DnsResolutionConfig { resolvers: vec![socket_address("127.0.0.1", 0)], dns_resolver_options: None });
    let resolver = dns(proto).resolver.unwrap();
    assert!(!resolver.use_tcp);
    assert_eq!(resolver.servers, ["127.0.0.1:53".parse().unwrap()]);
}

fn resolver<T: prost::Message + prost::Name>(config: T) -> core::TypedExtensionConfig {
    let typed_config = protobuf::Any { type_url: T::type_url(), value: config.encode_to_vec() };
    core::TypedExtensionConfig { name: "resolver".to_owned(), typed_config: Some(typed_config) }
}

#[test]
fn the_dns_extension_is_strict_or_logical() {
    let seconds = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
    let uint = |value| Some(protobuf::UInt32Value { value });
    let cares = CaresDnsResolverConfig {
        resolvers: vec![socket_address("127.0.0.1", 5353)],
        use_resolvers_as_fallback: true,
        filter_unroutable_families: true,
        rotate_nameservers: true,
        query_timeout_seconds: Some(protobuf::UInt64Value { value: 2 }),
        query_tries: uint(3),
        edns0_max_payload_size: uint(4096),
        qcache_max_ttl: uint(60),
        ..Default::default()
    };
    let extension = DnsCluster {
        dns_refresh_rate: seconds(7),
        respect_dns_ttl: true,
        dns_min_refresh_rate: seconds(9),
        dns_lookup_family: 4,
        typed_dns_resolver_config: Some(resolver(cares)),
        ..Default::default()
    };
    let discovery = |extension: DnsCluster| {
        let typed_config = protobuf::Any { type_url: DnsCluster::type_url(), value: extension.encode_to_vec() };
        let custom = CustomClusterType { name: "any".to_owned(), typed_config: Some(typed_config) };
        let mut proto = cluster(&["example.com"]);
        proto.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(custom));
        proto.dns_refresh_rate = seconds(100);
        lower(proto).unwrap().discovery
    };
    let Discovery::StrictDns(dns) = discovery(extension.clone()) else { panic!("a host for each address") };
    assert_eq!((dns.refresh, dns.min_refresh), (Duration::from_secs(7), Duration::from_secs(9)));
    assert_eq!(dns.family, DnsFamily::V4Preferred);
    let asked = dns.resolver.unwrap();
    assert!(asked.servers_are_fallback && asked.filter_unroutable && asked.rotate);
    assert_eq!((asked.timeout, asked.tries, asked.udp_payload), (Duration::from_secs(2), 3, 4096));
    assert_eq!(asked.cache_ttl, Some(Duration::from_secs(60)));
    let single = discovery(DnsCluster { all_addresses_in_single_endpoint: true, ..extension });
    assert!(matches!(single, Discovery::LogicalDns(_)));
}

#[test]
fn the_dns_clusters_are_known_by_their_older_names() {
    let discovery = |name: &str| {
        let custom = CustomClusterType { name: name.to_owned(), typed_config: None };
        let mut proto = cluster(&["127.0.0.1"]);
        proto.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(custom));
        lower(proto).map(|config| config.discovery)
    };
    assert!(matches!(discovery("envoy.cluster.static"), Ok(Discovery::Static)));
    assert!(matches!(discovery("envoy.cluster.strict_dns"), Ok(Discovery::StrictDns(_))));
    assert!(matches!(discovery("envoy.cluster.logical_dns"), Ok(Discovery::LogicalDns(_))));
    assert!(discovery("envoy.clusters.strict_dns").unwrap_err()[0].to_string().contains("cluster_type"));
}

#[test]
fn each_resolver_library_has_its_options() {
    let mut proto = cluster(&["example.com"]);
    proto.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
    let lowered = |typed| -> Result<_, Vec<Invalid>> {
        let proto = pb::Cluster { typed_dns_resolver_config: Some(typed), ..proto.clone() };
        match lower(proto)?.discovery {
            Discovery::StrictDns(dns) => Ok(dns.resolver.unwrap()),
            _ => panic!("a STRICT_DNS cluster"),
        }
    };
    let hickory = HickoryDnsResolverConfig::default();
    let asked = lowered(resolver(hickory.clone())).unwrap();
    assert_eq!((asked.library, asked.tries, asked.cache_ttl), (ResolverLibrary::Hickory, 3, Some(Duration::MAX)));
    let refused = lowered(resolver(HickoryDnsResolverConfig { enable_dnssec: true, ..hickory.clone() }));
    assert!(refused.unwrap_err()[0].to_string().contains("enable_dnssec"));
    let alone = Some(protobuf::BoolValue { value: false });
    assert!(lowered(resolver(HickoryDnsResolverConfig { use_system_config: alone, ..hickory })).is_err());
    let getaddrinfo =
        GetAddrInfoDnsResolverConfig { num_retries: Some(protobuf::UInt32Value { value: 1 }), ..Default::default() };
    let asked = lowered(resolver(getaddrinfo)).unwrap();
    assert_eq!((asked.library, asked.tries), (ResolverLibrary::GetAddrInfo, 2));
    assert!(
        lowered(resolver(AppleDnsResolverConfig::default())).unwrap_err()[0]
            .to_string()
            .contains("AppleDnsResolverConfig")
    );
}

#[test]
fn every_part_of_a_cluster_tells_its_refusals() {
    let mut proto = cluster(&["a.example"]);
    proto.queuing_policies = Some(Default::default());
    proto.circuit_breakers = Some(pb::CircuitBreakers {
        per_host_thresholds: vec![pb::circuit_breakers::Thresholds {
            max_connection_pools: Some(protobuf::UInt32Value { value: 1 }),
            ..Default::default()
        }],
        thresholds: Vec::new(),
    });
    proto.http2_protocol_options = Some(core::Http2ProtocolOptions { allow_metadata: true, ..Default::default() });
    let said = refusals(proto).join("\n");
    for path in ["queuing_policies", "load_assignment", "per_host_thresholds", "allow_metadata"] {
        assert!(said.contains(path), "{path} is not in\n{said}");
    }
}

fn bind(source: &str, extra: &[&str]) -> Result<ClusterConfig, Vec<Invalid>> {
    let address = |ip: &str| match socket_address(ip, 0).address {
        Some(core::address::Address::SocketAddress(address)) => Some(address),
        _ => None,
    };
    let extra = extra.iter().map(|ip| core::ExtraSourceAddress { address: address(ip), socket_options: None });
    let bind = core::BindConfig {
        source_address: address(source),
        extra_source_addresses: extra.collect(),
        ..Default::default()
    };
    lower(pb::Cluster { upstream_bind_config: Some(bind), ..cluster(&["127.0.0.1"]) })
}

#[test]
fn the_extra_source_address_is_that_of_the_other_ip_version() {
    let bound = bind("127.0.0.2", &["::1"]).unwrap().bind.unwrap();
    let source = |to: &str| bound.for_target(to.parse().unwrap()).0.unwrap().ip().to_string();
    assert_eq!([source("127.0.0.1"), source("::2")], ["127.0.0.2", "::1"]);
    let only = bind("127.0.0.2", &[]).unwrap().bind.unwrap();
    assert_eq!(only.for_target("::2".parse().unwrap()).0, only.source);
    for (source, extra) in [("127.0.0.2", &["127.0.0.3"][..]), ("127.0.0.2", &["::1", "::2"]), ("", &["::1"])] {
        assert!(bind(source, extra).is_err(), "{source:?} and {extra:?}");
    }
}

fn custom(message: &impl Name) -> Option<ClusterDiscoveryType> {
    let typed_config = protobuf::Any { type_url: message.type_url_of(), value: message.encode_to_vec() };
    let custom = pb::cluster::CustomClusterType { name: "kind".to_owned(), typed_config: Some(typed_config) };
    Some(ClusterDiscoveryType::ClusterType(custom))
}

/// A cluster of a type that provides its balancer, and says so.
fn provided(message: &impl Name) -> pb::Cluster {
    pb::Cluster {
        name: "c".to_owned(),
        cluster_discovery_type: custom(message),
        lb_policy: pb::cluster::LbPolicy::ClusterProvided as i32,
        ..Default::default()
    }
}

trait TypeUrl: Name {
    fn type_url_of(&self) -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}

impl<T: Name> TypeUrl for T {}

fn aggregate(clusters: &[&str]) -> nuncio_proto::envoy::extensions::clusters::aggregate::v3::ClusterConfig {
    let clusters = clusters.iter().map(|name| (*name).to_owned()).collect();
    nuncio_proto::envoy::extensions::clusters::aggregate::v3::ClusterConfig { clusters }
}

#[test]
fn an_aggregate_names_its_members_in_order() {
    let c = lower(provided(&aggregate(&["b", "a"]))).unwrap();
    let Discovery::Aggregate(found) = &c.discovery else { panic!("{:?}", c.discovery) };
    assert_eq!(found.clusters.iter().map(|c| &*c.name).collect::<Vec<_>>(), ["b", "a"]);
    assert!(matches!(c.lb, LbPolicy::ClusterProvided));
    let refused = ["cluster_type.typed_config.clusters: needs at least one cluster"];
    assert_eq!(refusals(provided(&aggregate(&[]))), refused);
}

#[test]
fn a_balancer_is_provided_where_it_is_asked_for() {
    let unasked = pb::Cluster { lb_policy: 0, ..provided(&aggregate(&["a"])) };
    let expected = "lb_policy: cluster manager: cluster provided LB not specified but cluster 'c' provided one. Check cluster \
                    documentation.";
    assert_eq!(refusals(unasked), [expected]);
    let policy = pb::cluster::LbPolicy::ClusterProvided as i32;
    let unmet = pb::Cluster { lb_policy: policy, ..cluster(&["127.0.0.1"]) };
    let expected = "lb_policy: cluster manager: cluster provided LB specified but cluster 'c' did not provide one. Check cluster \
                    documentation.";
    assert_eq!(refusals(unmet), [expected]);
    let selectors =
        vec![pb::cluster::lb_subset_config::LbSubsetSelector { keys: vec!["k".to_owned()], ..Default::default() }];
    let subsets = pb::cluster::LbSubsetConfig { subset_selectors: selectors, ..Default::default() };
    let with_subsets = pb::Cluster { lb_subset_config: Some(subsets), ..provided(&aggregate(&["a"])) };
    let expected = "lb_policy: cluster: LB policy CLUSTER_PROVIDED cannot be combined with lb_subset_config";
    assert_eq!(refusals(with_subsets), [expected]);
}

#[test]
fn a_list_of_policies_may_leave_it_to_the_cluster() {
    let provided_policy =
        nuncio_proto::envoy::extensions::load_balancing_policies::cluster_provided::v3::ClusterProvided {};
    let any = protobuf::Any { type_url: provided_policy.type_url_of(), value: Vec::new() };
    let typed = core::TypedExtensionConfig { name: "p".to_owned(), typed_config: Some(any) };
    let policies = vec![pb::load_balancing_policy::Policy { typed_extension_config: Some(typed) }];
    let list = Some(pb::LoadBalancingPolicy { policies });
    let c = lower(pb::Cluster { lb_policy: 0, load_balancing_policy: list, ..provided(&aggregate(&["a"])) }).unwrap();
    assert!(matches!(c.lb, LbPolicy::ClusterProvided));
}

#[test]
fn a_host_has_a_scope_and_further_addresses() {
    let of = |address: core::Address, additional: &[core::Address]| {
        let mut proto = cluster(&["127.0.0.1"]);
        let mut endpoint = lb_endpoint(address);
        let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(inner)) = &mut endpoint.host_identifier else {
            panic!("an endpoint")
        };
        inner.additional_addresses = additional
            .iter()
            .map(|address| endpoint::endpoint::AdditionalAddress { address: Some(address.clone()) })
            .collect();
        proto.load_assignment.as_mut().unwrap().endpoints[0].lb_endpoints = vec![endpoint];
        lower(proto).map(|config| config.endpoints[0].clone())
    };
    let scoped = of(socket_address("fe80::1%7", 80), &[]).unwrap().address;
    assert!(matches!(scoped, EndpointAddress::Fixed(address) if address.to_string() == "[fe80::1%7]:80"));
    assert!(of(socket_address("fe80::1%no-such-interface", 80), &[]).is_err());
    let both = of(socket_address("::1", 80), &[socket_address("::2", 81), socket_address("127.0.0.1", 82)]).unwrap();
    let all: Vec<_> = both.addresses.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(all, ["[::1]:80", "127.0.0.1:82", "[::2]:81"], "as they are tried");
    let pipe = core::Pipe { path: "/s".to_owned(), mode: 0 };
    let pipe = core::Address { address: Some(core::address::Address::Pipe(pipe)) };
    for (address, additional) in [("127.0.0.1", pipe.clone()), ("127.0.0.1", socket_address("a.test", 80))] {
        assert!(of(socket_address(address, 80), &[additional]).is_err());
    }
    assert!(of(pipe, &[socket_address("127.0.0.1", 80)]).is_err());
}

#[test]
fn a_protocol_that_hosts_choose_needs_a_transport_socket_that_tells() {
    use upstreams::http_protocol_options::{AutoHttpConfig, UpstreamProtocolOptions};
    let options = upstreams::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::AutoConfig(AutoHttpConfig::default())),
        ..Default::default()
    };
    let any = protobuf::Any { type_url: upstreams::HttpProtocolOptions::type_url(), value: options.encode_to_vec() };
    let mut proto = cluster(&["127.0.0.1"]);
    proto.typed_extension_protocol_options = [(upstreams::HttpProtocolOptions::full_name(), any)].into();
    let refused = refusals(proto);
    assert_eq!(
        refused,
        ["typed_extension_protocol_options: ALPN configured for a cluster which has a non-ALPN transport socket"]
    );
}

#[test]
fn sockets_that_a_matcher_chooses_by_name_have_names_of_their_own() {
    let of = |names: [&str; 2]| {
        let of_name = |name: &str| pb::cluster::TransportSocketMatch { name: name.to_owned(), ..Default::default() };
        lower(pb::Cluster {
            transport_socket_matches: names.map(of_name).into(),
            transport_socket_matcher: Some(Default::default()),
            ..cluster(&["127.0.0.1"])
        })
    };
    assert!(of(["a", "b"]).is_ok());
    let invalid = of(["a", "a"]).expect_err("refused").remove(0).to_string();
    assert_eq!(
        invalid,
        "transport_socket_matcher: Duplicate transport socket name 'a' found in transport_socket_matches"
    );
}
