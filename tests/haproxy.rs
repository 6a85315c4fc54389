//! HAProxy as the peer that sends and takes headers of the PROXY protocol.

use crate::support::DEADLINE;
use crate::support::bootstrap::Pieces;
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::proxy::proxy;
use crate::support::say;
use crate::support::split::Split;
use crate::support::upstream::http1;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// A running HAProxy.
struct HaProxy {
    child: Child,
    config: PathBuf,
    address: SocketAddr,
}

impl HaProxy {
    /// One frontend, whose `bind` line has `options`, with these further lines. `None` where there is no HAProxy.
    async fn start(test: &str, mode: &str, options: &str, lines: &str) -> Option<Self> {
        let port = free_port();
        let config = std::env::temp_dir().join(format!("nuncio-haproxy-{}-{port}.cfg", std::process::id()));
        let text = format!(
            "global\n  maxconn 100\ndefaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
             frontend f\n  bind 127.0.0.1:{port} {options}\n{lines}\n"
        );
        std::fs::write(&config, text).expect("the folder is writable");
        let mut command = Command::new("haproxy");
        let child = command.args(["-db", "-f"]).arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = child else {
            say(&format!("SKIPPED {test}: there is no haproxy"));
            return None;
        };
        let running = Self { child, config, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let until = Instant::now() + DEADLINE;
        while TcpStream::connect(running.address).await.is_err() {
            assert!(Instant::now() < until, "haproxy does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(running)
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

#[tokio::test]
async fn haproxy_tells_us_of_its_client() {
    let filter = "listener_filters:\n- { name: p, typed_config: { \"@type\": \
                  type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol } }\n";
    let answer = "- match: { prefix: / }\n  direct_response: { status: 200 }\n  response_headers_to_add: \
                  [{ header: { key: x-client, value: \"%DOWNSTREAM_REMOTE_ADDRESS%\" } }]\n";
    let pieces = Pieces { listener: filter.to_owned(), routes: answer.to_owned(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    for sends in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"] {
        let lines =
            format!("  unique-id-format %ci\n  default_backend b\nbackend b\n  server s {} {sends}", proxy.addr());
        let Some(haproxy) = HaProxy::start("haproxy_tells_us_of_its_client", "http", "", &lines).await else { return };
        let mut client = Client::connect(haproxy.address, Split::Whole).await.expect("haproxy accepts");
        let response = client.request(GET).await.expect("it answers");
        assert_eq!(response.header("x-client"), Some(&*client.address().to_string()), "{sends}");
    }
}

#[tokio::test]
async fn we_tell_haproxy_of_our_client() {
    let lines = "  http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port]\"";
    let test = "we_tell_haproxy_of_our_client";
    let Some(haproxy) = HaProxy::start(test, "http", "accept-proxy", lines).await else { return };
    for version in ["V1", "V2", "V2, added_tlvs: [{ type: 234, value: aGk= }]"] {
        let cluster = format!(
            "load_assignment: {{ cluster_name: up, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ \
             socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}
transport_socket:
  name: proxy
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
    config: {{ version: {version} }}
    transport_socket: {{ name: envoy.transport_sockets.raw_buffer, typed_config: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer }} }}
",
            haproxy.address.port()
        );
        let pieces = Pieces { cluster, ..Pieces::default() };
        let proxy = proxy(pieces.yaml()).run().await;
        let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
        let response = client.request(GET).await.expect("it answers");
        assert_eq!(response.text(), client.address().to_string(), "{version}");
    }
}
