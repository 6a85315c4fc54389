//! What is told of each attempt beside the request itself: the logs of upstream requests, sizes, and how much of its
//! time-out it took. An attempt of which nothing is told has no watch.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::{Body, BodyError, LowerCx, Refused, Request, RequestHead, ResponseHead};
use nuncio_proto::envoy::config::accesslog::v3::AccessLog as AccessLogProto;
use nuncio_proto::envoy::extensions::filters::http::router::v3::router::UpstreamAccessLogOptions;
use nuncio_telemetry::access_log::AccessLog;
use nuncio_telemetry::format::{AccessLogType, FormatCx};
use nuncio_telemetry::{ResponseFlags, StreamInfo};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Config;
use crate::attempt::Answered;
use crate::failure::Failure;
use crate::worker::ClusterShare;

/// `upstream_log` and `upstream_log_options`.
#[derive(Debug)]
pub(super) struct UpstreamLogs {
    logs: Box<[AccessLog]>,
    /// Written when a connection is there, too.
    at_begin: bool,
    /// Written again and again while an attempt lasts.
    period: Option<Duration>,
}

/// The watch over one attempt; it is over when this is dropped.
pub(crate) struct Watch {
    config: Arc<Config>,
    share: Rc<ClusterShare>,
    /// The stream, whose upstream side is that of this attempt while it lasts.
    info: Rc<StreamInfo>,
    begun: Instant,
    per_try: Option<Duration>,
    /// Kept for the logs alone.
    request: Option<Box<RequestHead>>,
    response: Option<Box<ResponseHead>>,
    request_size: Size,
    response_size: Option<Size>,
    sent: Rc<Cell<u64>>,
    received: u64,
    status: u16,
    flags: ResponseFlags,
    transport_failure: Option<Arc<str>>,
    /// The time of all attempts is over: it is not this one's fault.
    is_cut_short: bool,
    has_told_begin: bool,
    next: Option<Pin<Box<Sleep>>>,
}

/// Of a head: bytes of names and values, and fields. Envoy: pseudo-headers are fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    bytes: u64,
    fields: u64,
}

/// A body whose bytes are counted.
struct CountedBody {
    body: Body,
    count: Rc<Cell<u64>>,
}

// === impl UpstreamLogs ===

impl UpstreamLogs {
    pub(super) fn lower(
        logs: Vec<AccessLogProto>,
        options: Option<UpstreamAccessLogOptions>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Arc<Self>>, Refused> {
        let logs = cx.each("upstream_log", logs, nuncio_config::access_log::lower)?;
        let UpstreamAccessLogOptions { flush_upstream_log_on_upstream_stream, upstream_log_flush_interval } =
            options.unwrap_or_default();
        let period = cx.at("upstream_log_options", |cx| {
            cx.opt("upstream_log_flush_interval", upstream_log_flush_interval, nuncio_config::protocol::duration)
        })?;
        let logs = Self { logs: logs.into(), at_begin: flush_upstream_log_on_upstream_stream, period };
        Ok((!logs.logs.is_empty()).then(|| Arc::new(logs)))
    }
}

// === impl Watch ===

impl Watch {
    /// Watches an attempt to send `request` to a host of `share`, if anybody wants to know of it.
    #[inline]
    pub(super) fn begin(
        config: &Arc<Config>,
        share: &Rc<ClusterShare>,
        info: &Rc<StreamInfo>,
        per_try: Option<Duration>,
        request: &mut Request,
    ) -> Option<Box<Self>> {
        let is_tracked = share.cluster.tracked.as_ref().is_some_and(|tracked| tracked.is_of_attempts());
        let is_watched = config.upstream_logs.is_some() || is_tracked;
        if is_watched { Some(Self::begin_watched(config, share, info, per_try, request)) } else { None }
    }

