//! Taps that the admin interface configures.

use crate::support::DEADLINE;
use crate::support::bootstrap::Pieces;
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LISTENER: &str = r#"transport_socket:
      name: tap
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tap.v3.Tap
        common_config: { admin_config: { config_id: one } }
        transport_socket: { name: raw, typed_config: { "@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer } }
"#;

async fn tapped() -> Running {
    let listener = format!(
        "- name: tapped\n  address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}\n  filter_chains:\n  - \
         filters: [{{ name: echo, typed_config: {{ \"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo }} }}]\n    {LISTENER}"
    );
    proxy(Pieces { listeners: listener, ..Pieces::default() }.yaml()).upstream(http1()).run().await
}

async fn ask(proxy: &Running, body: &str) -> TcpStream {
    let mut admin = TcpStream::connect(proxy.admin).await.expect("admin accepts");
    let request = format!("POST /tap HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    admin.write_all(request.as_bytes()).await.expect("admin reads");
    admin
}

fn tap(id: &str, sink: &str) -> String {
    let output = format!("{{ sinks: [{{ format: JSON_BODY_AS_STRING, {sink} }}] }}");
    format!("config_id: {id}\ntap_config: {{ match: {{ any_match: true }}, output_config: {output} }}\n")
}

/// Reads until the text is there.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        let read = timeout(DEADLINE, stream.read_buf(&mut all)).await.expect("something comes").expect("no reset");
        assert!(read > 0, "an end after {}", String::from_utf8_lossy(&all));
    }
    String::from_utf8_lossy(&all).into_owned()
}

async fn talk(proxy: &Running, text: &str) {
    let to = proxy.listener_now("tapped").await.expect("it listens");
    let mut client = TcpStream::connect(to).await.expect("the proxy accepts");
    client.write_all(text.as_bytes()).await.expect("the proxy reads");
    read_until(&mut client, text).await;
}

#[tokio::test]
async fn a_tap_lasts_while_somebody_listens() {
    let proxy = tapped().await;
    let mut admin = ask(&proxy, &tap("one", "streaming_admin: {}")).await;
    read_until(&mut admin, "\r\n\r\n").await;
    talk(&proxy, "first words").await;
    let told = read_until(&mut admin, "\"write_truncated\": false").await;
    assert_eq!(told.matches("\"as_string\": \"first words\"").count(), 2, "{told}");
    let mut second = ask(&proxy, &tap("one", "streaming_admin: {}")).await;
    let refusal = read_until(&mut second, "Detach it.").await;
    assert!(refusal.starts_with("HTTP/1.1 400"), "{refusal}");
    drop(admin);
    // The end of the first may take a moment to be seen.
    let until = tokio::time::Instant::now() + DEADLINE;
    loop {
        let mut third = ask(&proxy, &tap("one", "streaming_admin: {}")).await;
        if read_until(&mut third, "\r\n\r\n").await.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "still attached");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_tap_ends_after_so_many_traces() {
    let proxy = tapped().await;
    let mut admin = ask(&proxy, &tap("one", "buffered_admin: { max_traces: 2 }")).await;
    read_until(&mut admin, "\r\n\r\n").await;
    for text in ["one", "two", "three"] {
        talk(&proxy, text).await;
    }
    let told = read_until(&mut admin, "0\r\n\r\n").await;
    assert!(told.contains("\"one\"") && told.contains("\"two\"") && !told.contains("\"three\""), "{told}");
}

#[tokio::test]
async fn a_tap_that_nobody_could_hear_is_refused() {
    let proxy = tapped().await;
    for (body, reason) in [
        (String::new(), "/tap requires a JSON/YAML body"),
        (tap("two", "streaming_admin: {}"), "Unknown config id 'two'. No extension has registered with this id."),
        ("config_id: one\n".to_owned(), "tap_config"),
        (tap("one", "streaming_admin: {}").replace("JSON_BODY_AS_STRING", "PROTO_TEXT"), "takes no format but JSON"),
    ] {
        let said = read_until(&mut ask(&proxy, &body).await, reason).await;
        assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    }
}

#[tokio::test]
async fn the_endpoint_is_listed_where_there_is_a_tap() {
    let without = proxy(Pieces::default().yaml()).upstream(http1()).run().await;
    let help = [tapped().await.admin("/help").await, without.admin("/help").await];
    assert_eq!(help.map(|help| help.contains("\n  /tap (POST): ")), [true, false]);
    assert!(without.admin("/tap").await.starts_with("invalid path. admin commands are:"));
}
