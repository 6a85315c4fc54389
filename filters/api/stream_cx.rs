use std::rc::Rc;
use std::sync::Arc;

use nuncio_telemetry::StreamInfo;

use crate::{Readiness, RequestHead, ResponseHead, RouteRef, Worker};

/// Finds the route of a request: what a connection manager gives its streams.
pub trait RouteSource {
    /// The route that `head` matches now.
    fn resolve(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> Option<RouteRef>;

    /// Asks discovery for what `head` lacks to have a route: whether that is there. `None` where there is nothing to ask
    /// for.
    fn demand(&self, head: &RequestHead) -> Option<Arc<Readiness>> {
        let _ = head;
        None
    }
}

/// What the filters of one stream share.
pub struct StreamCx {
    /// The stream's record.
    pub info: Rc<StreamInfo>,
    /// The worker it runs on.
    pub worker: Rc<Worker>,
    /// Random bits drawn once for the stream: weighted clusters and runtime fractions use the same.
    pub random: u64,
    /// Receives informational (1xx) response heads; `None` where the client cannot take them.
    pub informational: Option<Rc<dyn Fn(ResponseHead)>>,
    /// Bytes a filter may buffer of one body: the route's or the connection's limit.
    pub buffer_limit: usize,
    routes: Rc<dyn RouteSource>,
    route: Option<RouteRef>,
}

impl StreamCx {
    /// A context without route; [`StreamCx::refresh_route`] finds it.
    pub fn new(info: Rc<StreamInfo>, worker: Rc<Worker>, routes: Rc<dyn RouteSource>, buffer_limit: usize) -> Self {
        let random = worker.rng.u64();
        Self { info, worker, random, informational: None, buffer_limit, routes, route: None }
    }

    /// A context for the filters of one attempt of this stream, whose record is `info`. Envoy: its route is settled.
    pub fn of_attempt(&self, info: Rc<StreamInfo>) -> Self {
        let routes = Rc::new(Settled(self.route.clone()));
        let (worker, informational) = (self.worker.clone(), self.informational.clone());
        let (random, buffer_limit, route) = (self.random, self.buffer_limit, self.route.clone());
        Self { info, worker, random, informational, buffer_limit, routes, route }
    }

    /// A context for the filters of a request that has no route: one that nuncio makes by itself.
    pub fn without_route(info: Rc<StreamInfo>, worker: Rc<Worker>, buffer_limit: usize) -> Self {
        Self::new(info, worker, Rc::new(Settled(None)), buffer_limit)
    }

    /// The route in force.
    pub fn route(&self) -> Option<&RouteRef> {
        self.route.as_ref()
    }

    /// See [`RouteSource::demand`].
    pub fn demand(&self, head: &RequestHead) -> Option<Arc<Readiness>> {
        self.routes.demand(head)
    }

    /// Finds the route anew: after a filter changed what routes match on (Envoy: clearRouteCache).
    pub fn refresh_route(&mut self, head: &RequestHead) {
        self.route = self.routes.resolve(head, &self.info, self.random);
        let name = self.route.as_ref().map(|r| r.get().name()).filter(|n| !n.is_empty());
        *self.info.route_name.borrow_mut() = name.cloned();
        *self.info.route.borrow_mut() = self.route.as_ref().map(RouteRef::place);
    }
}

/// The one route that there is.
struct Settled(Option<RouteRef>);

impl RouteSource for Settled {
    fn resolve(&self, _: &RequestHead, _: &StreamInfo, _: u64) -> Option<RouteRef> {
        self.0.clone()
    }
}
