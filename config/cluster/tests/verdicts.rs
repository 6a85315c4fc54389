//! What an audit against Envoy found refused or accepted otherwise.

use super::*;

#[test]
fn only_an_older_field_for_hashed_names_depends_on_the_type_of_the_cluster() {
    use pb::cluster::common_lb_config::ConsistentHashingLbConfig;
    let with = |kind: Option<ClusterDiscoveryType>| {
        let consistent = ConsistentHashingLbConfig { use_hostname_for_hashing: true, ..Default::default() };
        let common =
            pb::cluster::CommonLbConfig { consistent_hashing_lb_config: Some(consistent), ..Default::default() };
        pb::Cluster { common_lb_config: Some(common), cluster_discovery_type: kind, ..cluster(&["127.0.0.1"]) }
    };
    let strict = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
    assert!(lower(with(strict)).is_ok());
    for (kind, name) in [
        (None, "envoy.cluster.static"),
        (Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32)), "envoy.cluster.logical_dns"),
        (custom(&DnsCluster::default()), ""),
    ] {
        let expected = format!("for cluster of type: '{name}'");
        assert!(refusals(with(kind)).join("\n").contains(&expected), "{expected}");
    }
}

#[test]
fn a_list_of_policies_is_not_combined_with_older_fields() {
    let with = |common, subset| pb::Cluster {
        load_balancing_policy: Some(Default::default()),
        common_lb_config: Some(common),
        lb_subset_config: subset,
        ..cluster(&["127.0.0.1"])
    };
    let specifier =
        pb::cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(Default::default());
    let locality = pb::cluster::CommonLbConfig { locality_config_specifier: Some(specifier), ..Default::default() };
    let refused = refusals(with(locality, None)).join("\n");
    assert!(refused.starts_with("common_lb_config: cluster: load_balancing_policy cannot be"), "{refused}");
    let refused = refusals(with(Default::default(), Some(Default::default()))).join("\n");
    assert!(refused.starts_with("lb_subset_config: cluster: load_balancing_policy cannot be"), "{refused}");
}

#[test]
fn messages_among_metadata_that_nobody_knows_are_passed_over() {
    let any = protobuf::Any { type_url: DnsCluster::type_url(), value: Vec::new() };
    let typed = core::Metadata { typed_filter_metadata: [("x".to_owned(), any)].into(), ..Default::default() };
    let mut proto = cluster(&["127.0.0.1"]);
    for locality in proto.load_assignment.iter_mut().flat_map(|assignment| &mut assignment.endpoints) {
        locality.metadata = Some(typed.clone());
        locality.lb_endpoints[0].metadata = Some(typed.clone());
    }
    proto.metadata = Some(typed);
    let lowered = lower(proto).expect("they change nothing");
    assert!(lowered.metadata.is_none() && lowered.endpoints[0].metadata.is_none());
}

#[test]
fn options_have_the_names_that_envoy_knows() {
    use nuncio_proto::envoy::extensions::upstreams::tcp::v3::TcpProtocolOptions;
    let any = protobuf::Any { type_url: TcpProtocolOptions::type_url(), value: Vec::new() };
    let with = |name: &str| pb::Cluster {
        typed_extension_protocol_options: [(name.to_owned(), any.clone())].into(),
        ..cluster(&["127.0.0.1"])
    };
    assert!(lower(with("envoy.upstreams.tcp.tcp_protocol_options")).is_ok());
    assert!(refusals(with("foo"))[0].ends_with("for name: 'foo'"));
}
