//! Clients that mean ill before and during the handshake, and certificates that cannot be used.

use super::parity::hello::client_hello;
use super::support::DEADLINE;
use super::support::proxy::{CERTIFICATES, Running, proxy};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: &str = "0.4s";

fn yaml(certificate: &str) -> String {
    format!(
        "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: secure
    stat_prefix: secure
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - transport_socket_connect_timeout: {TIMEOUT}
      transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {{ tls_certificates: [{certificate}] }}
      filters:
      - name: hcm
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: secure
          route_config: {{ virtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200 }} }}] }}] }}
          http_filters: [{{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
"
    )
}

fn pair(chain: &str, key: &str) -> String {
    format!("{{ certificate_chain: {{ filename: {chain} }}, private_key: {{ filename: {key} }} }}")
}

async fn secure() -> Running {
    proxy(yaml(&pair(&format!("{CERTIFICATES}/server.pem"), &format!("{CERTIFICATES}/server.key")))).run().await
}

async fn connect(proxy: &Running) -> TcpStream {
    TcpStream::connect(proxy.listener("secure")).await.expect("the proxy accepts")
}

/// What comes back until the end, however that comes.
async fn until_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    let end = async {
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..read]);
        }
    };
    tokio::time::timeout(DEADLINE, end).await.expect("the proxy ends the connection");
    all
}

/// The names of the certificate that a client is shown who asks for `name`, after it got an answer.
async fn shown(to: SocketAddr, name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let stream = TcpStream::connect(to).await.expect("the proxy accepts");
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("it is a name");
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
    tls.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("the proxy reads");
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await.expect("the proxy answers");
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer));
    tls.get_ref().1.peer_certificates().expect("there is one")[0].to_vec()
}

/// Believes whoever is there.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn hostile_first_flights_end_their_own_connection_alone() {
    let proxy = secure().await;
    let good = client_hello(b"server.test", ["h2"].into_iter());
    let mut other_message = good.clone();
    other_message[5] = 2;
    let mut long = good.clone();
    long[6..9].copy_from_slice(&[0xff, 0xff, 0xff]);
    let flights: Vec<(&str, Vec<u8>)> = vec![
        ("a name with NUL", client_hello(b"server\0.test", [].into_iter())),
        ("a name of 64 KiB less something", client_hello(&[b'a'; 16_000], [].into_iter())),
        ("a name that is no name", client_hello(b"..", [].into_iter())),
        ("a record longer than records are", [&[22, 3, 1, 0xff, 0xff][..], &[0; 300]].concat()),
        ("a message longer than handshakes are", long),
        ("a message that is no ClientHello", other_message),
        ("an alert", vec![21, 3, 1, 0, 2, 2, 40]),
        ("data", vec![23, 3, 3, 0, 2, b'h', b'i']),
        ("an SSLv2 hello", [&[0x80, 0x2e, 1, 3, 1][..], &[0; 43]].concat()),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        ("zeros", vec![0; 1000]),
        ("a ClientHello of zeros", [&[22, 3, 1, 0, 100, 1, 0, 0, 96][..], &[0; 96]].concat()),
        ("a ClientHello twice", [&good[..], &good[..]].concat()),
        ("a ClientHello, then garbage", [&good[..], &[0xee; 500]].concat()),
    ];
    let count = flights.len() as u64;
    for (what, flight) in flights {
        let mut stream = connect(&proxy).await;
        stream.write_all(&flight).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let answer = until_the_end(&mut stream).await;
        assert!(!answer.windows(8).any(|w| w == b"HTTP/1.1"), "{what} was answered");
    }
    let failed = async || {
        proxy.stat("listener.secure.ssl.connection_error").await
            + proxy.stat("listener.secure.downstream_cx_transport_socket_connect_timeout").await
    };
    // A client may see the end of its connection before that is counted.
    let until = std::time::Instant::now() + DEADLINE;
    while failed().await != count && std::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(failed().await, count);
    shown(proxy.listener("secure"), "server.test").await;
    proxy.wait_for_stat("listener.secure.downstream_cx_active", 0).await;
    assert!(!proxy.log().contains("panic"), "{}", proxy.log());
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let proxy = secure().await;
    let mut stream = connect(&proxy).await;
    stream.set_nodelay(true).expect("it is a socket");
    for byte in client_hello(b"server.test", [].into_iter()) {
        stream.write_all(&[byte]).await.expect("the proxy reads");
    }
    let mut first = [0; 6];
    stream.read_exact(&mut first).await.expect("the proxy answers");
    assert_eq!((first[0], first[5]), (22, 2), "a ServerHello");
}