    #[cold]
    fn begin_watched(
        config: &Arc<Config>,
        share: &Rc<ClusterShare>,
        info: &Rc<StreamInfo>,
        per_try: Option<Duration>,
        request: &mut Request,
    ) -> Box<Self> {
        let begun = share.env.clock.now();
        let logs = config.upstream_logs.as_deref();
        let sent = Rc::new(Cell::new(0));
        if !request.body.is_end() {
            let count = sent.clone();
            request.wrap_body(|body| Body::stream(CountedBody { body, count }));
        }
        if logs.is_some() {
            info.is_logged.set(true);
        }
        Box::new(Self {
            config: config.clone(),
            share: share.clone(),
            info: info.clone(),
            begun,
            per_try,
            request: logs.map(|_| Box::new(request.head.clone())),
            response: None,
            request_size: Size::of_request(&request.head),
            response_size: None,
            sent,
            received: 0,
            status: 0,
            flags: ResponseFlags::NONE,
            transport_failure: None,
            is_cut_short: false,
            has_told_begin: false,
            next: logs.and_then(|logs| logs.period).map(|period| Box::pin(sleep_until(begun + period))),
        })
    }

    /// Writes what is due while the attempt lasts.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        let Some(logs) = self.config.upstream_logs.clone() else { return };
        if logs.at_begin && !self.has_told_begin && self.info.times.upstream_request_start.get().is_some() {
            self.has_told_begin = true;
            self.log(&logs, AccessLogType::UpstreamPoolReady);
        }
        let Some(period) = logs.period else { return };
        while let Some(next) = &mut self.next
            && next.as_mut().poll(cx).is_ready()
        {
            let again = next.deadline() + period;
            next.as_mut().reset(again);
            self.log(&logs, AccessLogType::UpstreamPeriodic);
        }
    }

    /// The attempt has this outcome. Where that is a response, the watch lasts until its end.
    pub(super) fn attend(mut self: Box<Self>, outcome: &mut Result<Answered, Failure>) {
        match outcome {
            Ok(answered) => {
                self.answered(&answered.response.head);
                answered.active.watch = Some(self);
            }
            Err(failure) => self.failed(failure),
        }
    }

    fn answered(&mut self, head: &ResponseHead) {
        self.status = head.status.as_u16();
        self.response_size = Some(Size::of_response(head));
        if self.request.is_some() {
            let kept = ResponseHead { headers: head.headers.clone(), ..ResponseHead::new(head.status) };
            self.response = Some(Box::new(kept));
        }
    }

    /// So many bytes of the response's body have come.
    pub(super) fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// There is no response, or no more of it.
    pub(super) fn failed(&mut self, failure: &Failure) {
        match failure {
            // Envoy: who gave it up knows why, not the attempt.
            Failure::Timeout => self.is_cut_short = true,
            Failure::MaxStreamDuration | Failure::RequestBody(_) | Failure::Answered(_) => {}
            _ => self.flags = failure.flag().into(),
        }
        self.transport_failure = failure.transport_failure().cloned();
    }

    /// The response broke off.
    pub(super) fn broke_off(&mut self, error: &BodyError) {
        self.flags = self.flags.union(error.flags);
    }

    fn log(&self, logs: &UpstreamLogs, log_type: AccessLogType) {
        let (clock, stream) = (&self.share.env.clock, &self.info);
        let now = clock.now();
        let info = StreamInfo::new(stream.connection.clone(), self.begun, clock.wall(self.begun));
        *info.remote.borrow_mut() = stream.remote.borrow().clone();
        *info.route_name.borrow_mut() = stream.route_name.borrow().clone();
        info.response_code.set(self.status);
        info.flags.set(self.flags);
        info.bytes_received.set(self.received);
        info.bytes_sent.set(self.sent.get());
        info.times.copy_upstream(&stream.times);
        {
            let mut upstream = info.upstream.borrow_mut();
            *upstream = stream.upstream.borrow().clone();
            upstream.attempts = 0;
            upstream.transport_failure = self.transport_failure.clone();
            info.protocol.set(upstream.protocol);
        }
        let cx = FormatCx {
            request: self.request.as_deref().map(RequestHead::view),
            response: self.response.as_deref().map(ResponseHead::view),
            log_type,
            ..FormatCx::new(&info, now, clock.wall(now))
        };
        logs.logs.iter().for_each(|log| log.log(&cx));
    }

