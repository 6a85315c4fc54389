use http::Method;
use nuncio_filter_api::Body;
use nuncio_filter_api::testing::{self, Harness, Outcome};
use nuncio_proto::envoy::config::common::mutation_rules::v3::HeaderMutation;
use nuncio_proto::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use nuncio_proto::envoy::config::core::v3 as core;
use prost::Message;

use super::*;

fn append(key: &str, value: &str) -> HeaderMutation {
    let header = core::HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() };
    let option =
        core::HeaderValueOption { header: Some(header), append: None, append_action: 0, keep_empty_value: false };
    HeaderMutation { action: Some(Action::Append(option)) }
}

fn remove(name: &str) -> HeaderMutation {
    HeaderMutation { action: Some(Action::Remove(name.into())) }
}

fn of_requests(request_mutations: Vec<HeaderMutation>) -> proto::Mutations {
    proto::Mutations { request_mutations, ..Default::default() }
}

fn of_responses(response_mutations: Vec<HeaderMutation>) -> proto::Mutations {
    proto::Mutations { response_mutations, ..Default::default() }
}

fn filter(mutations: proto::Mutations, most_specific_header_mutations_wins: bool) -> Vec<u8> {
    proto::HeaderMutation { mutations: Some(mutations), most_specific_header_mutations_wins }.encode_to_vec()
}

fn per_route(mutations: proto::Mutations) -> Vec<u8> {
    proto::HeaderMutationPerRoute { mutations: Some(mutations) }.encode_to_vec()
}

fn harness(mutations: proto::Mutations) -> Harness {
    Harness::new(&ROW, &filter(mutations, false))
}

async fn get(harness: &Harness) -> Outcome {
    harness.run(testing::request(Method::GET, "/p?q", &["x-a: 1"]), testing::response(200, &["x-b: 1"])).await
}

#[tokio::test]
async fn requests_and_responses_are_changed() {
    let mutations = proto::Mutations {
        response_mutations: vec![append("x-path", "%REQ(:path)% %RESP(x-b)% %REQ(x-new)%"), remove("x-b")],
        ..of_requests(vec![append("x-new", "%REQ(x-a)%%REQ(x-a)%"), remove("x-a")])
    };
    let outcome = get(&harness(mutations)).await;
    assert_eq!(testing::lines(&outcome.request.unwrap().head.headers), ["x-new: 11"]);
    assert_eq!(testing::lines(&outcome.response.head.headers), ["x-path: /p?q 1 11"]);
    assert_eq!(outcome.stream.route_refreshes(), 0);
}

#[tokio::test]
async fn the_query_is_changed_after_the_headers() {
    let append = core::KeyValueMutation { append: None, remove: "q".into() };
    let mutations = proto::Mutations {
        query_parameter_mutations: vec![append],
        ..of_requests(vec![self::append("x-path", "%REQ(:path)%")])
    };
    let outcome = get(&harness(mutations)).await;
    let head = outcome.request.unwrap().head;
    assert_eq!((&*head.path, &head.headers["x-path"]), ("/p", &"/p?q".parse().unwrap()));
    assert_eq!(outcome.stream.route_refreshes(), 0);
}

