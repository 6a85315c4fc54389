//! `envoy.filters.listener.original_src`: has hosts be connected to from the address of the client.

use std::sync::Arc;

use nuncio_filter_api::{Incoming, Inspection, ListenerFilter, ListenerFilterRow, LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::listener::original_src::v3::OriginalSrc as Proto;
use nuncio_telemetry::OriginalSource;

pub(crate) const ROW: ListenerFilterRow = ListenerFilterRow {
    name: "envoy.filters.listener.original_src",
    config: "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
    lower,
};

struct OriginalSrc {
    mark: u32,
}

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn ListenerFilter>, Refused> {
    // Envoy never gave the port a meaning.
    let Proto { bind_port: _, mark } =
        prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    Ok(Arc::new(OriginalSrc { mark }))
}

impl ListenerFilter for OriginalSrc {
    fn inspect<'a>(&'a self, incoming: &'a mut Incoming) -> Inspection<'a> {
        if let Some(ip) = incoming.remote.ip() {
            incoming.inspected().source = Some(OriginalSource { ip, mark: self.mark });
        }
        Inspection::Done(Ok(()))
    }
}
