//! `envoy.filters.http.upstream_codec`: the end of a chain upstream, behind which the request goes to its host.

use std::sync::Arc;

use nuncio_filter_api::{HttpFilter, HttpFilterConfig, HttpFilterRow, LowerCx, Refused, Sides, StreamCx};
use nuncio_proto::envoy::extensions::filters::http::upstream_codec::v3 as proto;

use crate::noop::Noop;

/// The filter's row in the table.
pub(crate) const ROW: HttpFilterRow = HttpFilterRow {
    name: "envoy.filters.http.upstream_codec",
    config: "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
    lower,
    per_route: None,
    sides: Sides::Upstream,
};

/// Marks the end. Whoever runs the chain sends the request itself, so that no stream has a filter of it.
struct Config;

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    let proto::UpstreamCodec {} = crate::decode(bytes, cx)?;
    Ok(Arc::new(Config))
}

impl HttpFilterConfig for Config {
    fn instantiate(self: Arc<Self>, _name: &Arc<str>, _cx: &StreamCx) -> Box<dyn HttpFilter> {
        Box::new(Noop)
    }

    fn is_terminal(&self) -> bool {
        true
    }
}
