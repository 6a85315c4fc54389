//! Admin is asked what the proxy has of its control plane (CSDS), by gRPC.

use super::{GRPC, Scene, cluster};
use crate::support::control_plane::Kind;
use crate::support::h2_client::{H2Client, Outcome};
use crate::support::http1::Message;
use crate::support::proxy::proxy;
use crate::support::split::Split;
use http::{HeaderMap, Request};
use nuncio_proto::envoy::admin::v3::ClientResourceStatus;
use nuncio_proto::envoy::config::cluster::v3::Cluster;
use nuncio_proto::envoy::service::status::v3::client_config::GenericXdsConfig;
use nuncio_proto::envoy::service::status::v3::{ClientConfig, ClientStatusRequest, ClientStatusResponse};
use nuncio_proto::envoy::r#type::matcher::v3::NodeMatcher;
use prost::Message as _;
use std::net::SocketAddr;

const FETCH: &str = "FetchClientStatus";
const STREAM: &str = "StreamClientStatus";

/// A message as gRPC frames it.
fn frame(request: &ClientStatusRequest) -> Vec<u8> {
    let message = request.encode_to_vec();
    let length = u32::try_from(message.len()).expect("it is short");
    [&[0], &length.to_be_bytes()[..], &message].concat()
}

async fn call(admin: SocketAddr, method: &str, body: &[u8]) -> Message {
    let mut client = H2Client::connect(admin, Split::Whole).await.expect("admin listens");
    let path = format!("http://admin/envoy.service.status.v3.ClientStatusDiscoveryService/{method}");
    let request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    // Trailers, so that there is a body though it be empty.
    match client.request(request.body(()).expect("it is a request"), body, Some(HeaderMap::new())).await {
        Outcome::Response(message) => message,
        Outcome::Reset(reason) => panic!("the call was reset: {reason}"),
    }
}

/// The answers of a call that went well.
fn answers(message: &Message) -> Vec<ClientConfig> {
    assert!(message.trailers.contains(&("grpc-status".to_owned(), "0".to_owned())), "{message:?}");
    let (mut rest, mut all) = (&*message.body, Vec::new());
    while let Some((prefix, tail)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let mut response = ClientStatusResponse::decode(&tail[..length]).expect("it is a response");
        all.push(response.config.remove(0));
        rest = &tail[length..];
    }
    all
}

fn find<'a>(config: &'a ClientConfig, kind: Kind, name: &str) -> Option<&'a GenericXdsConfig> {
    config.generic_xds_configs.iter().find(|found| found.type_url == kind.type_url() && found.name == name)
}

async fn fetch(scene: &Scene, request: ClientStatusRequest) -> ClientConfig {
    answers(&call(scene.proxy.admin, FETCH, &frame(&request)).await).remove(0)
}

#[tokio::test]
async fn it_tells_what_is_in_force_and_what_was_asked_for() {
    let scene = Scene::new(GRPC).await;
    scene.plane.set(Kind::Cluster, "b", &cluster("b"));
    scene.plane.wait_for(Kind::Endpoints, |asked| asked.names.iter().any(|name| name == "b")).await;
    let config = fetch(&scene, ClientStatusRequest::default()).await;
    assert_eq!(config.node.as_ref().map(|node| &*node.id), Some("me"));
    let a = find(&config, Kind::Cluster, "a").expect("it was given");
    assert_eq!((a.client_status(), a.is_static_resource), (ClientResourceStatus::Acked, false));
    assert!(a.last_updated.is_some() && !a.version_info.is_empty() && a.error_state.is_none());
    assert_eq!(Cluster::decode(&*a.xds_config.as_ref().unwrap().value).unwrap().name, "a");
    for (kind, name) in [
        (Kind::Endpoints, "a"),
        (Kind::Listener, "front"),
        (Kind::Routes, "routes"),
        (Kind::Extension, "found"),
        (Kind::Runtime, "layer"),
    ] {
        let found = find(&config, kind, name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(found.client_status(), ClientResourceStatus::Acked, "{name}");
    }
    let asked = find(&config, Kind::Endpoints, "b").expect("it is asked for");
    assert_eq!((asked.client_status(), asked.xds_config.is_some()), (ClientResourceStatus::Requested, false));
    let own = find(&config, Kind::Cluster, "xds").expect("the bootstrap has it");
    assert!(own.is_static_resource && own.xds_config.is_some());
}

#[tokio::test]
async fn it_tells_what_was_refused_and_why_while_what_was_there_serves() {
    let scene = Scene::new(GRPC).await;
    scene.plane.set(Kind::Cluster, "a", &(cluster("a") + "\nlb_policy: MAGLEV\nmaglev_lb_config: { table_size: 4 }"));
    scene.plane.wait_for(Kind::Cluster, |asked| asked.error.is_some()).await;
    let config = fetch(&scene, ClientStatusRequest::default()).await;
    let a = find(&config, Kind::Cluster, "a").expect("it was given");
    assert_eq!(a.client_status(), ClientResourceStatus::Nacked);
    let error = a.error_state.as_ref().expect("it was refused");
    assert!(error.details.contains("table_size") && error.version_info != a.version_info, "{error:?}");
    assert!(error.failed_configuration.is_some() && error.last_update_attempt.is_some());
    assert_eq!(Cluster::decode(&*a.xds_config.as_ref().unwrap().value).unwrap().lb_policy, 0);
}

#[tokio::test]
async fn a_stream_answers_each_message_and_contents_may_be_left_out() {
    let scene = Scene::new(GRPC).await;
    let brief = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
    let body = [frame(&ClientStatusRequest::default()), frame(&brief)].concat();
    let answers = answers(&call(scene.proxy.admin, STREAM, &body).await);
    let told = answers.iter().map(|config| find(config, Kind::Cluster, "a").unwrap().xds_config.is_some());
    assert_eq!(told.collect::<Vec<_>>(), [true, false]);
}

#[tokio::test]
async fn what_must_be_kept_is_redacted() {
    let secret = "generic_secret: { secret: { inline_string: nobody sees me } }";
    let running = proxy(format!(
        "static_resources: {{ secrets: [{{ name: s, {secret} }}] }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
"
    ));
    let running = running.run().await;
    let config = answers(&call(running.admin, FETCH, &frame(&ClientStatusRequest::default())).await).remove(0);
    let told = find(&config, Kind::Secret, "s").and_then(|found| found.xds_config.clone()).expect("it is told of");
    let text = String::from_utf8_lossy(&told.value);
    assert!(text.contains("[redacted]") && !text.contains("nobody sees me"), "{text:?}");
}

#[tokio::test]
async fn calls_that_cannot_be_answered_end_with_a_status() {
    let scene = Scene::new(GRPC).await;
    let status = |message: &Message| {
        message.trailers.iter().find(|(name, _)| name == "grpc-status").map(|(_, value)| value.clone())
    };
    let chosen = ClientStatusRequest { node_matchers: vec![NodeMatcher::default()], ..Default::default() };
    for (body, expected) in [
        (frame(&chosen), "3"),
        (vec![0, 0, 0, 0, 1, 0xff], "3"),
        (vec![1, 0, 0, 0, 0], "12"),
        (vec![0, 0], "13"),
        (Vec::new(), "13"),
    ] {
        let message = call(scene.proxy.admin, FETCH, &body).await;
        assert_eq!(status(&message).as_deref(), Some(expected), "{body:?}");
    }
    assert_eq!(call(scene.proxy.admin, "Other", b"").await.start, "HTTP/2 404");
}
