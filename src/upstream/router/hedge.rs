//! Hedging: an attempt that takes too long goes on beside the next, and the first good response wins.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use nuncio_filter_api::{Body, BodyError, Request, StreamCx};
use nuncio_telemetry::StreamInfo;
use tokio::time::Instant;

use super::deadline::Deadline;
use super::forward::{Failed, Forwarding};
use super::replay::Replay;
use super::retry::{Decision, Retries};
use super::watch::Watch;
use crate::attempt::{Answered, Attempt};
use crate::failure::Failure;
use crate::timer::Timer;
use crate::worker::WorkerHost;

/// The attempts of one request that are on their way.
struct Race<'a, 'b> {
    forwarding: &'a Forwarding<'b>,
    attempts: Vec<Runner>,
    /// When the next begins, if one is to, and why.
    next: Option<(Instant, Reason)>,
    timer: Timer,
    /// All that one attempt may take.
    max_stream_duration: Option<Duration>,
}

/// One attempt.
struct Runner {
    exchange: LocalBoxFuture<'static, Result<Answered, Failure>>,
    host: Rc<WorkerHost>,
    /// A record of its own: that of the stream tells of the attempt that wins.
    info: Rc<StreamInfo>,
    /// What is told of it when it is over.
    watch: Option<Box<Watch>>,
    pace: Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    InTime,
    /// It takes too long, and no other takes its place.
    Late,
    /// Another was begun for it.
    Overtaken,
}

/// Why an attempt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// One before it takes too long.
    Late,
    /// One before it failed.
    Failed,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    TooLong(usize),
    MaxStreamDuration(usize),
    Next(Reason),
}

enum Event {
    Done(usize, Result<Answered, Failure>),
    Due(Due),
    /// The time of all of them is over.
    Expired(Failure),
}

/// The body of the response that won, whose size goes into the record of the stream.
struct Won {
    body: Body,
    from: Rc<StreamInfo>,
    to: Rc<StreamInfo>,
}

impl Forwarding<'_> {
    /// As `run_again`, with attempts beside each other.
    pub(super) async fn run_hedged(
        &self,
        request: &mut Request,
        replay: &Replay,
        cx: &StreamCx,
        deadline: &mut Deadline,
        retries: &mut Retries<'_>,
    ) -> Result<Answered, Failed> {
        let mut race = Race::new(self, deadline);
        race.begin(request, replay, cx, retries)?;
        loop {
            let event = poll_fn(|task| race.poll(deadline, task)).await;
            match event {
                Event::Done(at, outcome) if replay.is_abandoned() => {
                    self.cluster.shared.cluster.stats.retry_or_shadow_abandoned().inc();
                    return race.end(at, outcome);
                }
                Event::Done(at, outcome) => {
                    if let Some(outcome) = race.done(at, outcome, retries) {
                        return outcome;
                    }
                }
                Event::Due(Due::MaxStreamDuration(at)) => {
                    if let Some(outcome) = race.done(at, Err(Failure::MaxStreamDuration), retries) {
                        return outcome;
                    }
                }
                Event::Due(Due::TooLong(at)) if replay.is_abandoned() => race.attempts[at].pace = Pace::Late,
                Event::Due(Due::TooLong(at)) => race.hedge(at, retries),
                Event::Due(Due::Next(reason)) => {
                    race.next = None;
                    retries.count(&self.cluster.shared);
                    self.begin_again(request, reason == Reason::Late);
                    race.begin(request, replay, cx, retries)?;
                }
                Event::Expired(failure) => return Err(race.expire(failure)),
            }
        }
    }
}

impl<'a, 'b> Race<'a, 'b> {
    fn new(forwarding: &'a Forwarding<'b>, deadline: &Deadline) -> Self {
        let timer = forwarding.cluster.shared.env.timers.timer();
        let max_stream_duration = deadline.max_stream_duration();
        Self { forwarding, attempts: Vec::new(), next: None, timer, max_stream_duration }
    }

