use super::*;
use nuncio_filter_api::{Invalid, LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_proto::google::protobuf::Any;
use pb::common_tls_context::ValidationContextType;
use pb::tls_parameters::TlsProtocol;
use prost::{Message, Name};

fn file(name: &str) -> Option<DataSource> {
    let path = format!("{}/../tests/support/certificates/{name}", env!("CARGO_MANIFEST_DIR"));
    Some(DataSource { specifier: Some(Specifier::Filename(path)), ..Default::default() })
}

fn text(text: &str) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() })
}

fn certificate(chain: &str, key: &str) -> pb::TlsCertificate {
    pb::TlsCertificate { certificate_chain: file(chain), private_key: file(key), ..Default::default() }
}

/// A server's context with the usual certificate.
fn server(change: impl FnOnce(&mut pb::CommonTlsContext)) -> pb::DownstreamTlsContext {
    let mut common =
        pb::CommonTlsContext { tls_certificates: vec![certificate("server.pem", "server.key")], ..Default::default() };
    change(&mut common);
    pb::DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() }
}

fn lower(proto: pb::DownstreamTlsContext) -> Result<DownstreamTls, Vec<Invalid>> {
    let env = crate::testing::env();
    let mut cx = LowerCx::new(&env);
    DownstreamTls::lower(proto, &mut cx).map_err(|Refused| cx.finish())
}

/// The first refusal of a server's context.
fn refusal(change: impl FnOnce(&mut pb::CommonTlsContext)) -> String {
    let refused = lower(server(change)).expect_err("it is refused");
    refused[0].to_string().trim_start_matches("common_tls_context.").to_owned()
}

fn parameters(change: impl FnOnce(&mut pb::TlsParameters)) -> impl FnOnce(&mut pb::CommonTlsContext) {
    let mut parameters = pb::TlsParameters::default();
    change(&mut parameters);
    |common| common.tls_params = Some(parameters)
}

fn validation(change: impl FnOnce(&mut pb::CertificateValidationContext)) -> impl FnOnce(&mut pb::CommonTlsContext) {
    let mut validation = pb::CertificateValidationContext::default();
    change(&mut validation);
    |common| common.validation_context_type = Some(ValidationContextType::ValidationContext(validation))
}

#[test]
fn what_is_broken_is_refused_with_the_reason() {
    let refused = refusal(parameters(|p| p.tls_minimum_protocol_version = TlsProtocol::TlSv10.into()));
    assert!(refused.starts_with("tls_params.tls_minimum_protocol_version: TLS 1.0 and 1.1 are broken"), "{refused}");
    let refused = refusal(parameters(|p| p.cipher_suites = vec!["ECDHE-RSA-AES128-SHA".into()]));
    assert!(refused.starts_with("tls_params.cipher_suites[0]: ") && refused.contains("CBC"), "{refused}");
    let refused = refusal(parameters(|p| p.ecdh_curves = vec!["X25519".into(), "P-224".into()]));
    assert_eq!(refused, "tls_params.ecdh_curves[1]: \"P-224\" is not a group that is spoken here");
    let refused = refusal(parameters(|p| p.ecdh_curves = vec!["P-256:prime256v1".into()]));
    assert_eq!(refused, "tls_params.ecdh_curves[0]: \"prime256v1\" is there twice");
}

/// Suites of TLS 1.2 and groups that are offered.
fn offered(change: impl FnOnce(&mut pb::TlsParameters)) -> (Vec<String>, Vec<String>) {
    let tls = lower(server(parameters(change))).expect("it is fine");
    let side = tls.current().expect("no secret is missing");
    let server = side.plain();
    let provider = server.crypto_provider();
    let suites = provider.cipher_suites[3..].iter().map(|suite| format!("{:?}", suite.suite()));
    (suites.collect(), provider.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect())
}

#[test]
fn suites_may_stand_in_brackets_and_groups_in_their_order() {
    let both = ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
    for list in [
        &["[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-RSA-AES128-GCM-SHA256]"][..],
        &["[ECDHE-ECDSA-AES128-GCM-SHA256]:ECDHE-RSA-AES128-GCM-SHA256"],
        &["ECDHE-ECDSA-AES128-GCM-SHA256", "", "ECDHE-RSA-AES128-GCM-SHA256"],
    ] {
        let (suites, groups) = offered(|p| p.cipher_suites = list.iter().map(|&entry| entry.into()).collect());
        assert_eq!((&suites[..], &groups[..]), (&both.map(String::from)[..], &GROUPS.map(String::from)[..]));
    }
    assert_eq!(offered(|p| p.cipher_suites = vec![String::new()]).0.len(), 6, "an empty text is no list");
    let curves = vec!["P-384:x25519".into(), "prime256v1".into()];
    assert_eq!(offered(|p| p.ecdh_curves = curves).1, ["secp384r1", "X25519", "secp256r1"]);
}

