use super::*;

fn table_of(action: &str) -> RouteTable {
    routes(&format!("- {{match: {{prefix: /}}, route: {{{action}}}}}"))
}

fn criteria(entry: &RouteEntry) -> Vec<(String, String)> {
    let criteria = entry.metadata_match().into_iter().flat_map(|metadata| metadata.criteria());
    criteria.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_route_asks_for_endpoints() {
    let table = table_of("cluster: c, metadata_match: {filter_metadata: {envoy.lb: {z: a, b: true}, other: {x: y}}}");
    assert_eq!(criteria(table.entry(0)), pairs(&[("b", "true"), ("z", "\"a\"")]));
    let table = table_of("cluster: c, metadata_match: {filter_metadata: {other: {x: y}}}");
    assert_eq!(table.entry(0).metadata_match(), None);
}

#[test]
fn a_weighted_cluster_asks_over_its_route() {
    let lb = |fields: &str| format!("metadata_match: {{filter_metadata: {{envoy.lb: {{{fields}}}}}}}");
    let table = table_of(&format!(
        "{}, weighted_clusters: {{clusters: [{{name: a, weight: 1, {}}}, {{name: b, weight: 1}}]}}",
        lb("stage: prod, zone: z1"),
        lb("stage: canary")
    ));
    assert_eq!(criteria(table.entry(0)), pairs(&[("stage", "\"canary\""), ("zone", "\"z1\"")]));
    assert_eq!(criteria(table.entry(1)), pairs(&[("stage", "\"prod\""), ("zone", "\"z1\"")]));
}

#[test]
fn the_hash_of_the_policies_chooses_the_cluster() {
    let clusters = "clusters: [{name: a, weight: 1}, {name: b, weight: 1}, {name: c, weight: 1}]";
    let table = table_of(&format!(
        "hash_policy: [{{header: {{header_name: x-a}}}}], weighted_clusters: {{use_hash_policy: true, {clusters}}}"
    ));
    // XXH64 of "foo" is 0x33bf00a859c4ba3f, which leaves 2 when divided by 3.
    let head = with(get("h/"), "x-a", "foo");
    assert_eq!(resolve(&table, &head, 0), Some((0x33bf_00a8_59c4_ba3f_u64 % 3) as usize));
    assert_eq!(resolve(&table, &get("h/"), 1), Some(1));
}
