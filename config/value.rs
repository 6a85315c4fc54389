//! Values that many messages hold: header names, data sources.

use std::io::Read;

use bytes::Bytes;
use http::HeaderName;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;

use crate::followed::Trigger;

/// A header name, in any case.
pub fn header_name(name: &str, cx: &mut LowerCx<'_>) -> Result<HeaderName, Refused> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| cx.invalid(format!("{name:?} is not a header name")))
}

/// What announces that files have another content: moves in a folder, and writes where that is asked for.
pub(crate) fn watched_directory(proto: core::WatchedDirectory) -> Trigger {
    let core::WatchedDirectory { path, watch_modify } = proto;
    let moved = Trigger::of_folder(&path);
    if watch_modify { moved.or_write() } else { moved }
}

/// The same where it must be there. Envoy: no matter as what.
pub(crate) fn existing_directory(proto: core::WatchedDirectory, cx: &mut LowerCx<'_>) -> Result<Trigger, Refused> {
    let path = &proto.path;
    if !std::path::Path::new(path).exists() {
        let reason = format!("unable to add filesystem watch for {path:?}: no such file or directory");
        return Err(cx.at("path", |cx| cx.invalid(reason)));
    }
    Ok(watched_directory(proto))
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

/// The same where Envoy takes a folder to be watched and watches none.
pub(crate) fn unwatched_data_source(
    mut source: core::DataSource,
    max: u64,
    cx: &mut LowerCx<'_>,
) -> Result<Bytes, Refused> {
    if source.watched_directory.take().is_some() {
        tracing::info!(path = cx.path(), "watched_directory has no effect: the file is read once");
    }
    data_source(source, max, cx)
}

/// Reads one byte more than allowed at most, so that the caller sees the excess without holding it.
fn read_file(path: &str, max: u64) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    std::fs::File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut data)?;
    Ok(data)
}
