//! HTTP filters between the router and the codec: each attempt passes them.
//!
//! As in Envoy the request takes its connection while the filters look at it, and what they make of its head stays for
//! the attempts after this one.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_config::http_chain::{EnabledFilters, HttpChain};
use nuncio_filter_api::{
    Body, BodyError, HttpFilter, LocalReply, Reply, Request, RequestHead, Response, Step, StreamCx,
};
use nuncio_http::h1::{ClientConnection, ExchangeError, ExchangeOptions, OnIdle};
use nuncio_http::h2::client::H2Client;

use tokio::time::Instant;

use super::{ActiveRequest, Answered, Attempt, Speaks};
use crate::failure::Failure;
use crate::pool::PoolKey;
use crate::pool::http1::Lease;
use crate::pool::mixed::AnyLease;

/// The filters of one attempt. Dropping them tells them that it is over.
pub(crate) struct UpstreamFilters {
    chain: EnabledFilters,
    made: Vec<Box<dyn HttpFilter>>,
    cx: StreamCx,
}

/// A connection for the request. Dropping it closes an HTTP/1 connection, and gives the leave for a stream back.
enum Taken {
    Http1 { connection: ClientConnection, on_idle: Rc<dyn OnIdle>, active: ActiveRequest },
    Http2 { client: H2Client, active: ActiveRequest },
}

/// The body of a response whose filters stay until its end.
struct FilteredBody {
    body: Body,
    filters: Option<Box<UpstreamFilters>>,
}

impl Attempt<'_> {
    /// As [`Attempt::run`], through these filters.
    pub(crate) async fn run_filtered(
        &self,
        mut filters: Box<UpstreamFilters>,
        request: &mut Request,
    ) -> Result<Answered, Failure> {
        // Envoy: the filters see the host before there is a connection to it.
        self.note_host_in(&filters.cx.info);
        let taken = {
            let key = self.pool_key(&request.head);
            let mut take = pin!(self.take(self.speaks(&request.head), key));
            let first = poll_fn(|task| Poll::Ready(take.as_mut().poll(task))).await;
            let mut taken = match first {
                Poll::Ready(taken) => Some(taken?),
                Poll::Pending => None,
            };
            let mut passing = pin!(filters.pass_request(request));
            let mut has_passed = false;
            poll_fn(|task| {
                if taken.is_none()
                    && let Poll::Ready(done) = take.as_mut().poll(task)
                {
                    taken = Some(done?);
                }
                if !has_passed {
                    std::task::ready!(passing.as_mut().poll(task))?;
                    has_passed = true;
                }
                match taken.take() {
                    Some(taken) => Poll::Ready(Ok::<_, Failure>(taken)),
                    None => Poll::Pending,
                }
            })
            .await?
        };
        let body = std::mem::take(&mut request.body);
        let Answered { mut response, active } = self.exchange_on(taken, &request.head, body).await?;
        filters.pass_response(&mut response, &request.head).await?;
        response.wrap_body(|body| FilteredBody::wrap(body, filters));
        Ok(Answered { response, active })
    }

    async fn take(&self, speaks: Speaks, key: Option<PoolKey>) -> Result<Taken, Failure> {
        let begun = self.begun();
        match speaks {
            Speaks::Http1 => {
                let pool = self.http1_pool(key)?;
                self.begin_http1(self.note_host(pool.acquire().await)?, begun)
            }
            Speaks::Http2 => {
                let pool = self.http2_pool(key)?;
                loop {
                    let lease = self.note_host(pool.acquire().await)?;
                    if let Some((client, active)) = self.begin_http2(lease, begun)? {
                        return Ok(Taken::Http2 { client, active });
                    }
                }
            }
            Speaks::Either => {
                let pool = self.mixed_pool(key)?;
                loop {
                    match self.note_host(pool.acquire().await)? {
                        AnyLease::Http1(lease) => return self.begin_http1(lease, begun),
                        AnyLease::Http2(lease) => {
                            if let Some((client, active)) = self.begin_http2(lease, begun)? {
                                return Ok(Taken::Http2 { client, active });
                            }
                        }
                    }
                }
            }
        }
    }

    fn begin_http1(&self, lease: Lease, begun: Option<Instant>) -> Result<Taken, Failure> {
        let record = lease.record().clone();
        let active = ActiveRequest::begin(&self.host.share, &record, self.priority)?;
        self.note_connection(&record, begun);
        let (connection, on_idle) = lease.begin();
        Ok(Taken::Http1 { connection, on_idle, active })
    }

    /// Sends the request by whatever its host has chosen to speak.
    pub(super) async fn run_mixed(&self, head: &RequestHead, body: &mut Body) -> Result<Answered, Failure> {
        let mut retries = 0;
        loop {
            let taken = self.take(Speaks::Either, self.pool_key(head)).await?;
            let (outcome, active) = self.exchange_taken(taken, head, std::mem::take(body)).await;
            let error = match outcome {
                Ok(response) => return Ok(Answered::new(response, active)),
                Err(error) => error,
            };
            *body = self.body_again(head, error, retries, &active.record)?;
            retries += 1;
        }
    }

    async fn exchange_taken(
        &self,
        taken: Taken,
        head: &RequestHead,
        body: Body,
    ) -> (Result<Response, ExchangeError>, ActiveRequest) {
        let info = self.info.cloned();
        let informational = self.informational.cloned();
        match taken {
            Taken::Http1 { connection, on_idle, active } => {
                let options = ExchangeOptions { info, informational, on_idle: Some(on_idle) };
                (connection.exchange(head, body, options).await, active)
            }
            Taken::Http2 { client, active } => {
                let outcome = client.exchange(head, body, info, informational).await;
                if let Err(error) = &outcome {
                    self.note_end_of_stream(&active, &error.failure);
                }
                (outcome, active)
            }
        }
    }

    /// Sends the request on the connection that was taken for it; a kept one that turns out to be closed is replaced.
    async fn exchange_on(&self, taken: Taken, head: &RequestHead, body: Body) -> Result<Answered, Failure> {
        let (outcome, active) = self.exchange_taken(taken, head, body).await;
        let outcome = match outcome {
            Ok(response) => Ok(Answered::new(response, active)),
            Err(error) => match self.body_again(head, error, 0, &active.record) {
                Ok(mut body) => {
                    drop(active);
                    return self.run(head, &mut body).await;
                }
                Err(failure) => Err(failure),
            },
        };
        self.note_outcome(head, &outcome);
        outcome
    }
}