#[tokio::test]
async fn a_hello_in_records_of_one_byte_is_taken_or_refused_but_not_kept() {
    let proxy = secure().await;
    let mut stream = connect(&proxy).await;
    let hello = client_hello(b"server.test", [].into_iter());
    let pieces: Vec<u8> = hello[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    stream.write_all(&pieces).await.expect("the proxy reads");
    assert!(!until_the_end(&mut stream).await.is_empty(), "it is told something");
}

#[tokio::test]
async fn slow_handshakes_are_timed_out_and_counted() {
    let proxy = secure().await;
    let hello = client_hello(b"server.test", [].into_iter());
    let mut waiting = Vec::new();
    // Nothing, a part of a hello, and a hello after which nothing follows.
    for part in [0, 20, hello.len()] {
        let mut stream = connect(&proxy).await;
        stream.write_all(&hello[..part]).await.expect("the proxy reads");
        waiting.push(stream);
    }
    for stream in &mut waiting {
        until_the_end(stream).await;
    }
    proxy.wait_for_stat("listener.secure.downstream_cx_transport_socket_connect_timeout", 3).await;
    assert_eq!(proxy.stat("listener.secure.ssl.connection_error").await, 0, "as with Envoy");
    proxy.wait_for_stat("listener.secure.downstream_cx_active", 0).await;
}

#[tokio::test]
async fn a_reset_at_any_step_leaves_nothing_behind() {
    let proxy = secure().await;
    let hello = client_hello(b"server.test", [].into_iter());
    // What is opened at first use, and asked for below, is open before.
    shown(proxy.listener("secure"), "server.test").await;
    proxy.wait_for_stat("listener.secure.downstream_cx_active", 0).await;
    let before = proxy.settled_open_files().await;
    for part in [0, 1, 5, 20, hello.len() - 1, hello.len()] {
        for reads in [false, true] {
            let mut stream = connect(&proxy).await;
            stream.write_all(&hello[..part]).await.expect("the proxy reads");
            if reads && part == hello.len() {
                stream.read_u8().await.expect("the proxy answers");
            }
            reset(stream);
        }
    }
    proxy.wait_for_stat("listener.secure.downstream_cx_total", 13).await;
    proxy.wait_for_stat("listener.secure.downstream_cx_active", 0).await;
    let until = std::time::Instant::now() + DEADLINE;
    while proxy.open_files() > before + 2 {
        assert!(std::time::Instant::now() < until, "{} files, before {before}", proxy.open_files());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    shown(proxy.listener("secure"), "server.test").await;
}

fn reset(stream: TcpStream) {
    let stream = stream.into_std().expect("it is a socket");
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the socket is open, and the option is what the call expects.
    let set = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&stream),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            libc::socklen_t::try_from(size_of::<libc::linger>()).expect("it is small"),
        )
    };
    assert_eq!(set, 0);
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_refused_at_start() {
    let whole = std::fs::read_to_string(format!("{CERTIFICATES}/server.pem")).expect("it is there");
    let key = format!("{CERTIFICATES}/server.key");
    for (content, reason) in [
        ("", "has no certificate in PEM"),
        (&whole[..whole.len() / 2], "is no PEM: missing section end marker"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "certificate 1 cannot be read"),
        ("garbage", "has no certificate in PEM"),
    ] {
        let start = proxy(yaml(&pair("$DIR/chain.pem", &key))).file("chain.pem", content).start().await;
        let error = start.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("tls_certificates[0].certificate_chain: ") && error.contains(reason), "{error}");
    }
    let chain = format!("{CERTIFICATES}/server.pem");
    for (content, reason) in [
        ("", "has no key in PEM"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be used"),
    ] {
        let start = proxy(yaml(&pair(&chain, "$DIR/key.pem"))).file("key.pem", content).start().await;
        let error = start.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("tls_certificates[0].private_key: ") && error.contains(reason), "{error}");
    }
    let start = proxy(yaml(&pair(&chain, &format!("{CERTIFICATES}/client.key")))).start().await;
    let error = start.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("tls_certificates[0].private_key: does not belong"), "{error}");
}

#[tokio::test]
async fn certificates_whose_time_is_not_now_are_shown_as_by_envoy() {
    for name in ["expired", "future"] {
        let pair = pair(&format!("{CERTIFICATES}/{name}.pem"), &format!("{CERTIFICATES}/{name}.key"));
        let proxy = proxy(yaml(&pair)).run().await;
        shown(proxy.listener("secure"), "server.test").await;
    }
}

#[tokio::test]
async fn each_of_thousands_of_certificates_is_found_by_its_name() {
    /// In a debug build; `benches/compare` has 10,000.
    const MANY: usize = 1000;
    let folder = std::env::temp_dir().join(format!("nuncio-many-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let pem = std::fs::read(format!("{CERTIFICATES}/server.pem")).expect("it is there");
    let der = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&pem);
    let der = der.expect("it is a certificate").to_vec();
    let key = format!("{CERTIFICATES}/server.key");
    let mut pairs = Vec::new();
    for n in 0..MANY {
        let path = folder.join(format!("{n}.pem"));
        let info = nuncio_config::tls::certificate_info(&renamed(&der, n).into()).expect("it is a certificate");
        std::fs::write(&path, info.pem()).expect("the folder is writable");
        pairs.push(pair(&path.display().to_string(), &key));
    }
    let proxy = proxy(yaml(&pairs.join(", "))).run().await;
    for n in [0, 1, 500, MANY - 1] {
        assert_eq!(shown(proxy.listener("secure"), &format!("s{n:05}.test")).await, renamed(&der, n), "{n}");
    }
    assert_eq!(
        shown(proxy.listener("secure"), "another.test").await,
        renamed(&der, 0),
        "the first where none is known"
    );
    std::fs::remove_dir_all(folder).expect("it is there");
}

/// The certificate with another name, which is as long. Its signature is no longer good, which nobody looks at here.
fn renamed(der: &[u8], n: usize) -> Vec<u8> {
    const NAME: &[u8] = b"server.test";
    let (mut all, name) = (der.to_vec(), format!("s{n:05}.test"));
    let places = der.windows(NAME.len()).enumerate().filter(|(_, w)| *w == NAME).map(|(at, _)| at);
    places.for_each(|at| all[at..at + NAME.len()].copy_from_slice(name.as_bytes()));
    all
}
