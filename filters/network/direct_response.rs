//! `envoy.filters.network.direct_response`: sends a fixed answer and closes.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use nuncio_filter_api::{Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused};
use nuncio_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use nuncio_proto::envoy::extensions::filters::network::direct_response::v3::Config;
use tokio::io::AsyncWriteExt;

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.direct_response",
    config: "envoy.extensions.filters.network.direct_response.v3.Config",
    lower,
};

struct DirectResponse(Bytes);

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Config { response } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let response = cx.opt("response", response, lower_source)?.unwrap_or_default();
    Ok(Arc::new(DirectResponse(response)))
}

fn lower_source(source: DataSource, cx: &mut LowerCx<'_>) -> Result<Bytes, Refused> {
    let DataSource { watched_directory, specifier } = source;
    cx.unsupported("watched_directory", &watched_directory)?;
    match specifier {
        Some(Specifier::InlineString(text)) => Ok(text.into()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.into()),
        Some(Specifier::Filename(_)) => cx.at("filename", |cx| Err(cx.not_implemented("a response from a file"))),
        Some(Specifier::EnvironmentVariable(_)) => {
            cx.at("environment_variable", |cx| Err(cx.not_implemented("a response from the environment")))
        }
        None => Err(cx.invalid("a specifier is required")),
    }
}

impl NetworkFilter for DirectResponse {
    fn run(self: Arc<Self>, mut connection: Connection, _: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        Box::pin(async move {
            // The connection is over either way, and there is nobody to tell of an error.
            if connection.io.write_all(&self.0).await.is_ok() {
                let _ = connection.io.shutdown().await;
            }
            Flow::Done
        })
    }

    fn is_terminal(&self) -> bool {
        true
    }
}
