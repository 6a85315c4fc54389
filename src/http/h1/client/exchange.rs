//! State of an exchange and its receiving half.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Method;
use nuncio_filter_api::{Body, Io, RequestHead};
use nuncio_telemetry::StreamInfo;

use super::upload::Upload;
use super::{ClientConnection, ExchangeError, ExchangeFailure, ExchangeOptions};
use crate::h1::details::{BadRequest, HEADERS_TOO_LARGE};
use crate::h1::head::{HeadScan, LineEnds};
use crate::h1::reader::Reader;
use crate::h1::response_head::{self, Asked, ParsedResponse, ResponseFraming, StatusLine};
use crate::h1::settings::ClientSettings;

/// A request sent and a response awaited or being read.
pub(super) struct Exchange {
    pub(super) io: Io,
    pub(super) settings: Arc<ClientSettings>,
    pub(super) reader: Reader,
    pub(super) upload: Upload,
    pub(super) options: ExchangeOptions,
    scan: HeadScan,
    line_checked: bool,
    asked: Asked,
    received: bool,
    /// The upstream keeps the connection.
    pub(super) keep_alive: bool,
}

impl Exchange {
    pub(super) fn begin(
        connection: ClientConnection,
        head: &RequestHead,
        body: Body,
        options: ExchangeOptions,
    ) -> Self {
        let ClientConnection { io, settings } = connection;
        let upload = Upload::begin(head, body, &settings, options.info.as_ref());
        let asked = Asked {
            head: head.method == Method::HEAD,
            connect: head.method == Method::CONNECT && head.protocol.is_none(),
            upgrade: head.protocol.is_some(),
        };
        Self {
            io,
            settings,
            reader: Reader::default(),
            upload,
            options,
            scan: HeadScan::default(),
            line_checked: false,
            asked,
            received: false,
            keep_alive: false,
        }
    }

    pub(super) fn info(&self) -> Option<&Rc<StreamInfo>> {
        self.options.info.as_ref()
    }

    /// Sends the request and waits for the head of the final response.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ParsedResponse, ExchangeFailure>> {
        loop {
            self.upload.advance(&mut self.io, cx, self.options.info.as_ref()).map_err(ExchangeFailure::RequestBody)?;
            match self.take_head().map_err(|bad| ExchangeFailure::Protocol(bad.details))? {
                Some(parsed) if parsed.framing == ResponseFraming::Interim => {
                    if let Some(informational) = &self.options.informational {
                        informational(parsed.head);
                    }
                    continue;
                }
                Some(parsed) => return Poll::Ready(Ok(parsed)),
                None => {}
            }
            match ready!(self.reader.poll_read(&mut self.io, cx, usize::MAX)) {
                Ok(0) if self.reader.buf.is_empty() => return Poll::Ready(Err(ExchangeFailure::Closed)),
                Ok(0) => return Poll::Ready(Err(ExchangeFailure::Protocol("closed within the response head"))),
                Ok(_) => self.received = true,
                Err(error) => return Poll::Ready(Err(ExchangeFailure::Io(error))),
            }
        }
    }

    fn take_head(&mut self) -> Result<Option<ParsedResponse>, BadRequest> {
        let buf = &mut self.reader.buf;
        response_head::check_begin(buf)?;
        let end = self.scan.find_end(buf, LineEnds::Crlf)?;
        if end.unwrap_or(buf.len()) > self.settings.max_headers_bytes {
            return Err(HEADERS_TOO_LARGE);
        }
        let Some(end) = end else {
            if self.scan.first_line > 0 && !self.line_checked {
                StatusLine::parse(&buf[..self.scan.first_line])?;
                self.line_checked = true;
            }
            return Ok(None);
        };
        let head = if end == buf.len() { std::mem::take(buf) } else { buf.split_to(end) };
        self.line_checked = false;
        let scan = std::mem::take(&mut self.scan);
        let parsed = response_head::parse(head.freeze(), scan, self.asked, &self.settings)?;
        if let Some(info) = &self.options.info {
            let mut upstream = info.upstream.borrow_mut();
            upstream.header_bytes_received += parsed.header_bytes;
            upstream.wire_bytes_received += parsed.wire_bytes;
        }
        Ok(Some(parsed))
    }

    pub(super) fn into_error(self, failure: ExchangeFailure) -> ExchangeError {
        let sent = self.upload.sent();
        ExchangeError { failure, response_started: self.received, sent, body: self.upload.into_body() }
    }

    /// The response is at its clean end: hands the connection back if it can carry another exchange. Bytes behind the
    /// response are nobody's; a request that is not wholly sent has nowhere to go; and where a tunnel was asked for,
    /// bytes meant for it may be on their way.
    pub(super) fn complete(self) {
        let plain = !self.asked.connect && !self.asked.upgrade;
        let reusable = plain && self.keep_alive && self.upload.is_done() && self.reader.buf.is_empty();
        if let (true, Some(on_idle)) = (reusable, self.options.on_idle) {
            on_idle.on_idle(ClientConnection { io: self.io, settings: self.settings });
        }
    }
}
