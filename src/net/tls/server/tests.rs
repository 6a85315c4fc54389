use std::io::IoSlice;
use std::sync::Arc;

use futures_util::FutureExt;
use nuncio_config::tls::Witness;
use nuncio_filter_api::{Io, Transport};
use nuncio_telemetry::stats::Store;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, Error, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client};

use super::{Buffer, ServerStream};
use crate::InternalTransport;
use crate::internal::pair;
use crate::tls::hello;
use crate::tls_stats::TlsStats;

const CHAIN: &[u8] = include_bytes!("../../../../tests/support/certificates/server.pem");
const KEY: &[u8] = include_bytes!("../../../../tests/support/certificates/server.key");
const CA: &[u8] = include_bytes!("../../../../tests/support/certificates/ca.pem");

fn server_config() -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(CHAIN).map(|c| c.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
    let builder = ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into());
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).expect("they fit");
    config.enable_secret_extraction = true;
    config.into()
}

fn client_config(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    client_of(rustls::crypto::aws_lc_rs::default_provider(), versions)
}

fn client_of(provider: CryptoProvider, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA).expect("a certificate")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(provider.into());
    let builder = builder.with_protocol_versions(versions).expect("versions");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn accept(transport: InternalTransport) -> std::io::Result<ServerStream> {
    let (mut io, mut incoming) = (Io::new(transport), Buffer::default());
    drop(hello::read(&mut io, &mut incoming).await?);
    let stats = TlsStats::new(&Store::new().scope("listener"));
    let mut stream = ServerStream::new(io, server_config(), incoming, stats.into())?;
    stream.handshake(&mut Witness::default(), None).await?;
    Ok(stream)
}

