use super::*;

const SPLIT: &str = "- match: {prefix: /}\n  route:\n    weighted_clusters:\n      header_name: x-random\n      \
                     clusters: [{name: a, weight: 3}, {name: b, weight: 0}, {name: c, weight: 4}, {name: d, weight: 1}]\n";

fn order(table: &RouteTable, head: &RequestHead, attempts: usize) -> Vec<usize> {
    let mut at = resolve(table, head, 0).expect("a route");
    let mut tried = TriedClusters::first(table.entry(at));
    let mut order = vec![at];
    for _ in 1..attempts {
        match table.entry(at).next_cluster(head, &info(), 0, &mut tried) {
            NextCluster::Entry(next) => at = next,
            NextCluster::Same => {}
            NextCluster::Chosen(_) => panic!("no matcher chooses"),
        }
        order.push(at);
    }
    order
}

#[test]
fn each_attempt_goes_to_a_cluster_that_was_not_tried() {
    let table = routes(&SPLIT.replace("weight: 0", "weight: 2"));
    assert_eq!(order(&table, &with(get("h/"), "x-random", "2"), 9), [0, 2, 3, 1, 0, 2, 3, 1, 0]);
    assert_eq!(order(&table, &with(get("h/"), "x-random", "9"), 5), [3, 0, 2, 1, 3]);
}

#[test]
fn what_is_left_without_weight_is_never_tried() {
    assert_eq!(order(&routes(SPLIT), &with(get("h/"), "x-random", "0"), 5), [0, 2, 3, 3, 3]);
}

#[test]
fn a_route_with_one_cluster_stays_with_it() {
    let table = routes("- match: {prefix: /}\n  route: {cluster: c}\n");
    assert_eq!(order(&table, &get("h/"), 3), [0, 0, 0]);
}
