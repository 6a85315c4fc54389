//! The HTTP filter chain as configured, and the filters of one stream made from it.

use std::sync::Arc;

use nuncio_filter_api::{HttpFilter, HttpFilterConfig, StreamCx};

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
    /// The entries that run on the route in `cx`; which they are is decided once.
    pub(crate) fn enabled(self: &Arc<Self>, cx: &StreamCx) -> Enabled {
        let disabled = self.0.iter().enumerate().filter(|(_, e)| e.is_disabled(cx)).map(|(i, _)| i).collect();
        Enabled { chain: self.clone(), disabled, next: 0 }
    }
}

/// The entries of a chain that run for one stream, in order.
pub(crate) struct Enabled {
    chain: Arc<Chain>,
    /// Indices left out; none for most streams, and then nothing is allocated.
    disabled: Vec<usize>,
    next: usize,
}

impl Enabled {
    /// Makes the next filter, with the route as the filters before it left it; `None` at the end of the chain.
    pub(crate) fn instantiate(&mut self, cx: &StreamCx) -> Option<Box<dyn HttpFilter>> {
        while self.disabled.contains(&self.next) {
            self.next += 1;
        }
        let entry = self.chain.0.get(self.next)?;
        self.next += 1;
        Some(entry.config.clone().instantiate(&entry.name, cx))
    }

    /// As [`Enabled::instantiate`], for filters that only see the response: the terminal one is not among them.
    pub(crate) fn instantiate_passed_over(&mut self, cx: &StreamCx) -> Option<Box<dyn HttpFilter>> {
        let left = self.chain.0.get(self.next..)?;
        if left.iter().all(|e| e.config.is_terminal()) {
            return None;
        }
        self.instantiate(cx)
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
