//! A chain of any bytes, held against authorities, constraints and lists of revocations; and any list of revocations.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio_config::tls::{DownstreamTls, ServerSide, certificate_info};
use nuncio_filter_api::{LowerCx, LowerEnv};
use nuncio_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::common_tls_context::ValidationContextType;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

macro_rules! file {
    ($name:literal) => {
        include_str!(concat!("../../tests/support/certificates/", $name))
    };
}

thread_local! {
    static ENV: LowerEnv = nuncio_filter_api::testing::env();
    static SIDE: Arc<ServerSide> =
        side(file!("users-list.pem").to_owned()).and_then(|tls| tls.current()).expect("it can be used");
}

// A byte that tells what follows: a list in DER, or certificates in DER, each behind the number of its bytes.
fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    if kind % 4 == 0 {
        drop(side(pem(rest)));
        return;
    }
    let mut chain = Vec::new();
    let mut rest = rest;
    while let [high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        chain.push(CertificateDer::from(&after[..length]));
        rest = &after[length..];
    }
    chain.iter().for_each(|der| drop(certificate_info(der)));
    SIDE.with(|side| {
        side.validate(&chain, true);
        if let [leaf, others @ ..] = &chain[..] {
            side.issuer_of(leaf, others);
        }
    });
});

fn side(list: String) -> Option<DownstreamTls> {
    let text =
        |text: &str| Some(DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() });
    let validation =
        pb::CertificateValidationContext { trusted_ca: text(file!("ca.pem")), crl: text(&list), ..Default::default() };
    let certificate = pb::TlsCertificate {
        certificate_chain: text(file!("server.pem")),
        private_key: text(file!("server.key")),
        ..Default::default()
    };
    let common = pb::CommonTlsContext {
        tls_certificates: vec![certificate],
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    };
    let proto = pb::DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    ENV.with(|env| {
        let mut cx = LowerCx::new(env);
        let lowered = DownstreamTls::lower(proto, &mut cx);
        assert_eq!(lowered.is_err(), cx.is_refused(), "a refusal is recorded exactly where lowering fails");
        lowered.ok()
    })
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN X509 CRL-----\n{text}\n-----END X509 CRL-----\n")
}
