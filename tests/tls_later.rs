//! What becomes of TLS once the handshake is made, on both sides, by nuncio and by the real Envoy: connections that break,
//! and the secrets of connections to hosts. And whether a client of TLS 1.2 is answered as one, whatever it lists.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::parity::envoy::programs;
use super::support::bootstrap::Pieces;
use super::support::client::get;
use super::support::proxy::{CERTIFICATES, Running, proxy};

/// A record that nobody has encrypted.
const GARBAGE: &[u8] =
    &[23, 3, 3, 0, 32, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7];

/// What a host does with each connection, once the handshake is made and it was sent something.
#[derive(Clone, Copy)]
enum Host {
    Answers,
    Breaks,
}

/// A host that speaks TLS.
async fn host(does: Host) -> SocketAddr {
    let pem = |name: &str| format!("{CERTIFICATES}/{name}");
    let chain = CertificateDer::pem_file_iter(pem("server.pem")).expect("it is there").flatten().collect();
    let key = PrivateKeyDer::from_pem_file(pem("server.key")).expect("it is a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("it has them").with_no_client_auth().with_single_cert(chain, key).expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            let _ = tls.read(&mut request).await;
            let _ = match does {
                Host::Answers => tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await,
                Host::Breaks => tls.get_mut().0.write_all(GARBAGE).await,
            };
            tokio::spawn(async move { while let Ok(1..) = tls.read(&mut request).await {} });
        }
    });
    address
}

/// A proxy with that host, whose clients speak TLS with these fields of its context.
async fn serve(program: &Path, host: SocketAddr, upstream: &str, downstream: &str) -> Running {
    let transport = "transport_socket:\n  name: tls\n  typed_config:\n    '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.";
    let chain = match downstream {
        "" => String::new(),
        fields => format!(
            "{transport}DownstreamTlsContext\n    common_tls_context: {{ {fields} tls_certificates: [{{ certificate_chain: {{ filename: {CERTIFICATES}/server.pem }}, private_key: {{ filename: {CERTIFICATES}/server.key }} }}] }}\n"
        ),
    };
    let port = host.port();
    let cluster = format!(
        "load_assignment: {{ cluster_name: up, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}\n{transport}UpstreamTlsContext\n    sni: server.test\n    common_tls_context: {{ {upstream} tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }} }}\n"
    );
    let pieces = Pieces {
        chain,
        listener: "stat_prefix: in\n".to_owned(),
        routes: "- { match: { prefix: / }, route: { cluster: up } }\n".to_owned(),
        cluster,
        ..Pieces::default()
    };
    proxy(pieces.yaml()).program(program).run().await
}

#[tokio::test]
async fn a_host_that_breaks_its_connection_is_counted_as_by_envoy() {
    for program in programs() {
        let host = host(Host::Breaks).await;
        let proxy = serve(&program, host, "", "").await;
        let answer = get(proxy.addr(), "/").await.expect("it answers");
        assert_eq!(answer.status(), 503, "{}", program.display());
        proxy.wait_for_stat("cluster.up.ssl.connection_error", 2).await;
        assert_eq!(proxy.stat("cluster.up.ssl.handshake").await, 1);
    }
}

#[tokio::test]
async fn a_client_that_breaks_its_connection_is_counted_as_by_envoy() {
    for program in programs() {
        let host = host(Host::Answers).await;
        let proxy = serve(&program, host, "", "alpn_protocols: [http/1.1],").await;
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(format!("{CERTIFICATES}/ca.pem")).expect("it is there");
        roots.add(ca).expect("it is an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("it has them").with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(proxy.addr()).await.expect("the proxy accepts");
        let name = ServerName::try_from("server.test").expect("it is a name");
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
        tls.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy reads");
        let mut answer = [0; 4096];
        assert_ne!(tls.read(&mut answer).await.expect("it answers"), 0);
        tls.get_mut().0.write_all(GARBAGE).await.expect("the proxy reads");
        proxy.wait_for_stat("listener.in.ssl.connection_error", 2).await;
        proxy.wait_for_stat("listener.in.downstream_cx_active", 0).await;
    }
}

#[tokio::test]
async fn secrets_of_connections_to_some_hosts_are_logged() {
    for program in programs() {
        let host = host(Host::Answers).await;
        for (ranges, is_logged) in [
            ("local_address_range: [{ address_prefix: 127.0.0.0, prefix_len: 8 }]", true),
            ("remote_address_range: [{ address_prefix: 127.0.0.1, prefix_len: 32 }]", true),
            ("remote_address_range: [{ address_prefix: 10.0.0.0, prefix_len: 8 }]", false),
        ] {
            let upstream = format!("key_log: {{ path: $DIR/secrets, {ranges} }},");
            let proxy = serve(&program, host, &upstream, "").await;
            assert_eq!(get(proxy.addr(), "/").await.expect("it answers").status(), 200);
            if is_logged {
                assert!(proxy.file_once_written("secrets").await.contains("TRAFFIC_SECRET"));
            } else {
                assert_eq!(proxy.file("secrets"), "", "{}", program.display());
            }
        }
    }
}

/// A ClientHello of TLS 1.2 that lists these suites.
fn old_hello(suites: &[u16]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).expect("it is short").to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &sized(content)].concat();
    let extensions = [extension(10, &sized(&[0, 29, 0, 23])), extension(13, &sized(&[4, 3, 8, 4]))].concat();
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&suites), &[1, 0], &sized(&extensions)].concat();
    let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
    [&[22, 3, 1][..], &sized(&[&[1][..], &length[1..], &body].concat())].concat()
}

/// Before it was seen which versions a client speaks, its list alone told whose order counts.
#[tokio::test]
async fn a_client_of_tls_1_2_that_lists_suites_of_tls_1_3_gets_the_suite_that_we_like_best() {
    const LATEST: u16 = 0x1301;
    const AES128: u16 = 0xc02b;
    const AES256: u16 = 0xc02c;
    for program in programs() {
        let host = host(Host::Answers).await;
        let suites = "tls_params: { cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-ECDSA-AES128-GCM-SHA256] },";
        let proxy = serve(&program, host, "", suites).await;
        for offered in [&[AES128, AES256][..], &[LATEST, AES128, AES256]] {
            let mut stream = TcpStream::connect(proxy.addr()).await.expect("the proxy accepts");
            stream.write_all(&old_hello(offered)).await.expect("the proxy reads");
            // A record, a ServerHello without more than its head, version, random.
            let mut answer = [0; 5 + 4 + 2 + 32];
            stream.read_exact(&mut answer).await.expect("the proxy answers");
            let id = stream.read_u8().await.expect("the length of the session's name");
            stream.read_exact(&mut vec![0; id.into()]).await.expect("the session's name");
            assert_eq!(stream.read_u16().await.expect("a suite"), AES256, "{} {offered:x?}", program.display());
        }
    }
}