#[test]
fn every_group_that_boringssl_has_is_spoken() {
    let curves = vec!["P-521:MLKEM1024".into(), "secp384r1".into(), "X25519MLKEM768".into()];
    assert_eq!(offered(|p| p.ecdh_curves = curves).1, ["secp521r1", "MLKEM1024", "secp384r1", "X25519MLKEM768"]);
    assert_eq!(offered(|p| p.ecdh_curves = vec![String::new()]).1, GROUPS, "an empty text is no list");
}

#[test]
fn signature_algorithms_are_those_of_boringssl() {
    let list = |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
    let refused = |entries: &[&str]| refusal(parameters(|p| p.signature_algorithms = list(entries)));
    let unknown = refused(&["ed25519", "RSA+SHA256:Ed25519"]);
    assert_eq!(unknown, "tls_params.signature_algorithms[1]: \"Ed25519\" is no signature algorithm that is known");
    assert!(refused(&["ed25519", ""]).starts_with("tls_params.signature_algorithms[1]: \"\" is no"));
    let twice = refused(&["rsa_pss_rsae_sha256", "PSS+SHA256"]);
    assert_eq!(twice, "tls_params.signature_algorithms[1]: \"PSS+SHA256\" is there twice");
    let old = refused(&["rsa_pkcs1_sha1", "mldsa65"]);
    assert!(old.starts_with("tls_params.signature_algorithms[0]: \"rsa_pkcs1_sha1\" is not spoken"), "{old}");
    for fine in [&["rsa_pkcs1_sha1", "ECDSA+SHA256"][..], &[""]] {
        assert!(lower(server(parameters(|p| p.signature_algorithms = list(fine)))).is_ok(), "{fine:?}");
    }
}

#[test]
fn a_policy_overrides_all_else() {
    let policy = |policy: i32| {
        move |p: &mut pb::TlsParameters| {
            p.ecdh_curves = vec!["X25519".into()];
            p.cipher_suites = vec!["ECDHE-RSA-CHACHA20-POLY1305".into()];
            p.tls_maximum_protocol_version = TlsProtocol::TlSv12.into();
            p.compliance_policies = vec![policy];
        }
    };
    let spoken = |number| {
        let tls = lower(server(parameters(policy(number)))).expect("it is fine");
        let side = tls.current().expect("no secret is missing");
        let provider = side.plain().crypto_provider().clone();
        let suites = provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite()));
        let groups = provider.kx_groups.iter().map(|group| format!("{:?}", group.name()));
        (suites.collect::<Vec<_>>(), groups.collect::<Vec<_>>())
    };
    let (suites, groups) = spoken(0);
    assert_eq!((suites.len(), &*suites[0]), (6, "TLS13_AES_128_GCM_SHA256"));
    assert_eq!(groups, ["secp256r1", "secp384r1"]);
    assert!(!suites.iter().any(|suite| suite.contains("CHACHA")), "{suites:?}");
    assert_eq!(spoken(1), (vec!["TLS13_AES_256_GCM_SHA384".to_owned()], vec!["MLKEM1024".to_owned()]));
    assert_eq!((spoken(2).0.len(), spoken(2).1), (3, vec!["MLKEM1024".to_owned(), "secp384r1".to_owned()]));
    let refused = refusal(parameters(policy(3)));
    assert_eq!(refused, "tls_params.compliance_policies[0]: there is no policy of the number 3");
}

#[test]
fn parameters_of_a_certificate_are_refused_by_their_place() {
    let with = |change: &dyn Fn(&mut pb::TlsParameters)| {
        let mut own = pb::TlsParameters::default();
        change(&mut own);
        let certificate = pb::TlsCertificate { tls_params: Some(own), ..certificate("server.pem", "server.key") };
        refusal(|common| {
            common.tls_certificates = vec![certificate];
            let maximum = TlsProtocol::TlSv12.into();
            common.tls_params = Some(pb::TlsParameters { tls_maximum_protocol_version: maximum, ..Default::default() });
        })
    };
    let refused = with(&|own| own.tls_minimum_protocol_version = TlsProtocol::TlSv13.into());
    let reason = "must not be later than tls_maximum_protocol_version";
    assert_eq!(refused, format!("tls_certificates[0].tls_params.tls_minimum_protocol_version: {reason}"));
    let refused = with(&|own| own.ecdh_curves = vec!["nothing".into()]);
    assert!(refused.starts_with("tls_certificates[0].tls_params.ecdh_curves[0]: "), "{refused}");
}