    fn count(&self) {
        let Some(tracked) = &self.share.cluster.tracked else { return };
        let time = self.share.env.clock.now().saturating_duration_since(self.begun);
        if let Some(budgets) = tracked.budgets.as_ref().filter(|_| !self.is_cut_short) {
            budgets.upstream_rq_timeout_budget_per_try_percent_used().record(percent(time, self.per_try));
        }
        let Some(sizes) = &tracked.sizes else { return };
        sizes.upstream_rq_headers_size().record(self.request_size.bytes);
        sizes.upstream_rq_headers_count().record(self.request_size.fields);
        sizes.upstream_rq_body_size().record(self.sent.get());
        if let Some(size) = self.response_size {
            sizes.upstream_rs_headers_size().record(size.bytes);
            sizes.upstream_rs_headers_count().record(size.fields);
            sizes.upstream_rs_body_size().record(self.received);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.count();
        if let Some(logs) = self.config.upstream_logs.clone() {
            self.log(&logs, AccessLogType::UpstreamEnd);
        }
    }
}

/// Counts a request to a cluster that took so long, of all that it may take.
pub(super) fn count_budget(share: &ClusterShare, time: Duration, timeout: Option<Duration>) {
    if let Some(budgets) = share.cluster.tracked.as_ref().and_then(|tracked| tracked.budgets.as_ref()) {
        budgets.upstream_rq_timeout_budget_percent_used().record(percent(time, timeout));
    }
}

/// The share of `timeout` that `time` is. Envoy: none of a time-out that there is not.
fn percent(time: Duration, timeout: Option<Duration>) -> u64 {
    let timeout = timeout.map_or(0, |timeout| timeout.as_millis());
    let share = (time.as_millis() * 100).checked_div(timeout).unwrap_or(0);
    u64::try_from(share).unwrap_or(u64::MAX)
}

// === impl Size ===

impl Size {
    fn of_request(head: &RequestHead) -> Self {
        let pseudo = [
            (":method", head.method.as_str()),
            (":scheme", head.scheme.as_str()),
            (":authority", &*head.authority),
            (":path", &*head.path),
        ];
        let pseudo = pseudo.into_iter().chain(head.protocol.as_deref().map(|protocol| (":protocol", protocol)));
        pseudo.filter(|(_, value)| !value.is_empty()).fold(Self::of_fields(&head.headers), |size, (name, value)| Self {
            bytes: size.bytes + (name.len() + value.len()) as u64,
            fields: size.fields + 1,
        })
    }

    fn of_response(head: &ResponseHead) -> Self {
        let size = Self::of_fields(&head.headers);
        // `:status` and three digits.
        Self { bytes: size.bytes + 10, fields: size.fields + 1 }
    }

    fn of_fields(headers: &HeaderMap) -> Self {
        let bytes = headers.iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64).sum();
        Self { bytes, fields: headers.len() as u64 }
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = this.body.poll_next(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            this.count.set(this.count.get() + bytes as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, StatusCode};
    use nuncio_filter_api::Scheme;

    #[test]
    fn pseudo_headers_are_fields() {
        let mut head = RequestHead::new(Method::GET, Scheme::Http, "a".into(), "/".into());
        assert_eq!(Size::of_request(&head), Size { bytes: 10 + 11 + 11 + 6, fields: 4 });
        head.headers.insert("x", "y".parse().expect("it is a value"));
        assert_eq!(Size::of_request(&head), Size { bytes: 40, fields: 5 });
        assert_eq!(Size::of_response(&ResponseHead::new(StatusCode::OK)), Size { bytes: 10, fields: 1 });
    }

    #[test]
    fn a_share_of_no_timeout_is_none() {
        let ms = Duration::from_millis;
        assert_eq!(percent(ms(150), Some(ms(1000))), 15);
        assert_eq!(percent(ms(3000), Some(ms(1000))), 300);
        assert_eq!(percent(ms(3000), None), 0);
        assert_eq!(percent(ms(3000), Some(Duration::ZERO)), 0);
    }
}
