//! Copies of requests for other clusters (`request_mirror_policies`). A copy outlives the stream that it is of, but no
//! time-out, and it is dropped rather than waited for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_config::cluster::Priority;
use nuncio_config::route::MirrorPolicy;
use nuncio_filter_api::{Body, BodyError, Request, RequestHead, StreamCx};
use nuncio_telemetry::{ResponseFlag, StreamInfo};
use tokio::time::Instant;

use super::{Config, format_cx};
use crate::attempt::{Attempt, UpstreamFilters};
use crate::failure::Failure;
use crate::lb::PickContext;
use crate::pool::connection::millis;
use crate::worker::{WorkerCluster, WorkerClusters};

static INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A copy on its way.
struct Copy {
    config: Arc<Config>,
    cluster: Rc<WorkerCluster>,
    request: Option<Request>,
    filters: Option<Box<UpstreamFilters>>,
    begin: Instant,
    deadline: Option<Instant>,
}

/// A body that is read twice: what its reader takes is put into the queues of the copies.
struct Tee {
    body: Body,
    copies: Vec<Rc<RefCell<Queue>>>,
}

/// What a copy has not read yet.
struct Queue {
    frames: VecDeque<Frame<Bytes>>,
    /// Bytes in `frames`, at most `limit`: the buffer limit of the stream.
    bytes: u64,
    limit: u64,
    remaining: Option<u64>,
    state: State,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    /// The body broke off, or the copy does not keep up.
    Broken,
}

struct Reader(Rc<RefCell<Queue>>);

impl Config {
    /// Starts the copies of a request that goes upstream with `head`; `body` is what the stream is to send.
    pub(super) fn mirror(
        self: &Arc<Self>,
        policies: &[MirrorPolicy],
        head: &RequestHead,
        mut body: Body,
        deadline: Option<Instant>,
        cx: &StreamCx,
    ) -> Body {
        let clusters = WorkerClusters::of(&cx.worker);
        let whole = if body.is_end() { Some(Bytes::new()) } else { body.take_full() };
        let mut copies = Vec::new();
        for policy in policies.iter().filter(|policy| policy.applies(cx.random)) {
            let Some(cluster) = self.cluster_named(&policy.cluster, head, &clusters) else { continue };
            let Some(head) = self.copy_head(policy, head, cx) else { continue };
            let body = match &whole {
                Some(bytes) => Body::full(bytes.clone()),
                None => {
                    let queue = Queue::new(body.remaining(), cx.buffer_limit as u64);
                    copies.push(queue.clone());
                    Body::stream(Reader(queue))
                }
            };
            let (request, begin) = (Some(Request { head, body }), cx.worker.clock.now());
            let filters = copy_filters(&cluster, cx);
            let copy = Copy { config: self.clone(), cluster, request, filters, begin, deadline };
            tokio::task::spawn_local(copy.run());
        }
        match whole {
            Some(bytes) => Body::full(bytes),
            None if copies.is_empty() => body,
            None => Body::stream(Tee { body, copies }),
        }
    }

    /// Envoy: a copy is a request that this proxy makes by itself, inside, and for whom it forwards.
    fn copy_head(&self, policy: &MirrorPolicy, head: &RequestHead, cx: &StreamCx) -> Option<RequestHead> {
        let mut head = head.clone();
        policy.rewrite(&mut head, &format_cx(cx)).ok()?;
        head.headers.try_insert(&INTERNAL, HeaderValue::from_static("true")).ok()?;
        let forwarded = match head.headers.get(&FORWARDED_FOR) {
            Some(before) => [before.as_bytes(), self.local_ip.as_bytes()].join(&b","[..]),
            None => self.local_ip.clone().into_bytes(),
        };
        head.headers.try_insert(&FORWARDED_FOR, HeaderValue::from_bytes(&forwarded).ok()?).ok()?;
        Some(head)
    }
}

/// Envoy: a copy has no route, and passes the filters of its cluster alone.
fn copy_filters(cluster: &WorkerCluster, cx: &StreamCx) -> Option<Box<UpstreamFilters>> {
    let chain = cluster.shared.cluster.config.http.filters.as_ref()?;
    UpstreamFilters::new(chain, || {
        let now = cx.worker.clock.now();
        let info = StreamInfo::new(cx.info.connection.clone(), now, cx.worker.clock.wall(now));
        StreamCx::without_route(Rc::new(info), cx.worker.clone(), cx.buffer_limit)
    })
}

// === impl Copy ===

