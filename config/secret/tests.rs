use super::*;

fn pem(name: &str) -> Option<DataSource> {
    let path = format!("{}/../tests/support/certificates/{name}", env!("CARGO_MANIFEST_DIR"));
    Some(DataSource { specifier: Some(Specifier::Filename(path)), ..Default::default() })
}

fn certificate(name: &str, chain: &str, key: &str) -> pb::Secret {
    let certificate = pb::TlsCertificate { certificate_chain: pem(chain), private_key: pem(key), ..Default::default() };
    pb::Secret { name: name.to_owned(), r#type: Some(Type::TlsCertificate(certificate)) }
}

/// A server whose certificate is the secret `s` of the bootstrap.
fn server() -> pb::DownstreamTlsContext {
    let reference = pb::SdsSecretConfig { name: "s".to_owned(), sds_config: None };
    let common = pb::CommonTlsContext { tls_certificate_sds_secret_configs: vec![reference], ..Default::default() };
    pb::DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() }
}

#[test]
fn a_secret_that_cannot_be_used_leaves_the_one_before() {
    let env = crate::testing::env();
    let mut cx = LowerCx::new(&env);
    let secrets = StaticSecrets::of(&env);
    assert!(secrets.lower(vec![certificate("s", "server.pem", "server.key")], &mut cx).unwrap().is_empty());
    let tls = tls::DownstreamTls::lower(server(), &mut cx).unwrap();
    let first = tls.current().unwrap();
    let slot = secrets.find(&Secret::lower(certificate("s", "server.pem", "server.key"), &mut cx).unwrap()).unwrap();
    let validation = pb::CertificateValidationContext { trusted_ca: pem("ca.pem"), ..Default::default() };
    let other = pb::Secret { name: "s".to_owned(), r#type: Some(Type::ValidationContext(validation)) };
    let refused = slot.update(&Arc::new(Secret::lower(other, &mut cx).unwrap()), &env).unwrap_err();
    assert!(refused[0].to_string().contains("secret \"s\" is no TLS certificate"), "{refused:?}");
    assert!(Arc::ptr_eq(tls.current().unwrap().plain(), tls.current().unwrap().plain()));
    let next = secrets.lower(vec![certificate("s", "server-rsa.pem", "server-rsa.key")], &mut cx).unwrap();
    slot.update(&next[0], &env).unwrap();
    assert!(!Arc::ptr_eq(tls.current().unwrap().plain(), first.plain()));
}

#[test]
fn secrets_of_two_kinds_may_have_one_name_and_those_of_one_kind_may_not() {
    let env = crate::testing::env();
    let mut cx = LowerCx::new(&env);
    let validation = pb::CertificateValidationContext { trusted_ca: pem("ca.pem"), ..Default::default() };
    let validation = pb::Secret { name: "s".to_owned(), r#type: Some(Type::ValidationContext(validation)) };
    let certificate = certificate("s", "server.pem", "server.key");
    let secrets = StaticSecrets::of(&env);
    assert!(secrets.lower(vec![certificate.clone(), validation], &mut cx).unwrap().is_empty());
    assert!(tls::DownstreamTls::lower(server(), &mut cx).is_ok());
    assert!(secrets.lower(vec![certificate.clone(), certificate], &mut cx).is_err());
    let reasons = cx.finish();
    assert_eq!(reasons[0].to_string(), "secrets[1].name: \"s\" is given to two secrets of one kind");
}

#[test]
fn a_key_of_another_certificate_is_refused_by_its_path() {
    let env = crate::testing::env();
    let mut cx = LowerCx::new(&env);
    assert!(Secret::lower(certificate("s", "server.pem", "client.key"), &mut cx).is_err());
    let reasons = cx.finish();
    assert!(reasons[0].to_string().starts_with("tls_certificate.private_key: does not belong"), "{}", reasons[0]);
}

#[test]
fn a_reference_to_nothing_is_refused() {
    let env = crate::testing::env();
    let mut cx = LowerCx::new(&env);
    assert!(tls::DownstreamTls::lower(server(), &mut cx).is_err());
    let reasons = cx.finish();
    let expected = "common_tls_context.tls_certificate_sds_secret_configs[0].name: unknown static secret \"s\"";
    assert_eq!(reasons[0].to_string(), expected);
}
