//! One stream: from the request head to the access log.
//!
//! ```text
//! new -> request_phase -> respond -> (the codec pulls the body) -> finish
//!            |  |  Err(reply) of any filter, or the router's response
//!            |  '- Err(Reply::Again): begins anew, with a log entry of its own and filters made afresh
//!            '---- dropped by a time-out: respond(local reply)
//! ```
//! Dropping a stream at any point finishes it: filters are told, logs are written, gauges go back.

use std::cell::Cell;
use std::rc::Rc;

use http::{HeaderMap, StatusCode};
use nuncio_config::http_chain::EnabledFilters;
use nuncio_filter_api::{
    Body, HttpFilter, LocalReply, Reply, Request, RequestHead, Response, ResponseHead, Step, StreamCx,
};
use nuncio_telemetry::{ResponseFlag, StreamInfo};
use smallvec::SmallVec;

use super::trace::Told;
use super::upgrade::Admitted;
use super::{Http, response_head};
use crate::local_reply;

/// Details of a stream whose client closed its connection.
pub(super) const DISCONNECTED: &str = "downstream_remote_disconnect";

/// What the codec knows of where a request claims to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The request named a host, if only an empty one.
    pub(crate) has_host: bool,
    /// The request's own scheme is in its head: it came in `:scheme` or in an absolute target.
    pub(crate) has_scheme: bool,
    /// There is a request head at all.
    pub(crate) is_known: bool,
}

impl Origin {
    /// Of a request whose head could not be read.
    pub(crate) const UNKNOWN: Self = Self { has_host: false, has_scheme: false, is_known: false };
}

/// A stream and its filters.
pub(crate) struct Stream {
    http: Rc<Http>,
    /// The request; its head stays for response headers and logs when its body is on its way.
    pub(crate) request: Request,
    cx: StreamCx,
    filters: SmallVec<[Box<dyn HttpFilter>; 3]>,
    /// The filters that have not seen the request yet.
    chain: Option<EnabledFilters>,
    /// The response, in one place from the first of its filters on.
    response: Option<Response>,
    /// It has passed its filters.
    is_responded: bool,
    is_grpc: bool,
    origin: Origin,
    /// What the response is told of its operation.
    told: Told,
    /// It is in the gauge of upgrades.
    is_upgrade: bool,
    /// The request began anew. Envoy: what its client may say of itself was seen to the first time.
    is_again: bool,
    /// See [`Stream::ends_connection`].
    ends_connection: bool,
    /// Request and response both came to their ends.
    is_complete: Cell<bool>,
    finished: Cell<bool>,
}

impl Stream {
    /// A stream for a request whose head was just read.
    pub(crate) fn new(http: Rc<Http>, head: RequestHead, body: Body, info: Rc<StreamInfo>, origin: Origin) -> Self {
        let is_grpc = head.is_grpc();
        let cx = StreamCx::new(info, http.worker.clone(), http.clone(), http.buffer_limit);
        http.hcm.stats.stream_begins(&cx.info);
        cx.info.is_logged.set(!http.hcm.logs.is_empty());
        Self {
            http,
            request: Request { head, body },
            cx,
            filters: SmallVec::new(),
            chain: None,
            response: None,
            is_responded: false,
            is_grpc,
            origin,
            told: Told::default(),
            is_upgrade: false,
            is_again: false,
            ends_connection: false,
            is_complete: Cell::new(false),
            finished: Cell::new(false),
        }
    }

    /// The stream's record.
    pub(crate) fn info(&self) -> &Rc<StreamInfo> {
        &self.cx.info
    }

    /// Lets the filters receive informational responses' heads through `send`. Envoy: the first alone.
    pub(crate) fn set_informational(&mut self, send: Rc<dyn Fn(ResponseHead)>) {
        let was_sent = Cell::new(false);
        let stats = self.http.hcm.stats.clone();
        self.cx.informational = Some(Rc::new(move |head| {
            if !was_sent.replace(true) {
                stats.stream_responds(head.status.as_u16());
                send(head);
            }
        }));
    }

    /// Runs the request through head processing, routing and the filters, to the answer; anew where a filter says so.
    pub(crate) async fn request_phase(&mut self) -> Reply {
        loop {
            match self.pass().await {
                Reply::Again(response) => self.begin_again(*response),
                reply => return reply,
            }
        }
    }

