//! TLS with certificates on both sides, between nuncio and the real Envoy: each as the client of the other.

use super::parity;
use super::support::bootstrap::Pieces;
use super::support::client::get;
use super::support::proxy::{CERTIFICATES, Running, binary, proxy};
use std::path::Path;

/// The listener and the cluster of either, which speak TLS with these parameters.
struct Side<'a> {
    program: &'a Path,
    parameters: &'a str,
}

impl Side<'_> {
    async fn serve(&self) -> Running {
        let (parameters, validation) = (
            self.parameters,
            validation(
                "match_typed_subject_alt_names: [{ san_type: URI, matcher: { exact: 'spiffe://test/client' } }]",
            ),
        );
        let transport = format!(
            "transport_socket:
  name: tls
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    require_client_certificate: true
    common_tls_context: {{ {parameters} alpn_protocols: [h2, http/1.1], tls_certificates: [{}, {}], {validation} }}",
            pair("server"),
            pair("server-rsa")
        );
        let answer = "direct_response: { status: 200, body: { inline_string: served } }, response_headers_to_add: [{ header: { key: x-peer, value: '%DOWNSTREAM_PEER_SUBJECT%' } }, { header: { key: x-tls, value: '%DOWNSTREAM_TLS_VERSION% %PROTOCOL%' } }]";
        proxy(yaml(transport, answer, String::new())).program(self.program).run().await
    }

    async fn ask(&self, port: u16) -> Running {
        let (parameters, validation) = (
            self.parameters,
            validation("match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: server.test } }]"),
        );
        let cluster = format!(
            "- name: other
  connect_timeout: 5s
  load_assignment: {{ cluster_name: other, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {{ http2_protocol_options: {{}} }}
  transport_socket:
    name: tls
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      sni: server.test
      common_tls_context: {{ {parameters} alpn_protocols: [h2], tls_certificates: [{}], {validation} }}
",
            pair("client")
        );
        proxy(yaml(String::new(), "route: { cluster: other }", cluster)).program(self.program).run().await
    }
}

/// A bootstrap whose listener has these further fields in its filter chain, and whose one route does this.
fn yaml(chain: String, action: &str, clusters: String) -> String {
    let pieces = Pieces {
        chain,
        routes: format!("- {{ match: {{ prefix: / }}, {action} }}\n"),
        cluster: "load_assignment: { cluster_name: up }\n".to_owned(),
        clusters,
        ..Pieces::default()
    };
    pieces.yaml()
}

fn validation(names: &str) -> String {
    format!("validation_context: {{ trusted_ca: {{ filename: {CERTIFICATES}/ca.pem }}, {names} }}")
}

fn pair(name: &str) -> String {
    format!(
        "{{ certificate_chain: {{ filename: {CERTIFICATES}/{name}.pem }}, private_key: {{ filename: {CERTIFICATES}/{name}.key }} }}"
    )
}

#[tokio::test]
async fn envoy_and_nuncio_believe_each_other_both_ways() {
    let Some(envoy) = parity::envoy::find() else { return };
    let nuncio = binary();
    let newest = "tls_params: { tls_maximum_protocol_version: TLSv1_3 },";
    let older = "tls_params: { tls_maximum_protocol_version: TLSv1_2 },";
    for (parameters, version) in [(newest, "TLSv1.3"), (older, "TLSv1.2")] {
        for (server, client) in [(&envoy, &nuncio), (&nuncio, &envoy)] {
            let serving = Side { program: server, parameters }.serve().await;
            let asking = Side { program: client, parameters }.ask(serving.addr().port()).await;
            for _ in 0..3 {
                let answer = get(asking.addr(), "/").await.expect("it answers");
                let header = |name| answer.header(name).unwrap_or_default();
                assert_eq!(answer.text(), "served", "{} {}", serving.log(), asking.log());
                assert_eq!(header("x-peer"), "CN=client.test,OU=a\\, \\\"b\\\",O=nuncio tests");
                assert_eq!(header("x-tls"), format!("{version} HTTP/2"));
            }
        }
    }
}

#[tokio::test]
async fn envoy_and_nuncio_tell_the_same_of_their_certificates() {
    let Some(envoy) = parity::envoy::find() else { return };
    let days = regex::Regex::new(r#"days_until_expiration": "\d+"#).expect("it is a pattern");
    let mut told = Vec::new();
    for program in [&envoy, &binary()] {
        let serving = Side { program, parameters: "" }.serve().await;
        told.push(days.replace_all(&serving.admin("/certs").await, "days").into_owned());
    }
    assert_eq!(told[0], told[1]);
}
