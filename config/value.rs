//! Values that many messages hold: header names, data sources.

use std::io::Read;

use bytes::Bytes;
use http::HeaderName;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;

/// A header name, in any case.
pub fn header_name(name: &str, cx: &mut LowerCx<'_>) -> Result<HeaderName, Refused> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| cx.invalid(format!("{name:?} is not a header name")))
}

/// The folder in which a move announces that files have another content.
pub(crate) fn watched_directory(proto: core::WatchedDirectory, cx: &mut LowerCx<'_>) -> Result<String, Refused> {
    let core::WatchedDirectory { path, watch_modify } = proto;
    cx.unsupported("watch_modify", &watch_modify)?;
    Ok(path)
}

/// The bytes of a data source, at most `max` of them. Files and environment variables that a configuration names are
/// part of it: this is the only I/O of lowering, and it is done once.
pub fn data_source(source: core::DataSource, max: u64, cx: &mut LowerCx<'_>) -> Result<Bytes, Refused> {
    use core::data_source::Specifier;
    let core::DataSource { watched_directory, specifier } = source;
    cx.unsupported("watched_directory", &watched_directory)?;
    let data = match specifier {
        None => return Err(cx.invalid("specifier is required")),
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        Some(Specifier::Filename(path)) => {
            cx.at("filename", |cx| read_file(&path, max).map_err(|e| cx.invalid(format!("cannot read {path:?}: {e}"))))?
        }
        Some(Specifier::EnvironmentVariable(name)) => cx.at("environment_variable", |cx| {
            std::env::var(&name).map(String::into_bytes).map_err(|e| cx.invalid(format!("{name}: {e}")))
        })?,
    };
    let length = data.len() as u64;
    if length > max {
        return Err(cx.invalid(format!("has {length} bytes or more; the maximum is {max}")));
    }
    Ok(data.into())
}

/// Reads one byte more than allowed at most, so that the caller sees the excess without holding it.
fn read_file(path: &str, max: u64) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    std::fs::File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut data)?;
    Ok(data)
}
