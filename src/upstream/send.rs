//! Requests that nuncio makes by itself.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_config::cluster::Priority;
use nuncio_filter_api::{Body, BodyError, ClusterName, Request, Response, StreamCx, UpstreamError, Upstreams};
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};

use crate::attempt::{ActiveRequest, Answered, Attempt, UpstreamFilters};
use crate::failure::Failure;
use crate::lb::PickContext;
use crate::worker::{WorkerCluster, WorkerClusters};

impl Upstreams for WorkerClusters {
    fn has_cluster(&self, cluster: &ClusterName) -> bool {
        self.get(cluster.id).is_some()
    }

    fn send(
        &self,
        cluster: &ClusterName,
        mut request: Request,
    ) -> LocalBoxFuture<'static, Result<Response, UpstreamError>> {
        let cluster = self.get(cluster.id);
        Box::pin(async move {
            let cluster = cluster.ok_or(Failure::NoCluster)?;
            if cluster.shared.cluster.config.is_own {
                // Nobody else waits for its hosts.
                cluster.shared.cluster.warmed().await;
            }
            let stats = &cluster.shared.cluster.stats;
            let Some(host) = cluster.pick(&PickContext { head: Some(&request.head), ..PickContext::default() }) else {
                stats.upstream_cx_none_healthy().inc();
                return Err(Failure::NoHealthyHost.into());
            };
            let attempt = Attempt { host: &host, priority: Priority::Default, info: None, informational: None };
            let Answered { mut response, active } = match own_filters(&cluster) {
                None => attempt.run(&request.head, &mut request.body).await?,
                Some(filters) => attempt.run_filtered(filters, &mut request).await?,
            };
            let status = response.head.status;
            cluster.shared.codes.all.charge(status.as_u16());
            match status.is_server_error() {
                true => active.host.stats.rq_error.inc(),
                false => active.host.stats.rq_success.inc(),
            }
            response.wrap_body(|body| SentBody::wrap(body, active));
            Ok(response)
        })
    }
}

/// Envoy: what a proxy asks by itself passes the filters of the cluster that it asks.
fn own_filters(cluster: &WorkerCluster) -> Option<Box<UpstreamFilters>> {
    let share = &cluster.shared;
    let chain = share.cluster.config.http.filters.as_ref()?;
    let worker = share.env.worker()?;
    UpstreamFilters::new(chain, || {
        let now = worker.clock.now();
        let nobody = Address::from(SocketAddr::from(([0, 0, 0, 0], 0)));
        let connection = ConnectionInfo::new(0, nobody.clone(), nobody, now);
        let info = StreamInfo::new(Rc::new(connection), now, worker.clock.wall(now));
        StreamCx::without_route(Rc::new(info), worker.clone(), share.cluster.config.buffer_limit as usize)
    })
}

/// The body of a response to a request of our own: holds what the request took until it ends.
struct SentBody {
    body: Body,
    active: Option<ActiveRequest>,
}

impl SentBody {
    fn wrap(body: Body, active: ActiveRequest) -> Body {
        if body.is_end() {
            active.end();
            return body;
        }
        Body::stream(Self { body, active: Some(active) })
    }
}

impl HttpBody for SentBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(self.body.poll_next(cx));
        if !matches!(frame, Some(Err(_)))
            && (frame.is_none() || self.body.is_end())
            && let Some(active) = self.active.take()
        {
            active.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
