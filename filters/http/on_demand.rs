//! `envoy.filters.http.on_demand`: asks discovery for what a request lacks to be routed, and has it wait meanwhile.

use std::sync::Arc;
use std::time::Duration;

use nuncio_config::discovery::OnDemandClusters;
use nuncio_config::protocol::duration;
use nuncio_config::refuse_set;
use nuncio_config::route::{Cluster, RouteEntry};
use nuncio_filter_api::{
    HttpFilter, HttpFilterConfig, HttpFilterRow, LowerCx, PerRoute, Refused, Request, RequestHead, Sides, Step,
    StreamCx,
};
use nuncio_proto::envoy::extensions::filters::http::on_demand::v3 as proto;

/// The filter's row in the table.
pub(crate) const ROW: HttpFilterRow = HttpFilterRow {
    name: "envoy.filters.http.on_demand",
    config: "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    lower,
    per_route: Some(("envoy.extensions.filters.http.on_demand.v3.PerRouteConfig", lower_per_route)),
    sides: Sides::Downstream,
};

/// Envoy's default of `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

struct Config {
    clusters: Option<Clusters>,
}

/// `odcds`
struct Clusters {
    source: Arc<OnDemandClusters>,
    timeout: Duration,
}

struct Filter {
    config: Arc<Config>,
    name: Arc<str>,
}

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    let proto::OnDemand { odcds } = crate::decode(bytes, cx)?;
    Ok(Arc::new(Config { clusters: cx.opt("odcds", odcds, Clusters::lower)? }))
}

fn lower_per_route(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<PerRoute, Refused> {
    let proto::PerRouteConfig { odcds } = crate::decode(bytes, cx)?;
    Ok(Arc::new(Config { clusters: cx.opt("odcds", odcds, Clusters::lower)? }))
}

impl Clusters {
    fn lower(message: proto::OnDemandCds, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::OnDemandCds { source, resources_locator, timeout } = message;
        let refused = refuse_set!(cx; resources_locator);
        let timeout = cx.opt("timeout", timeout, duration);
        let source = match source {
            Some(source) => cx.at("source", |cx| OnDemandClusters::lower(source, cx)),
            None => Err(cx.at("source", |cx| cx.invalid("is required"))),
        };
        refused?;
        Ok(Self { source: source?, timeout: timeout?.unwrap_or(DEFAULT_TIMEOUT) })
    }

    /// Has the cluster of the route asked for, where it is not there.
    fn demand(&self, head: &RequestHead, cx: &StreamCx) -> Option<impl Future<Output = ()> + use<>> {
        let route = cx.route()?;
        let cluster = route.downcast::<RouteEntry>()?.cluster()?;
        let (known, name) = match cluster {
            Cluster::Named(cluster) => (Some(cluster), &*cluster.name),
            Cluster::Header(header) => (route.chosen_cluster(), header.name(head)?),
            Cluster::Matcher(_) => (route.chosen_cluster(), &*route.chosen_cluster()?.name),
        };
        if name.is_empty() || known.is_some_and(|cluster| cx.worker.upstreams().has_cluster(cluster)) {
            return None;
        }
        let (ready, timeout) = (self.source.demand(name), self.timeout);
        // One that does not come in time is missed by the router.
        Some(async move { drop(tokio::time::timeout(timeout, ready.wait()).await) })
    }
}

impl HttpFilterConfig for Config {
    fn instantiate(self: Arc<Self>, name: &Arc<str>, _: &StreamCx) -> Box<dyn HttpFilter> {
        Box::new(Filter { config: self, name: name.clone() })
    }
}

impl Filter {
    fn demand_cluster(&self, head: &RequestHead, cx: &StreamCx) -> Option<impl Future<Output = ()> + use<>> {
        match cx.route()?.filter_config::<Config>(&self.name) {
            Some(own) => own.clusters.as_ref()?.demand(head, cx),
            None => self.config.clusters.as_ref()?.demand(head, cx),
        }
    }
}

impl HttpFilter for Filter {
    fn request<'a>(&'a mut self, request: &'a mut Request, cx: &'a mut StreamCx) -> Step<'a> {
        if cx.route().is_none()
            && let Some(ready) = cx.demand(&request.head)
        {
            return Step::Wait(Box::pin(async move {
                ready.wait().await;
                cx.refresh_route(&request.head);
                if let Some(cluster) = self.demand_cluster(&request.head, cx) {
                    cluster.await;
                    cx.refresh_route(&request.head);
                }
                Ok(())
            }));
        }
        match self.demand_cluster(&request.head, cx) {
            None => Step::CONTINUE,
            Some(cluster) => Step::Wait(Box::pin(async move {
                cluster.await;
                // The route may name a cluster that is known by now.
                cx.refresh_route(&request.head);
                Ok(())
            })),
        }
    }
}
