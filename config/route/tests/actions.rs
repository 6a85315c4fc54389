use crate::cluster::Priority;
use std::time::Duration;

use http::StatusCode;

use super::*;

fn first(table: &RouteTable) -> &RouteEntry {
    table.entry(0)
}

fn forward(yaml: &str) -> RouteTable {
    routes(&format!("- {{match: {{prefix: /}}, route: {{cluster: c, {yaml}}}}}"))
}

fn forward_of(table: &RouteTable) -> &Forward {
    let Action::Forward(forward) = first(table).action() else { panic!("a route") };
    forward
}

#[test]
fn a_route_has_envoys_defaults() {
    let table = forward("");
    let forward = forward_of(&table);
    assert_eq!(forward.timeout(&get("h/")), Some(Duration::from_secs(15)));
    assert_eq!(forward.idle_timeout, None);
    assert_eq!(forward.cluster_not_found, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(forward.priority, Priority::Default);
    assert_eq!(forward.upgrade("websocket"), None);
    assert_eq!(first(&table).buffer_limit(7), 7);
    let Some(Cluster::Named(cluster)) = first(&table).cluster() else { panic!("a name") };
    assert_eq!(&*cluster.name, "c");
}

#[test]
fn timeouts_are_lowered() {
    let table = forward(
        "timeout: 0s, idle_timeout: 0s, max_stream_duration: {max_stream_duration: 2s, grpc_timeout_header_max: 0s}",
    );
    let forward_ = forward_of(&table);
    assert_eq!(forward_.timeout(&get("h/")), None);
    assert_eq!(forward_.idle_timeout, Some(Duration::ZERO));
    let expected = MaxStreamDuration {
        max: Some(Duration::from_secs(2)),
        grpc_timeout_header_max: Some(Duration::ZERO),
        grpc_timeout_header_offset: None,
    };
    assert_eq!(forward_.max_stream_duration, Some(expected));

    assert_eq!(forward_.stream_duration(&get("h/"), None), Some(Duration::from_secs(2)));
    let asks = |timeout| with(get("h/"), "grpc-timeout", timeout);
    assert_eq!(forward_.stream_duration(&asks("7S"), None), Some(Duration::from_secs(7)));

    let duration = |fields: &str, request: &RequestHead| {
        let table = forward(&format!("timeout: 3s, max_stream_duration: {fields}"));
        assert_eq!(forward_of(&table).timeout(request), None, "the newer field goes before the older");
        forward_of(&table).stream_duration(request, Some(Duration::from_secs(9))).map(|d| d.as_secs())
    };
    assert_eq!(duration("{}", &get("h/")), Some(9));
    assert_eq!(duration("{max_stream_duration: 0s}", &get("h/")), None);
    assert_eq!(duration("{max_stream_duration: 0s, grpc_timeout_header_max: 5s}", &asks("7S")), Some(5));
    let shortened = "{grpc_timeout_header_max: 5s, grpc_timeout_header_offset: 2s}";
    assert_eq!(duration(shortened, &asks("7S")), Some(3));
    assert_eq!(duration(shortened, &asks("1S")), Some(0));
    assert_eq!(duration(shortened, &asks("x")), Some(9));

    let table = forward("timeout: 3s, max_grpc_timeout: 10s");
    let grpc = with(with(get("h/"), "content-type", "application/grpc"), "grpc-timeout", "7S");
    assert_eq!(forward_of(&table).timeout(&get("h/")), Some(Duration::from_secs(3)));
    assert_eq!(forward_of(&table).timeout(&grpc), Some(Duration::from_secs(7)));
}

#[test]
fn upgrades_are_found_in_any_case() {
    let table = forward(
        "upgrade_configs: [{upgrade_type: WebSocket}, {upgrade_type: CONNECT, enabled: false, connect_config: {}}]",
    );
    let forward = forward_of(&table);
    assert!(forward.upgrade("websocket").is_some_and(|u| u.enabled && !u.terminate));
    assert!(forward.upgrade("Connect").is_some_and(|u| !u.enabled && u.terminate));
}

#[test]
fn weights_share_the_random_numbers() {
    let table = routes(
        "
- match: {prefix: /}
  name: split
  route:
    weighted_clusters:
      header_name: x-random
      clusters:
      - {name: a, weight: 30}
      - {name: none, weight: 0}
      - {cluster_header: x-c, weight: 70}
- {match: {prefix: /}, route: {cluster: z}}
",
    );
    let picks: Vec<_> = (0..100).map(|r| resolve(&table, &get("h/"), r).unwrap()).collect();
    assert_eq!(picks.iter().filter(|i| **i == 0).count(), 30);
    assert_eq!(picks.iter().filter(|i| **i == 2).count(), 70);
    assert_eq!(resolve(&table, &with(get("h/"), "x-random", "129"), 99), Some(0));
    assert_eq!(resolve(&table, &with(get("h/"), "x-random", "x"), 99), Some(2));
    assert_eq!(resolve(&table, &with(with(get("h/"), "x-random", "1"), "x-random", "1"), 99), Some(2));
    assert_eq!(&**table.entry(2).name(), "split");
    let refs: Vec<_> = table.cluster_refs().map(|r| (r.cluster.name.to_string(), r.to_string())).collect();
    let at = |i| format!("virtual_hosts[0].routes[0].route.weighted_clusters.clusters[{i}].name");
    assert_eq!(
        refs,
        [("a".into(), at(0)), ("none".into(), at(1)), ("z".into(), "virtual_hosts[0].routes[1].route.cluster".into())]
    );
}

#[test]
fn a_direct_response_has_its_body() {
    let body = |yaml: &str| {
        let table = routes(&format!("- {{match: {{prefix: /}}, direct_response: {{status: 404, {yaml}}}}}"));
        let Action::DirectResponse(direct) = first(&table).action() else { panic!("a direct response") };
        assert_eq!(direct.status.as_u16(), 404);
        assert_eq!(location(first(&table), &get("h/")), None);
        let info = info();
        let cx = FormatCx::new(&info, Instant::now(), SystemTime::UNIX_EPOCH);
        let body = String::from_utf8(direct.body(&get("h/p"), &cx).to_vec()).unwrap();
        (body, direct.content_type().map(|v| v.to_str().unwrap().to_owned()))
    };
    assert_eq!(body("body: {inline_string: gone}"), ("gone".into(), None));
    assert_eq!(body(""), ("".into(), None));
    let text = "body: {inline_string: gone}, body_format: {text_format: '%LOCAL_REPLY_BODY% %REQ(:path)%'";
    assert_eq!(body(&format!("{text}}}")), ("gone /p".into(), None));
    assert_eq!(body(&format!("{text}, content_type: a/b}}")), ("gone /p".into(), Some("a/b".into())));
    let json = body("body_format: {json_format: {b: '%LOCAL_REPLY_BODY%'}}");
    assert_eq!(json, ("{\"b\":\"\"}\n".into(), Some("application/json".into())));
}

#[test]
fn the_most_specific_buffer_limit_holds() {
    let table = table(
        "
virtual_hosts:
- name: h
  domains: ['*']
  per_request_buffer_limit_bytes: 100
  routes:
  - {match: {path: /a}, direct_response: {status: 200}}
  - {match: {path: /b}, direct_response: {status: 200}, request_body_buffer_limit: 5000}
",
    );
    assert_eq!((table.entry(0).buffer_limit(1000), table.entry(0).buffer_limit(10)), (100, 10));
    assert_eq!(table.entry(1).buffer_limit(1000), 5000);
}

#[test]
fn a_worker_hands_out_references() {
    let table = Arc::new(routes("- {name: r, match: {prefix: /}, direct_response: {status: 200}}"));
    let worker = WorkerRoutes::new(table);
    let route = worker.resolve(&get("h/"), &info(), 0).unwrap();
    assert_eq!(&**route.get().name(), "r");
    assert!(route.downcast::<RouteEntry>().is_some());
    assert_eq!(Rc::strong_count(&worker), 2);
}
