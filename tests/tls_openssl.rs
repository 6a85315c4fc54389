//! Downstream TLS as `openssl s_client` sees it, which asks for what rustls does not: OCSP responses, TLS 1.2 without
//! tickets, and a log of its own secrets to hold against ours.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::parity::envoy::programs;
use super::support::bootstrap::Pieces;
use super::support::proxy::{Running, proxy};
use super::support::{DEADLINE, say};

/// What `openssl s_client` tells of one request; `None` where there is no openssl, which is said.
fn ask(proxy: &Running, arguments: &[&str]) -> Option<String> {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-ign_eof", "-servername", "server.test", "-connect", &proxy.addr().to_string()]);
    client.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = match client.spawn() {
        Ok(client) => client,
        Err(error) => {
            say(&format!("SKIPPED: openssl is not there: {error}"));
            return None;
        }
    };
    // A client whose handshake fails takes no request.
    let _ =
        client.stdin.take().expect("it is piped").write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let Output { stdout, stderr, .. } = client.wait_with_output().expect("it ends with the connection");
    Some(format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

/// A proxy whose listener speaks TLS, with these fields of its context, of `common_tls_context` and of its certificate.
async fn serve(program: &Path, context: &str, common: &str, certificate: &str) -> Running {
    let log = "{ '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $DIR/access.log, log_format: { text_format_source: { inline_string: \"%DOWNSTREAM_TLS_SESSION_ID%\\n\" } } }";
    let chain = format!(
        "transport_socket:
  name: tls
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    {context}
    common_tls_context:
      {common}
      tls_certificates: [{{ certificate_chain: {{ filename: $CERTS/server.pem }}, private_key: {{ filename: $CERTS/server.key }} {certificate} }}]
"
    );
    let pieces = Pieces {
        chain,
        hcm: format!("access_log: [{{ name: file, typed_config: {log} }}]\n"),
        routes: "- { match: { prefix: / }, direct_response: { status: 200, body: { inline_string: served } } }\n"
            .to_owned(),
        cluster: "load_assignment: { cluster_name: up }\n".to_owned(),
        ..Pieces::default()
    };
    proxy(pieces.yaml()).program(program).run().await
}

/// The lines of a file, once there are so many.
async fn lines(proxy: &Running, name: &str, count: usize) -> Vec<String> {
    let until = Instant::now() + DEADLINE;
    loop {
        let text = std::fs::read_to_string(proxy.dir().join(name)).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(Instant::now() < until, "no more than {text:?} is in {name}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_session_is_named_in_logs_as_the_client_knows_it() {
    for program in programs() {
        let proxy = serve(&program, "", "", "").await;
        let saved = proxy.dir().join("session");
        let saved = saved.to_str().expect("it is text");
        let mut names = Vec::new();
        for arguments in [
            &["-tls1_2", "-no_ticket", "-sess_out", saved][..],
            &["-tls1_2", "-no_ticket", "-sess_in", saved],
            &["-tls1_3"],
        ] {
            let Some(told) = ask(&proxy, arguments) else { return };
            assert!(told.contains("served"), "{told}");
            let name = told.lines().find_map(|line| line.trim().strip_prefix("Session-ID: "));
            names.push(name.unwrap_or_default().to_lowercase());
        }
        assert_eq!(names[0], names[1], "the session is resumed");
        // What TLS 1.3 has in this place is no name of a session.
        assert_eq!(lines(&proxy, "access.log", 3).await, [&*names[0], &names[0], "-"]);
    }
}

/// Two sides of the same keys, of which the second wants certificates of its clients.
#[tokio::test]
async fn a_session_is_resumed_only_where_clients_are_held_against_the_same() {
    let keys = format!("session_ticket_keys: {{ keys: [{{ inline_string: {} }}] }}", "k".repeat(80));
    let closed = format!("{keys}\n    require_client_certificate: true");
    let trusted = "validation_context: { trusted_ca: { filename: $CERTS/ca.pem } }";
    for program in programs() {
        for version in ["-tls1_2", "-tls1_3"] {
            let open = serve(&program, &keys, "", "").await;
            let again = serve(&program, &keys, "", "").await;
            let closed = serve(&program, &closed, trusted, "").await;
            let saved = open.dir().join("session");
            let saved = saved.to_str().expect("it is text");
            let Some(first) = ask(&open, &[version, "-sess_out", saved]) else { return };
            assert!(first.contains("served") && first.contains("New, "), "{first}");
            let resumed = ask(&again, &[version, "-sess_in", saved]).unwrap_or_default();
            assert!(resumed.contains("served") && resumed.contains("Reused, "), "{version}: {resumed}");
            let refused = ask(&closed, &[version, "-sess_in", saved]).unwrap_or_default();
            assert!(!refused.contains("served") && !refused.contains("Reused, "), "{version}: {refused}");
        }
    }
}

/// What a client is given that asks for an OCSP response.
#[derive(Debug, PartialEq, Eq)]
enum Stapled {
    Response,
    Nothing,
    Failure,
}

#[tokio::test]
async fn a_client_that_asks_for_an_ocsp_response_is_answered_by_policy() {
    use Stapled::{Failure, Nothing, Response};
    let cases = [
        ("LENIENT_STAPLING", "", Nothing),
        ("LENIENT_STAPLING", "server.ocsp", Response),
        ("LENIENT_STAPLING", "server-late.ocsp", Nothing),
        ("STRICT_STAPLING", "", Nothing),
        ("STRICT_STAPLING", "server.ocsp", Response),
        ("STRICT_STAPLING", "server-late.ocsp", Failure),
        ("MUST_STAPLE", "server.ocsp", Response),
        ("MUST_STAPLE", "server-late.ocsp", Failure),
    ];
    for program in programs() {
        for (policy, staple, expected) in &cases {
            let file = match *staple {
                "" => String::new(),
                name => format!(", ocsp_staple: {{ filename: $CERTS/{name} }}"),
            };
            let proxy = serve(&program, &format!("ocsp_staple_policy: {policy}"), "", &file).await;
            for version in ["-tls1_2", "-tls1_3"] {
                let Some(told) = ask(&proxy, &[version, "-status"]) else { return };
                let found = match (told.contains("OCSP Response Status: successful"), told.contains("served")) {
                    (true, true) => Response,
                    (false, true) => Nothing,
                    (_, false) => Failure,
                };
                assert_eq!(&found, expected, "{policy} {staple:?} {version} {}: {told}", program.display());
                // Whoever does not ask is served in any case.
                let told = ask(&proxy, &[version]).unwrap_or_default();
                assert!(told.contains("served"), "{policy}: {told}");
            }
        }
    }
}

/// An answer that holds no longer costs a site its certificate, not its clients.
#[tokio::test]
async fn another_certificate_takes_the_place_of_one_whose_ocsp_response_is_old() {
    let others = ", ocsp_staple: { filename: $CERTS/server-late.ocsp } }, { certificate_chain: { filename: \
                  $CERTS/server-rsa.pem }, private_key: { filename: $CERTS/server-rsa.key }";
    for program in programs() {
        let context = "ocsp_staple_policy: STRICT_STAPLING\n    full_scan_certs_on_sni_mismatch: true";
        let proxy = serve(&program, context, "", others).await;
        for version in ["-tls1_2", "-tls1_3"] {
            let Some(told) = ask(&proxy, &["-servername", "other.test", version, "-status"]) else { return };
            assert!(
                told.contains("served") && told.contains("rsaEncryption"),
                "{} {version} {told}",
                program.display()
            );
            // Whoever knows the first alone, and does not ask, is served all the same.
            let told =
                ask(&proxy, &["-servername", "other.test", version, "-sigalgs", "ECDSA+SHA256"]).unwrap_or_default();
            assert!(told.contains("served"), "{} {version} {told}", program.display());
        }
    }
}

#[tokio::test]
async fn the_log_of_secrets_holds_what_the_client_has_too() {
    for program in programs() {
        for (version, count) in [("-tls1_2", 1), ("-tls1_3", 5)] {
            let proxy = serve(&program, "", "key_log: { path: $DIR/secrets }", "").await;
            let own = proxy.dir().join("own");
            let Some(told) = ask(&proxy, &[version, "-keylogfile", own.to_str().expect("it is text")]) else { return };
            assert!(told.contains("served"), "{told}");
            let mut logged = lines(&proxy, "secrets", count).await;
            let own = std::fs::read_to_string(&own).expect("the client has written it");
            let mut own: Vec<_> = own.lines().filter(|line| !line.starts_with('#')).collect();
            logged.sort_unstable();
            own.sort_unstable();
            assert_eq!(logged, own, "{version} {}", program.display());
        }
    }
}

/// What `openssl s_client` says was agreed upon.
fn agreed(proxy: &Running, arguments: &[&str]) -> Option<String> {
    let told = ask(proxy, arguments)?;
    let cipher = told.lines().find_map(|line| line.split_once("Cipher is ").map(|(_, cipher)| cipher.to_owned()));
    Some(cipher.unwrap_or_else(|| panic!("{told}")))
}

#[tokio::test]
async fn clients_choose_suites_within_groups_and_in_tls_1_3() {
    const AES: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";
    const BEST: &str = "ECDHE-ECDSA-AES256-GCM-SHA384";
    const CHACHA: &str = "ECDHE-ECDSA-CHACHA20-POLY1305";
    let offer = |all: &[&str]| all.join(":");
    for program in programs() {
        for (list, offered, expected) in [
            ("[]", offer(&[CHACHA, AES]), CHACHA),
            ("[]", offer(&[BEST, AES, CHACHA]), AES),
            ("[]", offer(&[BEST, CHACHA, AES]), CHACHA),
            ("[ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-ECDSA-CHACHA20-POLY1305]", offer(&[CHACHA, AES]), AES),
            (
                "['', 'ECDHE+AES256:[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]']",
                offer(&[CHACHA, AES]),
                CHACHA,
            ),
            ("['ALL:!AES128']", offer(&[AES, BEST]), BEST),
            ("['ALL', '!CHACHA20', '+AES128']", offer(&[CHACHA, AES, BEST]), BEST),
        ] {
            let proxy = serve(&program, "", &format!("tls_params: {{ cipher_suites: {list} }}"), "").await;
            let Some(found) = agreed(&proxy, &["-tls1_2", "-cipher", &offered]) else { return };
            assert_eq!(found, expected, "{list} {offered} {}", program.display());
        }
        let proxy = serve(&program, "session_timeout: 2s", "", "").await;
        for suites in ["TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"]
        {
            let told = ask(&proxy, &["-tls1_3", "-ciphersuites", suites]).unwrap_or_default();
            let first = suites.split(':').next().unwrap_or_default();
            assert!(told.contains(&format!("Cipher is {first}")), "{} {told}", program.display());
            assert!(told.contains("lifetime hint: 172800"), "{} {told}", program.display());
        }
        let told = ask(&proxy, &["-tls1_2"]).unwrap_or_default();
        assert!(told.contains("lifetime hint: 2 "), "{} {told}", program.display());
    }
}

#[tokio::test]
async fn clients_of_old_versions_are_told_so() {
    for program in programs() {
        let proxy = serve(&program, "", "", "").await;
        for version in ["-tls1", "-tls1_1"] {
            let Some(told) = ask(&proxy, &[version, "-cipher", "DEFAULT:@SECLEVEL=0"]) else { return };
            assert!(told.contains("alert protocol version"), "{} {told}", program.display());
        }
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_so_as_its_version_has_it() {
    let context = "require_client_certificate: true";
    for program in programs() {
        let proxy =
            serve(&program, context, "validation_context: { trusted_ca: { filename: $CERTS/ca.pem } }", "").await;
        for (version, alert) in [("-tls1_2", "SSL alert number 40"), ("-tls1_3", "SSL alert number 116")] {
            let Some(told) = ask(&proxy, &[version]) else { return };
            assert!(told.contains(alert), "{program:?} {version}\n{told}");
        }
    }
}

#[tokio::test]
async fn a_key_signs_over_any_hash_in_tls_1_2() {
    let versions = "tls_params: { signature_algorithms: [ecdsa_secp256r1_sha256, ecdsa_secp521r1_sha512] }";
    for program in programs() {
        let (proxy, limited) = (serve(&program, "", "", "").await, serve(&program, "", versions, "").await);
        for (proxy, version, offered, told_of) in [
            (&proxy, "-tls1_2", "ECDSA+SHA384", "signing digest: SHA384"),
            (&proxy, "-tls1_2", "ECDSA+SHA512", "signing digest: SHA512"),
            (&proxy, "-tls1_2", "ECDSA+SHA384:ECDSA+SHA256", "signing digest: SHA256"),
            (&proxy, "-tls1_3", "ECDSA+SHA384", "SSL alert number 40"),
            (&limited, "-tls1_2", "ECDSA+SHA384", "SSL alert number 40"),
            (&limited, "-tls1_2", "ECDSA+SHA512", "signing digest: SHA512"),
        ] {
            let Some(told) = ask(proxy, &[version, "-sigalgs", offered]) else { return };
            assert!(told.contains(told_of), "{program:?} {version} {offered}\n{told}");
        }
    }
}

#[tokio::test]
async fn the_group_is_the_one_that_the_server_likes_best() {
    let groups = "tls_params: { ecdh_curves: [P-384, P-256, X25519] }";
    for program in programs() {
        let ours = serve(&program, "", groups, "").await;
        let theirs = serve(&program, "prefer_client_ciphers: true", groups, "").await;
        for version in ["-tls1_2", "-tls1_3"] {
            for (proxy, offered, told_of) in [
                (&ours, "X25519:P-256:P-384", "secp384r1"),
                (&ours, "P-521:P-256:P-384", "secp384r1"),
                (&ours, "X25519:P-256", "prime256v1"),
                (&ours, "P-384:P-256", "secp384r1"),
                (&ours, "P-521:P-256", "prime256v1"),
                (&ours, "P-521", "SSL alert number 40"),
                (&theirs, "X25519:P-256:P-384", "X25519"),
                (&theirs, "P-256:P-384", "prime256v1"),
            ] {
                let Some(told) = ask(proxy, &[version, "-groups", offered]) else { return };
                assert!(told.contains(told_of), "{program:?} {version} {offered}\n{told}");
            }
        }
        // The curve of the key must be known there.
        let Some(told) = ask(&ours, &["-tls1_2", "-groups", "X25519:P-384"]) else { return };
        assert!(told.contains("SSL alert number 40"), "{program:?}\n{told}");
    }
}

/// A proxy whose listener speaks TLS before these network filters.
async fn serve_filters(program: &Path, network: &str) -> Running {
    let pieces = Pieces {
        chain: "transport_socket:
  name: tls
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    common_tls_context:
      tls_certificates: [{ certificate_chain: { filename: $CERTS/server.pem }, private_key: { filename: $CERTS/server.key } }]
"
        .to_owned(),
        network: network.to_owned(),
        // Nobody is there.
        cluster: "load_assignment: { cluster_name: up }\n".to_owned(),
        ..Pieces::default()
    };
    proxy(pieces.yaml()).program(program).run().await
}

#[tokio::test]
async fn a_client_that_is_denied_is_told_by_an_alert() {
    // A failure to ask is a denial.
    let network = "- { name: e, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz, stat_prefix: e, send_tls_alert_on_denial: true, grpc_service: { envoy_grpc: { cluster_name: up } } } }
- { name: echo, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } }
";
    for program in programs() {
        let proxy = serve_filters(&program, network).await;
        for arguments in [
            &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"][..],
            &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
            &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        ] {
            let Some(told) = ask(&proxy, arguments) else { return };
            assert!(told.contains("SSL alert number 49"), "{program:?} {arguments:?}\n{told}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_a_filter_closes_ends_in_good_order() {
    let network = "- { name: r, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: r, rules: { action: DENY, policies: { p: { permissions: [{ any: true }], principals: [{ any: true }] } } } } }
- { name: echo, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } }
";
    for program in programs() {
        let proxy = serve_filters(&program, network).await;
        for version in ["-tls1_2", "-tls1_3"] {
            let Some(told) = ask(&proxy, &[version, "-msg"]) else { return };
            assert!(told.contains("warning close_notify"), "{program:?} {version}\n{told}");
        }
    }
}