    // What a future holds while it waits is memory of each stream: what comes before and between is done by functions.
    async fn pass(&mut self) -> Reply {
        if let Err(reply) = self.admit() {
            return reply;
        }
        loop {
            let waiting = match self.next_filter() {
                Some(Step::Done(Ok(()))) => continue,
                Some(Step::Done(Err(reply))) => return reply,
                Some(Step::Wait(waiting)) => waiting,
                None => break,
            };
            if let Err(reply) = waiting.await {
                return reply;
            }
        }
        // Envoy: without any filter only a time-out answers.
        if self.http.hcm.chain.is_empty() {
            return std::future::pending().await;
        }
        // The chain's last filter always answers; lowering checked that it is terminal.
        LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "filter_chain_not_terminated").into()
    }

    /// Processes the head, finds the route and the filters.
    fn admit(&mut self) -> Result<(), Reply> {
        let admitted = match self.is_again {
            false => self.http.admit(&mut self.request.head, &self.cx.info, self.origin),
            true => self.http.readmit(&mut self.request.head),
        };
        if admitted.is_err() && self.http.hcm.head.tracing.is_some() {
            // Envoy: nobody has chosen it, and so it counts.
            self.http.hcm.stats.tracing.not_traceable().inc();
        }
        admitted?;
        self.cx.refresh_route(&self.request.head);
        if let Some(tracing) = &self.http.hcm.head.tracing {
            let stats = &self.http.hcm.stats.tracing;
            self.told = tracing.begin(&mut self.request.head, &self.cx, self.is_again, stats);
        }
        let chain = match self.http.hcm.upgrades.check(&self.request.head, self.cx.route()) {
            Ok(Admitted::Request) => &self.http.hcm.chain,
            Ok(Admitted::Upgrade(chain)) => {
                self.is_upgrade = true;
                self.http.hcm.stats.http.downstream_cx_upgrades_total().inc();
                self.http.hcm.stats.http.downstream_cx_upgrades_active().inc();
                chain.unwrap_or(&self.http.hcm.chain)
            }
            Err(reply) => {
                self.http.hcm.stats.http.downstream_rq_ws_on_non_ws_route().inc();
                return Err(reply.into());
            }
        };
        self.chain = Some(chain.enabled(&self.cx));
        Ok(())
    }

    /// Has the next filter begin with the request; `None` where there is none.
    fn next_filter(&mut self) -> Option<Step<'_>> {
        let filter = self.chain.as_mut()?.instantiate(&self.cx)?;
        self.filters.push(filter);
        let filter = self.filters.last_mut().expect("it was just pushed");
        Some(filter.request(&mut self.request, &mut self.cx))
    }

    /// Ends what was until now as if it were a stream of its own, which `response` ended. Envoy: but for the count of
    /// responses, as there is none.
    fn begin_again(&mut self, response: ResponseHead) {
        let info = self.cx.info.clone();
        info.response_code.set(response.status.as_u16());
        info.set_details("internal_redirect");
        info.times.complete.set(Some(self.http.worker.clock.now()));
        self.end_filters();
        self.http.hcm.log(Some(&self.request.head), Some(&response), &info);
        let again = self.request.body.remaining().unwrap_or(0);
        info.begin_again(self.http.worker.clock.now());
        info.bytes_received.set(info.bytes_received.get() + again);
        self.http.hcm.stats.stream_begins_again(&info);
        if self.http.count_request() {
            self.http.hcm.stats.http.downstream_cx_max_requests_reached().inc();
            self.ends_connection = true;
        }
        self.is_again = true;
        self.is_grpc = self.request.head.is_grpc();
        self.cx.random = self.http.worker.rng.u64();
    }

    /// Runs `reply` through the response path; returns the body to send after [`Stream::response_head`].
    pub(crate) fn respond(&mut self, reply: Reply) -> impl Future<Output = Body> {
        // Not within the future, which would then hold both the reply and the response made of it.
        self.response = Some(self.take_reply(reply));
        self.is_responded = false;
        self.filter_response()
    }

    async fn filter_response(&mut self) -> Body {
        // Envoy: filters behind the one that answered see the response too.
        while let Some(filter) = self.chain.as_mut().and_then(|c| c.instantiate_passed_over(&self.cx)) {
            self.filters.push(filter);
        }
        for at in (0..self.filters.len()).rev() {
            let verdict = 'verdict: {
                let waiting = match self.filter_response_at(at) {
                    Step::Done(verdict) => break 'verdict verdict,
                    Step::Wait(waiting) => waiting,
                };
                waiting.await
            };
            if let Err(reply) = verdict {
                self.response = Some(self.take_reply(reply));
                break;
            }
        }
        self.finalize_response()
    }

    /// Has a filter begin with the response.
    fn filter_response_at(&mut self, at: usize) -> Step<'_> {
        let response = self.response.as_mut().expect("the filters run after there is a response");
        self.filters[at].response(response, &self.request.head, &mut self.cx)
    }

    fn finalize_response(&mut self) -> Body {
        let response = self.response.as_mut().expect("the filters run after there is a response");
        response_head::finalize(&mut response.head, &self.request.head, &self.http, &self.cx.info);
        self.told.apply(&mut response.head.headers);
        let code = response.head.status.as_u16();
        self.cx.info.response_code.set(code);
        self.http.hcm.stats.stream_responds(code);
        self.is_responded = true;
        std::mem::take(&mut response.body)
    }

    fn take_reply(&mut self, reply: Reply) -> Response {
        let info = &self.cx.info;
        match reply {
            Reply::Response(response) => {
                info.response_code.set(response.head.status.as_u16());
                info.local_reply.set(false);
                response
            }
            Reply::Local(local) => {
                // Envoy: an HTTP/1 connection on which we answer 400, for whatever reason, may be out of step.
                let is_too_large = local.details == "request_payload_too_large";
                if is_too_large {
                    self.http.hcm.stats.http.downstream_rq_too_large().inc();
                }
                self.ends_connection |= local.status == StatusCode::BAD_REQUEST || is_too_large;
                local_reply::render(local, &self.http.hcm.local_replies, &self.request.head, self.is_grpc, info)
            }
            // Only requests begin anew; a filter that says so of a response is at fault.
            Reply::Again(_) => {
                let local = LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "response_cannot_begin_anew");
                self.take_reply(local.into())
            }
        }
    }

    /// The head of the response.
    pub(crate) fn response_head(&self) -> &ResponseHead {
        &self.response.as_ref().expect("the codec asks for the head after respond() made it").head
    }

    /// The fields of the response, for a codec that needs to own them; logs keep theirs.
    pub(crate) fn take_response_headers(&mut self) -> HeaderMap {
        let head = &mut self.response.as_mut().expect("the codec asks for the head after respond() made it").head;
        if self.cx.info.is_logged.get() { head.headers.clone() } else { std::mem::take(&mut head.headers) }
    }

    /// Whether the connection cannot go on after the answer: the request was bad, or not taken whole.
    pub(crate) fn ends_connection(&self) -> bool {
        self.ends_connection
    }

    /// Notes that the client went away before the end.
    pub(crate) fn downstream_gone(&self, flag: ResponseFlag, details: &'static str) {
        let info = &self.cx.info;
        info.flag(flag);
        info.set_details(details);
    }

    /// Notes that request and response both came to their ends: nothing of the stream was reset.
    pub(crate) fn completed(&self) {
        self.is_complete.set(true);
    }

    /// Ends the stream: filters are told, stats and logs are written. Called once, by `drop` if not before.
    pub(crate) fn finish(&mut self) {
        if self.finished.replace(true) {
            return;
        }
        let info = &self.cx.info;
        info.times.complete.set(Some(self.http.worker.clock.now()));
        self.end_filters();
        let info = &self.cx.info;
        self.http.hcm.stats.stream_ends(info, self.is_complete.get());
        let request = self.origin.is_known.then_some(&self.request.head);
        let response = self.response.as_ref().filter(|_| self.is_responded).map(|response| &response.head);
        self.http.hcm.log(request, response, info);
    }
}

impl Stream {
    /// Tells the filters that this is the end.
    fn end_filters(&mut self) {
        for filter in &mut self.filters {
            filter.complete(&self.cx);
        }
        self.filters.clear();
        self.chain = None;
        if std::mem::take(&mut self.is_upgrade) {
            self.http.hcm.stats.http.downstream_cx_upgrades_active().dec();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Dropped from outside: its connection ended below it.
        let is_cut_off = !self.finished.get() && !self.is_complete.get();
        if is_cut_off && self.cx.info.flags.get().is_empty() && !std::thread::panicking() {
            self.downstream_gone(ResponseFlag::DownstreamConnectionTermination, DISCONNECTED);
        }
        self.finish();
    }
}
