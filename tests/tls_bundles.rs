//! A map of trust bundles (`trust_bundles` of SPIFFE) is taken anew when its file changes, here and by the real Envoy.

use super::parity::envoy::programs;
use super::sds::looped;
use super::support::DEADLINE;
use super::support::client::get;
use super::support::proxy::{CERTIFICATES, Proxy, Running, binary};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A map in which this authority vouches for the trust domain of the tests' certificates.
fn map(authority: &str) -> String {
    let pem = fs::read_to_string(Path::new(CERTIFICATES).join(authority)).expect("the certificates are there");
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    format!(r#"{{"trust_domains":{{"test":{{"keys":[{{"use":"x509-svid","x5c":["{base64}"]}}]}}}}}}"#)
}

fn validator(source: &str) -> String {
    format!(
        "validation_context: {{ custom_validator_config: {{ name: envoy.tls.cert_validator.spiffe, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig, trust_bundles: {{ {source} }} }} }} }}"
    )
}

const PAIR: &str = "tls_certificates: [{ certificate_chain: { filename: $CERTS/client.pem }, private_key: { filename: $CERTS/client.key } }]";

/// A proxy whose clients are held against the map of this source.
fn of_clients(source: &str) -> Proxy {
    let server =
        format!("require_client_certificate: true\n          common_tls_context: {{ {PAIR}, {} }}", validator(source));
    looped(&server, PAIR, "")
}

/// Waits until new connections are answered so.
async fn until(proxy: &Running, status: u16) {
    let end = Instant::now() + DEADLINE;
    while get(proxy.listener("front"), "/new").await.expect("it answers").status() != status {
        assert!(Instant::now() < end, "{status}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_logged(proxy: &Running, text: &str) {
    let end = Instant::now() + DEADLINE;
    while !proxy.log().contains(text) {
        assert!(Instant::now() < end, "{text}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn follows_its_file(program: &Path, proxy: Proxy) {
    let proxy = proxy.file("map.json", &map("ca.pem")).program(program).run().await;
    let write = |content: &str| fs::write(proxy.dir().join("map.json"), content).expect("the folder is writable");
    until(&proxy, 200).await;
    write(&map("other-ca.pem"));
    until(&proxy, 503).await;
    write(&map("ca.pem"));
    until(&proxy, 200).await;
    write("{\"trust_domains\": {\"test\": {}}}");
    until_logged(&proxy, "Failed to transform data from file").await;
    until(&proxy, 200).await;
    if program != binary() {
        // Envoy does not see it.
        return;
    }
    proxy.replace("map.json", &map("other-ca.pem"));
    until(&proxy, 503).await;
}

#[tokio::test]
async fn clients_are_held_against_the_bundles_that_the_file_has_now() {
    for program in programs() {
        follows_its_file(&program, of_clients("filename: $DIR/map.json")).await;
    }
}

#[tokio::test]
async fn servers_are_held_against_the_bundles_that_the_file_has_now() {
    for program in programs() {
        let (server, client) = (format!("common_tls_context: {{ {PAIR} }}"), validator("filename: $DIR/map.json"));
        follows_its_file(&program, looped(&server, &client, "")).await;
    }
}

/// What moves in a folder announces that the file has another content, which none of them sees otherwise: it is reached
/// through a link.
async fn follows_a_folder(program: &Path, watch: &str, change: impl Fn(&Path)) {
    let folder = tempfolder();
    let source = format!("filename: $DIR/map.json, watched_directory: {{ path: {}{watch} }}", folder.display());
    let proxy = of_clients(&source).file("map.json", &map("ca.pem")).program(program);
    let proxy = proxy.run().await;
    until(&proxy, 200).await;
    fs::write(folder.join("..next"), "").expect("the folder is writable");
    let content = folder.join("content");
    fs::write(&content, map("other-ca.pem")).expect("the folder is writable");
    fs::remove_file(proxy.dir().join("map.json")).expect("it is there");
    std::os::unix::fs::symlink(content, proxy.dir().join("map.json")).expect("links can be made");
    change(&folder);
    until(&proxy, 503).await;
    fs::remove_dir_all(folder).expect("it is there");
}

#[tokio::test]
async fn moves_in_a_folder_announce_other_bundles() {
    for program in programs() {
        let change = |folder: &Path| fs::rename(folder.join("..next"), folder.join("..data"));
        follows_a_folder(&program, "", |folder| change(folder).expect("the folder is writable")).await;
    }
}

#[tokio::test]
async fn writes_in_a_folder_announce_other_bundles_where_they_are_looked_for() {
    for program in programs() {
        let change = |folder: &Path| fs::write(folder.join("..next"), "x").expect("the folder is writable");
        follows_a_folder(&program, ", watch_modify: true", change).await;
    }
}

fn tempfolder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("nuncio-bundles-{number}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}
