//! The HTTP filter chain as configured, and the filters of one stream made from it.

use std::sync::Arc;

use nuncio_filter_api::{HttpFilter, HttpFilterConfig, StreamCx};
use smallvec::SmallVec;

/// One filter of the chain.
pub(crate) struct Entry {
    /// Name in the configuration, which per-route configuration refers to.
    pub(crate) name: Arc<str>,
    /// Does not run unless a route enables it.
    pub(crate) disabled: bool,
    pub(crate) config: Arc<dyn HttpFilterConfig>,
}

/// The chain. Its last filter is terminal.
pub(crate) struct Chain(pub(crate) Vec<Entry>);

impl Chain {
    /// The filters of a stream whose route is in `cx`.
    pub(crate) fn instantiate(&self, cx: &StreamCx) -> SmallVec<[Box<dyn HttpFilter>; 4]> {
        self.0.iter().filter(|e| !e.is_disabled(cx)).map(|e| e.config.clone().instantiate(&e.name, cx)).collect()
    }
}

impl Entry {
    fn is_disabled(&self, cx: &StreamCx) -> bool {
        // A terminal filter has no per-route switch: without it no request would be answered.
        if self.config.is_terminal() {
            return false;
        }
        cx.route().and_then(|r| r.get().filter_disabled(&self.name)).unwrap_or(self.disabled)
    }
}
