//! Filters that stand for those whose configuration is given by discovery.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use nuncio_filter_api::{
    Admission, Connection, Flow, HttpFilter, HttpFilterConfig, Incoming, Inspection, ListenerFilter, LocalReply,
    NetworkCx, NetworkFilter, Rejected, Request, Step, StreamCx,
};
use nuncio_telemetry::{ConnectionInfo, ResponseFlag};

use super::slot::Discovered;

/// An HTTP filter that is configured by discovery.
pub(crate) struct DiscoveredHttpFilter {
    pub(crate) filter: Arc<Discovered<dyn HttpFilterConfig>>,
    /// It is the last of its chain, where nothing but a terminal filter is taken.
    pub(crate) is_terminal: bool,
}

/// A network filter that is configured by discovery.
pub(crate) struct DiscoveredNetworkFilter {
    pub(crate) filter: Arc<Discovered<dyn NetworkFilter>>,
    /// As of [`DiscoveredHttpFilter`].
    pub(crate) is_terminal: bool,
}

/// A listener filter that is configured by discovery.
pub(crate) struct DiscoveredListenerFilter(pub(crate) Arc<Discovered<dyn ListenerFilter>>);

/// Stands where a configuration is missing.
struct Missing;

impl HttpFilterConfig for DiscoveredHttpFilter {
    fn instantiate(self: Arc<Self>, name: &Arc<str>, cx: &StreamCx) -> Box<dyn HttpFilter> {
        match self.filter.current() {
            Some(filter) => filter.instantiate(name, cx),
            None => Box::new(Missing),
        }
    }

    fn is_terminal(&self) -> bool {
        self.is_terminal
    }
}

impl HttpFilter for Missing {
    fn request<'a>(&'a mut self, _: &'a mut Request, _: &'a mut StreamCx) -> Step<'a> {
        let reply = LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "").flag(ResponseFlag::NoFilterConfigFound);
        Step::Done(Err(reply.into()))
    }
}

impl NetworkFilter for DiscoveredNetworkFilter {
    fn stand_in(&self) -> Option<Option<Arc<dyn NetworkFilter>>> {
        Some(self.filter.current())
    }

    fn admit(&self, info: &Rc<ConnectionInfo>, cx: &NetworkCx) -> Admission {
        self.filter.current().map_or(Admission::Refuse, |filter| filter.admit(info, cx))
    }

    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> Pin<Box<dyn Future<Output = Flow>>> {
        match self.filter.current() {
            Some(filter) => filter.run(connection, cx),
            None => Box::pin(async { Flow::Done }),
        }
    }

    fn is_terminal(&self) -> bool {
        self.is_terminal
    }
}

impl ListenerFilter for DiscoveredListenerFilter {
    fn inspect<'a>(&'a self, incoming: &'a mut Incoming) -> Inspection<'a> {
        let Some(filter) = self.0.current() else { return Inspection::Done(Err(Rejected::NotConfigured)) };
        Inspection::Wait(Box::pin(async move {
            match filter.inspect(incoming) {
                Inspection::Done(outcome) => outcome,
                Inspection::Wait(waiting) => waiting.await,
            }
        }))
    }
}
