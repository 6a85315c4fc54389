//! `envoy.filters.network.direct_response`: sends a fixed answer and closes.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use nuncio_config::value::data_source;
use nuncio_filter_api::{Connection, Flow, LowerCx, NetworkCx, NetworkFilter, NetworkFilterRow, Refused};
use nuncio_proto::envoy::extensions::filters::network::direct_response::v3::Config;
use tokio::io::AsyncWriteExt;

pub(crate) const ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.direct_response",
    config: "envoy.extensions.filters.network.direct_response.v3.Config",
    lower,
};

/// Envoy has no limit; this one keeps a wrong path, such as /dev/zero, from filling memory.
const MAX_RESPONSE: u64 = 64 << 20;

struct DirectResponse(Bytes);

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let Config { response } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let response = cx.opt("response", response, |v, cx| data_source(v, MAX_RESPONSE, cx))?.unwrap_or_default();
    Ok(Arc::new(DirectResponse(response)))
}

impl NetworkFilter for DirectResponse {
    fn run(self: Arc<Self>, mut connection: Connection, _: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        connection.info.details.set(Some("direct_response"));
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