// === impl UpstreamFilters ===

impl UpstreamFilters {
    /// Those of `chain`, if there are any, in the context that `cx` makes.
    pub(crate) fn new(chain: &Arc<HttpChain>, cx: impl FnOnce() -> StreamCx) -> Option<Box<Self>> {
        if chain.is_empty() {
            return None;
        }
        let cx = cx();
        Some(Box::new(Self { chain: chain.enabled(&cx), made: Vec::new(), cx }))
    }

    async fn pass_request(&mut self, request: &mut Request) -> Result<(), Failure> {
        while let Some(mut filter) = self.chain.instantiate(&self.cx) {
            let verdict = match filter.request(request, &mut self.cx) {
                Step::Done(verdict) => verdict,
                Step::Wait(future) => future.await,
            };
            self.made.push(filter);
            verdict.map_err(answered)?;
        }
        Ok(())
    }

    async fn pass_response(&mut self, response: &mut Response, request: &RequestHead) -> Result<(), Failure> {
        for filter in self.made.iter_mut().rev() {
            let verdict = match filter.response(response, request, &mut self.cx) {
                Step::Done(verdict) => verdict,
                Step::Wait(future) => future.await,
            };
            verdict.map_err(answered)?;
        }
        Ok(())
    }
}

impl Drop for UpstreamFilters {
    fn drop(&mut self) {
        for filter in &mut self.made {
            filter.complete(&self.cx);
        }
    }
}

/// Envoy: the answer of a filter upstream is sent past the router.
fn answered(reply: Reply) -> Failure {
    let reply = match reply {
        Reply::Local(reply) => reply,
        // Filters that may stand upstream answer by local replies alone.
        Reply::Response(_) | Reply::Again(_) => {
            LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "upstream_filter_answered_otherwise")
        }
    };
    Failure::Answered(Box::new(reply))
}

// === impl FilteredBody ===

impl FilteredBody {
    fn wrap(mut body: Body, filters: Box<UpstreamFilters>) -> Body {
        match body.take_full() {
            Some(whole) => Body::full(whole),
            None if body.is_end() => body,
            None => Body::stream(Self { body, filters: Some(filters) }),
        }
    }
}

impl HttpBody for FilteredBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(self.body.poll_next(cx));
        if frame.is_none() {
            self.filters = None;
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
