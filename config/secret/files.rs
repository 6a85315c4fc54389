//! The files that a secret names.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::secret::Type;

use crate::followed::Trigger;
use crate::value::{self, unwatched_data_source};

/// Bytes that a file may have: lists of authorities are the longest.
const MAX_FILE: u64 = 16 << 20;

/// Puts the content of files in place of their names. Returns the folders to be watched: the one that is named, or else
/// those of the files.
pub(super) fn inline(secret: &mut pb::Secret, cx: &mut LowerCx<'_>) -> Result<Vec<Trigger>, Refused> {
    let mut folders = Vec::new();
    let watched = match &mut secret.r#type {
        Some(Type::TlsCertificate(proto)) => cx.at("tls_certificate", |cx| {
            let pb::TlsCertificate { certificate_chain, private_key, pkcs12, ocsp_staple, watched_directory, .. } =
                proto;
            for (field, source) in [
                ("certificate_chain", certificate_chain),
                ("private_key", private_key),
                ("pkcs12", pkcs12),
                ("ocsp_staple", ocsp_staple),
            ] {
                read(field, source, &mut folders, cx)?;
            }
            Ok(watched_directory.take().map(value::watched_directory))
        })?,
        Some(Type::ValidationContext(proto)) => cx.at("validation_context", |cx| {
            let pb::CertificateValidationContext { trusted_ca, crl, watched_directory, .. } = proto;
            for (field, source) in [("trusted_ca", trusted_ca), ("crl", crl)] {
                read(field, source, &mut folders, cx)?;
            }
            Ok(watched_directory.take().map(value::watched_directory))
        })?,
        // They are read once.
        Some(Type::SessionTicketKeys(_) | Type::GenericSecret(_)) | None => None,
    };
    if let Some(folder) = watched {
        return Ok(vec![folder]);
    }
    folders.dedup();
    Ok(folders)
}

fn read(
    field: &str,
    source: &mut Option<DataSource>,
    folders: &mut Vec<Trigger>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let Some(DataSource { specifier: Some(Specifier::Filename(path)), .. }) = source else {
        return Ok(());
    };
    folders.push(Trigger::in_folder_of(path));
    let Some(named) = source.take() else { return Ok(()) };
    let bytes = cx.at(field, |cx| unwatched_data_source(named, MAX_FILE, cx))?;
    *source = Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.into())), watched_directory: None });
    Ok(())
}