impl Copy {
    /// Sends the copy, reads the response to its end, and counts.
    async fn run(mut self) {
        let (filters, request) = (self.filters.take(), self.request.take());
        let Some(mut request) = request else { return };
        let mut timer = self.cluster.shared.env.timers.timer();
        let deadline = self.deadline;
        let mut exchange = pin!(self.exchange(filters, &mut request));
        let outcome = poll_fn(|task| match exchange.as_mut().poll(task) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => match deadline {
                Some(at) => timer.poll_reached(at, task).map(|()| Err(Failure::Timeout)),
                None => Poll::Pending,
            },
        })
        .await;
        if let Err(failure) = outcome {
            tracing::debug!(cluster = %self.cluster.shared.cluster.config.name.name, details = %failure.details(),
                "a mirrored request failed");
            if matches!(failure, Failure::Timeout) {
                self.cluster.shared.cluster.stats.upstream_rq_timeout().inc();
            }
            if !matches!(failure, Failure::RequestBody(_) | Failure::Answered(_)) {
                self.count_status(failure.status().as_u16());
            }
        }
    }

    async fn exchange(&self, filters: Option<Box<UpstreamFilters>>, request: &mut Request) -> Result<(), Failure> {
        let shared = &self.cluster.shared;
        let Some(host) = self.cluster.pick(&PickContext { head: Some(&request.head), ..PickContext::default() }) else {
            shared.cluster.stats.upstream_cx_none_healthy().inc();
            return Err(Failure::NoHealthyHost);
        };
        let attempt = Attempt { host: &host, priority: Priority::Default, info: None, informational: None };
        let outcome = match filters {
            None => attempt.run(&request.head, &mut request.body).await,
            Some(filters) => attempt.run_filtered(filters, request).await,
        };
        let answered = outcome.inspect_err(|_| host.host.stats.rq_error.inc())?;
        let status = answered.response.head.status;
        self.count_status(status.as_u16());
        match status.is_server_error() {
            true => host.host.stats.rq_error.inc(),
            false => host.host.stats.rq_success.inc(),
        }
        let mut body = answered.response.body;
        while !body.is_end() {
            match body.next().await {
                Some(Ok(_)) => {}
                None => break,
                // Counted already, with its status.
                Some(Err(_)) => return Ok(()),
            }
        }
        answered.active.end();
        if self.config.dynamic_stats {
            let time = millis(shared.env.clock.now().saturating_duration_since(self.begin));
            shared.cluster.stats.upstream_rq_time().record(time);
            shared.codes.internal_time.upstream_rq_time().record(time);
        }
        Ok(())
    }

    fn count_status(&self, status: u16) {
        if self.config.dynamic_stats {
            self.cluster.shared.codes.all.charge(status);
            self.cluster.shared.codes.internal.charge(status);
        }
    }
}

// === impl Tee ===

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = std::task::ready!(this.body.poll_next(cx));
        match &polled {
            Some(Ok(frame)) => this.copies.iter().for_each(|copy| copy.borrow_mut().put(frame)),
            Some(Err(_)) => this.close(State::Broken),
            None => this.close(State::Ended),
        }
        if this.body.is_end() {
            this.close(State::Ended);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Tee {
    fn close(&mut self, state: State) {
        for copy in self.copies.drain(..) {
            copy.borrow_mut().close(state);
        }
    }
}

/// A body that is given up is given up for the copies too.
impl Drop for Tee {
    fn drop(&mut self) {
        self.close(State::Broken);
    }
}

// === impl Queue ===

impl Queue {
    fn new(remaining: Option<u64>, limit: u64) -> Rc<RefCell<Self>> {
        let frames = VecDeque::new();
        Rc::new(RefCell::new(Self { frames, bytes: 0, limit, remaining, state: State::Open, reader: None }))
    }

    fn put(&mut self, frame: &Frame<Bytes>) {
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                self.bytes += data.len() as u64;
                Frame::data(data.clone())
            }
            (None, Some(trailers)) => Frame::trailers(HeaderMap::clone(trailers)),
            (None, None) => return,
        };
        if self.bytes > self.limit {
            self.close(State::Broken);
        }
        if self.state == State::Open {
            self.frames.push_back(copy);
            self.wake();
        }
    }

    fn close(&mut self, state: State) {
        if self.state == State::Open {
            self.state = state;
        }
        if self.state == State::Broken {
            self.frames = VecDeque::new();
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

// === impl Reader ===

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut queue = self.0.borrow_mut();
        if let Some(frame) = queue.frames.pop_front() {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            queue.bytes -= length;
            queue.remaining = queue.remaining.map(|left| left.saturating_sub(length));
            return Poll::Ready(Some(Ok(frame)));
        }
        match queue.state {
            State::Ended => Poll::Ready(None),
            State::Broken => {
                let flag = ResponseFlag::DownstreamConnectionTermination;
                Poll::Ready(Some(Err(BodyError::new(flag, "mirrored_request_broke_off"))))
            }
            State::Open => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.0.borrow();
        queue.frames.is_empty() && queue.state == State::Ended
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts these pieces into a queue of `limit` bytes while nobody reads, and reads it then.
    async fn through(limit: u64, pieces: &[&'static str], end: State) -> Result<String, BodyError> {
        let queue = Queue::new(None, limit);
        for piece in pieces {
            queue.borrow_mut().put(&Frame::data(Bytes::from_static(piece.as_bytes())));
        }
        queue.borrow_mut().close(end);
        let mut body = Body::stream(Reader(queue));
        let mut text = String::new();
        while let Some(frame) = body.next().await {
            text += std::str::from_utf8(frame?.data_ref().expect("there are no trailers")).expect("it was text");
        }
        Ok(text)
    }

    #[tokio::test]
    async fn a_copy_reads_what_the_stream_read() {
        assert_eq!(through(10, &["ab", "c"], State::Ended).await.unwrap(), "abc");
    }

    #[tokio::test]
    async fn a_copy_that_does_not_keep_up_is_given_up() {
        assert!(through(2, &["ab", "c"], State::Ended).await.is_err());
    }

    #[tokio::test]
    async fn a_copy_of_a_body_that_broke_off_breaks_off() {
        assert!(through(10, &["ab"], State::Broken).await.is_err());
    }
}
