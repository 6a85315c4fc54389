//! `/certs`: the certificates that are in use.

use std::time::SystemTime;

use nuncio_config::load::{Defaults, to_json};
use nuncio_config::tls::{CertificateInUse, contexts_in_use, days_until};
use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::google::protobuf::Timestamp;
use proto::certificate_details::OcspDetails;
use proto::subject_alternate_name::Name;

use super::{Admin, Reply};

/// `/certs`
pub(super) fn certs(admin: &Admin) -> Reply {
    let contexts = contexts_in_use(&admin.env.slots).into_iter().map(|context| proto::Certificate {
        ca_cert: context.authorities.iter().map(details).collect(),
        cert_chain: context.own.iter().map(details).collect(),
    });
    Reply::json(to_json(&proto::Certificates { certificates: contexts.collect() }, Defaults::Print))
}

fn details(certificate: &CertificateInUse) -> proto::CertificateDetails {
    let CertificateInUse { path, info, ocsp } = certificate;
    let name = |name: Name| proto::SubjectAlternateName { name: Some(name) };
    let names = info.dns_sans.iter().cloned().map(Name::Dns);
    let names = names.chain(info.uri_sans.iter().cloned().map(Name::Uri));
    let names = names.chain(info.ip_sans.iter().cloned().map(Name::IpAddress));
    proto::CertificateDetails {
        path: path.to_string(),
        serial_number: info.serial.clone(),
        subject_alt_names: names.map(name).collect(),
        days_until_expiration: days_until(info.not_after),
        valid_from: Some(timestamp(info.not_before)),
        expiration_time: Some(timestamp(info.not_after)),
        ocsp_details: ocsp.map(|(start, end)| OcspDetails {
            valid_from: Some(Timestamp { seconds: start, nanos: 0 }),
            expiration: end.map(|seconds| Timestamp { seconds, nanos: 0 }),
        }),
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    };
    Timestamp { seconds, nanos: 0 }
}
