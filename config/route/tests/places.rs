use super::*;

#[test]
fn every_entry_knows_its_place() {
    let table = table(
        "virtual_hosts:
- { name: none, domains: [a] }
- name: tls
  domains: [b]
  require_tls: ALL
  routes:
  - { match: { path: /1 }, redirect: { path_redirect: /2 } }
- name: split
  domains: ['*']
  routes:
  - match: { prefix: /w }
    route:
      weighted_clusters: { clusters: [{ name: a, weight: 1 }, { name: b, weight: 1 }] }
  - match: { prefix: /x }
    route:
      weighted_clusters: { clusters: [{ name: a, weight: 1 }] }
  - { match: { prefix: / }, route: { cluster: c } }
",
    );
    let places: Vec<_> = table.places().iter().map(|p| (p.virtual_host, p.route, p.weighted)).collect();
    assert_eq!(
        places,
        [
            (1, None, None),
            (1, Some(0), None),
            (2, Some(0), Some(0)),
            (2, Some(0), Some(1)),
            (2, Some(1), Some(0)),
            (2, Some(2), None)
        ]
    );
}
