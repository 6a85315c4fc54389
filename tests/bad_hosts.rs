//! Clusters and hosts that cannot be: each is refused with the path of what is wrong, by the binary itself, in Envoy's
//! words where Envoy has any. What Envoy takes is in `tests/parity/lb_input.txt`.

use crate::bad_routes::validate;
use crate::support::bootstrap::Pieces;

/// Where the second cluster of `Pieces` lies.
const CLUSTER: &str = "static_resources.clusters[1].";

fn host(weight: &str) -> String {
    format!("{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 1 }} }} }}{weight} }}")
}

/// Cluster `lb` with these further fields, and localities with these fields and hosts.
fn cluster(fields: &str, localities: &[(&str, &[String])]) -> String {
    let localities =
        localities.iter().map(|(fields, hosts)| format!("{{ lb_endpoints: [{}]{fields} }}", hosts.join(", ")));
    let endpoints: Vec<String> = localities.collect();
    format!(
        "- name: lb\n  connect_timeout: 1s\n{fields}  load_assignment: {{ cluster_name: lb, endpoints: [{}] }}\n",
        endpoints.join(", ")
    )
}

/// The clusters are refused for this reason and no other.
#[track_caller]
fn is_refused(clusters: String, path: &str, reason: &str) {
    let (taken, text) = validate(&Pieces { clusters, ..Pieces::default() }.yaml());
    assert!(!taken, "{text}");
    let reasons: Vec<&str> = text.lines().filter(|line| line.contains(": static_resources.")).collect();
    let wanted = format!(": {CLUSTER}{path}: {reason}");
    assert!(reasons.len() == 1 && reasons[0].contains(&wanted), "no {wanted:?} in\n{text}");
}

const GREATEST: &str = ", load_balancing_weight: 4294967295";

#[test]
fn a_weight_of_nothing_is_refused() {
    let path = "load_assignment.endpoints[0].lb_endpoints[0].load_balancing_weight";
    is_refused(cluster("", &[("", &[host(", load_balancing_weight: 0")])]), path, "");
    let path = "load_assignment.endpoints[0].load_balancing_weight";
    is_refused(cluster("", &[(", load_balancing_weight: 0", &[host("")])]), path, "");
}

#[test]
fn tables_for_hashes_have_weights_that_add_up() {
    for policy in ["RING_HASH", "MAGLEV"] {
        let policy = format!("  lb_policy: {policy}\n");
        is_refused(
            cluster(&policy, &[("", &[host(GREATEST), host("")])]),
            "load_assignment",
            "The sum of weights of all upstream hosts in a locality exceeds 4294967295",
        );
        let [a, b] = [", locality: { zone: a }", ", locality: { zone: b }"].map(|zone| format!("{zone}{GREATEST}"));
        is_refused(
            cluster(&policy, &[(&a, &[host("")]), (&b, &[host("")])]),
            "load_assignment",
            "The sum of weights of all localities at the same priority exceeds 4294967295",
        );
    }
}

#[test]
fn hosts_without_an_address_are_refused() {
    let named = cluster("", &[("", &["{ endpoint_name: a }".to_owned()])]);
    is_refused(named, "load_assignment.endpoints[0].lb_endpoints[0].endpoint_name", "is the name of no endpoint");
    let discovered = "- name: lb\n  connect_timeout: 1s\n  load_assignment: { cluster_name: lb, endpoints: [{ \
                      leds_cluster_locality_config: { leds_config: { ads: {} }, leds_collection_name: x } }] }\n";
    is_refused(
        discovered.to_owned(),
        "load_assignment.endpoints[0].leds_cluster_locality_config",
        "LEDS is only supported when EDS is used",
    );
}

#[test]
fn selectors_fall_back_to_fewer_of_their_own_keys() {
    let selector = |fields: &str| {
        let fields = format!("  lb_subset_config: {{ subset_selectors: [{{ keys: [a, b], {fields} }}] }}\n");
        cluster(&fields, &[("", &[host("")])])
    };
    let path = "lb_subset_config.subset_selectors[0]";
    for (fields, reason) in [
        ("fallback_policy: KEYS_SUBSET, fallback_keys_subset: [a, b]", "fallback_keys_subset cannot be equal to keys"),
        (
            "fallback_policy: KEYS_SUBSET, fallback_keys_subset: [c]",
            "fallback_keys_subset must be a subset of selector keys",
        ),
        ("fallback_policy: KEYS_SUBSET", "fallback_keys_subset cannot be empty"),
        ("fallback_keys_subset: [a]", "fallback_keys_subset can be set only for KEYS_SUBSET fallback_policy"),
    ] {
        is_refused(selector(fields), path, reason);
    }
}

#[test]
fn policies_have_sizes_that_can_be() {
    let of = |fields: &str| cluster(fields, &[("", &[host("")])]);
    let ring = "  lb_policy: RING_HASH\n  ring_hash_lb_config: { minimum_ring_size: 10, maximum_ring_size: 5 }\n";
    is_refused(of(ring), "ring_hash_lb_config", "ring hash: minimum_ring_size (10) > maximum_ring_size (5)");
    let maglev = "  lb_policy: MAGLEV\n  maglev_lb_config: { table_size: 10 }\n";
    is_refused(of(maglev), "maglev_lb_config.table_size", "The table size of maglev must be prime number");
    let aware = "  lb_subset_config: { locality_weight_aware: true, subset_selectors: [{ keys: [a] }] }\n";
    is_refused(
        of(aware),
        "lb_subset_config",
        "Locality weight aware subset LB requires that a locality_weighted_lb_config",
    );
}