    /// Begins an attempt.
    fn begin(
        &mut self,
        request: &mut Request,
        replay: &Replay,
        cx: &StreamCx,
        retries: &mut Retries<'_>,
    ) -> Result<(), Failed> {
        let forwarding = self.forwarding;
        let host = retries.pick(&forwarding.cluster, forwarding.pick_context(&request.head));
        let host = forwarding.chosen(host, &mut request.head)?;
        let stream = forwarding.info;
        let info = Rc::new(StreamInfo::new(stream.connection.clone(), stream.start, stream.start_wall));
        info.is_logged.set(stream.is_logged.get());
        let priority = forwarding.forward.priority;
        let mut request = Request { head: request.head.clone(), body: replay.body() };
        let per_try = forwarding.timeouts.per_try;
        let watch = Watch::begin(forwarding.config, &forwarding.cluster.shared, &info, per_try, &mut request);
        let informational = cx.informational.clone();
        let filters = forwarding.filters(&info, cx);
        let (its_host, its_info) = (host.clone(), info.clone());
        let exchange = Box::pin(async move {
            let informational = informational.as_ref();
            let attempt = Attempt { host: &its_host, priority, info: Some(&its_info), informational };
            match filters {
                None => attempt.run(&request.head, &mut request.body).await,
                Some(filters) => attempt.run_filtered(filters, &mut request).await,
            }
        });
        self.attempts.push(Runner { exchange, host, info, watch, pace: Pace::InTime });
        Ok(())
    }

    fn poll(&mut self, deadline: &mut Deadline, task: &mut Context<'_>) -> Poll<Event> {
        for (at, runner) in self.attempts.iter_mut().enumerate() {
            let polled = runner.exchange.as_mut().poll(task);
            if let Some(watch) = &mut runner.watch {
                watch.poll(task);
            }
            if let Poll::Ready(mut outcome) = polled {
                if let Some(watch) = runner.watch.take() {
                    watch.attend(&mut outcome);
                }
                return Poll::Ready(Event::Done(at, outcome));
            }
        }
        if let Some((at, due)) = self.due()
            && self.timer.poll_reached(at, task).is_ready()
        {
            return Poll::Ready(Event::Due(due));
        }
        deadline.poll_expired(task).map(Event::Expired)
    }

    /// What is due next.
    fn due(&self) -> Option<(Instant, Due)> {
        let Forwarding { timeouts, info, .. } = self.forwarding;
        let begin = info.times.request_end.get();
        let patience = timeouts.per_try.into_iter().chain(timeouts.per_try_idle).min();
        let limits = self.attempts.iter().enumerate().flat_map(|(at, runner)| {
            let start = runner.info.times.upstream_request_start.get();
            let too_long = || Some((begin?.max(start?) + patience?, Due::TooLong(at)));
            let too_long = (runner.pace == Pace::InTime).then(too_long).flatten();
            let duration = || Some((start? + self.max_stream_duration?, Due::MaxStreamDuration(at)));
            too_long.into_iter().chain(duration())
        });
        limits.chain(self.next.map(|(at, reason)| (at, Due::Next(reason)))).min_by_key(|(at, _)| *at)
    }

    /// An attempt takes too long: another begins beside it, if one may.
    fn hedge(&mut self, at: usize, retries: &mut Retries<'_>) {
        let forwarding = self.forwarding;
        let late = &self.attempts[at];
        forwarding.note_expiry(&late.host, &late.info, &Failure::PerTryTimeout);
        self.attempts[at].pace = match retries.after_delay(&forwarding.cluster.shared, &forwarding.counts) {
            Decision::After(wait) => {
                self.begin_after(wait, Reason::Late);
                Pace::Overtaken
            }
            Decision::Denied(flag) => {
                forwarding.info.flag(flag);
                Pace::Late
            }
            Decision::Final => Pace::Late,
        };
    }

    fn begin_after(&mut self, wait: Duration, reason: Reason) {
        self.next = Some((self.forwarding.worker.clock.now() + wait, reason));
    }