/// A client and a server between which `limit` bytes are under way at most.
async fn connected(
    limit: usize,
    versions: &[&'static SupportedProtocolVersion],
) -> (client::TlsStream<InternalTransport>, ServerStream) {
    connected_by(client_config(versions), limit).await
}

async fn connected_by(client: Arc<ClientConfig>, limit: usize) -> (client::TlsStream<InternalTransport>, ServerStream) {
    let (ours, theirs) = pair(limit);
    let connector = TlsConnector::from(client);
    let name = ServerName::try_from("server.test").expect("a name");
    let (client, server) = tokio::join!(connector.connect(name, theirs), accept(ours));
    (client.expect("a handshake"), server.expect("a handshake"))
}

fn is_idle(stream: &ServerStream) -> bool {
    [&stream.incoming, &stream.plain, &stream.outgoing].into_iter().all(Buffer::holds_no_memory)
}

/// The lengths of the records that wait to be written.
fn records(stream: &ServerStream) -> Vec<usize> {
    let (mut rest, mut found) = (stream.outgoing.filled(), Vec::new());
    while let Some((head, after)) = rest.split_at_checked(5) {
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        found.push(length);
        rest = &after[length..];
    }
    found
}

#[tokio::test]
async fn bytes_go_both_ways_however_few_are_under_way() {
    // The end of a handshake of TLS 1.3, the tickets, is taken by nobody here.
    let (newer, older) = (&rustls::version::TLS13, &rustls::version::TLS12);
    for (version, limit) in [(newer, 2000), (newer, 1 << 20), (older, 7), (older, 1 << 20)] {
        let (mut client, mut server) = connected(limit, &[version]).await;
        let sent: Vec<u8> = (0..150_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let serve = async {
            let mut all = Vec::new();
            let mut piece = [0; 5000];
            while all.len() < sent.len() {
                let count = server.read(&mut piece).await.expect("bytes come");
                all.extend_from_slice(&piece[..count]);
            }
            server.write_all(&all).await.expect("they are taken");
            server.shutdown().await.expect("so is the end");
            assert_eq!(server.read(&mut piece).await.expect("no error"), 0);
            is_idle(&server)
        };
        let ask = async {
            client.write_all(&sent).await.expect("they are taken");
            client.flush().await.expect("they are taken");
            let mut back = Vec::new();
            client.read_to_end(&mut back).await.expect("an orderly end");
            client.shutdown().await.expect("the end is taken");
            back
        };
        let (is_idle, back) = tokio::join!(serve, ask);
        assert!(back == sent, "{version:?} {limit}");
        assert!(is_idle, "{version:?} {limit}");
    }
}

#[tokio::test]
async fn a_connection_that_waits_holds_no_buffer() {
    let (mut client, mut server) = connected(1 << 20, rustls::ALL_VERSIONS).await;
    assert!(is_idle(&server), "after the handshake");
    client.write_all(b"a request").await.expect("it is taken");
    let mut request = [0; 100];
    assert_eq!(server.read(&mut request).await.expect("it comes"), 9);
    server.write_all(b"a response").await.expect("it is taken");
    assert!(server.read(&mut request).now_or_never().is_none());
    assert!(is_idle(&server), "after a request");
}

#[tokio::test]
async fn small_pieces_share_a_record_and_large_ones_fill_them() {
    let (_client, mut server) = connected(1 << 20, &[&rustls::version::TLS13]).await;
    let large = vec![7; 40_000];
    // Beside its content a record has a tag of 16 bytes, and a byte that tells its type.
    for (pieces, expected) in [
        (vec![&b"head"[..], b"", b"body"], vec![8 + 17]),
        (vec![&large[..]], vec![16384 + 17, 16384 + 17, 40_000 - 2 * 16384 + 17]),
        (vec![b"head", &large], vec![16384 + 17, 16384 + 17, 40_004 - 2 * 16384 + 17]),
        (vec![&large, b"tail"], vec![16384 + 17, 16384 + 17, 40_000 - 2 * 16384 + 17, 4 + 17]),
        (vec![&large, &large], vec![16384 + 17, 16384 + 17, 7232 + 17, 16384 + 17, 65536 - 40_000 - 16384 + 17]),
    ] {
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let all: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert_eq!(server.encrypt(&slices).expect("there is room"), all.min(4 * 16384));
        assert_eq!(records(&server), expected);
        server.outgoing.clear();
    }
}

#[tokio::test]
async fn what_came_before_the_end_is_read() {
    let (mut client, mut server) = connected(1 << 20, rustls::ALL_VERSIONS).await;
    client.write_all(b"last words").await.expect("they are taken");
    client.shutdown().await.expect("so is the end");
    let mut all = String::new();
    server.read_to_string(&mut all).await.expect("an orderly end");
    assert_eq!(all, "last words");
    // The other way is open still.
    server.write_all(b"an answer").await.expect("it is taken");
    server.shutdown().await.expect("so is the end");
    client.read_to_string(&mut all).await.expect("an orderly end");
    assert_eq!(all, "last wordsan answer");
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_has_ended() {
    let (client, mut server) = connected(1 << 20, rustls::ALL_VERSIONS).await;
    drop(client);
    assert_eq!(server.read(&mut [0; 9]).await.expect("no error"), 0);
}

#[tokio::test]
async fn a_record_that_was_tampered_with_is_answered_with_an_alert() {
    let (mut client, mut server) = connected(1 << 20, rustls::ALL_VERSIONS).await;
    client.write_all(b"good").await.expect("it is taken");
    let mut record = vec![23, 3, 3, 0, 40];
    record.resize(45, 0);
    client.get_mut().0.write_all(&record).await.expect("it is taken");
    let mut good = [0; 100];
    assert_eq!(server.read(&mut good).await.expect("it comes"), 4);
    for _ in 0..2 {
        let error = server.read(&mut good).await.expect_err("it is no record");
        let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        assert_eq!(error, Some(&Error::DecryptError));
    }
    let error = server.write(b"more").await.expect_err("it is over");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    let error = client.read(&mut good).await.expect_err("it is told");
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    assert_eq!(error, Some(&Error::AlertReceived(AlertDescription::BadRecordMac)));
}

#[tokio::test]
async fn a_connection_that_is_dropped_ends_in_good_order_unless_it_is_reset() {
    for version in rustls::ALL_VERSIONS {
        for is_reset in [false, true] {
            let (mut client, mut server) = connected(1 << 20, &[version]).await;
            server.write_all(b"last").await.expect("it is taken");
            if is_reset {
                server.reset_on_drop();
            }
            drop(server);
            let mut all = Vec::new();
            assert_eq!(client.read_to_end(&mut all).await.is_err(), is_reset, "{version:?}");
        }
    }
}

#[tokio::test]
async fn whoever_is_denied_is_told_in_every_suite() {
    let provider = rustls::crypto::aws_lc_rs::default_provider;
    // The certificate is of one kind, and so are the suites of TLS 1.2.
    let mut told = 0;
    for suite in provider().cipher_suites {
        if format!("{:?}", suite.suite()).contains("RSA") {
            continue;
        }
        let client = client_of(CryptoProvider { cipher_suites: vec![suite], ..provider() }, &[suite.version()]);
        let (mut client, mut server) = connected_by(client, 1 << 20).await;
        server.write_all(b"before").await.expect("it is taken");
        client.write_all(b"asked").await.expect("it is taken");
        let mut bytes = [0; 100];
        assert_eq!(server.read(&mut bytes).await.expect("it comes"), 5);
        assert_eq!(client.read(&mut bytes).await.expect("it comes"), 6);
        std::future::poll_fn(|cx| {
            server.deny(cx);
            std::task::Poll::Ready(())
        })
        .await;
        assert!(server.write(b"after").await.is_err(), "nothing is said after it");
        assert!(server.read(&mut bytes).await.is_err(), "nothing is heard after it");
        server.shutdown().await.expect("the end is taken");
        let error = client.read(&mut bytes).await.expect_err("it is told");
        let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        assert_eq!(error, Some(&Error::AlertReceived(AlertDescription::AccessDenied)), "{suite:?}");
        told += 1;
    }
    assert_eq!(told, 6);
}

#[tokio::test]
async fn nothing_is_written_after_the_end() {
    let (_client, mut server) = connected(1 << 20, rustls::ALL_VERSIONS).await;
    server.shutdown().await.expect("it is taken");
    let error = server.write(b"more").await.expect_err("it is over");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}
