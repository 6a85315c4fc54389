//! State of an exchange and its receiving half.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Method;
use nuncio_filter_api::{Body, BodyError, Io, RequestHead};

use super::upload::Upload;
use super::{ClientConnection, ExchangeError, ExchangeFailure, ExchangeOptions, RequestSent};
use crate::h1::details::BadRequest;
use crate::h1::head::{Head, HeadLimits, HeadScan, LineEnds};
use crate::h1::reader::Reader;
use crate::h1::response_head::{self, Asked, ParsedResponse, ResponseFraming, StatusLine};
use crate::h1::settings::ClientSettings;
use crate::h1::write::WriteQueue;

/// A client connection, and the exchange it is in: a request sent and a response awaited or being read. It lives in one
/// place for as long as its connection does, since moving it would cost more than a head to parse.
pub(super) struct Exchange {
    pub(super) io: Io,
    pub(super) settings: Arc<ClientSettings>,
    pub(super) reader: Reader,
    pub(super) queue: WriteQueue,
    /// The request; `None` between exchanges.
    upload: Option<Upload>,
    pub(super) options: ExchangeOptions,
    /// The head that was read last.
    pub(super) parsed: Option<ParsedResponse>,
    scan: HeadScan,
    asked: Asked,
    received: bool,
    /// The upstream keeps the connection.
    pub(super) keep_alive: bool,
}

impl Exchange {
    pub(super) fn new(io: Io, settings: Arc<ClientSettings>) -> Self {
        Self {
            io,
            settings,
            reader: Reader::default(),
            queue: WriteQueue::default(),
            upload: None,
            options: ExchangeOptions::default(),
            parsed: None,
            scan: HeadScan::default(),
            asked: Asked { head: false, connect: false, for_bytes: false, upgrade: false },
            received: false,
            keep_alive: false,
        }
    }

    pub(super) fn begin(&mut self, head: &RequestHead, body: Body, options: ExchangeOptions) {
        let connect = head.method == Method::CONNECT && head.protocol.is_none();
        let for_bytes = || options.info.as_ref().is_some_and(|info| info.upstream.borrow().is_of_bytes);
        self.asked = Asked {
            head: head.method == Method::HEAD,
            connect,
            for_bytes: connect && for_bytes(),
            upgrade: head.protocol.is_some(),
        };
        self.received = false;
        self.queue.sent = 0;
        self.options = options;
        self.upload = Some(Upload::begin(head, body, &mut self.queue, &self.settings, self.options.info.as_ref()));
    }

    /// Sends `body` as it is, and no head.
    pub(super) fn begin_raw(&mut self, body: Body, options: ExchangeOptions) {
        self.options = options;
        self.upload = Some(Upload::raw(body, &self.settings));
    }

    /// Counts body bytes received.
    pub(super) fn count(&self, wire: u64) {
        if let Some(info) = &self.options.info {
            info.upstream.borrow_mut().wire_bytes_received += wire;
        }
    }

    /// Sends what can be sent now.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match &mut self.upload {
            Some(upload) => upload.advance(&mut self.io, &mut self.queue, cx, self.options.info.as_ref()),
            None => Ok(()),
        }
    }

    /// Sends the request and waits for the head of the final response, which it leaves in `parsed`.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeFailure>> {
        loop {
            self.advance(cx).map_err(ExchangeFailure::RequestBody)?;
            while self.take_head().map_err(|bad| ExchangeFailure::Protocol(bad.details))? {
                if self.parsed.as_ref().is_some_and(|parsed| parsed.framing != ResponseFraming::Interim) {
                    return Poll::Ready(Ok(()));
                }
                self.pass_interim();
            }
            match ready!(self.reader.poll_read(&mut self.io, cx, usize::MAX)) {
                Ok(0) if self.reader.buf.is_empty() => return Poll::Ready(Err(ExchangeFailure::Closed)),
                Ok(0) => return Poll::Ready(Err(ExchangeFailure::Protocol("closed within the response head"))),
                Ok(_) => self.received = true,
                // Envoy: a head that was begun is broken off, whether by FIN or by RST.
                Err(_) if !self.reader.buf.is_empty() => {
                    return Poll::Ready(Err(ExchangeFailure::Protocol("reset within the response head")));
                }
                Err(error) => return Poll::Ready(Err(ExchangeFailure::Io(error))),
            }
        }
    }

    fn pass_interim(&mut self) {
        let Some(parsed) = self.parsed.take() else { return };
        if let Some(info) = &self.options.info {
            info.upstream.borrow_mut().note_interim(parsed.head.status.as_u16());
        }
        if let Some(informational) = &self.options.informational {
            informational(parsed.head);
        }
    }

    /// Whether the buffer held a whole head.
    fn take_head(&mut self) -> Result<bool, BadRequest> {
        let buf = &mut self.reader.buf;
        response_head::check_begin(buf)?;
        let limits = HeadLimits {
            ends: LineEnds::Crlf,
            max_bytes: self.settings.max_headers_bytes,
            max_count: self.settings.max_headers_count,
        };
        let (asked, settings) = (self.asked, &self.settings);
        let check_line = |line: &[u8]| StatusLine::parse(line).map(drop);
        let parse = |head: Head<'_>| response_head::parse(head, asked, settings, &mut self.parsed);
        if !self.scan.take(buf, &limits, check_line, parse)? {
            return Ok(false);
        }
        if let (Some(info), Some(parsed)) = (&self.options.info, &self.parsed) {
            let mut upstream = info.upstream.borrow_mut();
            upstream.header_bytes_received += parsed.header_bytes;
            upstream.wire_bytes_received += parsed.wire_bytes;
        }
        Ok(true)
    }

    pub(super) fn into_error(self: Box<Self>, failure: ExchangeFailure) -> ExchangeError {
        let is_sent = self.upload.as_ref().is_some_and(|upload| upload.is_done(&self.queue));
        let sent = match (self.queue.sent, is_sent) {
            (0, _) => RequestSent::Nothing,
            (_, true) => RequestSent::Whole,
            (_, false) => RequestSent::Partly,
        };
        // Envoy: what was no response has come all the same.
        self.count(self.reader.buf.len() as u64);
        let body = self.upload.and_then(Upload::into_body);
        ExchangeError { failure, response_started: self.received, sent, body }
    }

    /// The response is at its clean end: hands the connection back if it can carry another exchange. Bytes behind the
    /// response are nobody's; a request that is not wholly sent has nowhere to go; and where a tunnel was asked for,
    /// bytes meant for it may be on their way.
    pub(super) fn complete(mut self: Box<Self>) {
        let plain = !self.asked.connect && !self.asked.upgrade;
        let sent = self.upload.take().is_some_and(|upload| upload.is_done(&self.queue));
        let options = std::mem::take(&mut self.options);
        if let (true, true, Some(on_idle)) = (plain && sent, self.keep_alive, options.on_idle)
            && self.reader.buf.is_empty()
        {
            self.reader.release();
            on_idle.on_idle(ClientConnection { exchange: self });
        }
    }

    #[cfg(test)]
    pub(in crate::h1) fn holds_no_memory(&self) -> bool {
        self.reader.buf.capacity() == 0 && self.queue.holds_no_memory()
    }
}