    /// What comes of the race where an attempt has an outcome; `None`: others may do better.
    fn done(
        &mut self,
        at: usize,
        outcome: Result<Answered, Failure>,
        retries: &mut Retries<'_>,
    ) -> Option<Result<Answered, Failed>> {
        let forwarding = self.forwarding;
        let runner = &self.attempts[at];
        let was_sent = runner.info.times.upstream_request_start.get().is_some();
        let decision = match (&outcome, runner.pace) {
            (Ok(answered), Pace::Overtaken) if retries.wants_another_response(&answered.response.head) => None,
            (_, Pace::Overtaken) => Some(Decision::Final),
            (outcome, _) => Some(forwarding.decide(outcome.as_ref(), was_sent, retries)),
        };
        let is_bad = match decision {
            Some(Decision::After(wait)) => {
                let runner = self.take(at);
                forwarding.give_up(outcome.map_err(|failure| runner.failed(failure)), &runner.info);
                self.begin_after(wait, Reason::Failed);
                return None;
            }
            Some(Decision::Denied(flag)) => {
                forwarding.info.flag(flag);
                true
            }
            Some(Decision::Final) => outcome.is_err(),
            None => true,
        };
        let is_last = self.attempts.len() == 1 && self.next.is_none();
        let is_over =
            matches!(&outcome, Err(Failure::RequestBody(_) | Failure::Answered(_) | Failure::MaxStreamDuration));
        if !is_bad || is_last || is_over {
            return Some(self.end(at, outcome));
        }
        // Envoy: a failure counts as one, and a bad response only against its host.
        let runner = self.take(at);
        match outcome {
            Ok(answered) => answered.active.host.stats.rq_error.inc(),
            Err(failure) => forwarding.count_passed_over(&runner.failed(failure), &runner.info),
        }
        None
    }

    /// The time of all of them is over. The last one stands for all.
    fn expire(&mut self, failure: Failure) -> Failed {
        // Those that are late were told of when they were.
        for runner in self.attempts.iter().filter(|runner| runner.pace == Pace::InTime) {
            self.forwarding.note_expiry(&runner.host, &runner.info, &failure);
        }
        while self.attempts.len() > 1 {
            let runner = self.take(0);
            self.forwarding.count_passed_over(&runner.failed(failure.clone()), &runner.info);
        }
        if self.attempts.is_empty() {
            return Failed { failure, host: None };
        }
        let runner = self.take(0);
        self.forwarding.info.adopt_upstream(&runner.info);
        runner.failed(failure)
    }

    /// The outcome of one is that of the request; the others are given up.
    fn end(&mut self, at: usize, outcome: Result<Answered, Failure>) -> Result<Answered, Failed> {
        let runner = self.take(at);
        while !self.attempts.is_empty() {
            self.take(0);
        }
        let stream = self.forwarding.info;
        stream.adopt_upstream(&runner.info);
        let mut answered = outcome.map_err(|failure| runner.failed(failure))?;
        if answered.response.body.may_have_trailers() {
            let (from, to) = (runner.info.clone(), stream.clone());
            answered.response.wrap_body(|body| Body::stream(Won { body, from, to }));
        }
        Ok(answered)
    }

    /// Takes an attempt out. Dropping it ends it.
    fn take(&mut self, at: usize) -> Runner {
        let runner = self.attempts.remove(at);
        self.forwarding.count_attempt(&runner.info);
        runner
    }
}

impl Runner {
    fn failed(&self, failure: Failure) -> Failed {
        Failed { failure, host: Some(self.host.clone()) }
    }
}

impl Forwarding<'_> {
    /// Counts a failure that is not the request's.
    fn count_passed_over(&self, failed: &Failed, info: &StreamInfo) {
        self.count_failure(failed, info);
        let is_tolerated = self.timeouts.is_tolerated && failed.failure.is_timeout();
        let status = if is_tolerated { StatusCode::NO_CONTENT } else { failed.failure.status() };
        self.count_status(status.as_u16(), self.origin(failed.host.as_ref().map(|host| &*host.host)));
    }
}

impl HttpBody for Won {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = self.body.poll_next(cx);
        let received = std::mem::take(&mut self.from.upstream.borrow_mut().wire_bytes_received);
        self.to.upstream.borrow_mut().wire_bytes_received += received;
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
