//! The files that a secret names.

use std::path::{Path, PathBuf};

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::secret::Type;

use crate::value::{self, data_source};

/// Bytes that a file may have: lists of authorities are the longest.
const MAX_FILE: u64 = 16 << 20;

/// Puts the content of files in place of their names. Returns the folders to be watched: the one that is named, or else
/// those of the files.
pub(super) fn inline(secret: &mut pb::Secret, cx: &mut LowerCx<'_>) -> Result<Vec<PathBuf>, Refused> {
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
            cx.opt("watched_directory", watched_directory.take(), value::watched_directory)
        })?,
        Some(Type::ValidationContext(proto)) => cx.at("validation_context", |cx| {
            let pb::CertificateValidationContext { trusted_ca, crl, watched_directory, .. } = proto;
            for (field, source) in [("trusted_ca", trusted_ca), ("crl", crl)] {
                read(field, source, &mut folders, cx)?;
            }
            cx.opt("watched_directory", watched_directory.take(), value::watched_directory)
        })?,
        // They are read once.
        Some(Type::SessionTicketKeys(_) | Type::GenericSecret(_)) | None => None,
    };
    if let Some(folder) = watched {
        folders = vec![folder.into()];
    }
    folders.dedup();
    Ok(folders)
}

fn read(
    field: &str,
    source: &mut Option<DataSource>,
    folders: &mut Vec<PathBuf>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let Some(DataSource { specifier: Some(Specifier::Filename(path)), watched_directory: None }) = source else {
        return Ok(());
    };
    let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
    folders.push(folder.unwrap_or(Path::new(".")).to_owned());
    let Some(named) = source.take() else { return Ok(()) };
    let bytes = cx.at(field, |cx| data_source(named, MAX_FILE, cx))?;
    *source = Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.into())), watched_directory: None });
    Ok(())
}