#[tokio::test]
async fn the_levels_of_a_route_come_after_the_filter_in_the_order_asked_for() {
    for (most_specific_last, expected) in [(false, ["filter", "route", "vhost"]), (true, ["filter", "vhost", "route"])]
    {
        let level = |name| of_requests(vec![append("x-who", name)]);
        let harness = Harness::new(&ROW, &filter(level("filter"), most_specific_last))
            .per_route(&per_route(level("vhost")))
            .per_route(&per_route(level("route")));
        let request = get(&harness).await.request.unwrap();
        let found: Vec<_> = request.head.headers.get_all("x-who").iter().collect();
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_response_to_a_request_that_another_filter_answered_is_changed_too() {
    let harness = harness(of_responses(vec![append("x-who", "filter")]))
        .per_route(&per_route(of_responses(vec![append("x-who", "route")])));
    let mut stream = harness.stream(&testing::request(Method::GET, "/", &[]).head);
    let response = stream.response(testing::response(403, &[])).await.unwrap();
    assert_eq!(testing::lines(&response.head.headers), ["x-who: filter", "x-who: route"]);
}

#[tokio::test]
async fn trailers_are_changed_when_they_come_by() {
    let harness = harness(proto::Mutations {
        request_trailers_mutations: vec![append("x-t", "%REQ(:path)%%TRAILER(x-t)%"), remove("x-u")],
        response_trailers_mutations: vec![append("x-t", "%REQ(:path)% %RESP(x-b)% %TRAILER(x-t)%"), remove("x-u")],
        ..Default::default()
    });
    let body = || testing::chunks(&["ab", "c"], Some(testing::headers(&["x-t: 1", "x-u: 1"])));
    let request = Request { body: body(), ..testing::request(Method::POST, "/p", &[]) };
    let response = Response { body: body(), ..testing::response(200, &["x-b: b"]) };
    let outcome = harness.run(request, response).await;
    let request = outcome.request.unwrap();
    assert_eq!(testing::lines(&request.trailers.unwrap()), ["x-t: 1", "x-t: /p"]);
    assert_eq!(testing::lines(&outcome.response.trailers.unwrap()), ["x-t: 1", "x-t: /p b 1"]);
    assert_eq!((request.data, outcome.response.data), ("abc".into(), "abc".into()));
}

#[tokio::test]
async fn no_trailers_are_made_and_a_known_body_stays_known() {
    let harness = harness(proto::Mutations {
        request_trailers_mutations: vec![append("x-t", "1")],
        response_trailers_mutations: vec![append("x-t", "1")],
        ..Default::default()
    });
    let request = Request { body: testing::chunks(&["ab"], None), ..testing::request(Method::POST, "/", &[]) };
    let outcome = harness.run(request, testing::response(200, &[])).await;
    assert_eq!(outcome.request.unwrap().trailers, None);
    let mut stream = harness.stream(&testing::request(Method::GET, "/", &[]).head);
    let response = Response { body: Body::full("ab"), ..testing::response(200, &[]) };
    let mut response = stream.response(response).await.unwrap();
    assert_eq!(response.body.take_full(), Some("ab".into()));
}

#[tokio::test]
async fn a_request_without_path_and_a_response_without_status_are_answered_as_envoy_does() {
    let outcome = get(&harness(of_requests(vec![remove(":path")]))).await;
    let reply = outcome.local_reply.unwrap();
    assert_eq!((reply.status, &*reply.body), (StatusCode::SERVICE_UNAVAILABLE, &b"missing required header: :path"[..]));
    assert_eq!(reply.details, "filter_removed_required_request_headers{missing_required_header:_:path}");
    assert!(reply.flags.has(ResponseFlag::DownstreamProtocolError));
    let outcome = get(&harness(of_responses(vec![remove(":status")]))).await;
    assert_eq!(outcome.response.head.status, StatusCode::BAD_GATEWAY);
    assert_eq!(outcome.response.data, "missing required header: :status");
}

#[test]
fn every_refusal_is_told_at_once() {
    let bad = || vec![HeaderMutation { action: None }];
    let mutations = proto::Mutations {
        request_mutations: bad(),
        query_parameter_mutations: vec![Default::default()],
        response_mutations: bad(),
        response_trailers_mutations: bad(),
        request_trailers_mutations: bad(),
    };
    let env = testing::env();
    let paths = |refusals: Vec<nuncio_filter_api::Invalid>| refusals.into_iter().map(|i| i.path).collect::<Vec<_>>();
    let expected = ["request_mutations", "query_parameter_mutations", "response_mutations"]
        .into_iter()
        .chain(["response_trailers_mutations", "request_trailers_mutations"])
        .map(|field| format!("config.mutations.{field}[0]"))
        .collect::<Vec<_>>();
    assert_eq!(paths(testing::lower(&ROW, &filter(mutations.clone(), false), &env).err().unwrap()), expected);
    assert_eq!(paths(testing::lower_per_route(&ROW, &per_route(mutations), &env).err().unwrap()), expected);
}
