use std::any::Any;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_telemetry::{RouteNames, RoutePlace};

use crate::ClusterName;

/// A filter's own configuration for a virtual host, route or weighted cluster, as its row lowered it.
pub type PerRoute = Arc<dyn Any + Send + Sync>;

/// The route a request was matched to, as filters see it; the router downcasts it to the whole.
pub trait Route: Any {
    /// `name` of the route; empty if it has none.
    fn name(&self) -> &Arc<str>;

    /// Calls `each` with every configuration of the filter named `filter` for this route, from the least specific
    /// (route configuration) over virtual host and route to the weighted cluster.
    fn filter_configs(&self, filter: &str, each: &mut dyn FnMut(&PerRoute));

    /// The same for the deprecated fields `cors`: of the virtual host, then of the route.
    fn cors_policies(&self, each: &mut dyn FnMut(&PerRoute));

    /// Whether `FilterConfig.disabled` or its absence says that the filter named `filter` runs on this route;
    /// `None` where the route says nothing.
    fn filter_disabled(&self, filter: &str) -> Option<bool>;

    /// Whether it sends requests to a cluster; a redirect or direct response answers them.
    fn is_forward(&self) -> bool;

    /// For downcasting.
    fn as_any(&self) -> &dyn Any;
}

/// A table of routes that a [`RouteRef`] keeps alive.
pub trait Routes: RouteNames {
    /// The route numbered `index`.
    fn route(&self, index: usize) -> &dyn Route;
}

/// A route held by a stream: a worker-local count, no atomic that other workers touch.
#[derive(Clone)]
pub struct RouteRef {
    table: Rc<dyn Routes>,
    index: usize,
    cluster: Option<ClusterName>,
}

impl RouteRef {
    /// The route numbered `index` of `table`, and the cluster that it chose for the one request, if it does not name it.
    pub fn new(table: Rc<dyn Routes>, index: usize, cluster: Option<ClusterName>) -> Self {
        Self { table, index, cluster }
    }

    /// What the record of a stream keeps of it.
    pub(crate) fn place(&self) -> RoutePlace {
        RoutePlace::new(self.table.clone(), self.index)
    }

    /// The cluster that the route chose for this request when it was found. Envoy: what filters change later does not
    /// change it, unless they have the route found anew.
    pub fn chosen_cluster(&self) -> Option<&ClusterName> {
        self.cluster.as_ref()
    }

    /// The route.
    pub fn get(&self) -> &dyn Route {
        self.table.route(self.index)
    }

    /// The route numbered `index` of the same table.
    pub fn sibling(&self, index: usize) -> &dyn Route {
        self.table.route(index)
    }

    /// The route as the type its table really holds.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.get().as_any().downcast_ref()
    }

    /// The most specific configuration of the filter named `filter`.
    pub fn filter_config<T: Any + Send + Sync>(&self, filter: &str) -> Option<Arc<T>> {
        let mut found = None;
        self.get().filter_configs(filter, &mut |c| found = Some(c.clone()));
        found.and_then(|c| c.downcast().ok())
    }
}

impl fmt::Debug for RouteRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} {:?}", self.index, self.get().name())
    }
}
