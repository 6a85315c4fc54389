//! What a cluster says of its connections, as one number.

use nuncio_proto::envoy::config::cluster::v3::Cluster;

use crate::fingerprint::fingerprint;

/// Fields of the message that choose hosts and look after them, and leave a connection to one as it is.
const OF_HOSTS: [u32; 28] = [
    2,  // type
    3,  // eds_cluster_config
    6,  // lb_policy
    8,  // health_checks
    16, // dns_refresh_rate
    17, // dns_lookup_family
    18, // dns_resolvers
    19, // outlier_detection
    20, // cleanup_interval
    22, // lb_subset_config
    23, // ring_hash_lb_config
    25, // metadata
    27, // common_lb_config
    32, // ignore_health_on_host_removal
    33, // load_assignment
    34, // original_dst_lb_config
    37, // least_request_lb_config
    38, // cluster_type
    39, // respect_dns_ttl
    41, // load_balancing_policy
    44, // dns_failure_refresh_rate
    45, // use_tcp_for_dns_lookups
    52, // maglev_lb_config
    53, // dns_resolution_config
    54, // wait_for_warm_on_init
    55, // typed_dns_resolver_config
    56, // round_robin_lb_config
    58, // dns_jitter
];

pub(super) fn hash(cluster: &Cluster) -> u64 {
    fingerprint(cluster, &OF_HOSTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_proto::envoy::config::cluster::v3::cluster::LbPolicy;
    use nuncio_proto::google::protobuf::UInt32Value;

    #[test]
    fn what_chooses_hosts_changes_no_connection() {
        let cluster = Cluster { name: "c".to_owned(), ..Default::default() };
        let random = Cluster {
            lb_policy: LbPolicy::Random as i32,
            load_assignment: Some(Default::default()),
            ..cluster.clone()
        };
        assert_eq!(hash(&cluster), hash(&random));
        let limit = Some(UInt32Value { value: 1 });
        assert_ne!(hash(&cluster), hash(&Cluster { per_connection_buffer_limit_bytes: limit, ..cluster.clone() }));
    }
}