const GROUPS: [&str; 3] = ["X25519MLKEM768", "X25519", "secp256r1"];

#[test]
fn suites_that_are_broken_are_left_out_where_others_remain() {
    let list = ["ECDHE-RSA-AES256-GCM-SHA384", "AES256-GCM-SHA384", "AES128-SHA"].map(String::from);
    assert_eq!(offered(|p| p.cipher_suites = list.into()).0, ["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]);
    let (suites, _) = offered(|p| {
        p.cipher_suites = vec!["AES128-SHA".into()];
        p.tls_minimum_protocol_version = TlsProtocol::TlSv13.into();
    });
    assert!(suites.is_empty(), "TLS 1.3 needs none of them");
    let refused = refusal(parameters(|p| p.cipher_suites = vec!["ECDHE-RSA-AES256-GCM-SHA384:NONE".into()]));
    assert!(refused.starts_with("tls_params.cipher_suites[0]: \"NONE\" is not"), "{refused}");
}

#[test]
fn an_entry_of_protocols_may_be_a_list() {
    let protocols = ["h2,http/1.1", "", "a"].map(str::to_owned).to_vec();
    let tls = lower(server(|common| common.alpn_protocols = protocols)).expect("it is fine");
    let side = tls.current().expect("no secret is missing");
    assert_eq!(side.plain().alpn_protocols, [&b"h2"[..], b"http/1.1", b"a"]);
    let refused = refusal(|common| common.alpn_protocols = vec![format!("h2,{}", "a".repeat(256))]);
    assert_eq!(refused, "alpn_protocols[0]: a protocol's name has 1 to 255 bytes");
}

#[test]
fn contexts_that_say_the_same_are_one() {
    let env = crate::testing::env();
    let lower = |proto| {
        let mut cx = LowerCx::new(&env);
        let tls = DownstreamTls::lower(proto, &mut cx).expect("it is fine");
        tls.current().expect("no secret is missing")
    };
    let same = [lower(server(|_| ())), lower(server(|_| ()))];
    assert!(std::sync::Arc::ptr_eq(&same[0], &same[1]));
    let other = lower(server(|common| common.alpn_protocols = vec!["h2".into()]));
    assert!(!std::sync::Arc::ptr_eq(&same[0], &other));
    let rsa = lower(server(|common| common.tls_certificates = vec![certificate("server-rsa.pem", "server-rsa.key")]));
    assert!(!std::sync::Arc::ptr_eq(&same[0], &rsa));
}

#[test]
fn protected_keys_and_staples_are_refused_by_their_place() {
    let with = |certificate: pb::TlsCertificate| refusal(|common| common.tls_certificates = vec![certificate]);
    let closed = with(certificate("server.pem", "server-encrypted.key"));
    assert_eq!(closed, "tls_certificates[0].private_key: the password is wrong");
    let wrong = pb::TlsCertificate { pkcs12: file("server.p12"), password: text("other"), ..Default::default() };
    assert_eq!(with(wrong), "tls_certificates[0].pkcs12: the password is wrong");
    let both = pb::TlsCertificate { pkcs12: file("server.p12"), ..certificate("server.pem", "server.key") };
    assert_eq!(with(both), "tls_certificates[0].pkcs12: excludes certificate_chain and private_key");
    let old = pb::TlsCertificate { pkcs12: file("server-legacy.p12"), password: text("secret"), ..Default::default() };
    assert!(with(old).starts_with("tls_certificates[0].pkcs12: is protected by what is broken"));
    let staple = |source| pb::TlsCertificate { ocsp_staple: source, ..certificate("server-rsa.pem", "server-rsa.key") };
    assert_eq!(with(staple(file("server.ocsp"))), "tls_certificates[0].ocsp_staple: is about another certificate");
    assert_eq!(with(staple(file("server.pem"))), "tls_certificates[0].ocsp_staple: is no OCSP response in DER");
    assert!(with(staple(text("a"))).starts_with("tls_certificates[0].ocsp_staple.inline_string: "));
    let must = pb::DownstreamTlsContext { ocsp_staple_policy: 2, ..server(|_| ()) };
    let refused = lower(must).expect_err("it is refused")[0].to_string();
    assert!(refused.starts_with("common_tls_context.tls_certificates[0].ocsp_staple: is required"), "{refused}");
}

#[test]
fn certificates_and_keys_that_cannot_be_used_are_refused_by_their_place() {
    let with = |certificate: pb::TlsCertificate| refusal(|common| common.tls_certificates = vec![certificate]);
    let other = with(certificate("server.pem", "client.key"));
    assert_eq!(other, "tls_certificates[0].private_key: does not belong to the first certificate of the chain");
    let missing = with(certificate("missing.pem", "server.key"));
    assert!(missing.starts_with("tls_certificates[0].certificate_chain.filename: cannot read"), "{missing}");
    let empty = with(pb::TlsCertificate { certificate_chain: text(""), ..certificate("server.pem", "server.key") });
    assert_eq!(empty, "tls_certificates[0].certificate_chain: has no certificate in PEM");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let garbage =
        with(pb::TlsCertificate { certificate_chain: text(garbage), ..certificate("server.pem", "server.key") });
    assert!(garbage.starts_with("tls_certificates[0].certificate_chain: certificate 1 cannot be read"), "{garbage}");
    let none = refusal(|common| common.tls_certificates.clear());
    assert_eq!(none, "tls_certificates: a server needs a certificate");
}

#[test]
fn an_authority_that_is_rejected_for_some_use_is_refused() {
    let refused = refusal(validation(|v| v.trusted_ca = file("ca-rejecting.pem")));
    let reason = "certificate 1, which is rejected for some uses, is not implemented yet";
    assert_eq!(refused, format!("validation_context.trusted_ca: {reason}"));
    // What it is trusted for besides changes nothing, as by BoringSSL.
    assert!(lower(server(validation(|v| v.trusted_ca = file("ca-trusted.pem")))).is_ok());
}

#[test]
fn names_are_no_proof_without_an_authority() {
    let names = vec![pb::SubjectAltNameMatcher {
        san_type: pb::subject_alt_name_matcher::SanType::Dns.into(),
        matcher: Some(nuncio_proto::envoy::r#type::matcher::v3::StringMatcher {
            match_pattern: Some(nuncio_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern::Exact(
                "a".into(),
            )),
            ignore_case: false,
        }),
        oid: String::new(),
    }];
    let refused = refusal(validation(|v| v.match_typed_subject_alt_names = names));
    assert!(refused.starts_with("validation_context.match_typed_subject_alt_names: names are no proof"), "{refused}");
}

#[test]
fn other_names_are_of_types_that_are_object_identifiers() {
    let of = |oid: &str| pb::SubjectAltNameMatcher {
        san_type: pb::subject_alt_name_matcher::SanType::OtherName.into(),
        matcher: None,
        oid: oid.into(),
    };
    for (oid, reason) in [
        ("1.3.6.1.4.1.311.20.2.3", "matcher: is required"),
        ("2.999", "matcher: is required"),
        ("", "oid: is required"),
        ("foo", "oid: \"foo\" is no object identifier"),
        ("1", "oid: \"1\" is no object"),
        ("1.40.1", "oid: \"1.40.1\" is no object"),
        ("3.1", "oid: \"3.1\" is no object"),
        ("1.2.", "oid: \"1.2.\" is no object"),
    ] {
        let refused = refusal(validation(|v| v.match_typed_subject_alt_names = vec![of(oid)]));
        let expected = format!("validation_context.match_typed_subject_alt_names[0].{reason}");
        assert!(refused.starts_with(&expected), "{oid}: {refused}");
    }
}

#[test]
fn hashes_have_the_length_of_theirs() {
    let refused = refusal(validation(|v| v.verify_certificate_hash = vec!["AB:CD".into()]));
    assert_eq!(refused, "validation_context.verify_certificate_hash[0]: is no SHA-256 in hexadecimal digits");
    let refused = refusal(validation(|v| v.verify_certificate_spki = vec!["AAAA".into()]));
    assert_eq!(refused, "validation_context.verify_certificate_spki[0]: is no base64 of a SHA-256");
}

#[test]
fn a_wildcard_covers_one_label() {
    for (pattern, name, covers) in [
        ("*.a.test", "x.a.test", true),
        ("*.a.test", "X.A.TEST", true),
        ("*.a.test", "x.y.a.test", false),
        ("*.a.test", "a.test", false),
        ("*.a.test", ".a.test", false),
        ("a.test", "a.test", true),
        ("f*.a.test", "Foo.a.test", true),
        ("f*o.a.test", "fo.a.test", true),
        ("f*o.a.test", "f.a.test", false),
        ("f*.a.test", "bar.a.test", false),
        ("f**.a.test", "foo.a.test", false),
        ("xn--*.a.test", "xn--a.a.test", false),
    ] {
        assert_eq!(san::covers(pattern, name), covers, "{pattern} {name}");
    }
}

#[test]
fn a_map_of_trust_bundles_that_cannot_be_used_is_refused_with_the_reason() {
    for (map, reason) in [
        ("nothing", "is no JSON: "),
        ("{}", "has no trust_domains"),
        (r#"{"trust_domains":{}}"#, "has no trust_domains"),
        (r#"{"trust_domains":{"test":{}}}"#, r#"has no keys for the trust domain "test""#),
        (r#"{"trust_domains":{"test":{"keys":[{"use":"jwt-svid"}]}}}"#, "has a key whose use is not x509-svid"),
        (r#"{"trust_domains":{"test":{"keys":[{"use":"x509-svid","x5c":[]}]}}}"#, "has a key without x5c"),
        (r#"{"trust_domains":{"test":{"keys":[{"use":"x509-svid","x5c":[1]}]}}}"#, "has an x5c that holds"),
        (r#"{"trust_domains":{"test":{"keys":[{"use":"x509-svid","x5c":["AAAA"]}]}}}"#, ""),
    ] {
        let proto = pb::SpiffeCertValidatorConfig { trust_bundles: text(map), ..Default::default() };
        let any = Any {
            type_url: format!("type.googleapis.com/{}", pb::SpiffeCertValidatorConfig::full_name()),
            value: proto.encode_to_vec(),
        };
        let custom = TypedExtensionConfig { name: "envoy.tls.cert_validator.spiffe".into(), typed_config: Some(any) };
        let refused = refusal(validation(|v| v.custom_validator_config = Some(custom)));
        let path = "validation_context.custom_validator_config.typed_config.trust_bundles: ";
        assert!(refused.strip_prefix(path).is_some_and(|found| found.starts_with(reason)), "{map}: {refused}");
    }
}

/// A server's context whose certificates are asked for by the names of servers.
fn on_demand() -> pb::DownstreamTlsContext {
    use nuncio_proto::envoy::config::core::v3 as core;
    use nuncio_proto::envoy::extensions::transport_sockets::tls::cert_mappers::sni::v3::Sni;
    use nuncio_proto::envoy::extensions::transport_sockets::tls::cert_selectors::on_demand_secret::v3::Config;
    let path = core::PathConfigSource { path: env!("CARGO_MANIFEST_DIR").to_owned(), ..Default::default() };
    let source = core::config_source::ConfigSourceSpecifier::PathConfigSource(path);
    let mapper = Sni { default_value: "default".to_owned() };
    let mapper = Any { type_url: Sni::type_url(), value: mapper.encode_to_vec() };
    let config = Config {
        config_source: Some(core::ConfigSource { config_source_specifier: Some(source), ..Default::default() }),
        certificate_mapper: Some(TypedExtensionConfig { name: "m".to_owned(), typed_config: Some(mapper) }),
        ..Default::default()
    };
    let config = Any { type_url: Config::type_url(), value: config.encode_to_vec() };
    let selector = TypedExtensionConfig { name: "s".to_owned(), typed_config: Some(config) };
    let common = pb::CommonTlsContext { custom_tls_certificate_selector: Some(selector), ..Default::default() };
    pb::DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() }
}

#[test]
fn certificates_on_demand_exclude_sessions() {
    let refused = lower(on_demand()).expect_err("sessions are on");
    assert!(refused[0].to_string().contains("custom_tls_certificate_selector: needs disable_stateless"), "{refused:?}");
}

#[test]
fn names_that_are_waited_for_are_bounded_and_those_of_who_left_make_room() {
    use futures_util::FutureExt;
    use pb::downstream_tls_context::SessionTicketKeysType;
    let mut proto = on_demand();
    proto.disable_stateful_session_resumption = true;
    proto.session_ticket_keys_type = Some(SessionTicketKeysType::DisableStatelessSessionResumption(true));
    let env = crate::testing::env();
    let tls = DownstreamTls::lower(proto, &mut LowerCx::new(&env)).expect("it is fine");
    let names: Vec<String> = (0..4096).map(|number| number.to_string()).collect();
    for name in &names {
        assert!(tls.on_demand(Some(name)).now_or_never().is_none(), "it waits");
    }
    let mut waiting: Vec<_> = names.iter().map(|name| Box::pin(tls.on_demand(Some(name)))).collect();
    assert!(waiting.iter_mut().all(|asks| asks.now_or_never().is_none()));
    assert!(matches!(tls.on_demand(None).now_or_never(), Some(None)), "there are too many");
    waiting.truncate(4095);
    assert!(tls.on_demand(None).now_or_never().is_none());
}
